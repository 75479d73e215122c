"""What a model answers, as logits (N,K): of a tensor, tuple, dict or model output, in half or double precision."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attrib.errors import InputError
from attrib.models.classifier import Classifier
from attrib.models.outside import Normalized, unwrapped
from attrib.models.types import in_type_of, place_of


def as_logits(output: object, *, images: int, model: str = "model") -> Tensor:
    """The logits (N,K), K >= 2, in a model's answer to N images.

    Taken are a tensor (N,K); ``logits`` of a model output or dict, else a dict's only such tensor; the first tensor
    of a tuple or list. One logit z per image, (N,1) or (N,), counts as two classes, with logits 0 and z. A tensor that
    is (N,K) already is returned itself. model: its name in errors.

    Raises InputError that says what came where the logits are not clear.

    >>> as_logits({"logits": torch.tensor([[1.0, 2.0]]), "hidden": torch.zeros(1, 5)}, images=1)
    tensor([[1., 2.]])
    >>> as_logits((torch.tensor([3.0, -1.0]), None), images=2)
    tensor([[ 0.,  3.],
            [ 0., -1.]])
    """
    return two_classes(answer_of(output, images=images, model=model))


def answer_of(output: object, *, images: int, model: str = "model") -> Tensor:
    """``as_logits`` before one logit becomes two: (N,K), K >= 1."""
    found = logits_in(output, images=images)
    scores = None if found is None else _per_image(found, images)
    if scores is None:
        hint = ""
        if found is not None and found.ndim == 4 and len(found) == images:
            hint = ": a score for every pixel (segmentation?), and attrib looks at classifiers of whole images"
        elif found is not None and found.ndim == 3 and len(found) == images:
            hint = ": several scores for every class (multi-label?), and attrib looks at classifiers with one answer"
        raise InputError(f"model: expected logits of shape ({images},K) from {model}, got {_shown(output)}{hint}")
    if not scores.is_floating_point():
        raise InputError(f"model: expected logits from {model}, got {scores.dtype} {tuple(scores.shape)}")
    return scores


def two_classes(scores: Tensor) -> Tensor:
    """Logits (N,K) themselves; of one logit z per image, (N,1), the two logits 0 and z."""
    return torch.cat([torch.zeros_like(scores), scores], 1) if scores.shape[1] == 1 else scores


def logits_in(output: object, *, images: int) -> Tensor | None:
    """The tensor that holds the logits; None where there is none, or more than one."""
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


def _per_image(found: Tensor, images: int) -> Tensor | None:
    """(N,K); of a squeezed answer the lost dimension comes back. None for another shape."""
    if found.ndim == 2 and len(found) == images and found.shape[1]:
        return found
    if found.ndim == 1 and len(found) == images:
        return found[:, None]
    if images == 1 and found.ndim < 2 and found.numel():
        return found.reshape(1, -1)
    return None


def _shown(output: object) -> str:
    """What came, in a few words."""
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
    """A model from outside as everything here runs it: images (N,C,H,W) to logits (N,K), by ``as_logits``.

    Images go to the model on its device and in its type; logits come back on the images' device, in float32, or in
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
        """Of a gated model: the final logits and each head's, (1 + heads,N,K)."""
        module: Any = self.module
        return _back(module.all_logits(fitting(module, x)), x)


def fitting(module: nn.Module, x: Tensor) -> Tensor:
    """Images x (N,C,H,W) on the module's device and in its type."""
    x = x.to(place_of(module, x.device))
    # In half precision a pixel would be rounded before it is normalised: Normalized casts after that.
    return x if isinstance(module, Normalized) else in_type_of(module, x)


def _back(logits: Tensor, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled(logits.device.type):
        return logits.to(x.device)
    return logits.to(x.device, torch.promote_types(x.dtype, torch.float32))


def adapted(model: nn.Module, device: torch.device) -> nn.Module:
    """The model, or ``Answers`` of it where its answers may be no logits in float32 on the device."""
    if isinstance(model, Answers):
        return model
    if not isinstance(model, Classifier) or getattr(model.fc, "out_features", 2) < 2:
        return Answers(model)
    return model if model.mean.dtype == torch.float32 and model.mean.device == device else Answers(model)
