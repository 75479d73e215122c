"""Consistent and inconsistent sets (AALP, section 2.2): which images an attack turns, and their losses.

Pure functions of the logits of clean and adversarial images; any attack may have made the latter.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attrib import stats
from attrib.errors import InputError
from attrib.lazy import Lazy
from attrib.loss import check_classes, cross_entropy
from attrib.tensors import check_tensors

scipy_stats = Lazy("scipy.stats")

SETS = ("consistent", "inconsistent", "clean-wrong")
"""Both correct; clean correct, adversarial wrong; clean wrong. Every image is in exactly one set."""


class LogitPairs(NamedTuple):
    """Set, predictions and losses of images and their adversarial images, (N,) each: three of int64, then float64.

    The paper does not define its "classification loss", and no cross-entropy fits: its 5.19 for SVHN's consistent set
    is more than two correct predictions can have. So all three are given.
    """

    membership: Tensor
    """Position in SETS."""
    prediction: Tensor
    prediction_adversarial: Tensor
    probability_clean: Tensor
    """The true class's, in [0,1]."""
    probability_adversarial: Tensor
    ce_clean: Tensor
    """Cross-entropy in nats."""
    ce_adversarial: Tensor
    ce_sum: Tensor
    alp: Tensor
    """Eq. 1, in squared logits."""
    alp_share: Tensor
    """alp / (ce_sum + alp), in [0,1]; 0 without ALP loss."""


MEANS = LogitPairs._fields[3:]
"""The quantities whose mean over a set is reported."""
SHARES = ("probability_clean", "probability_adversarial", "alp_share")
"""The quantities in [0,1]; the others are losses, in [0,inf)."""


def alp_loss(clean: Tensor, adversarial: Tensor) -> Tensor:
    """The ALP loss of each image, ||z(x) - z(x_adv)||^2 summed over the classes (AALP, Eq. 1).

    clean, adversarial: logits (N,K). Returns (N,). Raises InputError for other or different shapes.

    >>> alp_loss(torch.tensor([[1.0, 0.0], [2.0, 2.0]]), torch.tensor([[1.0, 3.0], [1.0, 1.0]]))
    tensor([9., 2.])
    """
    check_tensors(clean=(clean, "floats N,K"), adversarial=(adversarial, "floats N,K"))
    return (clean - adversarial).square().sum(1)


def logit_pairs(clean: Tensor, adversarial: Tensor, label: Tensor) -> LogitPairs:
    """Set, confidences and losses of each image, from its clean and adversarial logits (AALP, section 2.2, Table 1).

    clean, adversarial: logits (N,K) of any precision; label: (N,) int64. The results are computed in float64, since the
    cross-entropy of a confident correct prediction is below the resolution of float32. Raises InputError for shapes
    that don't fit and for labels that are no class.

    >>> clean, adversarial = torch.tensor([[2.0, 0.0], [3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> pairs = logit_pairs(clean, adversarial, torch.tensor([0, 0]))
    >>> [SETS[position] for position in pairs.membership.tolist()]
    ['consistent', 'inconsistent']
    >>> pairs.probability_clean.round(decimals=3)
    tensor([0.8810, 0.9530], dtype=torch.float64)
    """
    check_tensors(
        clean=(clean, "floats N,K"), adversarial=(adversarial, "floats N,K"), label=(label, "integers N")
    )  # fmt: skip
    clean, adversarial, label = clean.detach().double(), adversarial.detach().double(), label.long()
    if not (clean.isfinite().all() and adversarial.isfinite().all()):
        raise InputError("clean, adversarial: expected finite logits, got NaN or infinity")
    alp = alp_loss(clean, adversarial)
    check_classes(label, clean.shape[1])
    ce_clean, ce_adversarial = (cross_entropy(z, label) for z in (clean, adversarial))
    prediction, prediction_adversarial = clean.argmax(1), adversarial.argmax(1)
    membership = torch.where(prediction == label, (prediction_adversarial != label).long(), SETS.index("clean-wrong"))
    ce_sum = ce_clean + ce_adversarial
    share = torch.where(alp > 0, alp / (ce_sum + alp), 0.0)
    return LogitPairs(
        membership, prediction, prediction_adversarial, (-ce_clean).exp(), (-ce_adversarial).exp(),
        ce_clean, ce_adversarial, ce_sum, alp, share,
    )  # fmt: skip


