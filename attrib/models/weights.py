"""Read weight files from any source: no code in them is run, and every failure has its own message."""

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
    """The state dict as float32 on the CPU; strip: remove the prefixes of DistributedDataParallel and compile."""
    weights: dict[str, Tensor] = {}
    _check_size([value for value in state.values() if isinstance(value, Tensor)])
    for name, value in state.items():
        if not isinstance(value, Tensor):
            entries = ", ".join(f"{key!r:.30} ({type(entry).__name__})" for key, entry in list(state.items())[:3])
            raise InputError(f"expected a checkpoint or a state dict (names to tensors), found {entries}")
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
    """Raise InputError for views that expand a small storage to a huge tensor when they are copied."""
    dense = [t for t in tensors if t.layout == torch.strided and not t.is_quantized and not t.is_meta]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in dense}
    needed, stored = sum(4 * tensor.numel() for tensor in dense), sum(storages.values())
    if needed > 8 * stored + 2**26:
        raise InputError(f"weights: would take {needed:,} bytes, of which the file holds {stored:,}")


def faults(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """List the weights that are missing, unexpected or of another shape, by name; "" if all fit."""
    kinds = {
        "missing": [name for name in expected if name not in weights],
        "unexpected": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} is {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in weights and weights[name].shape != tensor.shape
        ],
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
    """The content of a PyTorch or safetensors file; raises InputError for any other file."""
    if (actual := found_at(path)) != "a file":
        raise InputError(f"{path}: expected a checkpoint file, found {actual}")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not head:
        raise InputError(f"{path}: the file is empty; expected a checkpoint")
    if head[8:9] == b"{":  # safetensors: after 8 bytes of length, the header is JSON
        return _read_safetensors(path)
    for start, kind in _FOREIGN.items():
        if head.lstrip().startswith(start):
            raise InputError(f"{path}: expected a checkpoint, this is {kind}")
    if head.startswith(b"PK"):
        if not zipfile.is_zipfile(path):  # the table of contents at the end is missing
            raise InputError(f"{path}: truncated; download or copy it again")
        _refuse_programs(path)
    elif not head.startswith(b"\x80"):
        raise InputError(f"{path}: expected a PyTorch or safetensors file, this starts with {head[:8]!r}")
    return _read_torch(path)


def _refuse_programs(path: Path) -> None:
    """Raise InputError for a zip file with a program in it, or one that unpacks to more than its size."""
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
        unpacked = sum(entry.file_size for entry in archive.infolist())
    programs = {
        "constants.pkl": ("a TorchScript program", "torch.jit.load(FILE)"),
        "serialized_exported_program.json": ("a torch.export program", "torch.export.load(FILE).module()"),
        "archive_format": ("a torch.export program", "torch.export.load(FILE).module()"),
    }
    for name, (kind, call) in programs.items():
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
"""Types that training scripts save beside the weights and that run no code: numbers, options, paths."""


def _check_pickles(path: Path) -> None:
    """Raise InputError for a file with a pickle that would take all memory or never end."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    check_pickle(io.BytesIO(archive.read(name)))
        return
    with path.open("rb") as file:  # the format before torch 1.6: five pickles in a row
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
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"needs {needed[1]}, which could run code" if needed else "is a pickle of more than plain weights"
        raise InputError(f"{path}: refused: it {reason}; save model.state_dict() instead") from None
    except Exception as error:  # on arbitrary bytes the parsers may raise anything
        raise InputError(f"{path}: truncated or not written by torch.save: {_shortened(error)}") from None
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: expected a checkpoint or a state dict, this holds a {type(content).__name__}")
    return content


def _read_safetensors(path: Path) -> Mapping[str, object]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: truncated or not a safetensors file: {_shortened(error)}") from None


def _shortened(error: Exception) -> str:
    """The first sentence of torch's message, without terminal codes."""
    return re.split(r"(?<=[a-z])\. ", re.sub(r"\x1b\[[0-9;]*m", "", one_line(error)))[0]


def few(names: Iterable[str]) -> str:
    """The first three names and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more
