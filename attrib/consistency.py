"""Consistent and inconsistent sets (AALP, section 2.2): which images an attack turns, and what each costs.

Pure functions of the logits of clean and adversarial images; which attack made the latter is the caller's business.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from attrib import stats
from attrib.errors import InputError

SETS = ("consistent", "inconsistent", "clean-wrong")
"""Both right; clean right, adversarial wrong; clean wrong: every image is in exactly one."""


class LogitPairs(NamedTuple):
    """What the logits of an image and of its adversarial image say, each (N,): int64 the first three, float64 the rest.

    The paper's "classification loss" is none of the three cross-entropies plainly: its 5.19 for SVHN's consistent
    set is more than two right answers can cost. So all three are here, and the caller names the one meant.
    """

    membership: Tensor
    """Position in SETS."""
    prediction: Tensor
    prediction_adversarial: Tensor
    probability_clean: Tensor
    """Of the true class, in [0,1]."""
    probability_adversarial: Tensor
    ce_clean: Tensor
    """Cross-entropy in nats."""
    ce_adversarial: Tensor
    ce_sum: Tensor
    alp: Tensor
    """Eq. 1, in squared logits."""
    alp_share: Tensor
    """alp / (ce_sum + alp), in [0,1]; 0 where there is no ALP loss."""


MEANS = LogitPairs._fields[3:]
"""The quantities of which a set has a mean."""


def alp_loss(clean: Tensor, adversarial: Tensor) -> Tensor:
    """The ALP loss of each image, ||z(x) - z(x_adv)||^2 summed over the classes (AALP, Eq. 1).

    clean, adversarial: logits (N,K). Returns (N,). Raises InputError for other or different shapes.
    """
    if clean.ndim != 2 or clean.shape != adversarial.shape:
        raise InputError(
            "logits: expected clean and adversarial ones of one shape (N,K),"
            f" got {tuple(clean.shape)} and {tuple(adversarial.shape)}"
        )
    return (clean - adversarial).square().sum(1)


def logit_pairs(clean: Tensor, adversarial: Tensor, label: Tensor) -> LogitPairs:
    """Set, confidences and losses of each image, from its clean and adversarial logits (AALP, section 2.2, Table 1).

    clean, adversarial: logits (N,K) in whatever precision, computed on in float64, since the cross-entropy of a sure
    and right answer is below what float32 resolves; label: (N,) int64. Raises InputError for shapes that don't fit.
    """
    clean, adversarial = clean.detach().double(), adversarial.detach().double()
    alp = alp_loss(clean, adversarial)
    if label.shape != alp.shape:
        raise InputError(f"label: expected shape ({len(alp)},), got {tuple(label.shape)}")
    ce_clean, ce_adversarial = (F.cross_entropy(z, label, reduction="none") for z in (clean, adversarial))
    prediction, prediction_adversarial = clean.argmax(1), adversarial.argmax(1)
    membership = torch.where(prediction == label, (prediction_adversarial != label).long(), SETS.index("clean-wrong"))
    ce_sum = ce_clean + ce_adversarial
    share = torch.where(alp > 0, alp / (ce_sum + alp), 0.0)
    return LogitPairs(
        membership, prediction, prediction_adversarial, (-ce_clean).exp(), (-ce_adversarial).exp(),
        ce_clean, ce_adversarial, ce_sum, alp, share,
    )  # fmt: skip


def summary(pairs: LogitPairs, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Table 1 of AALP: of each set in SETS how many images, their share, and the means, with 95 % bootstrap intervals.

    Keys of a set: ``n``; ``share`` (of all images), every name in MEANS (the mean over the set's images, NaN where it
    is empty) and ``alp_share_of_total`` (the set's ALP loss over its total loss, which is how the paper reads its
    table; ``alp_share`` is the mean of the images' own shares), each with its interval under ``..._ci``.
    """
    columns = {name: values.cpu().numpy() for name, values in pairs._asdict().items()}
    found = {}
    for position, name in enumerate(SETS):
        inside = columns["membership"] == position
        entry: dict[str, Any] = {"n": int(inside.sum())}
        means = {"share": inside.astype(float)} | {quantity: columns[quantity][inside] for quantity in MEANS}
        for quantity, values in means.items():
            entry[quantity] = stats.mean(values)
            entry[f"{quantity}_ci"] = list(stats.interval(values, seed=seed))
        alp, total = means["alp"], means["ce_sum"] + means["alp"]
        entry["alp_share_of_total"] = float(_ratio(alp, total)) if len(alp) else float("nan")
        entry["alp_share_of_total_ci"] = list(_ratio_interval(alp, total, seed=seed))
        found[name] = entry
    return found


def _ratio(part: NDArray[Any], whole: NDArray[Any], axis: int = 0) -> NDArray[Any]:
    """sum(part) / sum(whole); 0 where nothing costs anything."""
    part, whole = part.sum(axis), whole.sum(axis)
    return np.asarray(part / np.where(whole > 0, whole, 1))


def _ratio_interval(part: NDArray[Any], whole: NDArray[Any], *, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of :func:`_ratio`, images drawn with both their numbers."""
    from scipy.stats import bootstrap

    if len(part) < 2:
        return float("nan"), float("nan")
    result = bootstrap(
        (part, whole), _ratio, paired=True, vectorized=True, n_resamples=stats.RESAMPLES,
        batch=max(1, 2**19 // len(part)), method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
