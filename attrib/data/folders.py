"""List a folder of pictures: splits, class folders and files, without hidden and system files."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from attrib.errors import InputError
from attrib.files import found_at

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"))
_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "validation", "valid", "dev")
"""Names of the folder of held-out images, in order of preference."""


class Listed(NamedTuple):
    """The pictures of a folder."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...] | None
    """None: there are no class folders."""
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Warnings that change how the numbers are read, a sentence each."""


def is_picture(path: Path) -> bool:
    """Whether the path has the suffix of a picture."""
    return path.suffix.lower() in SUFFIXES


def splits(root: Path) -> dict[str, Path]:
    """The folders of the splits ``train`` and ``test``; empty unless both exist."""
    below = {name.lower(): root / name for name in next(_walk(root))[1]}
    train, test = (next((below[name] for name in names if name in below), None) for names in (_TRAIN, _TEST))
    return {"train": train, "test": test} if train and test else {}


def listed(root: Path, *, split: str) -> Listed:
    """The pictures below ``root``: one folder per class, or unlabelled pictures without class folders.

    The first picture of each class comes first, then the second of each, by name, so that any first part has all
    classes. If all class folders are named by numbers, they are sorted as numbers. If ``root/train`` and ``root/test``
    (or training, testing, val, validation, valid, dev) both exist, they are the splits; else every split is the whole
    folder. Raises InputError if there are no pictures, and for a folder that cannot be read.
    """
    if (actual := found_at(root, before="folder:")) != "a folder":
        raise InputError(f"folder:{root}: expected a folder with one folder per class, or pictures, found {actual}")
    if places := splits(root):
        root = places[split]
    _, names, files = next(_walk(root))
    loose = tuple(sorted(root / name for name in files if is_picture(Path(name))))
    classes, notes = by_number(names)
    per_class = [_pictures_below(root / name) for name in classes]
    ranked = sorted(
        (rank, label, path) for label, pictures in enumerate(per_class) for rank, path in enumerate(pictures)
    )
    if not ranked:
        if loose:
            return Listed(loose, None, ())
        kinds = ", ".join(sorted(SUFFIXES))
        raise InputError(f"folder:{root}: no pictures ({kinds}) in it; expected one folder per class, or pictures")
    if loose:
        notes.append(f"{root}: pictures beside the class folders are left out: {len(loose)}, as {loose[0].name}")
    notes += _one_level_below(root, classes, per_class)
    return Listed(
        tuple(path for _, _, path in ranked), tuple(label for _, label, _ in ranked), tuple(classes), tuple(notes)
    )


def by_number(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names sorted, as numbers if all are numbers; and a warning if sorting as text gives another order.

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


def _one_level_below(root: Path, classes: Sequence[str], per_class: Sequence[Sequence[Path]]) -> list[str]:
    """A warning if all class folders hold the same folders: these may be the classes, as in ImageNet-C."""
    depth = len(root.parts) + 1
    inner, *others = {frozenset(path.parts[depth:-1][:1] for path in pictures) for pictures in per_class}
    if others or len(per_class) < 2 or len(inner) < 2 or () in inner:
        return []
    names = sorted(name for (name,) in inner)
    return [
        f"{root}: every class folder holds the same folders ({', '.join(names[:3])}{', ...' * (len(names) > 3)}); if"
        f" those are the classes, name one folder above them, as folder:{root / classes[0]}"
    ]


def holds_pictures(root: Path) -> bool:
    """Whether there is a picture anywhere below the folder."""
    return any(is_picture(Path(name)) for _, _, names in _walk(root) for name in names)


def is_data(text: str) -> bool:
    """Whether an argument is data: a picture, or a folder of pictures that holds neither saved epochs nor a model."""
    if text.partition(":")[0] in ("folder", "npz", "cifar10c"):
        return True
    path = Path(text)
    if not path.is_dir():
        return is_picture(path)
    model = path.joinpath("config.json").exists() or any(path.glob("epoch-*.pt"))
    return not model and holds_pictures(path)


def _ignored(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """``os.walk`` without hidden and system files; raises InputError for a folder that cannot be listed."""

    def refuse(error: OSError) -> NoReturn:
        raise InputError(f"folder:{error.filename}: cannot be listed ({error.strerror}); mend or remove it")

    for where, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not _ignored(name)]
        yield where, folders, [name for name in names if not _ignored(name)]


def _pictures_below(root: Path) -> list[Path]:
    return sorted(Path(where, name) for where, _, names in _walk(root) for name in names if is_picture(Path(name)))
