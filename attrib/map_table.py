"""The attribution maps: one table for the dispatch, the options' help, the explorer and the report. No torch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from attrib.errors import InputError, refused

NONE: Mapping[str, str] = MappingProxyType({})


class Map(NamedTuple):
    """An attribution map, called by the name that it has in the table."""

    function: str
    """In ``attrib.maps``, as ``module:function``."""
    on_grid: bool = False
    """Whether it lives on a layer's grid, from which it is brought up to the image (``attrib.maps.cam_grid``)."""
    at_layer: bool = False
    """Whether it looks at a layer."""
    is_random: bool = False
    """Whether it draws noise: it takes ``seed`` and ``index``."""
    title: str = ""
    """As papers write it, where that is not the name."""
    options: Mapping[str, str] = NONE
    """What a user may set, by the option's name, and the parameter's in the function."""


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
"""What a user may set of any map."""

*_FIRST, _LAST = MAPS
HELP = (
    f"{', '.join(_FIRST)} or {_LAST}. eq6: AALP's Eq. 6, pytorch-grad-cam's element-wise CAM of -loss. In Python also a"
    " function of model, images and labels, or a Captum class."
)
"""The help of an option that takes a map."""


def check_map(name: Any, *, layer: object = None, options: Mapping[str, Any] = NONE) -> None:
    """Raise InputError for a map that is not in the table, and for a layer or options that it does not take.

    name: a name, or what stands for one (a function, a class of Captum's), which takes neither. options: None is not
    given.
    """
    if not callable(name) and not (isinstance(name, str) and name in MAPS):
        if hasattr(name, "attribute"):  # Captum's, made for one model
            kind = type(name).__name__
            raise InputError(
                f"map: expected Captum's class, which is made anew for every model, got a {kind} of one model; write"
                f" map={kind}, or a function of model, images and labels that calls it"
            )
        raise refused("map", name, MAPS)
    if layer is not None and name not in LAYER_MAPS:
        raise InputError(f"layer belongs to the maps {', '.join(LAYER_MAPS)}; {name} looks at no layer")
    taken = MAPS[name].options if isinstance(name, str) else NONE
    for option, value in options.items():
        if value is not None and option not in taken:
            owner = next(known for known, record in MAPS.items() if option in record.options)
            raise InputError(f"{option}: belongs to the map {owner}, and the map is {name}")
