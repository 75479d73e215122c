"""Read data files: paths to images (N,C,H,W) and int64 labels (N,).

Images are uint8; those of an .npz may be floats. Raises InputError if sizes, counts or the range of labels are wrong. A
pickle can run no code.
"""

import gzip
import io
import pickle
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import scipy.io
import torch
from torch import Tensor

from attrib.bounds import MOST_CLASSES, check_pickle, check_unpacked
from attrib.errors import InputError, one_line
from attrib.files import found_at

Arrays = tuple[Tensor, Tensor]
_MOST_BYTES = 2**28
"""The most bytes of a file of MNIST or CIFAR; the largest has 154 million."""


def _bytes(path: Path) -> bytearray:
    """The contents of a file, unpacked if its name ends in .gz; writable, as torch's buffers must be."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = bytearray(file.read(_MOST_BYTES + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); fetch it again") from None
    if len(data) > _MOST_BYTES:
        raise InputError(f"{path}: expected at most {_MOST_BYTES:,} bytes, got more; fetch it again")
    return data


def _checked(path: Path, labels: Tensor, classes: int) -> Tensor:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        low, high = int(labels.min()), int(labels.max())
        raise InputError(f"{path}: expected labels between 0 and {classes - 1}, got {low} to {high}")
    return labels


# MNIST


def idx(path: Path, *, dimensions: int) -> Tensor:
    """The uint8 array in an IDX file, which may be gzipped.

    Raises InputError for another type, another number of dimensions, or a length that does not fit.
    """
    data = _bytes(path)
    header = 4 + 4 * dimensions
    if bytes(data[:4]) != bytes((0, 0, 8, dimensions)) or len(data) < header:
        begins = bytes(data[:4]).hex(" ") or "nothing"
        raise InputError(
            f"{path}: expected an IDX file of bytes with {dimensions} dimensions "
            f"(it begins 00 00 08 {dimensions:02x}), got {begins}; fetch it again"
        )
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    if len(data) - header != (size := int(np.prod(shape, dtype=object))):
        raise InputError(f"{path}: expected {size} bytes for shape {shape}, got {len(data) - header}")
    if size == 0:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(data, dtype=torch.uint8, offset=header).view(shape)


def mnist(paths: Sequence[Path]) -> Arrays:
    """MNIST from [images, labels] in IDX; (N,1,28,28)."""
    images, labels = idx(paths[0], dimensions=3), idx(paths[1], dimensions=1)
    if images.shape[1:] != (28, 28):
        raise InputError(f"{paths[0]}: expected images of 28x28, got {tuple(images.shape[1:])}")
    if len(images) != len(labels):
        raise InputError(f"{paths[1]}: expected {len(images)} labels, one per image, got {len(labels)}")
    return images[:, None], _checked(paths[1], labels.long(), 10)


# CIFAR


def cifar_binary(paths: Sequence[Path], *, classes: int) -> Arrays:
    """CIFAR from the binary version; a record is a label byte (CIFAR-100: coarse and fine) and 3072 pixel bytes."""
    header = 1 if classes == 10 else 2
    records = []
    for path in paths:
        data = _bytes(path)
        if not data or len(data) % (header + 3072):
            raise InputError(f"{path}: expected records of {header + 3072} bytes, got {len(data)} bytes in all")
        part = torch.frombuffer(data, dtype=torch.uint8).view(-1, header + 3072)
        _checked(path, part[:, header - 1], classes)
        records.append(part)
    images = torch.cat([part[:, header:] for part in records]).view(-1, 3, 32, 32)
    return images, torch.cat([part[:, header - 1] for part in records]).long()


def cifar_python(paths: Sequence[Path], *, classes: int) -> Arrays:
    """CIFAR from the python version, pickled dicts; the unpickler builds arrays of bytes and nothing else."""
    key = b"labels" if classes == 10 else b"fine_labels"
    images, labels = [], []
    for path in paths:
        content = _bytes(path)
        try:
            check_pickle(io.BytesIO(content))
            batch = _CifarUnpickler(io.BytesIO(content), encoding="bytes").load()
        except Exception as error:  # on a crafted or truncated pickle, anything may be raised
            raise InputError(f"{path}: not a CIFAR batch of the python version ({one_line(error)})") from None
        if not isinstance(batch, dict):
            raise InputError(f"{path}: expected a pickled dict, got {type(batch).__name__}")
        data, batch_labels = (batch.get(name, batch.get(name.decode())) for name in (b"data", key))
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
            raise InputError(f"{path}: expected 'data' to be a uint8 array (N,3072)")
        if (
            not isinstance(batch_labels, list)
            or len(batch_labels) != len(data)
            or not all(type(label) is int and 0 <= label < classes for label in batch_labels)
        ):
            raise InputError(f"{path}: expected {key!r} to be {len(data)} integers from 0 to {classes - 1}")
        images.append(torch.from_numpy(data.reshape(-1, 3, 32, 32)))
        labels.append(torch.tensor(batch_labels, dtype=torch.int64))
    return torch.cat(images), torch.cat(labels)


class _Kind:
    """Replaces ``numpy.ndarray`` in a pickle, where it is only the first argument of ``_reconstruct``."""


def _byte_array(_kind: object, _shape: object, _code: object) -> npt.NDArray[np.uint8]:
    return np.empty(0, np.uint8)


def _byte_type(code: object, *_: object) -> np.dtype[np.uint8]:
    if code not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"an array of type {code!r} instead of bytes")
    # A copy, since the state that follows in the pickle must not change the shared dtype.
    return np.dtype("u1", align=False, copy=True)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"the codec {encoding!r}")
    return text.encode("latin1")


class _CifarUnpickler(pickle.Unpickler):
    _allowed: dict[tuple[str, str], Callable[..., object]] = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _byte_array,
        ("numpy._core.multiarray", "_reconstruct"): _byte_array,
        ("numpy", "ndarray"): _Kind,
        ("numpy", "dtype"): _byte_type,
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which such a file does not need")
        return self._allowed[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for the persistent object {pid!r}")


# SVHN and npz


def svhn(paths: Sequence[Path]) -> Arrays:
    """SVHN's cropped digits from a .mat file; its label 10 is the digit 0."""
    (path,) = paths
    try:
        contents = scipy.io.loadmat(path, variable_names=["X", "y"])
        images, labels = contents["X"], contents["y"]
    except KeyError as error:
        raise InputError(f"{path}: expected the variables X and y, found no {error.args[0]}") from None
    except Exception as error:  # on a damaged file, scipy may raise anything
        raise InputError(f"{path}: not a MATLAB file that scipy reads ({one_line(error)})") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise InputError(f"{path}: expected X to be uint8 (32,32,3,N), got {images.dtype} {images.shape}")
    if labels.size != images.shape[3] or labels.dtype.kind not in "iu":
        raise InputError(f"{path}: expected y to be {images.shape[3]} integers, got {labels.dtype} {labels.shape}")
    digits = torch.from_numpy(labels.astype(np.int64).ravel())
    if len(digits) and not 1 <= int(digits.min()) <= int(digits.max()) <= 10:
        raise InputError(f"{path}: expected labels between 1 and 10, got {int(digits.min())} to {int(digits.max())}")
    return torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1))), digits % 10


