"""The table of attribution maps, for the dispatch, the options' help, the explorer and the report. No torch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from attrib.errors import InputError, refused

NONE: Mapping[str, str] = MappingProxyType({})


class Map(NamedTuple):
    """An attribution map; its key in the table is its name."""

    function: str
    """``module:function`` in ``attrib.maps``."""
    on_grid: bool = False
    """Whether it is computed on a layer's grid and upsampled (``attrib.maps.cam_grid``)."""
    at_layer: bool = False
    """Whether it looks at a layer."""
    is_random: bool = False
    """Whether it draws noise, and so takes ``seed`` and ``index``."""
    title: str = ""
    """The name in papers; empty if it is the same."""
    options: Mapping[str, str] = NONE
    """From each option's name to the function's parameter."""


MAPS = {
    "gradient": Map("gradients:gradient"),
    "smoothgrad": Map(
        "gradients:smoothgrad",
        is_random=True,
        title="SmoothGrad",
        options=MappingProxyType({"samples": "samples", "sigma": "sigma"}),
    ),
    "gradcam": Map("cams:gradcam", on_grid=True, at_layer=True, title="Grad-CAM"),
    "eq6": Map("cams:eq6", on_grid=True, at_layer=True, title="Eq. 6"),
    "integrated-gradients": Map(
        "gradients:integrated_gradients",
        title="integrated gradients",
        options=MappingProxyType({"integration_steps": "steps"}),
    ),
    "occlusion": Map("perturbation:occlusion", options=MappingProxyType({"window": "window"})),
    "hirescam": Map("cams:hirescam", on_grid=True, at_layer=True, title="HiResCAM"),
    "layercam": Map("cams:layercam", on_grid=True, at_layer=True, title="LayerCAM"),
    "gradcam++": Map("cams:gradcam_plus_plus", on_grid=True, at_layer=True, title="Grad-CAM++"),
    "guided-gradcam": Map("cams:guided_gradcam", at_layer=True, title="guided Grad-CAM"),
}
LAYER_MAPS = tuple(name for name, record in MAPS.items() if record.at_layer)
"""The maps that look at a layer."""
OPTIONS = tuple(option for record in MAPS.values() for option in record.options)
"""The options of all maps."""

*_FIRST, _LAST = MAPS
HELP = (
    f"{', '.join(_FIRST)} or {_LAST}. eq6: AALP's Eq. 6, pytorch-grad-cam's element-wise CAM of -loss. In Python also a"
    " function of model, images and labels, or a Captum class."
)
"""The help of an option that takes a map."""


def check_map(name: Any, *, layer: object = None, options: Mapping[str, Any] = NONE) -> None:
    """Raise InputError for a map that is not in the table, and for a layer or options that it does not take.

    name: a name, or a function or Captum class, which takes neither. An option that is None is not set.
    """
    if not callable(name) and not (isinstance(name, str) and name in MAPS):
        if hasattr(name, "attribute"):  # an instance of a Captum class
            kind = type(name).__name__
            raise InputError(
                f"map: expected a Captum class, got an instance of {kind} for one model; write map={kind}, or a"
                " function of model, images and labels that calls it"
            )
        raise refused("map", name, MAPS)
    if layer is not None and name not in LAYER_MAPS:
        raise InputError(f"layer belongs to the maps {', '.join(LAYER_MAPS)}; {name} looks at no layer")
    accepted = MAPS[name].options if isinstance(name, str) else NONE
    for option, value in options.items():
        if value is not None and option not in accepted:
            owner = next(other for other, record in MAPS.items() if option in record.options)
            raise InputError(f"{option}: belongs to the map {owner}, and the map is {name}")
