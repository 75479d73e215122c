"""Accuracy under attack: one model, one batch, every attack of a table row at the cost of the longest two.

PGD-10, -20, -40 and -100 are snapshots of one run, and so are the CW-k. The attacks may run in bfloat16, since a
direction is all they need; what they made is judged in float32, since it is the deployed model's answer that is
counted and eight bits of logit turn near ties around.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attrib import attack, inference
from attrib.attack import Forward, Objective
from attrib.fast import keep_prepared
from attrib.inference import Precision, autocast, frozen, input_gradient
from attrib.loss import check_classes, cross_entropy, margin
from attrib.models.gated import GatedClassifier, combined_loss
from attrib.stats import paired_shares, share_interval

TABLE_STEPS = (10, 20, 40, 100)
"""The numbers of steps of AALP's Table 2."""

Right = NDArray[np.bool_]
"""Whether each image was classified correctly, (N,)."""


class AttackPath(NamedTuple):
    """One way to attack a model: which output is attacked, and the scores that FGSM and PGD (loss) and CW maximise."""

    name: str
    forward: Forward
    loss: Objective
    margin: Objective


class Outcome(NamedTuple):
    """What a model says of a batch of images, (N,) each."""

    prediction: Tensor
    margin: Tensor
    """max_{j != y} z_j - z_y in float32: positive where misclassified, and by how much."""
    path: Tensor
    """The position in :func:`attack_paths` of the path whose attack did best on the image."""


def attack_paths(model: nn.Module) -> list[AttackPath]:
    """The paths of attack: the logits; for a gated model also the combined loss, and each gate's head by itself.

    A gate follows the prediction of its head. That is an argmax, so the gradient of the final logits does not say how
    to change it. The robust accuracy of a gated model is therefore the worst, image by image, over all of these paths.
    """
    logits = AttackPath("logits", attack.logits, cross_entropy, margin)
    if not isinstance(model, GatedClassifier):
        return [logits]
    heads = [
        AttackPath(
            f"head {number}", GatedClassifier.all_logits, partial(_of_output, cross_entropy, number),
            partial(_of_output, margin, number),
        )
        for number in range(1, 1 + len(model.gates))
    ]  # fmt: skip
    return [logits, AttackPath("combined", GatedClassifier.all_logits, combined_loss, _combined_margin), *heads]


def columns(steps: Collection[int]) -> list[str]:
    """The attacks of a table row: fgsm, pgd-k and cw-k for every k."""
    return ["fgsm", *(f"{kind}-{k}" for kind in ("pgd", "cw") for k in sorted(steps))]


def judge(model: nn.Module, image: Tensor, label: Tensor) -> Outcome:
    """The deployed model's answer in float32: image (N,C,H,W) in [0,1], label (N,).

    Raises InputError for labels that are no class.
    """
    logits = inference.logits(model, image)
    check_classes(label, logits.shape[1])
    return Outcome(logits.argmax(1), margin(logits, label), torch.zeros_like(label))


