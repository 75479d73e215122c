"""Attribution span and its coverage (ASC): which pixels a model uses, and what share of the image they are.

AGAIN supplement, section 4.3, Table 1. Pure functions of maps, without model or data set. Maps are (N,H,W), spans bool
(N,H,W), and coverage is a fraction in [0,1].

A map that is constant or has no positive value is empty: its span has no pixels under any rule, and its coverage is 0.
(The rules alone do not ensure this, since a constant may exceed its own mean by rounding.)
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attrib.errors import InputError
from attrib.lazy import Lazy
from attrib.tensors import check_tensors
from attrib.thresholds import RULES, parse_threshold

filters = Lazy("skimage.filters")


def span(maps: Tensor, *, threshold: str = "mean") -> Tensor:
    """The span S = {p : M(p) > tau} of every map.

    maps: (N,H,W). Returns bool (N,H,W). The rule for tau is one of

    - ``mean``: the map's own mean (the AGAIN supplement's rule for valid values);
    - ``max:t``: t times the map's maximum;
    - ``otsu``: Otsu's threshold of relu(M);
    - ``mass:q``: the fewest pixels with the share q of the sum of relu(M); ties go to the lower pixel index;
    - ``quantile:q``: the q-quantile of the map, so at most the share 1 - q of the pixels (rounded up).

    Raises InputError for another rule, maps of another shape, or NaN or infinity in them.

    >>> span(torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]))  # the mean is 3
    tensor([[[False, False],
             [False,  True]]])
    >>> span(torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]), threshold="mass:0.7").sum()  # 6 + 3 of 12
    tensor(2)
    """
    name, parameter = parse_threshold(threshold)
    _check(maps)
    mask = _MASKS[name](maps.flatten(1), parameter)
    return (mask & ~empty(maps)[:, None]).view_as(maps)


def empty(maps: Tensor) -> Tensor:
    """Whether each map (N,H,W) is constant or nowhere positive, and so has no span, bool (N,).

    >>> empty(torch.tensor([[[0.3, 0.3]], [[-2.0, -1.0]], [[0.0, 1.0]]]))
    tensor([ True,  True, False])
    """
    flat = maps.flatten(1)
    highest = flat.amax(1)
    return (highest == flat.amin(1)) | ~(highest > 0)


def coverage(mask: Tensor) -> Tensor:
    """The attribution span coverage |S| / (H*W) of every span (N,H,W), as (N,) in [0,1]; its mean is the ASC.

    Raises InputError for anything else, also for a map.

    >>> coverage(torch.tensor([[[True, False], [False, False]], [[True, True], [False, False]]]))
    tensor([0.2500, 0.5000])
    """
    check_tensors(mask=(mask, "bool N,H,W"))
    return mask.flatten(1).float().mean(1)


def coverage_curve(maps: Tensor, levels: Sequence[float]) -> Tensor:
    """Coverage under ``max:t`` for every t in ``levels``: (N,H,W) maps to (N,len(levels)) in [0,1].

    t = 1 is allowed, unlike in ``span``; its coverage is 0 for every map.

    >>> coverage_curve(torch.tensor([[[0.0, 1.0], [2.0, 4.0]]]), [0, 0.25, 0.5, 1])
    tensor([[0.7500, 0.5000, 0.2500, 0.0000]])
    """
    _check(maps)
    flat = maps.flatten(1)
    highest = flat.amax(1, keepdim=True)
    counts = torch.stack([(flat > t * highest).float().mean(1) for t in levels], dim=1)
    return counts * ~empty(maps)[:, None]


def curve_area(maps: Tensor) -> Tensor:
    """Area under the coverage curve over t in [0,1]: mean(relu M) / max M of every map (N,H,W), as (N,).

    It needs no threshold: the quotient is the integral over t of the share of pixels above t * max.

    >>> maps = torch.tensor([[[-1.0, 1.0], [2.0, 4.0]]])
    >>> curve_area(maps)  # 7 / 4, over 4
    tensor([0.4375])
    >>> levels = torch.arange(1000) / 1000
    >>> round(float(coverage_curve(maps, levels.tolist()).mean()), 2)
    0.44
    """
    _check(maps)
    flat = maps.flatten(1)
    area = flat.relu().mean(1) / flat.amax(1)
    return torch.where(empty(maps), 0, area)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of two spans (N,H,W) each, as (N,); NaN if both are empty.

    Raises InputError for anything else, and for different shapes.

    >>> a, b = torch.tensor([[[True, True, False]]]), torch.tensor([[[False, True, True]]])
    >>> iou(a, b), iou(a, a)
    (tensor([0.3333]), tensor([1.]))
    """
    check_tensors(a=(a, "bool N,H,W"), b=(b, "bool N,H,W"))
    return (a & b).flatten(1).sum(1) / (a | b).flatten(1).sum(1)


