"""What all maps share: chunks of bounded memory, grids of layers, advice instead of torch's and Captum's errors."""

from collections.abc import Callable, Hashable
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrib.errors import InputError
from attrib.fast import Prepared, answering
from attrib.inference import Label, Precision, check_images, checked_labels, images_per_chunk
from attrib.models.outside import bare
from attrib.models.types import place_of


class Chunk(NamedTuple):
    """Images (N,C,H,W), labels and positions (N,) that are worked on together."""

    image: Tensor
    label: Tensor
    rows: Tensor
    room: int
    """How many images fit one forward and backward pass."""


Explain = Callable[[Prepared, Chunk], Tensor]
"""The model (and layer) to run, and what on, to attributions."""


def in_chunks(
    model: nn.Module,
    image: Tensor,
    label: Label,
    explain: Explain,
    *,
    index: Tensor | None = None,
    layer: nn.Module | None = None,
    precision: Precision,
) -> Tensor:
    """Attributions of every image, worked through in chunks that fit a memory budget.

    The images come without ``requires_grad``: what looks at a layer needs no graph of what lies before it.
    """
    label = check_images(model, image, label, index)
    model = bare(model)
    if index is None:
        index = torch.arange(len(image), device=image.device)
    home, place = image.device, place_of(model, image.device)
    image, label, index = (given.to(place) for given in (image, label, index))
    with answering(model, place, precision, layer=layer) as fast, torch.enable_grad():
        size = _room(model, fast.model, image, precision)
        parts = zip(image.detach().split(size), label.split(size), index.split(size), strict=True)
        try:
            with checked_labels(fast.model, label):
                found = [explain(fast, Chunk(*part, room=size)).detach() for part in parts]
        except (RuntimeError, AssertionError) as error:
            reason = _reason(error, model)
            if reason is None:
                raise
            raise InputError(reason) from None
    return torch.cat(found).float().to(home)


def _reason(error: Exception, model: nn.Module) -> str | None:
    """Translate torch and Captum errors into advice."""
    name, message = type(model).__name__, str(error)
    if "does not require grad" in message or "not have been used in the graph" in message:
        return (
            f"model: {name} gives no gradient to explain; is it quantised, or does its forward pass run under"
            " torch.no_grad(), or detach or round what it computes? occlusion needs no gradient"
        )
    return None


_known_room: WeakKeyDictionary[nn.Module, dict[Hashable, int]] = WeakKeyDictionary()


def _room(model: nn.Module, fast: nn.Module, image: Tensor, precision: Precision) -> int:
    """How many images fit one pass, measured at the first batch of a model: measuring costs two passes."""
    known = _known_room.setdefault(model, {})
    key = image.shape[1:], image.dtype, image.device, precision
    if key not in known:
        known[key] = images_per_chunk(fast, image)
    return known[key]


def upsample(grid: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """A map on a layer's grid, bilinear to the image: (N,h,w) to (N,H,W)."""
    return F.interpolate(grid[:, None], tuple(size), mode="bilinear", align_corners=False).squeeze(1)


def over_channels(attribution: Tensor, signed: bool) -> Tensor:
    """Sum over the channels of the image, (N,C,H,W) to (N,H,W); of absolute values unless ``signed``."""
    return attribution.sum(1) if signed else attribution.abs().sum(1)
