"""The feature map of a layer and the gradient of a score with respect to it, the parts of every map of a layer."""

from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from attrib.errors import InputError
from attrib.fast import Prepared
from attrib.maps.engine import Chunk
from attrib.models.layers import feature_layer, layout_of, named
from attrib.models.outside import bare, unwrapped
from attrib.models.tokens import Layout, Reshape
from attrib.models.trace import first_tensor

Score = Callable[[Tensor, Tensor], Tensor]
"""Logits (N,K) and labels (N,) to scores (N,)."""


class Place(NamedTuple):
    """The layer that a map looks at, and the layout of its output."""

    layer: nn.Module
    layout: Layout | None
    """None: ``reshape`` makes the feature map."""
    reshape: Reshape | None = None

    def fits(self, output: Tensor) -> bool:
        """Whether an output is the feature map; other calls of the layer in the same pass may give other shapes."""
        return self.layout is None or self.layout.fits(output)

    def to_map(self, output: Tensor, *, images: int) -> Tensor:
        """The output for N images as (N,C,h,w); raises InputError if ``reshape`` gives something else."""
        if self.reshape is None:
            assert self.layout is not None
            return self.layout.to_map(output)
        reshaped = self.reshape(output)
        if not isinstance(reshaped, Tensor) or reshaped.ndim != 4 or len(reshaped) != images:
            got = tuple(reshaped.shape) if isinstance(reshaped, Tensor) else type(reshaped).__name__
            raise InputError(f"reshape: expected it to give a feature map ({images},C,h,w), got {got}")
        return reshaped


def place(model: nn.Module, image: Tensor, layer: nn.Module | str | None, reshape: Reshape | None = None) -> Place:
    """The given layer, or that of the last feature map, with the layout of its output.

    layer: a module of the model, its dotted name, or None. Raises InputError if there is no such layer, or if its
    output is no feature map and no ``reshape`` is given.
    """
    if layer is None:
        layer = feature_layer(model, image)
    elif isinstance(layer, str):
        layer = named(model, layer, image)
    elif not isinstance(layer, nn.Module):
        raise InputError(f"layer: expected a module of the model or its name, as layer4, got {layer!r}")
    if reshape is not None:
        if not callable(reshape):
            raise InputError(f"reshape: expected a function of the layer's output to (N,C,h,w), got {reshape!r}")
        return Place(layer, None, reshape)
    cached = _known_layouts.setdefault(bare(model), {})
    name = next((name for name, module in unwrapped(model).named_modules() if module is layer), None)
    if name is None:
        raise InputError(f"layer: {type(unwrapped(model)).__name__} never runs the one given")
    key = name, image.shape[1:]
    if key not in cached:
        cached[key] = layout_of(model, layer, image)
    return Place(layer, cached[key])


_known_layouts: WeakKeyDictionary[nn.Module, dict[tuple[str, torch.Size], Layout]] = WeakKeyDictionary()


def activation_and_gradient(fast: Prepared, chunk: Chunk, where: Place, score: Score) -> tuple[Tensor, Tensor]:
    """The feature map A of the layer's last call that gives one, and d score / dA, both (N,C,h,w).

    The graph begins at the layer, so the layers before it keep no activations.
    """
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> object:
        tensor = first_tensor(output)
        if tensor is None or not tensor.is_floating_point():
            return output
        outputs.append(tensor if tensor.requires_grad else tensor.detach().requires_grad_())
        copied = outputs[-1].clone()  # the next layer may write to it
        return copied if isinstance(output, Tensor) else _with_first(output, copied)

    assert fast.layer is not None
    hook = fast.layer.register_forward_hook(keep)
    try:
        scores = score(fast.model(chunk.image), chunk.label)
    finally:
        hook.remove()
    name = type(unwrapped(fast.model)).__name__
    if not outputs:
        raise InputError(f"layer: {name} never runs the one given")
    fitting = [output for output in outputs if where.fits(output)]
    if not fitting:
        raise InputError(f"layer: its output has other shapes in every pass of {name}; say with reshape= what it is")
    (gradient,) = torch.autograd.grad(scores.sum(), fitting[-1], allow_unused=True)
    if gradient is None:
        raise InputError(
            f"layer: {name} gives no gradient at its output; does what follows run under torch.no_grad(), quantised or"
            " detached, or do the logits not depend on it? Name another layer; occlusion needs no gradient"
        )
    images = len(chunk.image)
    return where.to_map(fitting[-1].detach(), images=images), where.to_map(gradient, images=images)


def _with_first(output: object, first: Tensor) -> object:
    """A tuple, named tuple or list with another first element."""
    assert isinstance(output, tuple | list)
    make = getattr(type(output), "_make", type(output))
    return make((first, *output[1:]))


def logit(logits: Tensor, label: Tensor) -> Tensor:
    """The label's logit, (N,)."""
    return logits.gather(1, label[:, None]).squeeze(1)
