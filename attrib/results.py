"""Results on disk: per-image tables, summaries, tables for a paper, maps. No torch: plots and reports build on this.

Every writer is atomic and raises InputError where the place cannot be written to.
"""

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attrib.errors import InputError, one_line
from attrib.files import atomic


def source(data: str, split: str) -> str:
    """A data set and its split, as words of a title; the split ``all`` means that there is none.

    >>> source("cifar10", "test"), source("folder:pictures", "all")
    ('cifar10 test', 'folder:pictures')
    """
    return data if split == "all" else f"{data} {split}"


def to_json(summary: Mapping[str, Any]) -> str:
    """The summary as JSON text; NaN, which JSON lacks, becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    return json.dumps(plain(summary), indent=2, allow_nan=False)


def write_json(summary: Mapping[str, Any], path: Path) -> None:
    """Write a summary; see :func:`to_json`."""
    with atomic(path) as temporary:
        temporary.write_text(to_json(summary) + "\n")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table, one row per image and model, without the row numbers."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def write_latex(table: pd.DataFrame, path: Path, *, caption: str) -> None:
    """Write a table of texts for a paper (booktabs), its special characters escaped."""
    escaped = table.rename(columns=latex_escape).map(latex_escape)
    # Texts to the left, what holds numbers to the right.
    columns = "".join("r" if _numeric(table[name]) else "l" for name in table)
    with atomic(path) as temporary:
        said = latex_escape(caption)
        temporary.write_text(
            escaped.to_latex(index=False, caption=said, position="t", escape=False, column_format=columns)
        )


def _numeric(cells: pd.Series) -> bool:
    """Whether every cell begins like a number, or holds none."""
    return bool(cells.astype(str).str.match(r"[+−<-]?\s*[\d.]|–?$").all())


def latex_escape(text: str) -> str:
    """The text with LaTeX's special characters, and the signs that our tables use, written out."""
    signs = {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
        "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "×": r"$\times$", "−": "$-$",
        "–": "--", "<": "$<$", ">": "$>$", "≥": r"$\geq$", "≤": r"$\leq$", "ρ": r"$\rho$", "α": r"$\alpha$",
    }  # fmt: skip
    return "".join(signs.get(character, character) for character in text)


class MapWriter:
    """Streams the maps and spans of one model to an NPZ (arrays ``index, map, span``), batch by batch.

    A context: the file appears when the body is through, and not at all when it raises, or when fewer maps have come
    than were announced (ValueError).
    """

    def __init__(self, path: Path, *, images: int, size: tuple[int, int]) -> None:
        self._path = path
        self._filled = 0
        self._parts = [path.with_name(f".{path.stem}-{name}.npy") for name in ("index", "map", "span")]
        kinds = (((images,), np.int64), ((images, *size), np.float32), ((images, *size), np.bool_))
        try:
            self._arrays = [
                np.lib.format.open_memmap(part, mode="w+", dtype=kind, shape=shape)
                for part, (shape, kind) in zip(self._parts, kinds, strict=True)
            ]
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}; name another place") from None

    def add(self, index: NDArray[Any], maps: NDArray[Any], spans: NDArray[Any]) -> None:
        """Append a batch: index (n,), maps (n,H,W), spans bool (n,H,W)."""
        rows = slice(self._filled, self._filled + len(index))
        for array, values in zip(self._arrays, (index, maps, spans), strict=True):
            array[rows] = values
        self._filled = rows.stop

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for array in self._arrays:
                array.flush()
            if kind is None:
                if self._filled != len(self._arrays[0]):
                    raise ValueError(f"maps: {len(self._arrays[0])} were announced, {self._filled} came")
                with atomic(self._path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
                    for name, part in zip(("index", "map", "span"), self._parts, strict=True):
                        archive.write(part, f"{name}.npy")
        finally:
            for part in self._parts:
                part.unlink(missing_ok=True)


def read_maps(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The arrays ``index`` (N,) and ``map`` (N,H,W) of an NPZ that we or somebody else wrote.

    Without ``index`` the maps are taken to be those of the first N images. Raises InputError for another file.
    """
    wanted = f"{path}: expected an NPZ with an array 'map' of shape (N,H,W) and 'index' (N,)"
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile) or "map" not in archive:
                raise InputError(f"{wanted}; it has no 'map'")
            maps = archive["map"]
            index = archive["index"] if "index" in archive else np.arange(len(maps))
    except FileNotFoundError:
        raise InputError(f"--maps: no such file: {path}") from None
    except InputError:
        raise
    except Exception as error:  # numpy meets arbitrary bytes here and raises anything
        raise InputError(f"{wanted}; it cannot be read ({one_line(error)})") from None
    if not np.issubdtype(index.dtype, np.integer) or len(np.unique(index)) < index.size:
        raise InputError(f"{wanted}; expected 'index' to hold whole numbers, each once, got {index.dtype}")
    if maps.ndim != 3 or index.shape != maps.shape[:1] or not np.issubdtype(maps.dtype, np.floating):
        raise InputError(f"{wanted}; got map {maps.dtype} {maps.shape} and index {index.shape}")
    if not np.isfinite(maps).all():
        raise InputError(f"{wanted}; the maps hold NaN or infinity")
    return index.astype(np.int64), maps.astype(np.float32)


def write_examples(path: Path, examples: Mapping[str, NDArray[Any] | Sequence[Any]]) -> None:
    """Write the arrays behind a picture as a compressed NPZ."""
    with atomic(path) as temporary:
        np.savez_compressed(temporary, **{key: np.asarray(value) for key, value in examples.items()})  # type: ignore[arg-type]