def inside(mask: Tensor, object_mask: Tensor) -> Tensor:
    """Share of the span that lies inside the object, both bool (N,H,W), as (N,); NaN for an empty span.

    Raises InputError for anything else, and for different shapes.

    >>> inside(torch.tensor([[[True, True, True, False]]]), torch.tensor([[[False, True, True, True]]]))
    tensor([0.6667])
    """
    check_tensors(mask=(mask, "bool N,H,W"), object_mask=(object_mask, "bool N,H,W"))
    return (mask & object_mask).flatten(1).sum(1) / mask.flatten(1).sum(1)


def object_covered(mask: Tensor, object_mask: Tensor) -> Tensor:
    """Share of the object that the span covers, both bool (N,H,W), as (N,); NaN for an empty object.

    Raises InputError for anything else, and for different shapes.

    >>> object_covered(torch.tensor([[[True, True, False, False]]]), torch.tensor([[[False, True, True, True]]]))
    tensor([0.3333])
    """
    return inside(object_mask, mask)


def pointing(maps: Tensor, object_mask: Tensor) -> Tensor:
    """Pointing game (Zhang et al. 2016): 1 if the map's maximum lies on the object, else 0, as (N,).

    If several pixels have the maximum, it is the share of them that lies on the object, the mean score of a random
    choice. Raises InputError for other or different shapes, and for maps that are not finite.

    >>> on = torch.tensor([[[True, False, False]]])
    >>> pointing(torch.tensor([[[0.9, 0.1, 0.2]]]), on), pointing(torch.tensor([[[0.5, 0.5, 0.2]]]), on)
    (tensor([1.]), tensor([0.5000]))
    """
    _check(maps)
    check_tensors(maps=(maps, "floats N,H,W"), object_mask=(object_mask, "bool N,H,W"))
    flat = maps.flatten(1)
    top = flat == flat.amax(1, keepdim=True)
    return (top & object_mask.flatten(1)).sum(1) / top.sum(1)


def _mean(flat: Tensor, _: float) -> Tensor:
    return flat > flat.mean(1, keepdim=True)


def _max(flat: Tensor, share: float) -> Tensor:
    return flat > share * flat.amax(1, keepdim=True)


def _otsu(flat: Tensor, _: float) -> Tensor:
    flat = flat.relu()
    levels = [_otsu_level(row) if row.max() > row.min() else math.inf for row in flat.cpu().numpy()]
    return flat > torch.tensor(levels, dtype=flat.dtype, device=flat.device)[:, None]


def _otsu_level(values: NDArray[np.floating[Any]]) -> float:
    """Otsu's threshold of values (P,) that are not all the same."""
    try:
        return float(filters.threshold_otsu(values))
    except ValueError:  # float32 has fewer steps between the extremes than Otsu's histogram has bins
        low, high = np.float64(values.min()), np.float64(values.max())
        return float(low + (high - low) * filters.threshold_otsu((values - low) / (high - low)))


def _mass(flat: Tensor, share: float) -> Tensor:
    ordered, pixels = flat.relu().sort(dim=1, descending=True, stable=True)
    # In float64, since a cumulative sum in float32 may not reach the total.
    cumulative = ordered.double().cumsum(1)
    before = cumulative - ordered.double()
    needed = (before < share * cumulative[:, -1:]) & (ordered > 0)
    return torch.zeros_like(needed).scatter_(1, pixels, needed)


def _quantile(flat: Tensor, share: float) -> Tensor:
    # The pixels above a quantile between two values are those above the lower value, with any interpolation.
    below = math.floor(share * (flat.shape[1] - 1))
    return flat > flat.kthvalue(below + 1, dim=1, keepdim=True).values


_MASKS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "mean": _mean, "max": _max, "otsu": _otsu, "mass": _mass, "quantile": _quantile,
}  # fmt: skip
"""For every rule of ``RULES`` the function from maps (N,P) and the rule's number to masks (N,P)."""


def _check(maps: Tensor) -> None:
    check_tensors(maps=(maps, "floats N,H,W"))
    if broken := int((~maps.isfinite()).flatten(1).any(1).sum()):
        raise InputError(
            f"maps: expected finite numbers, got NaN or infinity in {broken} of {len(maps)}; do the model's gradients"
            " explode?"
        )


__all__ = [
    "RULES", "coverage", "coverage_curve", "curve_area", "empty", "inside", "iou", "object_covered", "parse_threshold",
    "pointing", "span",
]  # fmt: skip
