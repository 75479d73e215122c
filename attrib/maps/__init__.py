"""Attribution maps through Captum: which pixels a class score depends on.

Every function takes images (N,C,H,W) in [0,1] and labels (N,), one class for all, or None for the model's predictions.
It returns maps (N,H,W), non-negative and in the units of the score. They are never rescaled per image, so that models
stay comparable. ``signed=True`` gives the signed sum over channels instead. The model is any ``nn.Module`` that returns
logits (N,K). It runs in eval mode and is restored afterwards. Batches are split into chunks of bounded memory.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from torch import Tensor, nn

from attrib import map_table
from attrib.inference import Precision
from attrib.map_table import LAYER_MAPS
from attrib.maps.cams import cam_grid, eq6, gradcam, gradcam_plus_plus, guided_gradcam, hirescam, layercam
from attrib.maps.custom import Map, custom_map
from attrib.maps.engine import upsample
from attrib.maps.gradients import SAMPLES, gradient, integrated_gradients, smoothgrad
from attrib.maps.perturbation import occlusion
from attrib.models.tokens import Reshape


def _function(path: str) -> Callable[..., Tensor]:
    module, _, name = path.partition(":")
    function: Callable[..., Tensor] = getattr(import_module(f"attrib.maps.{module}"), name)
    return function


MAPS = {name: _function(record.function) for name, record in map_table.MAPS.items()}
"""The functions of the maps in ``attrib.map_table.MAPS``."""


class Attribution(NamedTuple):
    """The result of ``attribution``."""

    map: Tensor
    """(N,H,W)"""
    grid: Tensor | None
    """(N,h,w), the layer's grid from which the map was upsampled; None for other maps."""


def attribution(
    name: Map,
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    *,
    layer: nn.Module | str | None = None,
    reshape: Reshape | None = None,
    seed: int = 0,
    index: Tensor | None = None,
    precision: Precision = "fp32",
    options: Mapping[str, Any] = map_table.NONE,
) -> Attribution:
    """Compute the map called ``name``, or the map of a user's function or a Captum class.

    image: (N,C,H,W); label, index: (N,). layer, reshape: only for ``LAYER_MAPS``: a module or its name, and a function
    from its output to (N,C,h,w) if it is no feature map. seed, index: for SmoothGrad's noise. options: those of the map
    in ``attrib.map_table.MAPS``; None is its default. A Captum class's absolute attributions are summed over channels.
    Raises InputError for another name or option, a function that gives no finite maps (N,H,W), and as the map does.
    """
    map_table.check_map(name, options=options)
    if not isinstance(name, str):
        return Attribution(custom_map(name, model, image, label, precision=precision), None)
    record = map_table.MAPS[name]
    arguments: dict[str, Any] = {record.options[key]: value for key, value in options.items() if value is not None}
    if record.at_layer:
        arguments |= {"layer": layer, "reshape": reshape}
    if record.is_random:
        arguments |= {"seed": seed, "index": index}
    if record.on_grid:
        grid = cam_grid(name, model, image, label, precision=precision, **arguments)
        return Attribution(upsample(grid, image.shape[-2:]), grid)
    return Attribution(MAPS[name](model, image, label, precision=precision, **arguments), None)


__all__ = [
    "LAYER_MAPS", "MAPS", "SAMPLES", "Attribution", "Map", "attribution", "cam_grid", "eq6", "gradcam",
    "gradcam_plus_plus", "gradient", "guided_gradcam", "hirescam", "integrated_gradients", "layercam", "occlusion",
    "smoothgrad", "upsample",
]  # fmt: skip
