"""What is known of a model, as the command ``info`` and the report show it."""

from typing import Any

from torch import nn

from attrib.models.checkpoint import Checkpoint
from attrib.models.outside import unwrapped
from attrib.models.specs import Model


def card_of(model: Model) -> dict[str, Any]:
    """What is known of a model: of a checkpoint what its file says, of another one its class."""
    if model.checkpoint:
        return checkpoint_card(model.path, model.opened_module, model.checkpoint)
    return {
        "path": model.path, "fingerprint": model.fingerprint,
        "architecture": type(unwrapped(model.opened_module)).__name__, "parameters": _parameters(model.opened_module),
    }  # fmt: skip


def checkpoint_card(path: str, module: nn.Module, checkpoint: Checkpoint) -> dict[str, Any]:
    """What a checkpoint file says of its model."""
    return {
        "path": path, "fingerprint": checkpoint.fingerprint, "architecture": checkpoint.arch,
        "parameters": _parameters(module), "classes": checkpoint.num_classes,
        "input": "x".join(map(str, checkpoint.input_shape)), "data": checkpoint.data, "method": checkpoint.method,
        "epoch": checkpoint.epoch, "metrics": checkpoint.metrics, "configuration": checkpoint.hyper,
        "arguments": checkpoint.arch_kwargs, "format": checkpoint.format_version, "versions": checkpoint.versions,
    }  # fmt: skip


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
