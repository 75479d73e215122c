"""The small trained models that come with the package; ``zoo:NAME`` works wherever a checkpoint's path does.

The weights are in half precision; ``python -m train.zoo`` measured the metrics of these rounded weights.
"""

import os
from pathlib import Path

from attrib.errors import InputError, meant

StrPath = str | os.PathLike[str]
PREFIX = "zoo:"
HERE = Path(__file__).parent


def names() -> list[str]:
    """The models' names, sorted: data set, architecture and training method, as in mnist-lenet-alp."""
    return sorted(path.stem for path in HERE.glob("*.pt"))


def file(path: StrPath) -> Path:
    """The file of ``zoo:NAME``; any other path as it is. Raises InputError for an unknown name."""
    text = os.fspath(path)
    if not text.startswith(PREFIX):
        return Path(path)
    name = text.removeprefix(PREFIX)
    if name not in names():
        listed = ", ".join(names()) or "none"
        raise InputError(f"{text}: no such model in the zoo; it holds {listed}{meant(name, names(), before=PREFIX)}")
    return HERE / f"{name}.pt"
