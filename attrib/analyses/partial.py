"""Partial results: the measurements of finished batches, in memory and on disk, so that the same call continues."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attrib.errors import InputError, Stopped, WriteError, one_line
from attrib.files import atomic, folder
from attrib.models.weights import content_of
from attrib.parallel import World, broadcast

WORTH = 50
"""Between two saves of partial results, wait this many times as long as a save takes."""

Row = tuple[int, str, dict[str, Any]]
"""The position of a model, or of a pair of models; the kind of images; columns (N,), tensors or lists of words."""


@dataclass
class Part:
    """The measurements of one process."""

    rows: dict[int, list[Row]] = field(default_factory=dict)
    """Number of the batch to the rows of every model and kind of images."""
    across: dict[int, list[Row]] = field(default_factory=dict)
    """The same for every pair of models."""
    sums: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    """Position of the model to sums (2,...): each sum and its rounding error (``exact``)."""
    resampled: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    examples: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Position in the data to the model's name to its arrays in the figure of examples."""

    def merge(self, other: "Part") -> None:
        """Add the measurements of another process, or of an earlier start."""
        self.rows |= other.rows
        self.across |= other.across
        for model, sums in other.sums.items():
            _add(self.sums.setdefault(model, {}), sums, added)
        for model, sums in other.resampled.items():
            _add(self.resampled.setdefault(model, {}), sums, torch.add)
        for position, examples in other.examples.items():
            self.examples.setdefault(position, {}).update(examples)

    def add_sums(self, model: int, sums: Mapping[str, Tensor], resampled: Mapping[str, Tensor]) -> None:
        """Add a batch's sums of one model."""
        _add(self.sums.setdefault(model, {}), {name: exact(part.double().cpu()) for name, part in sums.items()}, added)
        _add(self.resampled.setdefault(model, {}), {name: part.cpu() for name, part in resampled.items()}, torch.add)


def _add(total: dict[str, Tensor], parts: Mapping[str, Tensor], plus: Any) -> None:
    for name, part in parts.items():
        total[name] = plus(total[name], part) if name in total else part


def exact(part: Tensor) -> Tensor:
    """Start a sum for ``added``: from (...) float64 to (2,...), the sum and its rounding error."""
    return torch.stack([part, torch.zeros_like(part)])


def added(a: Tensor, b: Tensor) -> Tensor:
    """Add two sums of ``exact`` (Knuth's two-sum); ``.sum(0)`` of the result is the same in any order."""
    high = a[0] + b[0]
    back = high - a[0]
    return torch.stack([high, a[1] + b[1] + ((a[0] - (high - back)) + (b[0] - back))])


class Store:
    """The measurements of one process, saved in the folder of partial results, in one file for every start."""

    def __init__(self, folder: Path | None, group: World) -> None:
        self.folder = folder
        parts = sorted(folder.glob("[!.]*.part")) if folder and group.rank == 0 else []
        names = broadcast([path.name for path in parts])
        self._path = folder / f"{len(names) + group.rank}.part" if folder else None
        self.earlier = [_read(folder / name) for name in names] if folder else []
        """The measurements of earlier starts of the same call"""
        self.part = Part()
        self._whole = True
        self._due = 0.0

    def add(self, batch: Part) -> None:
        """Add a batch, and save everything unless the last save was too recent."""
        self._whole = False  # an interrupted merge would hold half a batch
        self.part.merge(batch)
        self._whole = True
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Write the measurements to disk, if there is a folder."""
        if self._path is None or not self._whole or not self.part.rows:
            return
        started = time.monotonic()
        with atomic(self._path) as temporary, temporary.open("wb") as file:
            torch.save(vars(self.part), file)
        self._due = time.monotonic() + WORTH * (time.monotonic() - started)


def _read(path: Path) -> Part:
    """The part in a file. Raises InputError for anything else."""
    try:
        part = Part(**content_of(path))  # type: ignore[arg-type]  # checked below
        whole = all(isinstance(each, dict) for each in vars(part).values())
        fault = "" if whole and all(len(row) == 3 for rows in part.rows.values() for row in rows) else "of other parts"
    except Exception as error:  # the parsers meet arbitrary bytes here and raise anything
        fault = one_line(error)[:100]
    if fault:
        raise InputError(f"{path}: not partial results that can be continued ({fault}); remove {path.parent}")
    return part


@contextmanager
def partial_results(out: Path | None, name: str, key: str, group: World) -> Iterator[Store]:
    """A store of partial results in a folder of ``out``, deleted on success; without ``out`` in memory.

    key: a hash of all that the results depend on. Raises ``Stopped`` if the user interrupts work that can continue.
    """
    if out is None:
        yield Store(None, group)
        return
    place = folder(out / f".{name}-{key}")
    store = Store(place, group)
    try:
        yield store
    except BaseException as error:
        with suppress(WriteError):
            store.save()
        if not any(place.iterdir()):
            place.rmdir()
        elif isinstance(error, KeyboardInterrupt):
            raise Stopped("the same command continues where it stopped") from None
        elif isinstance(error, WriteError):
            raise WriteError(f"{error}; what is finished is in {place}, and the same command continues") from None
        raise
    if group.rank == 0:
        shutil.rmtree(place, ignore_errors=True)


def unused(out: Path, name: str, key: str) -> str:
    """A warning about unfinished work with another key; "" if there is none."""
    left = sorted(path.name for path in out.glob(f".{name}-*") if path.name != f".{name}-{key}")
    if not left:
        return ""
    return f"{out}: unfinished work with other data, models or settings is not used; delete {', '.join(left)}"


def missing(numbers: Sequence[int], parts: Sequence[Part]) -> list[int]:
    """The batches that no part has."""
    done = {number for part in parts for number in part.rows}
    return [number for number in numbers if number not in done]