def npz(path: Path) -> tuple[Tensor, Tensor, Tensor | None, tuple[str, ...]]:
    """Images (N,C,H,W), labels (N,), masks (N,H,W) bool or None, and class names of a NumPy archive.

    The file's arrays are ``images`` (N,H,W[,C]), uint8 or floats in [0,1], and ``labels``; optionally ``masks`` bool
    (N,H,W) and ``classes`` (text, one name per label). Raises InputError for anything else, also for pickled objects.
    """
    if (actual := found_at(path, before="npz:")) != "a file":
        raise InputError(f"{path}: expected an .npz file, found {actual}")
    try:
        with path.open("rb") as file:  # numpy leaves a damaged file open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: expected an .npz archive, got a single array; use numpy.savez")
            present = {"images", "labels", "masks", "classes"}.intersection(archive.files)
            check_unpacked(path, present)
            arrays = {name: archive[name] for name in present}
    except InputError:
        raise
    except Exception as error:  # zip, zlib and numpy raise many kinds
        raise InputError(f"{path}: not an .npz archive of plain arrays ({one_line(error)})") from None
    for name in ("images", "labels"):
        if name not in arrays:
            raise InputError(f"{path}: expected arrays 'images' and 'labels', found no {name!r}")

    images, labels = arrays["images"], arrays["labels"]
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype.kind == "f":  # Dataset checks the range
        images = images.astype(np.float32)
    has_shape = images.ndim == 4 and 1 <= images.shape[3] <= 4 and 0 not in images.shape
    if not has_shape or images.dtype not in (np.uint8, np.float32):
        expected = "uint8, or floats in [0,1], of shape (N,H,W) or (N,H,W,C) with C up to 4"
        got = f"{arrays['images'].dtype} {arrays['images'].shape}"
        raise InputError(f"{path}: expected 'images' to be {expected}, got {got}")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise InputError(f"{path}: expected 'labels' to be {len(images)} integers, got {labels.dtype} {labels.shape}")
    masks = arrays.get("masks")
    if masks is not None and (masks.dtype != np.bool_ or masks.shape != images.shape[:3]):
        got = f"{masks.dtype} {masks.shape}"
        raise InputError(f"{path}: expected 'masks' to be bool {images.shape[:3]}, got {got}")
    names = arrays.get("classes")
    if names is not None and (names.dtype.kind != "U" or names.ndim != 1):
        raise InputError(f"{path}: expected 'classes' to be text (K,), got {names.dtype} {names.shape}")
    if names is None:
        _checked(path, torch.from_numpy(labels.astype(np.int64)), MOST_CLASSES)
        names = np.arange(int(labels.max()) + 1)
    classes = tuple(map(str, names.tolist()))
    return (
        torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
        _checked(path, torch.from_numpy(labels.astype(np.int64)), len(classes)),
        None if masks is None else torch.from_numpy(masks),
        classes,
    )
