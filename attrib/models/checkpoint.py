"""Save and load checkpoints: one file with a trained model's weights and its description."""

import hashlib
import math
import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import attrib
from attrib.bounds import LARGEST_SIDE, MOST_CLASSES
from attrib.errors import InputError, refused
from attrib.files import atomic
from attrib.models import zoo
from attrib.models.architectures import ARCHITECTURES, build
from attrib.models.classifier import Classifier, Shape
from attrib.models.foreign import state_in, stripped
from attrib.models.names import is_code
from attrib.models.weights import content_of, faults, few, state_dict
from attrib.models.zoo import StrPath

FORMAT_VERSION = 1


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": str(torch.__version__), "attrib": attrib.__version__}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model's weights and description.

    arch, arch_kwargs: arguments of ``build``: "mean" and "std", one number per channel, and "gated": True for AGAIN's
    gate form (the key is absent otherwise, so that older versions can read the file).
    input_shape: (C, H, W). data, method: names, "unknown" for a file of bare weights. hyper: the effective
    configuration, plain values. epoch: epochs finished. metrics: name -> number. versions: of python, torch
    and attrib at the time of training. weights: the classifier's state dict.
    """

    arch: str
    arch_kwargs: dict[str, Any]
    num_classes: int
    input_shape: Shape
    data: str
    method: str
    hyper: dict[str, object]
    epoch: int
    metrics: dict[str, float]
    weights: dict[str, Tensor] = field(repr=False)
    versions: dict[str, str] = field(default_factory=_versions)
    format_version: int = FORMAT_VERSION

    @cached_property
    def fingerprint(self) -> str:
        """First 12 hex digits of a SHA-256 over the name, dtype, shape and bytes of each weight."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:12]


def save(ckpt: Checkpoint, path: StrPath) -> None:
    """Write the checkpoint atomically to one file that ``torch.load(weights_only=True)`` reads.

    Raises InputError if the file cannot be written, TypeError for a value that is not plain.

    >>> import attrib, tempfile
    >>> model = attrib.build("lenet", num_classes=10, input_shape=(1, 28, 28))
    >>> ckpt = Checkpoint(
    ...     arch="lenet", arch_kwargs={"mean": [0.0], "std": [1.0]}, num_classes=10, input_shape=(1, 28, 28),
    ...     data="mnist", method="standard", hyper={}, epoch=1, metrics={}, weights=model.state_dict(),
    ... )
    >>> with tempfile.TemporaryDirectory() as place:
    ...     attrib.save(ckpt, f"{place}/model.pt")
    ...     again, read_back = attrib.load(f"{place}/model.pt")
    >>> read_back.fingerprint == ckpt.fingerprint
    True
    """
    content: dict[str, object] = {item.name: getattr(ckpt, item.name) for item in fields(ckpt)}
    # A clone, since a view would be saved with its whole storage, and channels-last weights with their strides.
    content["weights"] = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in ckpt.weights.items()
    }
    for name, value in content.items():
        if name != "weights":
            _check_plain(value, name)
    with atomic(Path(path)) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load(
    path: StrPath,
    *,
    arch: str | None = None,
    input_shape: Shape | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: str | torch.device = "cpu",
) -> tuple[Classifier, Checkpoint]:
    """The model in eval mode on the device, and its checkpoint; arguments as for ``read``.

    No code in the file is run. Raises InputError for a file that is no checkpoint, and if the weights don't fit the
    architecture.

    >>> import attrib, tempfile
    >>> model = attrib.build("lenet", num_classes=10, input_shape=(1, 28, 28))
    >>> with tempfile.TemporaryDirectory() as place:
    ...     torch.save(model.state_dict(), f"{place}/bare.pt")  # bare weights
    ...     again, ckpt = attrib.load(f"{place}/bare.pt", arch="lenet")
    >>> torch.equal(again.fc.weight, model.fc.weight), again.training, ckpt.data
    (True, False, 'unknown')
    """
    ckpt = read(path, arch=arch, input_shape=input_shape, mean=mean, std=std)
    try:
        return to_model(ckpt, device=device), ckpt
    except InputError as error:
        raise _located(error, path) from None


def _located(error: InputError, path: StrPath) -> InputError:
    """The error as one line that begins with the file's path."""
    return InputError(f"{path}: {' '.join(str(error).split())}")


