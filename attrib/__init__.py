"""What does an image classifier look at, how much of the image does it use, and is the difference real?

The names below are the public interface. They are imported on first use, so that ``attrib --help`` and the plots
never import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attrib.attack import cw, fgsm, pgd
    from attrib.checkpoint import Checkpoint, load, save
    from attrib.consistency import alp_loss, logit_pairs
    from attrib.data import Batch, dataset
    from attrib.errors import InputError
    from attrib.features import contribution, gini, participation_ratio, relevance, valid_values
    from attrib.layers import locate
    from attrib.maps import (
        eq6,
        gradcam,
        gradient,
        guided_gradcam,
        integrated_gradients,
        occlusion,
        smoothgrad,
    )
    from attrib.model import Classifier, build
    from attrib.spans import coverage, coverage_curve, curve_area, iou, span

__version__ = "0.1.0"

_HOME = {
    "Batch": "data", "Checkpoint": "checkpoint", "Classifier": "model", "InputError": "errors",
    "alp_loss": "consistency", "build": "model", "contribution": "features", "coverage": "spans",
    "coverage_curve": "spans", "curve_area": "spans", "cw": "attack", "dataset": "data", "eq6": "maps",
    "fgsm": "attack", "gini": "features", "gradcam": "maps", "gradient": "maps", "guided_gradcam": "maps",
    "integrated_gradients": "maps", "iou": "spans", "load": "checkpoint", "locate": "layers",
    "logit_pairs": "consistency", "occlusion": "maps", "participation_ratio": "features", "pgd": "attack",
    "relevance": "features", "save": "checkpoint", "smoothgrad": "maps", "span": "spans", "valid_values": "features",
}  # fmt: skip

__all__ = [
    "Batch", "Checkpoint", "Classifier", "InputError", "alp_loss", "build", "contribution", "coverage",
    "coverage_curve", "curve_area", "cw", "dataset", "eq6", "fgsm", "gini", "gradcam", "gradient", "guided_gradcam",
    "integrated_gradients", "iou", "load", "locate", "logit_pairs", "occlusion", "participation_ratio", "pgd",
    "relevance", "save", "smoothgrad", "span", "valid_values",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'attrib' has no attribute {name!r}")
    return getattr(import_module(f"attrib.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
