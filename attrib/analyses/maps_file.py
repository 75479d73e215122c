"""Stream the maps and spans of all images to an NPZ file, and read them."""

import math
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attrib.bounds import check_unpacked
from attrib.errors import InputError, WriteError, one_line
from attrib.files import atomic, found_at

ARRAYS = ("index", "map", "span")


class _Part(NamedTuple):
    """An NPY file to be filled in."""

    path: Path
    start: int
    """Offset of the numbers, in bytes"""
    kind: np.dtype[Any]


def _begun(path: Path, shape: tuple[int, ...], kind: np.dtype[Any]) -> _Part:
    """The file, created if it is missing."""
    size = math.prod(shape) * kind.itemsize
    if not path.exists():
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + size)
    return _Part(path, path.stat().st_size - size, kind)


class MapWriter:
    """Streams the maps and spans of one model to NAME.npz (arrays ``index, map, span``), batch by batch.

    The arrays stay in ``folder`` until ``finish``, so that a later start can fill in the missing maps. They are not
    written through mapped memory: there a full disk raises no error, but kills the process.
    """

    def __init__(self, folder: Path, name: str, *, images: int, size: tuple[int, int]) -> None:
        self._name = name
        kinds = (((images,), np.int64), ((images, *size), np.float32), ((images, *size), np.bool_))
        self._parts = [
            _begun(folder / f"{name}-{array}.npy", shape, np.dtype(kind))
            for array, (shape, kind) in zip(ARRAYS, kinds, strict=True)
        ]

    def add(self, index: NDArray[Any], maps: NDArray[Any], spans: NDArray[Any]) -> None:
        """Write a batch: index (n,), maps (n,H,W), spans bool (n,H,W). Raises WriteError if the disk is full."""
        for part, values in zip(self._parts, (index, maps, spans), strict=True):
            try:
                with part.path.open("r+b") as file:
                    for position, row in zip(index.tolist(), values.astype(part.kind), strict=True):
                        file.seek(part.start + position * row.nbytes)
                        file.write(row.tobytes())
            except OSError as error:
                raise WriteError(f"cannot write {part.path}: {error.strerror}; name another place") from None

    def finish(self, out: Path) -> Path:
        """Write ``out``/NAME.npz; returns its path."""
        path = out / f"{self._name}.npz"
        with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, part in zip(ARRAYS, self._parts, strict=True):
                archive.write(part.path, f"{name}.npy")
        return path


def read_maps(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Read ``index`` (N,) and ``map`` (N,H,W) from an NPZ, or the maps alone from an NPY.

    Without ``index``, the maps are those of the first N images. Raises InputError for another file.
    """
    expected = f"{path}: expected an NPZ with an array 'map' of shape (N,H,W) and 'index' (N,)"
    if (kind := found_at(path)) != "a file":
        raise InputError(f"maps: {expected}; found {kind}")
    try:
        loaded = np.load(path, allow_pickle=False)
        with loaded if isinstance(loaded, np.lib.npyio.NpzFile) else nullcontext({"map": loaded}) as arrays:
            if "map" not in arrays:
                raise InputError(f"{expected}; it has no 'map'")
            if isinstance(loaded, np.lib.npyio.NpzFile):
                check_unpacked(path, ARRAYS)
            maps = arrays["map"]
            index = arrays["index"] if "index" in arrays else np.arange(len(maps))
    except InputError:
        raise
    except Exception as error:  # numpy meets arbitrary bytes here and raises anything
        raise InputError(f"{expected}; it cannot be read ({one_line(error)})") from None
    if not np.issubdtype(index.dtype, np.integer) or len(np.unique(index)) < index.size:
        raise InputError(f"{expected}; expected 'index' to hold whole numbers, each once, got {index.dtype}")
    if maps.ndim != 3 or index.shape != maps.shape[:1] or maps.dtype.kind not in "fiub":
        raise InputError(f"{expected}; got map {maps.dtype} {maps.shape} and index {index.shape}")
    if not np.isfinite(maps).all():
        raise InputError(f"{expected}; the maps hold NaN or infinity")
    return index.astype(np.int64), maps.astype(np.float32)