def to_model(ckpt: Checkpoint, *, device: str | torch.device = "cpu") -> Classifier:
    """A new classifier in eval mode with a copy of the checkpoint's weights; no random number is drawn.

    Raises InputError if the architecture is unknown or the weights don't fit it.
    """
    if unknown := ckpt.arch_kwargs.keys() - {"mean", "std", "gated"}:
        listed = ", ".join(sorted(unknown))
        raise InputError(f"arch_kwargs: expected mean, std and gated, got also {listed}; update attrib")
    with torch.device("meta"):
        model = build(
            ckpt.arch,
            num_classes=ckpt.num_classes,
            input_shape=ckpt.input_shape,
            mean=ckpt.arch_kwargs.get("mean"),
            std=ckpt.arch_kwargs.get("std"),
            gated=ckpt.arch_kwargs.get("gated", False),
        )
    _check_fit(ckpt, model.state_dict())
    model.to_empty(device=device)
    model.load_state_dict(ckpt.weights)
    return model.eval()


def _check_fit(ckpt: Checkpoint, expected: Mapping[str, Tensor]) -> None:
    listed = faults(ckpt.weights, expected)
    if listed:
        shape = "x".join(map(str, ckpt.input_shape))
        arch = f"gated {ckpt.arch}" if ckpt.arch_kwargs.get("gated") else ckpt.arch
        raise InputError(f"weights don't fit {arch} with {ckpt.num_classes} classes and {shape} input; {listed}")


def check_data(ckpt: Checkpoint, *, classes: int, shape: Shape) -> None:
    """Raise InputError if data of that many classes and that image shape (C, H, W) don't fit the model."""
    model = f"the checkpoint ({ckpt.arch}, trained on {ckpt.data})"
    if shape[0] != ckpt.input_shape[0]:
        kinds = {1: "grey (1 channel)", 3: "colour (3 channels)"}
        got, expected = (kinds.get(c, f"of {c} channels") for c in (shape[0], ckpt.input_shape[0]))
        raise InputError(f"data: images are {got}, {model} expects {expected}")
    if tuple(shape[1:]) != tuple(ckpt.input_shape[1:]):
        got, expected = ("x".join(map(str, s[1:])) for s in (shape, ckpt.input_shape))
        raise InputError(f"data: images are {got} pixels, {model} expects {expected}")
    if classes != ckpt.num_classes:
        raise InputError(f"data: has {classes} classes, {model} has {ckpt.num_classes}")


