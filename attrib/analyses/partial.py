"""Partial results: what finished batches gave, in memory and on disk, so that the same call continues."""

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
"""Partial results are saved when so many times as much time has passed as saving takes."""

Row = tuple[int, str, dict[str, Any]]
"""The position of a model, or of a pair of models; the kind of images; columns (N,), tensors or lists of words."""


@dataclass
class Part:
    """What a process has measured."""

    rows: dict[int, list[Row]] = field(default_factory=dict)
    """The number of the batch to the rows of every model and kind of images."""
    across: dict[int, list[Row]] = field(default_factory=dict)
    """The same of every pair of models."""
    sums: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    """The position of the model to sums, (2,...): each with what rounding lost."""
    resampled: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    examples: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Position in the data to the model's name to what a picture shows."""

    def merge(self, other: "Part") -> None:
        """Take in what another process, or an earlier start, has measured."""
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
    """The beginning of a sum that ``added`` continues: (...) float64 to (2,...), the sum and what rounding lost."""
    return torch.stack([part, torch.zeros_like(part)])


def added(a: Tensor, b: Tensor) -> Tensor:
    """Two sums of ``exact`` as one (Knuth's two-sum); ``.sum(0)`` of it is the same in whatever order one adds."""
    high = a[0] + b[0]
    back = high - a[0]
    return torch.stack([high, a[1] + b[1] + ((a[0] - (high - back)) + (b[0] - back))])


class Store:
    """What a process has measured, and a file of it below the folder of partial results, one for every start."""

    def __init__(self, folder: Path | None, group: World) -> None:
        self.folder = folder
        parts = sorted(folder.glob("[!.]*.part")) if folder and group.rank == 0 else []
        names = broadcast([path.name for path in parts])
        self._path = folder / f"{len(names) + group.rank}.part" if folder else None
        self.earlier = [_read(folder / name) for name in names] if folder else []
        """What earlier starts of the same work have measured."""
        self.part = Part()
        self._whole = True
        self._due = 0.0

    def add(self, batch: Part) -> None:
        """Take in a batch, and write everything to the disk unless too little time has passed since."""
        self._whole = False  # an interrupted merge would hold half a batch
        self.part.merge(batch)
        self._whole = True
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Write what has been measured, if there is a folder."""
        if self._path is None or not self._whole or not self.part.rows:
            return
        started = time.monotonic()
        with atomic(self._path) as temporary, temporary.open("wb") as file:
            torch.save(vars(self.part), file)
        self._due = time.monotonic() + WORTH * (time.monotonic() - started)


def _read(path: Path) -> Part:
    """The part in a file. Raises InputError for anything else."""
    try:
        part = Part(**content_of(path))  # type: ignore[arg-type]  # looked at below
        whole = all(isinstance(each, dict) for each in vars(part).values())
        broken = "" if whole and all(len(row) == 3 for rows in part.rows.values() for row in rows) else "of other parts"
    except Exception as error:  # the parsers meet arbitrary bytes here and raise anything
        broken = one_line(error)[:100]
    if broken:
        raise InputError(f"{path}: not partial results that can be continued ({broken}); remove {path.parent}")
    return part


@contextmanager
def partial_results(out: Path | None, name: str, key: str, group: World) -> Iterator[Store]:
    """The store of partial results below ``out``, which is deleted when the body is through; without ``out`` none.

    key: a hash of what the results depend on. Raises ``Stopped`` where the user interrupts what can be continued.
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
    """What is to be said of unfinished work with another key; "" where there is none."""
    left = sorted(path.name for path in out.glob(f".{name}-*") if path.name != f".{name}-{key}")
    if not left:
        return ""
    return f"{out}: unfinished work with other data, models or settings is not used; delete {', '.join(left)}"


def missing(numbers: Sequence[int], parts: Sequence[Part]) -> list[int]:
    """The batches that no part has."""
    done = {number for part in parts for number in part.rows}
    return [number for number in numbers if number not in done]
