"""Reading files of weights that anybody may have written: every way to fail gets its own message, no code is run."""

import io
import pickle
import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from attrib.bounds import check_pickle
from attrib.errors import InputError, one_line
from attrib.files import found_at

_SCALAR, _ARRAY = (made.__reduce__()[0] for made in (np.float64(0), np.empty(0)))


def state_dict(state: Mapping[str, object], *, strip: bool = True) -> dict[str, Tensor]:
    """The state dict as float32 on the CPU; strip: without the prefixes of DistributedDataParallel and compile."""
    weights: dict[str, Tensor] = {}
    _check_size([value for value in state.values() if isinstance(value, Tensor)])
    for name, value in state.items():
        if not isinstance(value, Tensor):
            found = ", ".join(f"{key!r:.30} ({type(entry).__name__})" for key, entry in list(state.items())[:3])
            raise InputError(f"expected a checkpoint or a state dict (names to tensors), found {found}")
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise InputError(f"weights: expected dense tensors with values, {name} is not")
        try:
            tensor = value.detach().float() if value.is_floating_point() else value.detach()
        except NotImplementedError:  # as of two numbers of 4 bits in a byte
            raise InputError(f"weights: expected numbers that convert to float32, {name} is {value.dtype}") from None
        if not tensor.isfinite().all():
            raise InputError(f"weights: {name} holds NaN or infinity; the training that wrote it has diverged")
        weights[re.sub(r"^((module|_orig_mod)\.)+", "", str(name)) if strip else str(name)] = tensor
    if not weights:
        raise InputError("holds no weights")
    return weights


def _check_size(tensors: Sequence[Tensor]) -> None:
    """Raise InputError for views, of a few numbers in memory, that are far larger when they are copied."""
    dense = [each for each in tensors if each.layout == torch.strided and not each.is_quantized and not each.is_meta]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in dense}
    wanted, stored = sum(4 * each.numel() for each in dense), sum(storages.values())
    if wanted > 8 * stored + 2**26:
        raise InputError(f"weights: would take {wanted:,} bytes, of which the file holds {stored:,}")


def faults(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What keeps weights from fitting, by name: missing, unexpected, of another shape; "" if nothing."""
    other = [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    kinds = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": other,
    }
    return "; ".join(f"{kind}: {few(names)}" for kind, names in kinds.items() if names)


_FOREIGN = {
    b"<": "an HTML or XML page (a download that wants a login?)",
    b"version https://git-lfs": "a Git LFS pointer (fetch the file with git lfs pull)",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x1f\x8b": "a gzip archive (unpack it first)",
}


def content_of(path: Path) -> Mapping[str, object]:
    """What the file holds, told apart by its first bytes; every way to fail gets its own message."""
    if (there := found_at(path)) != "a file":
        raise InputError(f"{path}: expected a checkpoint file, found {there}")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not head:
        raise InputError(f"{path}: the file is empty; expected a checkpoint")
    if head[8:9] == b"{":  # after the length of the header, whose bytes may be anything
        return _read_safetensors(path)
    for start, kind in _FOREIGN.items():
        if head.lstrip().startswith(start):
            raise InputError(f"{path}: expected a checkpoint, this is {kind}")
    # A zip file's table of contents stands at its end.
    if head.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise InputError(f"{path}: truncated; download or copy it again")
    if head.startswith((b"PK", b"\x80")):
        if head.startswith(b"PK"):
            _refuse_programs(path)
        return _read_torch(path)
    raise InputError(f"{path}: expected a PyTorch or safetensors file, this starts with {head[:8]!r}")


def _refuse_programs(path: Path) -> None:
    """Raise InputError for zip files that hold a program, not only weights, and for those that unpack to more."""
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
        unpacked = sum(entry.file_size for entry in archive.infolist())
    ways = {
        "constants.pkl": ("a TorchScript program", "torch.jit.load(FILE)"),
        "serialized_exported_program.json": ("a torch.export program", "torch.export.load(FILE).module()"),
        "archive_format": ("a torch.export program", "torch.export.load(FILE).module()"),
    }
    for name, (kind, call) in ways.items():
        if name in names:
            raise InputError(
                f"{path}: expected weights, this is {kind}; name a factory that returns {call}, as my_code:build"
            )
    if unpacked > path.stat().st_size:
        raise InputError(f"{path}: refused: it unpacks to more than its size; save it again with torch.save")


PLAIN: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"), (_SCALAR, "numpy._core.multiarray.scalar"),
    (_ARRAY, "numpy.core.multiarray._reconstruct"), (_ARRAY, "numpy._core.multiarray._reconstruct"),
    np.ndarray, np.dtype, *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdU"}, Namespace, PosixPath,
]  # fmt: skip
"""What training scripts keep beside the weights, and that runs nobody's code: numbers, options, paths."""


def _check_pickles(path: Path) -> None:
    """Raise InputError for pickles that would take for ever, or all memory: one in a zip file, or several in a row."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    check_pickle(io.BytesIO(archive.read(name)))
        return
    with path.open("rb") as file:  # before torch 1.6: four, and the names of the storages that follow
        for _ in range(5):
            if file.peek(1):
                check_pickle(file)


def _read_torch(path: Path) -> Mapping[str, object]:
    try:
        _check_pickles(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(PLAIN):
            warnings.simplefilter("ignore")
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"needs {wanted[1]}, which could run code" if wanted else "is a pickle of more than plain weights"
        raise InputError(f"{path}: refused: it {what}; save model.state_dict() instead") from None
    except Exception as error:  # the parsers meet arbitrary bytes here and raise anything
        raise InputError(f"{path}: truncated or not written by torch.save: {_shortened(error)}") from None
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: expected a checkpoint or a state dict, this holds a {type(content).__name__}")
    return content


def _read_safetensors(path: Path) -> Mapping[str, object]:
    try:
        weights: dict[str, object] = dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: truncated or not a safetensors file: {_shortened(error)}") from None
    return weights


def _shortened(error: Exception) -> str:
    """The first sentence of what torch says: without terminal codes, and never cut off within."""
    return re.split(r"(?<=[a-z])\. ", re.sub(r"\x1b\[[0-9;]*m", "", one_line(error)))[0]


def few(names: Iterable[str]) -> str:
    """The first three names and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more
