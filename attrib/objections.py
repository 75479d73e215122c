"""Warnings about a model's accuracies under attack, as an expert would object to them. No torch."""

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attrib.stats import paired_shares, share_interval

if TYPE_CHECKING:
    from attrib.accuracy import Correct
    from attrib.data import Dataset
    from attrib.models.specs import Model


class Point(NamedTuple):
    """A model's results at one radius: for each attack whether each image stays correct, (N,)."""

    eps: float
    step_size: float
    right: "dict[str, Correct]"


EXPLODING = 1e6
"""A gradient so large that the smallest change of a pixel near 1, 6e-8 in float32, changes the loss by 0.06."""


def reaches(eps: float, step_size: float, steps: int) -> bool:
    """Whether the steps can lead from the image to the edge of the eps-ball, up to rounding."""
    return steps * step_size >= eps * (1 - 1e-9)


def warn_short_attack(eps: float, step_size: float, steps: int) -> Iterator[str]:
    """A warning if an attack's steps cannot reach the edge of its eps-ball."""
    if not reaches(eps, step_size, steps):
        yield (
            f"{steps} step{'s' * (steps > 1)} of {step_size:.4g} cannot reach the edge of eps {eps:.4g}; try more"
            " steps (--steps) or a larger step_size (--step-size)"
        )


def objections(
    clean: "Correct", label: NDArray[Any], gradient: NDArray[np.floating], points: Sequence[Point],
    *, classes: int, steps: Collection[int], causes: str,
) -> list[str]:  # fmt: skip
    """Warnings about one model's accuracies, a sentence each (after Carlini et al. 2019).

    clean: (N,) whether each clean image is classified correctly; label: (N,); gradient: (N,), that of
    ``attrib.accuracy.gradient_size``; points: by rising eps; causes: the question of ``causes``.
    """
    attacked = [point for point in points if point.eps > 0]
    warnings = [*warn_chance_accuracy(clean, label, classes=classes, causes=causes), *_about_gradients(gradient)]
    for point in attacked:
        warnings += _about_one(point, steps=sorted(steps), chance=_chance(label, classes=classes))
    for smaller, larger in pairwise(attacked):
        warnings += _about_two(smaller, larger, longest=max(steps))
    return warnings


def warn_chance_accuracy(clean: "Correct", label: NDArray[Any], *, classes: int, causes: str) -> Iterator[str]:
    """A warning if a model is not significantly better than chance, as one that is untrained or gets wrong input.

    clean: (N,) whether each clean image is classified correctly; label: (N,); causes: the question of ``causes``. There
    is no warning if all images have one class, or no labels (-1).
    """
    if len(label) and label.min() < 0:
        return
    chance = _chance(label, classes=classes)
    if len(np.unique(label)) > 1 and not share_interval(clean)[0] > chance:
        yield (
            f"clean accuracy {clean.mean():.1%} is not significantly better than always naming the commonest class"
            f" ({chance:.1%}); {causes}"
        )


def causes(model: "Model", data: "Dataset") -> str:
    """A question to the user about possible causes if this model is no better than chance on this data."""
    questions = ["is the model trained"]
    if model.checkpoint is None:
        questions.append("are mean (--mean) and std (--std) those of its training")
    if data.folders and tuple(data.folders) == data.classes:  # the folders were not matched to the model's class names
        questions.append("are the class folders in the order of the model's classes, which classes (--classes) names")
    return f"{', '.join(questions[:-1])}{', and ' * (len(questions) > 1)}{questions[-1]}?"


def _chance(label: NDArray[Any], *, classes: int) -> float:
    """The accuracy of always predicting the most frequent class; 1 / classes without labels (-1)."""
    if len(label) and label.min() < 0:
        return 1 / classes
    return max(1 / classes, float(np.bincount(label).max()) / len(label))


def _about_gradients(size: NDArray[np.floating]) -> Iterator[str]:
    blind, wild = int((size == 0).sum()), int((~(size <= EXPLODING)).sum())
    if blind:
        yield (
            f"the gradient of the loss is zero on {blind:,} of {len(size):,} images: that they withstand attacks by"
            " gradient proves nothing; see autoattack (--autoattack), whose Square needs none"
        )
    if wild:
        yield (
            f"the gradient of the loss is not finite or beyond {EXPLODING:.0e} on {wild:,} of {len(size):,} images:"
            " exploding gradients lead attacks astray"
        )


def _about_one(point: Point, *, steps: list[int], chance: float) -> Iterator[str]:
    longest = steps[-1]
    eps = f"eps {point.eps:.4g}"
    lead = paired_shares(point.right[f"pgd-{longest}"], point.right["fgsm"])
    # If PGD's steps do not reach the edge of the ball, as FGSM's one step does, FGSM may well be stronger.
    if reaches(point.eps, point.step_size, longest) and lead.difference > 0 and lead.p < 0.05:
        yield (
            f"at {eps} FGSM breaks {100 * lead.difference:.1f} points more than PGD-{longest}: one step stronger than"
            " many is a sign of masked gradients"
        )
    if len(steps) > 1 and reaches(point.eps, point.step_size, steps[-2]):
        late = paired_shares(point.right[f"pgd-{steps[-2]}"], point.right[f"pgd-{longest}"])
        if late.difference >= 0.01 and late.p < 0.05:
            yield (
                f"at {eps} PGD breaks {100 * late.difference:.1f} points more from step {steps[-2]} to {longest}: it"
                " has not converged, and the accuracy is an upper bound; see restarts"
                " (--restarts) and autoattack (--autoattack)"
            )
    for name in (f"pgd-{longest}", f"cw-{longest}"):
        if point.eps >= 0.5 and share_interval(point.right[name])[0] > chance:
            yield (
                f"{name.upper()} at {eps} leaves {point.right[name].mean():.1%} correct, although it could make every"
                " image the same grey: the attack fails"
            )


def _about_two(smaller: Point, larger: Point, *, longest: int) -> Iterator[str]:
    for name in (f"pgd-{longest}", f"cw-{longest}"):
        rise = paired_shares(larger.right[name], smaller.right[name])
        if rise.difference > 0 and rise.p < 0.05:
            yield (
                f"{name.upper()} accuracy rises by {100 * rise.difference:.1f} points from eps {smaller.eps:.4g} to"
                f" {larger.eps:.4g}, although it can only fall: the attack fails"
            )
