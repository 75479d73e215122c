"""Match folder names to the model's classes: by name, by number, by WordNet id."""

import json
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from attrib.class_names import folded, meanings
from attrib.errors import InputError, one_line
from attrib.files import at_home, found_at


def read_classes(given: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Read class names in the model's order from a list or a file.

    The file has a name per line, or is JSON: a list, or an object of numbers to names (or to lists, as in
    imagenet_class_index.json). Raises InputError for a file that cannot be read.
    """
    if not isinstance(given, str | Path):
        if not isinstance(given, Sequence):
            raise InputError(f"classes: expected the names in a list or a file, got {type(given).__name__}")
        return tuple(map(str, given))
    path = at_home(given)
    if (actual := found_at(path)) != "a file":
        raise InputError(f"classes: expected a file with a class name per line, found {actual} at {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"classes: {path} cannot be read ({one_line(error)}); expected a class name per line"
        ) from None
    if path.suffix.lower() != ".json":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    try:
        content = json.loads(text)
        listed = [content[str(number)] for number in range(len(content))] if isinstance(content, dict) else content
        return tuple(", ".join(map(str, names)) if isinstance(names, list) else str(names) for names in listed)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"classes: expected a JSON list of names in {path}, or an object of the numbers from 0 to names, got"
            f" {one_line(error)}"
        ) from None


def matched(folders: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """The position in ``names`` of every folder's name; None unless each has a position of its own.

    >>> matched(["Tiger_Cat", "tabby"], ["tabby, tabby cat", "tiger cat", "dog"])
    [1, 0]
    """
    spellings = meanings(names)
    positions = [spellings[folded(folder)] for folder in folders if folded(folder) in spellings]
    return positions if len(set(positions)) == len(folders) else None


def by_wordnet_id(folders: Sequence[str], count: int) -> list[int] | None:
    """The position among the model's classes of folders named by WordNet ids, as ImageNet's are; None if unknown.

    ImageNet's classes are in the order of their ids. With all 1,000 folders, their sorted names give the order; with
    fewer, timm's lists give it if timm is installed.
    """
    if not all(re.fullmatch(r"n\d{8}", folder) for folder in folders):
        return None
    first = 1 if count == 1001 else 0  # the first class of TensorFlow's models is "background"
    ids = sorted(folders) if len(folders) == count - first == 1000 else _wordnet_ids(count - first)
    positions = {name: position for position, name in enumerate(ids, start=first)}
    return [positions[folder] for folder in folders] if positions.keys() >= set(folders) else None


def _wordnet_ids(count: int) -> Sequence[str]:
    """The ids of the ImageNet with ``count`` classes, in order; empty if timm is not installed or lists none."""
    try:
        data: Any = import_module("timm.data")
    except ImportError:
        return ()
    subset = data.infer_imagenet_subset({"num_classes": count})
    return list(data.ImageNetInfo(subset).label_names()) if subset else ()


def by_position(folders: Sequence[str], count: int) -> list[int] | None:
    """The folders' names as positions; None unless they are different numbers below ``count``."""
    if not all(name.isascii() and name.isdigit() and int(name) < count for name in folders):
        return None
    positions = [int(name) for name in folders]
    return positions if len(set(positions)) == len(folders) else None