def gradient_size(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    """The largest entry of \\|dL/dx\\| of each clean image in float32, (N,): 0 where attacks by gradient are blind.

    image: (N,C,H,W) in [0,1]; label: (N,). NaN or infinity where the gradient holds them. Raises InputError for
    labels that are no class.
    """
    with frozen(model), torch.enable_grad(), autocast(image.device, "fp32"):
        x = image.detach().requires_grad_()
        score = attack.checked(cross_entropy)(model(x), label)
        gradient = input_gradient(score, x) if score.requires_grad else torch.zeros_like(x)
    return gradient.abs().flatten(1).amax(1)


def attacked(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: Collection[int] = TABLE_STEPS,
    restarts: int = 1,
    worst: bool = False,
    seed: int = 0,
    index: Tensor | None = None,
    precision: Precision = "fp32",
) -> dict[str, Outcome]:
    """Every attack of a table row (see :func:`columns`) on a batch, judged in float32 (AALP, Table 2).

    image: (N,C,H,W) in [0,1]; label: (N,); index: (N,) positions in the data set, which with ``seed`` and the number
    of the restart fix the random starts (default: positions in the batch). An image counts as broken by PGD-k
    if the k-th iterate of any restart on any of the model's :func:`attack_paths` is misclassified; with ``worst`` if
    the clean image, the random start or any iterate up to the k-th is. Raises InputError as :func:`attrib.pgd` does.
    """
    names = columns(steps)
    rows = torch.arange(len(image), device=image.device)
    found: dict[str, Outcome] = {}
    if worst or eps == 0:
        found = dict.fromkeys(names, judge(model, image, label))
        rows = torch.nonzero(found["fgsm"].prediction == label).squeeze(1)
    if eps == 0:  # nothing but the image itself lies in the ball
        return found
    if index is None:
        index = torch.arange(len(image), device=image.device)
    with keep_prepared(model):
        for restart in range(restarts):
            for number, path in enumerate(attack_paths(model)):
                if not len(rows):
                    return found
                tries = _tries(
                    model, path, image[rows], label[rows], index[rows], eps=eps, step_size=step_size, steps=steps,
                    restart=restart, worst=worst, seed=seed, precision=precision,
                )  # fmt: skip
                for name, images in tries:
                    outcome = judge(model, images, label[rows])._replace(path=torch.full_like(rows, number))
                    found[name] = _worse(found[name], rows, outcome, label) if name in found else outcome
                # The next try is spared what no column has left standing.
                standing = torch.stack([outcome.prediction == label for outcome in found.values()]).any(0)
                rows = torch.nonzero(standing).squeeze(1)
    return found


def withstands_pgd(
    model: nn.Module, image: Tensor, label: Tensor, *, eps: float, step_size: float, steps: int, seed: int = 0,
    index: Tensor | None = None, precision: Precision = "fp32",
) -> Tensor:  # fmt: skip
    """Which images stay right under PGD-k on each of the model's :func:`attack_paths`, bool (N,), judged in float32.

    :func:`attacked`'s column pgd-k alone, at the cost of it alone. Arguments and errors as for :func:`attrib.pgd`.
    """
    right = torch.ones_like(label, dtype=torch.bool)
    with keep_prepared(model):
        for path in attack_paths(model):
            taken = attack.snapshots(
                model, image, label, objective=path.loss, forward=path.forward, eps=eps, step_size=step_size,
                steps=(steps,), seed=seed, index=index, precision=precision,
            )  # fmt: skip
            right &= judge(model, taken[steps], label).prediction == label
    return right


def _tries(
    model: nn.Module, path: AttackPath, image: Tensor, label: Tensor, index: Tensor,
    *, eps: float, step_size: float, steps: Collection[int], restart: int, worst: bool, seed: int,
    precision: Precision,
) -> Iterator[tuple[str, Tensor]]:  # fmt: skip
    """The adversarial images (n,C,H,W) of each column: one run of PGD, one of CW."""
    if restart == 0:
        yield (
            "fgsm",
            attack.fgsm(model, image, label, eps=eps, objective=path.loss, forward=path.forward, precision=precision),
        )
    for kind, objective in (("pgd", path.loss), ("cw", path.margin)):
        taken = attack.snapshots(
            model, image, label, objective=objective, forward=path.forward, eps=eps, step_size=step_size, steps=steps,
            seed=seed, index=index, restart=restart, worst=worst, precision=precision,
        )  # fmt: skip
        for k, images in taken.items():
            yield f"{kind}-{k}", images


def _worse(before: Outcome, rows: Tensor, now: Outcome, label: Tensor) -> Outcome:
    """Per image the worse of what was found before, (N,), and what was now found on ``rows``, (n,)."""
    wrong = before.prediction[rows] != label[rows], now.prediction != label[rows]
    # By the verdict first: where logits tie, the margin of a wrong answer is 0, as that of a right one can be.
    replace = (wrong[1] & ~wrong[0]) | ((wrong[1] == wrong[0]) & (now.margin > before.margin[rows]))
    chosen = rows[replace]
    return Outcome(*(old.index_copy(0, chosen, new[replace]) for old, new in zip(before, now, strict=True)))


def _of_output(score: Objective, number: int, outputs: Tensor, label: Tensor) -> Tensor:
    """``score`` of one of a gated model's outputs: ``all_logits`` (1 + heads, N, K) and label (N,) -> (N,)."""
    return score(outputs[number], label)


def _combined_margin(outputs: Tensor, label: Tensor) -> Tensor:
    """CW's counterpart of :func:`attrib.models.gated.combined_loss`, with the same weight of the heads."""
    return margin(outputs[0], label) + 2 * torch.stack([margin(head, label) for head in outputs[1:]]).mean(0)


def gap(train: Right, test: Right) -> tuple[float, float, float]:
    """Accuracy on training images less that on test images, with its 95 % interval (other images: unpaired).

    train: (N,); test: (M,). Newcombe's (1998) interval, from both sides' Wilson intervals; it holds near 0 and 1 too.
    """
    a, b = float(train.mean()), float(test.mean())
    (a_low, a_high), (b_low, b_high) = share_interval(train), share_interval(test)
    return a - b, a - b - math.hypot(a - a_low, b_high - b), a - b + math.hypot(a_high - a, b - b_low)


class Point(NamedTuple):
    """A model's accuracies at one radius: whether each image stood, per attack, (N,) each."""

    eps: float
    step_size: float
    right: dict[str, Right]


EXPLODING = 1e6
"""In float32 a pixel near 1 moves by no less than 6e-8, which at this slope still changes the loss by 0.06."""


def reaches(eps: float, step_size: float, steps: int) -> bool:
    """Whether that many steps lead from the image to the edge of the eps-ball, but for rounding."""
    return steps * step_size >= eps * (1 - 1e-9)


def about_reach(eps: float, step_size: float, steps: int) -> Iterator[str]:
    """A sentence where an attack's steps cannot lead from the image to the edge of the ball that it is named by."""
    if not reaches(eps, step_size, steps):
        yield (
            f"{steps} step{'s' * (steps > 1)} of {step_size:.4g} cannot reach the edge of eps {eps:.4g}; try more"
            " --steps or a larger --step-size"
        )


def doubts(
    clean: Right, label: NDArray[Any], gradient: NDArray[np.floating], points: Sequence[Point],
    *, classes: int, steps: Collection[int],
) -> list[str]:  # fmt: skip
    """What an expert would object to in one model's accuracies, a sentence each (after Carlini et al. 2019).

    clean, label, gradient: (N,) right on the clean image, true class, :func:`gradient_size`; points: by rising eps.
    """
    attacked = [point for point in points if point.eps > 0]
    found = [*about_accuracy(clean, label, classes=classes), *_about_gradients(gradient)]
    for point in attacked:
        found += _about_one(point, steps=sorted(steps), chance=_chance(label, classes=classes))
    for smaller, larger in pairwise(attacked):
        found += _about_two(smaller, larger, longest=max(steps))
    return found


def about_accuracy(clean: Right, label: NDArray[Any], *, classes: int) -> Iterator[str]:
    """A sentence where a model is no better than chance, as one that is not trained, or not fed what it expects.

    clean, label: (N,) right on the clean image, true class. Images of one class say nothing about chance.
    """
    chance = _chance(label, classes=classes)
    if len(np.unique(label)) > 1 and not share_interval(clean)[0] > chance:
        yield f"clean accuracy {clean.mean():.1%} is no better than chance ({chance:.1%}); is the model trained?"


def _chance(label: NDArray[Any], *, classes: int) -> float:
    """Always naming one class is right as often as that class comes."""
    return max(1 / classes, float(np.bincount(label).max()) / len(label))


def _about_gradients(size: NDArray[np.floating]) -> Iterator[str]:
    blind, wild = int((size == 0).sum()), int((~(size <= EXPLODING)).sum())
    if blind:
        yield (
            f"the gradient of the loss is zero on {blind:,} of {len(size):,} images: that they withstand attacks by"
            " gradient proves nothing; see --autoattack, whose Square needs none"
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
                " has not converged, and the accuracy is an upper bound; see --restarts and --autoattack"
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
