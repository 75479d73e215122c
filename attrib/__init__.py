"""What does an image classifier look at, how much of the image does it use, and is the difference real?

The names below are the public interface. They are imported on first use, so that ``attrib --help`` and the plots
never import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attrib.attack import cw, fgsm, pgd
    from attrib.consistency import alp_loss, logit_pairs
    from attrib.data import Batch, dataset
    from attrib.errors import InputError
    from attrib.explorer import explore
    from attrib.faithfulness import (
        area,
        chance_iou,
        deletion,
        fractions,
        insertion,
        moved,
        probability,
        random_maps,
        random_pixels,
        span_deletion,
    )
    from attrib.features import (
        contribution,
        gini,
        high_contribution,
        participation_ratio,
        relevance,
        scale_free_contribution,
        valid_values,
    )
    from attrib.floor import asc_floor
    from attrib.maps import eq6, gradcam, gradient, guided_gradcam, integrated_gradients, occlusion, smoothgrad
    from attrib.models.architectures import build
    from attrib.models.checkpoint import Checkpoint, load, save
    from attrib.models.classifier import Classifier
    from attrib.models.layers import locate
    from attrib.randomisation import cascade, edges, noise_images, spearman, ssim
    from attrib.relate import across_models, relation
    from attrib.spans import coverage, coverage_curve, curve_area, inside, iou, object_covered, pointing, span
    from attrib.stats import holm, interval, paired
    from attrib.stats.association import mean_difference, partial_rank_correlation, rank_correlation

__version__ = "0.1.0"

_HOME = {
    "Batch": "data", "Checkpoint": "models.checkpoint", "Classifier": "models.classifier", "InputError": "errors",
    "across_models": "relate", "alp_loss": "consistency", "area": "faithfulness", "asc_floor": "floor",
    "build": "models.architectures", "cascade": "randomisation", "chance_iou": "faithfulness",
    "contribution": "features", "coverage": "spans", "coverage_curve": "spans", "curve_area": "spans", "cw": "attack",
    "dataset": "data", "deletion": "faithfulness", "edges": "randomisation", "eq6": "maps", "explore": "explorer",
    "fgsm": "attack", "fractions": "faithfulness", "gini": "features", "gradcam": "maps", "gradient": "maps",
    "guided_gradcam": "maps", "high_contribution": "features", "holm": "stats", "insertion": "faithfulness",
    "inside": "spans", "integrated_gradients": "maps", "interval": "stats", "iou": "spans", "load": "models.checkpoint",
    "locate": "models.layers", "logit_pairs": "consistency", "mean_difference": "stats.association",
    "moved": "faithfulness", "noise_images": "randomisation", "object_covered": "spans", "occlusion": "maps",
    "paired": "stats", "partial_rank_correlation": "stats.association", "participation_ratio": "features",
    "pgd": "attack", "pointing": "spans", "probability": "faithfulness", "random_maps": "faithfulness",
    "random_pixels": "faithfulness", "rank_correlation": "stats.association", "relation": "relate",
    "relevance": "features", "save": "models.checkpoint", "scale_free_contribution": "features", "smoothgrad": "maps",
    "span": "spans", "span_deletion": "faithfulness", "spearman": "randomisation", "ssim": "randomisation",
    "valid_values": "features",
}  # fmt: skip

__all__ = [
    "Batch", "Checkpoint", "Classifier", "InputError", "across_models", "alp_loss", "area", "asc_floor",
    "build", "cascade",
    "chance_iou", "contribution", "coverage", "coverage_curve", "curve_area", "cw", "dataset", "deletion", "edges",
    "eq6", "explore", "fgsm", "fractions", "gini", "gradcam", "gradient", "guided_gradcam", "high_contribution",
    "holm", "insertion", "inside", "integrated_gradients", "interval", "iou", "load", "locate", "logit_pairs",
    "mean_difference", "moved", "noise_images", "object_covered", "occlusion", "paired", "partial_rank_correlation",
    "participation_ratio", "pgd", "pointing", "probability", "random_maps", "random_pixels", "rank_correlation",
    "relation", "relevance", "save", "scale_free_contribution", "smoothgrad", "span", "span_deletion", "spearman",
    "ssim", "valid_values",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'attrib' has no attribute {name!r}")
    return getattr(import_module(f"attrib.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
