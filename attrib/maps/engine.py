"""Steps that all maps share: chunks of bounded memory, upsampling, sums over channels."""

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
    """Images (N,C,H,W), labels (N,) and positions (N,) that go through the model together."""

    image: Tensor
    label: Tensor
    rows: Tensor
    room: int
    """The number of images that fit one forward and backward pass."""


Explain = Callable[[Prepared, Chunk], Tensor]
"""From the prepared model (and layer) and a chunk to its attributions."""


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
    """Compute the attributions of all images in chunks that fit a memory budget.

    The images in a chunk do not require a gradient, since a map of a layer needs no graph before the layer.
    """
    label = check_images(model, image, label, index)
    model = bare(model)
    if index is None:
        index = torch.arange(len(image), device=image.device)
    home, device = image.device, place_of(model, image.device)
    image, label, index = (tensor.to(device) for tensor in (image, label, index))
    with answering(model, device, precision, layer=layer) as fast, torch.enable_grad():
        size = _room(model, fast.model, image, precision)
        parts = zip(image.detach().split(size), label.split(size), index.split(size), strict=True)
        try:
            with checked_labels(fast.model, label):
                attributions = [explain(fast, Chunk(*part, room=size)).detach() for part in parts]
        except (RuntimeError, AssertionError) as error:
            reason = _reason(error, model)
            if reason is None:
                raise
            raise InputError(reason) from None
    return torch.cat(attributions).float().to(home)


def _reason(error: Exception, model: nn.Module) -> str | None:
    """Translate torch and Captum errors into advice; None for other errors."""
    name, message = type(model).__name__, str(error)
    if "does not require grad" in message or "not have been used in the graph" in message:
        return (
            f"model: {name} gives no gradient to explain; is it quantised, or does its forward pass run under"
            " torch.no_grad(), or detach or round what it computes? occlusion needs no gradient"
        )
    return None


_known_room: WeakKeyDictionary[nn.Module, dict[Hashable, int]] = WeakKeyDictionary()


def _room(model: nn.Module, fast: nn.Module, image: Tensor, precision: Precision) -> int:
    """The number of images that fit one pass; measured once per model, since it costs two passes."""
    rooms = _known_room.setdefault(model, {})
    key = image.shape[1:], image.dtype, image.device, precision
    if key not in rooms:
        rooms[key] = images_per_chunk(fast, image)
    return rooms[key]


def upsample(grid: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """Upsample a map bilinearly from a layer's grid to the image: (N,h,w) to (N,H,W)."""
    return F.interpolate(grid[:, None], tuple(size), mode="bilinear", align_corners=False).squeeze(1)


def over_channels(attribution: Tensor, signed: bool) -> Tensor:
    """Sum over the channels of the image, (N,C,H,W) to (N,H,W); of absolute values unless ``signed``."""
    return attribution.sum(1) if signed else attribution.abs().sum(1)
