"""A user's own maps: a function of model, images and labels, or an attribution class of Captum."""

from collections.abc import Callable
from typing import Any

import captum.attr
from torch import Tensor, nn

from attrib.errors import InputError, one_line
from attrib.fast import Prepared
from attrib.inference import Precision, check_images, frozen
from attrib.maps.engine import Chunk, in_chunks, over_channels

Map = str | Callable[[nn.Module, Tensor, Tensor], Tensor] | type[captum.attr.Attribution]
"""A name in ``MAPS``; a function from model, image (N,C,H,W) and label (N,) to maps (N,H,W); or a Captum class."""


def custom_map(
    map: Callable[..., Any] | type[captum.attr.Attribution], model: nn.Module, image: Tensor, label: Tensor,
    *, precision: Precision,
) -> Tensor:  # fmt: skip
    """The maps (N,H,W) of a user's function or a Captum class; raises InputError if they are invalid."""
    if isinstance(map, type) and issubclass(map, captum.attr.Attribution):

        def explain(fast: Prepared, chunk: Chunk) -> Tensor:
            try:
                attributions: Tensor = map(fast.model).attribute(chunk.image.requires_grad_(), target=chunk.label)
            except InputError:
                raise
            except (TypeError, AttributeError, AssertionError, ValueError) as error:
                raise InputError(
                    f"map: Captum's {map.__name__} cannot be made of a model, images and classes alone"
                    f" ({one_line(error)}); give a function of model, images and labels that calls it"
                ) from error
            return attributions

        return over_channels(in_chunks(model, image, label, explain, precision=precision), signed=False)
    label = check_images(model, image, label)
    with frozen(model):
        maps = map(model, image, label)
    expected = (len(image), *image.shape[2:])
    if not isinstance(maps, Tensor) or tuple(maps.shape) != expected:
        got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise InputError(f"map: expected the function to give maps of shape {expected}, got {got}")
    if not maps.isfinite().all():
        raise InputError("map: expected the function to give finite maps, got NaN or infinity")
    return maps.detach().float()
