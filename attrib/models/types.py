"""A model's dtype, device and fingerprint."""

import hashlib
from itertools import chain

import torch
from torch import Tensor, nn

from attrib.errors import InputError


def check_module(module: object) -> None:
    """Raise InputError unless the module is an ``nn.Module``; it may be an ``attrib.Model`` or a spec by mistake."""
    if not isinstance(module, nn.Module):
        raise InputError(
            f"model: expected an nn.Module, as attrib.model(...).module is one, got {type(module).__name__}"
        )


def first_floats(module: nn.Module) -> Tensor | None:
    """The module's first floating-point parameter, else its first such buffer, else None."""
    check_module(module)
    tensors = chain(module.parameters(), module.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)


def takes_autocast(module: nn.Module) -> bool:
    """Whether the module computes in float32 and has no quantised layers, so that autocast applies."""
    first = first_floats(module)
    quantised = any(type(part).__module__.startswith("torch.ao.nn.quantized") for part in module.modules())
    return not quantised and (first is None or first.dtype == torch.float32)


def place_of(module: nn.Module, otherwise: torch.device) -> torch.device:
    """The device of ``first_floats``; ``otherwise`` if there is none."""
    first = first_floats(module)
    return otherwise if first is None else first.device


def in_type_of(module: nn.Module, x: Tensor) -> Tensor:
    """x in the module's dtype; unchanged under autocast, which chooses the dtypes itself."""
    first = first_floats(module)
    return x if first is None or torch.is_autocast_enabled(first.device.type) else x.to(first.dtype)


def fingerprint(module: nn.Module) -> str:
    """First 12 hex digits of a SHA-256 over the module's weights and buffers."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        parts = value if isinstance(value, tuple | list) else [value]
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if not tensors:  # quantised modules keep types and numbers there
            digest.update(f"{name} {value}".encode())
        for tensor in tensors:
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            plain = tensor.detach().dequantize() if tensor.is_quantized else tensor.detach()
            digest.update(plain.cpu().contiguous().float().numpy().data)
    return digest.hexdigest()[:12]


def digits(values: Tensor | None) -> list[float] | None:
    """The shortest decimals for float32 values: 0.485, not 0.48500001430511475."""
    return None if values is None else [float(str(value)) for value in values.flatten().cpu().numpy()]
