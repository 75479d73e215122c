"""Attribution maps through Captum: which pixels a class score depends on.

Every function takes images (N,C,H,W) in [0,1] and labels (N,), and returns a map (N,H,W): non-negative and in
the units of the score, never rescaled per image, so that models stay comparable. ``signed=True`` gives the signed
sum over channels instead. The model is any ``nn.Module`` that returns logits (N,K); it is run in eval mode and
left as it was. Batches of any size are worked through in chunks of bounded memory.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from attrib.errors import InputError
from attrib.inference import Precision
from attrib.maps.cams import eq6, eq6_grid, gradcam, gradcam_grid, guided_gradcam
from attrib.maps.custom import Map, custom_map
from attrib.maps.engine import upsample
from attrib.maps.gradients import SAMPLES, gradient, integrated_gradients, smoothgrad
from attrib.maps.perturbation import occlusion

MAPS: dict[str, Callable[..., Tensor]] = {
    "gradient": gradient,
    "smoothgrad": smoothgrad,
    "gradcam": gradcam,
    "eq6": eq6,
    "integrated-gradients": integrated_gradients,
    "occlusion": occlusion,
    "guided-gradcam": guided_gradcam,
}
GRID_MAPS: dict[str, Callable[..., Tensor]] = {"gradcam": gradcam_grid, "eq6": eq6_grid}
"""The maps that live on a layer's grid, before they are brought to the image's size."""
LAYER_MAPS = (*GRID_MAPS, "guided-gradcam")
"""The maps that look at a layer."""


class Attribution(NamedTuple):
    """What :func:`attribution` gives."""

    map: Tensor
    """(N,H,W)"""
    grid: Tensor | None
    """(N,h,w) where the map was brought up from a layer's grid."""


def attribution(
    name: Map,
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    *,
    layer: nn.Module | None = None,
    seed: int = 0,
    index: Tensor | None = None,
    precision: Precision = "fp32",
) -> Attribution:
    """The map called ``name``, with the options that this map has; or what a function or a class of Captum's gives.

    image: (N,C,H,W); label, index: (N,); layer: for ``LAYER_MAPS``; seed and index: of SmoothGrad's noise. Of a
    Captum class the absolute attributions are summed over channels.
    Raises InputError for another name, a function that gives no finite maps (N,H,W), and what the map raises.
    """
    if not isinstance(name, str):
        return Attribution(custom_map(name, model, image, label, precision=precision), None)
    if name not in MAPS:
        raise InputError(f"map: expected one of {', '.join(MAPS)}, got {name!r}")
    if name in GRID_MAPS:
        grid = GRID_MAPS[name](model, image, label, layer=layer, precision=precision)
        return Attribution(upsample(grid, image.shape[-2:]), grid)
    if name in LAYER_MAPS:
        return Attribution(MAPS[name](model, image, label, layer=layer, precision=precision), None)
    if name == "smoothgrad":
        return Attribution(smoothgrad(model, image, label, seed=seed, index=index, precision=precision), None)
    return Attribution(MAPS[name](model, image, label, precision=precision), None)


__all__ = [
    "GRID_MAPS", "LAYER_MAPS", "MAPS", "SAMPLES", "Attribution", "Map", "attribution", "eq6", "eq6_grid", "gradcam",
    "gradcam_grid", "gradient", "guided_gradcam", "integrated_gradients", "occlusion", "smoothgrad", "upsample",
]  # fmt: skip
