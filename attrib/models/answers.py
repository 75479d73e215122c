"""Read logits (N,K) from a model's output: a tensor, tuple, dict or model output, in any precision."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attrib.errors import InputError
from attrib.models.classifier import Classifier
from attrib.models.outside import Normalized, unwrapped
from attrib.models.types import in_type_of, place_of


def as_logits(output: object, *, images: int, model: str = "model") -> Tensor:
    """The logits (N,K), K >= 2, in a model's output for N images.

    They are a tensor (N,K); ``logits`` of a model output or dict, else the dict's only tensor (N,K); the first tensor
    of a tuple or list. One logit z per image, (N,1) or (N,), counts as two classes with logits 0 and z. A tensor (N,K)
    is returned itself, not copied. model: its name in errors.

    Raises InputError if the output has no logits, or several tensors that may be the logits.

    >>> as_logits({"logits": torch.tensor([[1.0, 2.0]]), "hidden": torch.zeros(1, 5)}, images=1)
    tensor([[1., 2.]])
    >>> as_logits((torch.tensor([3.0, -1.0]), None), images=2)
    tensor([[ 0.,  3.],
            [ 0., -1.]])
    """
    return two_classes(answer_of(output, images=images, model=model))


def answer_of(output: object, *, images: int, model: str = "model") -> Tensor:
    """``as_logits`` before one logit becomes two: (N,K), K >= 1."""
    tensor = logits_in(output, images=images)
    scores = None if tensor is None else _per_image(tensor, images)
    if scores is None:
        hint = ""
        if tensor is not None and tensor.ndim == 4 and len(tensor) == images:
            hint = ": a score for every pixel (segmentation?), and attrib looks at classifiers of whole images"
        elif tensor is not None and tensor.ndim == 3 and len(tensor) == images:
            hint = ": several scores for every class (multi-label?), and attrib looks at classifiers with one answer"
        raise InputError(f"model: expected logits of shape ({images},K) from {model}, got {_shown(output)}{hint}")
    if not scores.is_floating_point():
        raise InputError(f"model: expected logits from {model}, got {scores.dtype} {tuple(scores.shape)}")
    return scores


def two_classes(scores: Tensor) -> Tensor:
    """The logits (N,K) themselves; one logit z per image, (N,1), becomes the two logits 0 and z."""
    return torch.cat([torch.zeros_like(scores), scores], 1) if scores.shape[1] == 1 else scores


def logits_in(output: object, *, images: int) -> Tensor | None:
    """The tensor that holds the logits; None if no tensor or several may be it."""
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    if isinstance(output, Mapping):
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
        fitting = [value for value in tensors if value.ndim == 2 and len(value) == images]
        if len(fitting) == 1:
            return fitting[0]
        return tensors[0] if len(tensors) == 1 else None
    if isinstance(output, tuple | list):
        return next((value for value in output if isinstance(value, Tensor)), None)
    return None


def _per_image(output: Tensor, images: int) -> Tensor | None:
    """The output as (N,K), also if a dimension was squeezed; None for another shape."""
    if output.ndim == 2 and len(output) == images and output.shape[1]:
        return output
    if output.ndim == 1 and len(output) == images:
        return output[:, None]
    if images == 1 and output.ndim < 2 and output.numel():
        return output.reshape(1, -1)
    return None


def _shown(output: object) -> str:
    """The output's type and shapes, for a message."""
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    name = type(output).__name__
    if isinstance(output, Mapping):
        listed = [f"{key} {_shown(value)}" for key, value in list(output.items())[:4]]
        return f"{name} of {', '.join(listed) or 'nothing'}"
    if isinstance(output, tuple | list):
        return f"{name} of {', '.join(map(_shown, output[:4])) or 'nothing'}"
    return name


class Answers(nn.Module):
    """Wrap an outside model so that it maps images (N,C,H,W) to logits (N,K), by ``as_logits``.

    It moves the images to the model's device and dtype. The logits come back on the images' device, in float32, or in
    float64 for images in float64.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) in [0, 1] -> logits (N,K)."""
        output: Any = self.module(fitting(self.module, x))
        return _back(as_logits(output, images=len(x), model=type(unwrapped(self.module)).__name__), x)

    def all_logits(self, x: Tensor) -> Tensor:
        """The final logits and each head's of a gated model, (1 + heads,N,K)."""
        module: Any = self.module
        return _back(module.all_logits(fitting(module, x)), x)


def fitting(module: nn.Module, x: Tensor) -> Tensor:
    """Images x (N,C,H,W) on the module's device and in its dtype."""
    x = x.to(place_of(module, x.device))
    # Normalized casts after normalising, so that half precision does not round the pixels first.
    return x if isinstance(module, Normalized) else in_type_of(module, x)


def _back(logits: Tensor, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled(logits.device.type):
        return logits.to(x.device)
    return logits.to(x.device, torch.promote_types(x.dtype, torch.float32))


def adapted(model: nn.Module, device: torch.device) -> nn.Module:
    """The model itself if it gives float32 logits (N,K), K >= 2, on the device; else ``Answers`` around it."""
    if isinstance(model, Answers):
        return model
    if not isinstance(model, Classifier) or getattr(model.fc, "out_features", 2) < 2:
        return Answers(model)
    return model if model.mean.dtype == torch.float32 and model.mean.device == device else Answers(model)