def summary(*pairs: LogitPairs, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Table 1 of AALP: the number of images in each set of SETS, their share, and their means, with 95 % intervals.

    pairs: one per file: of one model, or of several seeds of a method over the same images. The keys of a set are ``n``
    (for seeds the mean); ``share`` (of all images); every name in MEANS (the mean over the set's images, NaN if it is
    empty); and ``alp_share_of_total``, the set's ALP loss over its total loss, as in the paper's table (``alp_share``
    is the mean of the images' own shares). Each has its interval under ``..._ci``: bootstrap over images, or for seeds
    that of ``attrib.stats`` over seeds and images.
    """
    columns = {name: np.array([getattr(file, name).cpu().numpy() for file in pairs]) for name in LogitPairs._fields}
    entries = {}
    for position, name in enumerate(SETS):
        inside = columns["membership"] == position
        count = float(inside.sum(1).mean())
        entry: dict[str, Any] = {"n": int(count) if len(pairs) == 1 else count}
        entry |= {"share": float(inside.mean()), "share_ci": list(stats.share_interval(inside))}
        means = {quantity: np.where(inside, columns[quantity], np.nan) for quantity in MEANS}
        for quantity, values in means.items():
            bounds = (0.0, 1.0 if quantity in SHARES else np.inf)
            entry[quantity] = stats.mean(values)
            entry[f"{quantity}_ci"] = list(stats.interval(values, seed=seed, within=bounds))
        alp, total = means["alp"], means["ce_sum"] + means["alp"]
        entry["alp_share_of_total"], ends = _ratio_interval(alp, total, seed=seed)
        entry["alp_share_of_total_ci"] = list(ends)
        entries[name] = entry
    return entries


def _ratio(part: NDArray[Any], whole: NDArray[Any], axis: int = 0) -> NDArray[Any]:
    """sum(part) / sum(whole); 0 for 0 / 0."""
    part, whole = part.sum(axis), whole.sum(axis)
    return np.asarray(part / np.where(whole > 0, whole, 1))


def _ratio_interval(part: NDArray[Any], whole: NDArray[Any], *, seed: int) -> tuple[float, tuple[float, float]]:
    """``_ratio`` over the images with values, (S,N), and its 95 % interval; for several files the mean ratio.

    One file: percentile bootstrap over images. Seeds: the ratio is linearised, so that it is a mean over images of
    their contributions to first order.
    """
    if len(part) > 1:
        totals = np.nansum(part, 1, keepdims=True), np.nansum(whole, 1, keepdims=True)
        ratio = totals[0] / np.where(totals[1] > 0, totals[1], 1)
        size = totals[1] / np.maximum((~np.isnan(whole)).sum(1, keepdims=True), 1)
        linear = ratio + (part - ratio * whole) / np.where(size > 0, size, 1)
        return stats.mean(linear), stats.interval(linear, seed=seed, within=(0.0, 1.0))
    present = ~np.isnan(part[0])
    part, whole = part[0, present], whole[0, present]
    value = float(_ratio(part, whole)) if len(part) else float("nan")
    if len(part) < 2:
        return value, (float("nan"), float("nan"))
    result = scipy_stats.bootstrap(
        (part, whole), _ratio, paired=True, vectorized=True, n_resamples=stats.RESAMPLES,
        batch=stats.at_a_time(len(part)), method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return value, (float(result.confidence_interval.low), float(result.confidence_interval.high))
