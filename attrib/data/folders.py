"""What lies in a folder of pictures: splits, class folders, files; hidden and system files left out."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from attrib.errors import InputError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"))
_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "validation", "valid", "dev")
"""Names of the folder of held-out images, the first that is there counts."""


class Listed(NamedTuple):
    """The pictures of a folder."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...] | None
    """None: there are no class folders."""
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What a reader of the numbers should know."""


def is_picture(path: Path) -> bool:
    """Whether the name is that of a picture."""
    return path.suffix.lower() in SUFFIXES


def splits(root: Path) -> dict[str, Path]:
    """The folders of the splits, ``train`` and ``test``; none where the folder is not split."""
    try:
        below = {entry.name.lower(): entry for entry in root.iterdir() if entry.is_dir()}
    except OSError:
        return {}
    train, test = (next((below[name] for name in names if name in below), None) for names in (_TRAIN, _TEST))
    return {"train": train, "test": test} if train and test else {}


def listed(root: Path, *, split: str) -> Listed:
    """The pictures below ``root``: one folder per class, or pictures without labels where there are no such folders.

    The order is the first picture of each class, then the second of each, by name, so that the first so many hold
    all classes. Folders that are all called by numbers come by number. ``root/train`` and ``root/test`` (or training,
    testing, val, validation, valid, dev), where both exist, are the splits; otherwise every split is the whole folder.
    Raises InputError where there are no pictures.
    """
    if not root.is_dir():
        found = "a file" if root.is_file() else "nothing"
        raise InputError(f"folder:{root}: expected a folder with one folder per class, or pictures, found {found}")
    if places := splits(root):
        root = places[split]
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise InputError(f"folder:{root}: cannot be listed ({error.strerror})") from None
    names = [entry.name for entry in entries if entry.is_dir() and not _ignored(entry.name)]
    if not names:
        loose = tuple(entry for entry in entries if is_picture(entry) and not _ignored(entry.name))
        if not loose:
            raise InputError(f"folder:{root}: expected one folder per class in it, or pictures, found none")
        return Listed(loose, None, ())
    classes, notes = by_number(names)
    per_class = [_pictures_below(root / name) for name in classes]
    ranked = sorted(
        (rank, label, path) for label, pictures in enumerate(per_class) for rank, path in enumerate(pictures)
    )
    if not ranked:
        raise InputError(f"folder:{root}: no pictures in its {len(classes)} folders ({', '.join(sorted(SUFFIXES))})")
    return Listed(
        tuple(path for _, _, path in ranked), tuple(label for _, label, _ in ranked), tuple(classes), tuple(notes)
    )


def by_number(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sorted names, by number where all are numbers; and a sentence where that is not the order of the text.

    >>> by_number(["10", "9"])[0], by_number(["b", "a"])
    (['9', '10'], (['a', 'b'], []))
    """
    as_text = sorted(names)
    if not all(name.isascii() and name.isdigit() for name in names):
        return as_text, []
    ordered = sorted(as_text, key=int)
    if ordered == as_text:
        return as_text, []
    return ordered, [
        f"the class folders are called by numbers and taken in the order of the numbers ({', '.join(ordered[:3])}, ...,"
        f" {ordered[-1]}); torchvision's ImageFolder sorts them as text ({', '.join(as_text[:3])}, ...)"
    ]


def holds_pictures(root: Path) -> bool:
    """Whether there is any picture in the folder, or in a folder below it."""
    return any(is_picture(Path(name)) for _, _, names in _walk(root) for name in names)


def _ignored(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _walk(root: Path) -> Iterable[tuple[str, list[str], list[str]]]:
    """As os.walk, without what is hidden, which editors, notebooks and archives leave behind."""
    for where, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not _ignored(name)]
        yield where, folders, [name for name in names if not _ignored(name)]


def _pictures_below(root: Path) -> list[Path]:
    return sorted(Path(where, name) for where, _, names in _walk(root) for name in names if is_picture(Path(name)))