def read(
    path: StrPath,
    *,
    arch: str | None = None,
    input_shape: Shape | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Checkpoint:
    """Read a checkpoint, or bare weights (also inside dicts, with prefixes, or as safetensors).

    path: a file, or ``zoo:NAME`` for a model that comes with the package (``attrib zoo`` lists them). Bare weights need
    ``arch``. The numbers of classes and channels come from the weights; the image size is that of ``input_shape``
    (default 32x32; for lenet it comes from the weights); mean and std come from the file unless given. If the file is a
    full checkpoint, the arguments must agree with it. The weights are float32 on the CPU. No code in the file is run.
    Raises InputError for anything else.
    """
    if not isinstance(path, str | os.PathLike) or is_code(os.fspath(path)):
        raise InputError(f"load: expected a checkpoint's path or zoo:NAME, got {path!s:.200}; see attrib.model(...)")
    content = content_of(zoo.file(path))
    try:
        if {"config", "model", "optimizer", "history"} <= content.keys():
            raise InputError("is the state of a training run; name the model.pt beside it")
        if "format_version" not in content:
            state, _, note = state_in(content)
            checkpoint = _from_weights(state_dict(stripped(state)[0]), arch, input_shape, mean, std)
            if note:
                warnings.warn(f"{path}: {note}", stacklevel=2)
            return checkpoint
        ckpt = _from_fields(content)
        stored = {"arch": ckpt.arch, "input_shape": ckpt.input_shape, **ckpt.arch_kwargs}
        given = {"arch": arch, "input_shape": input_shape, "mean": mean, "std": std}
        for name, value in given.items():
            if value is not None and _listed(value) != _listed(stored.get(name)):
                raise InputError(f"{name}: {value} was given, but the checkpoint says {stored.get(name)}")
        return ckpt
    except InputError as error:
        raise _located(error, path) from None


def is_ours(path: StrPath) -> bool:
    """Whether the file is a checkpoint in our own format, or the state of one of our training runs.

    Raises InputError for a file that cannot be read.
    """
    content = content_of(zoo.file(path))
    return "format_version" in content or {"config", "model", "optimizer", "history"} <= content.keys()


def _from_fields(content: Mapping[str, object]) -> Checkpoint:
    """A checkpoint in our own format, checked field by field."""
    version = content["format_version"]
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise InputError(f"checkpoint format {version!r}; this attrib reads up to {FORMAT_VERSION}: update attrib")
    if missing := [item.name for item in fields(Checkpoint) if item.name not in content]:
        raise InputError(f"not a complete checkpoint; missing: {few(missing)}")
    for name, kind in _KINDS.items():
        if not isinstance(content[name], kind):
            raise InputError(f"{name}: expected {kind.__name__}, got {content[name]!r:.60}")
    values: dict[str, Any] = {item.name: content[item.name] for item in fields(Checkpoint)}
    values["input_shape"] = shape = tuple(values["input_shape"])
    if len(shape) != 3 or not all(isinstance(side, int) and 1 <= side <= LARGEST_SIDE for side in shape):
        raise InputError(
            f"input_shape: expected (channels, height, width), up to {LARGEST_SIDE} each, got {shape!r:.60}"
        )
    if not 1 <= values["num_classes"] <= MOST_CLASSES:
        raise InputError(f"num_classes: expected 1 to {MOST_CLASSES}, got {values['num_classes']!r:.60}")
    for name in values["arch_kwargs"].keys() & {"mean", "std"}:
        numbers = values["arch_kwargs"][name]
        if not isinstance(numbers, list | tuple) or not all(isinstance(number, int | float) for number in numbers):
            raise InputError(f"arch_kwargs: expected {name} to be a list of numbers, got {numbers!r:.60}")
    if not isinstance(gated := values["arch_kwargs"].get("gated", False), bool):
        raise InputError(f"arch_kwargs: expected gated to be true or false, got {gated!r:.60}")
    values["weights"] = state_dict(values["weights"])
    return Checkpoint(**values)


_KINDS: dict[str, type] = {
    "arch": str,
    "arch_kwargs": dict,
    "num_classes": int,
    "input_shape": Sequence,
    "data": str,
    "method": str,
    "hyper": dict,
    "epoch": int,
    "metrics": dict,
    "weights": dict,
    "versions": dict,
}


def _from_weights(
    weights: dict[str, Tensor],
    arch: str | None,
    input_shape: Shape | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Checkpoint:
    """A checkpoint around bare weights; what neither weights nor arguments tell is "unknown" or empty."""
    if arch is None:
        raise InputError(f"holds only weights; name their architecture with arch= (--arch): {', '.join(ARCHITECTURES)}")
    if arch not in ARCHITECTURES:
        raise refused("arch", arch, ARCHITECTURES)
    classes = _dimension(weights, "fc.weight", 2, 0, arch)
    channels = _dimension(weights, "stages.0.0.weight", 4, 1, arch)
    if input_shape is None:
        side = 32
        if arch == "lenet":
            side = _lenet_side(_dimension(weights, "pool.2.weight", 2, 1, arch))
        input_shape = (channels, side, side)
    arch_kwargs: dict[str, Any] = {"gated": True} if any(name.endswith("gate.head.weight") for name in weights) else {}
    for name, values in (("mean", mean), ("std", std)):
        if values is not None:
            weights[name] = torch.tensor([float(value) for value in values]).view(1, -1, 1, 1)
        if name not in weights:
            raise InputError(f"holds no {name} to normalise with; give it with {name}= (--{name})")
        arch_kwargs[name] = weights[name].flatten().tolist()
    return Checkpoint(
        arch=arch,
        arch_kwargs=arch_kwargs,
        num_classes=classes,
        input_shape=input_shape,
        data="unknown",
        method="unknown",
        hyper={},
        epoch=0,
        metrics={},
        weights=weights,
        versions={},
    )


def _dimension(weights: Mapping[str, Tensor], name: str, ndim: int, axis: int, arch: str) -> int:
    """The length of one axis of a weight; raises InputError if the weight is missing or has other dimensions."""
    if name not in weights or weights[name].ndim != ndim:
        raise InputError(f"weights don't fit {arch}: no {name} with {ndim} dimensions; found: {few(weights)}")
    return weights[name].shape[axis]


def _lenet_side(inputs: int) -> int:
    """The image side for LeNet's hidden layer, whose inputs are 50 filters times ((side - 4) / 2 - 4) / 2 squared."""
    side = math.isqrt(inputs // 50)
    if 50 * side * side != inputs:
        raise InputError(f"lenet with {inputs} hidden inputs fits no square image; give input_shape=")
    return 2 * (2 * side + 4) + 4


def _listed(value: object) -> object:
    """A tuple as a list, so that both compare equal."""
    return list(value) if isinstance(value, list | tuple) else value


def _check_plain(value: object, where: str) -> None:
    """Raise TypeError for values that ``weights_only`` would refuse to read back; numpy's float64 is one."""
    if isinstance(value, dict):
        for key, entry in value.items():
            _check_plain(key, f"a key of {where}")
            _check_plain(entry, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for entry in value:
            _check_plain(entry, where)
    elif value is not None and type(value) not in (bool, int, float, str):
        raise TypeError(f"{where}: a checkpoint holds plain values only, got {type(value).__name__}")
