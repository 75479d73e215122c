"""Facts about a model, as the command ``info`` and the report show them."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from attrib.errors import InputError
from attrib.models import zoo
from attrib.models.checkpoint import Checkpoint
from attrib.models.foreign import state_in, stripped
from attrib.models.outside import unwrapped
from attrib.models.specs import Model
from attrib.models.weights import content_of, state_dict

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""The last part of the names of batch norm's statistics, which a state dict holds beside the parameters."""


def card_of(model: Model) -> dict[str, Any]:
    """Facts about a model: the content of its checkpoint file, or its class if it has none."""
    if model.checkpoint:
        return checkpoint_card(model.path, model.opened_module, model.checkpoint)
    return {
        "path": model.path, "fingerprint": model.fingerprint,
        "architecture": type(unwrapped(model.opened_module)).__name__, "parameters": _parameters(model.opened_module),
    }  # fmt: skip


def checkpoint_card(path: str, module: nn.Module, checkpoint: Checkpoint) -> dict[str, Any]:
    """The content of a checkpoint file, without the weights."""
    return {
        "path": path, "fingerprint": checkpoint.fingerprint, "architecture": checkpoint.arch,
        "parameters": _parameters(module), "classes": checkpoint.num_classes,
        "input": "x".join(map(str, checkpoint.input_shape)), "data": checkpoint.data, "method": checkpoint.method,
        "epoch": checkpoint.epoch, "metrics": checkpoint.metrics, "configuration": checkpoint.hyper,
        "arguments": checkpoint.arch_kwargs, "format": checkpoint.format_version, "versions": checkpoint.versions,
    }  # fmt: skip


def weights_card(path: str) -> dict[str, Any]:
    """The content of any weight file: key and prefix of the weights, their shapes, and the other entries.

    Raises InputError for a file that cannot be read or has no weights.
    """
    content = content_of(zoo.file(path))
    try:
        state, at, note = state_in(content)
        names, prefix = stripped(state)
        weights = state_dict(names, strip=False)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    others = content.items() if at else [item for item in content.items() if item[0] not in state]
    numbers = {str(key): plain for key, value in others if (plain := _number(value)) is not None}
    epochs = {key: value for key, value in numbers.items() if key.lower() in ("epoch", "epochs", "step", "global_step")}
    return {
        "path": path, "weights at": at or "the whole file", "note": note, "prefix": prefix,
        "parameters": sum(t.numel() for name, t in weights.items() if name.rpartition(".")[2] not in STATISTICS),
        "tensors": len(weights),
        "epoch": epochs, "metrics": {key: value for key, value in numbers.items() if key not in epochs},
        "beside": [str(key) for key in content if not isinstance(content[key], Tensor) and str(key) not in numbers],
        "shapes": {name: "x".join(map(str, tensor.shape)) or "scalar" for name, tensor in weights.items()},
        "types": sorted({str(v.dtype).removeprefix("torch.") for v in state.values() if isinstance(v, Tensor)}),
    }  # fmt: skip


def _number(value: object) -> int | float | None:
    """A plain number, numpy number or 0-dim tensor as a plain number; None for anything else."""
    if isinstance(value, bool) or (isinstance(value, Tensor) and value.ndim):
        return None
    if isinstance(value, int | float):
        return value
    if isinstance(value, Tensor | np.generic) and isinstance(plain := value.item(), int | float):
        return plain
    return None


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
