"""What does an image classifier look at, how much of the image does it use, and is the difference real?

The names below are the public interface. They are imported on first use, so that ``attrib --help`` and the plots
never import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attrib.analyses import ANALYSES

if TYPE_CHECKING:
    from attrib.analyses.check import Checks
    from attrib.analyses.contrib import Contributions
    from attrib.analyses.evolve import Evolution
    from attrib.analyses.fc import LastLayer
    from attrib.analyses.maps import Maps
    from attrib.analyses.options import Attack
    from attrib.analyses.relate import Relation
    from attrib.analyses.result import Result
    from attrib.analyses.robust import Robustness
    from attrib.analyses.sets import Sets
    from attrib.analyses.span import Span
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
    from attrib.maps import (
        eq6,
        gradcam,
        gradcam_plus_plus,
        gradient,
        guided_gradcam,
        hirescam,
        integrated_gradients,
        layercam,
        occlusion,
        smoothgrad,
    )
    from attrib.models.architectures import build
    from attrib.models.checkpoint import Checkpoint, load, save
    from attrib.models.classifier import Classifier
    from attrib.models.layers import locate
    from attrib.models.outside import Normalized
    from attrib.models.specs import Model, model
    from attrib.pages.compute import Report, report
    from attrib.plots.maps import overlay
    from attrib.randomisation import cascade, edges, noise_images, spearman, ssim
    from attrib.relate import across_models, relation
    from attrib.spans import coverage, coverage_curve, curve_area, inside, iou, object_covered, pointing, span
    from attrib.stats import holm, interval, paired
    from attrib.stats.association import mean_difference, partial_rank_correlation, rank_correlation
    from attrib.styles import Style

__version__ = "0.2.0"

_HOME = {
    name: module
    for module, names in {
        "analyses.options": "Attack",
        "analyses.result": "Result",
        "attack": "cw fgsm pgd",
        "consistency": "alp_loss logit_pairs",
        "data": "Batch dataset",
        "errors": "InputError",
        "explorer": "explore",
        "faithfulness": (
            "area chance_iou deletion fractions insertion moved probability random_maps random_pixels span_deletion"
        ),
        "features": (
            "contribution gini high_contribution participation_ratio relevance scale_free_contribution valid_values"
        ),
        "floor": "asc_floor",
        "maps": (
            "eq6 gradcam gradcam_plus_plus gradient guided_gradcam hirescam integrated_gradients layercam occlusion"
            " smoothgrad"
        ),
        "models.architectures": "build",
        "models.checkpoint": "Checkpoint load save",
        "models.classifier": "Classifier",
        "models.layers": "locate",
        "models.outside": "Normalized",
        "models.specs": "Model model",
        "pages.compute": "Report report",
        "plots.maps": "overlay",
        "randomisation": "cascade edges noise_images spearman ssim",
        "relate": "across_models relation",
        "spans": "coverage coverage_curve curve_area inside iou object_covered pointing span",
        "stats": "holm interval paired",
        "stats.association": "mean_difference partial_rank_correlation rank_correlation",
        "styles": "Style",
    }.items()
    for name in names.split()
} | {entry.kind: f"analyses.{name}" for name, entry in ANALYSES.items()}
"""Each public name and its module."""

__all__ = [
    "Attack", "Batch", "Checkpoint", "Checks", "Classifier", "Contributions", "Evolution", "InputError",
    "LastLayer", "Maps", "Model", "Normalized", "Relation", "Report", "Result", "Robustness", "Sets", "Span", "Style",
    "across_models", "alp_loss", "area", "asc_floor", "build", "cascade", "chance_iou", "contribution", "coverage",
    "coverage_curve", "curve_area", "cw", "dataset", "deletion", "edges", "eq6", "explore", "fgsm", "fractions",
    "gini", "gradcam", "gradcam_plus_plus", "gradient", "guided_gradcam", "high_contribution", "hirescam", "holm",
    "insertion", "inside", "integrated_gradients", "interval", "iou", "layercam", "load", "locate", "logit_pairs",
    "mean_difference", "model", "moved", "noise_images", "object_covered", "occlusion", "overlay", "paired",
    "partial_rank_correlation", "participation_ratio", "pgd", "pointing", "probability", "random_maps",
    "random_pixels", "rank_correlation", "relation", "relevance", "report", "save", "scale_free_contribution",
    "smoothgrad", "span", "span_deletion", "spearman", "ssim", "valid_values",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'attrib' has no attribute {name!r}")
    return getattr(import_module(f"attrib.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
