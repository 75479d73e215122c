"""What an expert would object to in a model's accuracies, one sentence each. No torch."""

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
    """A model's accuracies at one radius: whether each image stood, per attack, (N,) each."""

    eps: float
    step_size: float
    right: "dict[str, Correct]"


EXPLODING = 1e6
"""In float32 a pixel near 1 moves by no less than 6e-8, which at this slope still changes the loss by 0.06."""


def reaches(eps: float, step_size: float, steps: int) -> bool:
    """Whether that many steps lead from the image to the edge of the eps-ball, but for rounding."""
    return steps * step_size >= eps * (1 - 1e-9)


def warn_short_attack(eps: float, step_size: float, steps: int) -> Iterator[str]:
    """A sentence where an attack's steps cannot lead from the image to the edge of the ball that it is named by."""
    if not reaches(eps, step_size, steps):
        yield (
            f"{steps} step{'s' * (steps > 1)} of {step_size:.4g} cannot reach the edge of eps {eps:.4g}; try more"
            " steps (--steps) or a larger step_size (--step-size)"
        )


def objections(
    clean: "Correct", label: NDArray[Any], gradient: NDArray[np.floating], points: Sequence[Point],
    *, classes: int, steps: Collection[int], causes: str,
) -> list[str]:  # fmt: skip
    """What an expert would object to in one model's accuracies, a sentence each (after Carlini et al. 2019).

    clean, label, gradient: (N,) right on the clean image, true class, ``attrib.accuracy.gradient_size``; points:
    by rising eps; causes: ``causes``.
    """
    attacked = [point for point in points if point.eps > 0]
    found = [*warn_chance_accuracy(clean, label, classes=classes, causes=causes), *_about_gradients(gradient)]
    for point in attacked:
        found += _about_one(point, steps=sorted(steps), chance=_chance(label, classes=classes))
    for smaller, larger in pairwise(attacked):
        found += _about_two(smaller, larger, longest=max(steps))
    return found


def warn_chance_accuracy(clean: "Correct", label: NDArray[Any], *, classes: int, causes: str) -> Iterator[str]:
    """A sentence where a model is no better than chance, as one that is not trained, or not fed what it expects.

    clean, label: (N,) right on the clean image, true class; causes: ``causes``. Images of one class, and without
    labels (-1), say nothing about chance.
    """
    if len(label) and label.min() < 0:
        return
    chance = _chance(label, classes=classes)
    if len(np.unique(label)) > 1 and not share_interval(clean)[0] > chance:
        yield (
            f"clean accuracy {clean.mean():.1%} is no better than always naming the commonest class ({chance:.1%});"
            f" {causes}"
        )


def causes(model: "Model", data: "Dataset") -> str:
    """The question what makes a model no better than chance: what a user may have missed of this model and data."""
    questions = ["is the model trained"]
    if model.checkpoint is None:
        questions.append("are mean (--mean) and std (--std) those of its training")
    if data.folders and tuple(data.folders) == data.classes:  # no names of the model's say which is which
        questions.append("do the class folders stand in the model's order, which classes (--classes) names")
    return f"{', '.join(questions[:-1])}{', and ' * (len(questions) > 1)}{questions[-1]}?"


def _chance(label: NDArray[Any], *, classes: int) -> float:
    """Always naming one class is right as often as that class comes; that is not known without labels (-1)."""
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
    # FGSM's one step reaches the edge of the ball; where those of PGD together do not, it may well be stronger.
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
                f"{name.upper()} at {eps} leaves {point.right[name].mean():.1%} standing, where every image can be"
                " made the same grey: it is the attack that fails"
            )


def _about_two(smaller: Point, larger: Point, *, longest: int) -> Iterator[str]:
    for name in (f"pgd-{longest}", f"cw-{longest}"):
        rise = paired_shares(larger.right[name], smaller.right[name])
        if rise.difference > 0 and rise.p < 0.05:
            yield (
                f"{name.upper()} accuracy rises by {100 * rise.difference:.1f} points from eps {smaller.eps:.4g} to"
                f" {larger.eps:.4g}, where it can only fall: the attack fails"
            )
