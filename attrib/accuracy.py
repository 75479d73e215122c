"""Accuracy under attack: one model, one batch, every attack of a table row at the cost of the longest two.

PGD-10, -20, -40 and -100 are snapshots of one run, and so are the CW-k. The attacks may run in bfloat16, since they
only need the sign of the gradient. The adversarial images are classified in float32, as the deployed model does; in
bfloat16, near ties of logits would be decided otherwise.
"""

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attrib import attack, inference
from attrib.attack import Forward, Objective
from attrib.fast import keep_prepared
from attrib.inference import Precision, autocast, check_images, frozen, input_gradient
from attrib.loss import check_classes, cross_entropy, margin
from attrib.models.answers import adapted
from attrib.models.gated import GatedClassifier, combined_loss

TABLE_STEPS = (10, 20, 40, 100)
"""The numbers of steps of AALP's Table 2."""

Correct = NDArray[np.bool_]
"""Whether each image was classified correctly, (N,)."""


class AttackPath(NamedTuple):
    """One way to attack a model: the attacked output, and its scores for FGSM and PGD (loss) and for CW (margin)."""

    name: str
    forward: Forward
    loss: Objective
    margin: Objective


class Outcome(NamedTuple):
    """A model's predictions for a batch of images, (N,) each."""

    prediction: Tensor
    margin: Tensor
    """max_{j != y} z_j - z_y in float32: positive if misclassified."""
    path: Tensor
    """The position in ``attack_paths`` of the path with the strongest attack on the image."""


def attack_paths(model: nn.Module) -> list[AttackPath]:
    """The attack paths of a model: its logits; for a gated model also the combined loss, and each gate's head alone.

    A gate uses the prediction of its head, an argmax, through which no gradient flows from the final logits. The robust
    accuracy of a gated model is therefore the worst over all these paths, image by image.
    """
    logits = AttackPath("logits", attack.logits, cross_entropy, margin)
    if not isinstance(model, GatedClassifier):
        return [logits]
    heads = [
        AttackPath(
            f"head {number}", _all_logits, partial(_of_output, cross_entropy, number),
            partial(_of_output, margin, number),
        )
        for number in range(1, 1 + len(model.gates))
    ]  # fmt: skip
    return [logits, AttackPath("combined", _all_logits, combined_loss, _combined_margin), *heads]


def _all_logits(model: Any, image: Tensor) -> Tensor:
    """All logits (1 + heads,N,K) of a gated model, or of ``Answers`` around one."""
    logits: Tensor = model.all_logits(image)
    return logits


def columns(steps: Collection[int]) -> list[str]:
    """The names of a table row's attacks: fgsm, pgd-k and cw-k for every k."""
    return ["fgsm", *(f"{kind}-{k}" for kind in ("pgd", "cw") for k in sorted(steps))]


def evaluate(model: nn.Module, image: Tensor, label: Tensor) -> Outcome:
    """The deployed model's predictions and margins in float32: image (N,C,H,W) in [0,1], label (N,).

    Raises InputError for labels that are no class.
    """
    label = check_images(model, image, label)
    logits = inference.logits(model, image)
    check_classes(label, logits.shape[1])
    return Outcome(logits.argmax(1), margin(logits, label), torch.zeros_like(label))


def gradient_size(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    """The largest entry of \\|dL/dx\\| of each clean image in float32, (N,); at 0, gradient attacks cannot work.

    image: (N,C,H,W) in [0,1]; label: (N,). NaN or infinity if the gradient contains them. Raises InputError for
    labels that are no class.
    """
    label = check_images(model, image, label)
    with frozen(model), torch.enable_grad(), autocast(image.device, "fp32"):
        x = image.detach().requires_grad_()
        score = attack.checked(cross_entropy)(adapted(model, x.device)(x), label)
        gradient = input_gradient(score, x)
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
    """Run every attack of a table row (see ``columns``) on a batch and classify the results in float32 (AALP, Table 2).

    image: (N,C,H,W) in [0,1]; label: (N,). index: (N,) positions in the data set (default: in the batch); the random
    starts depend on them, on ``seed`` and on the restart only. PGD-k breaks an image if the k-th iterate of any
    restart on any of the model's ``attack_paths`` is misclassified; with ``worst`` also if the clean image, the random
    start or any iterate up to the k-th is. Raises InputError as ``attrib.pgd`` does.
    """
    names = columns(steps)
    rows = torch.arange(len(image), device=image.device)
    outcomes: dict[str, Outcome] = {}
    if worst or eps == 0:
        outcomes = dict.fromkeys(names, evaluate(model, image, label))
        rows = torch.nonzero(outcomes["fgsm"].prediction == label).squeeze(1)
    if eps == 0:  # the ball contains only the image itself
        return outcomes
    if index is None:
        index = torch.arange(len(image), device=image.device)
    with keep_prepared(model):
        for restart in range(restarts):
            for number, path in enumerate(attack_paths(model)):
                if not len(rows):
                    return outcomes
                tries = _tries(
                    model, path, image[rows], label[rows], index[rows], eps=eps, step_size=step_size, steps=steps,
                    restart=restart, worst=worst, seed=seed, precision=precision,
                )  # fmt: skip
                for name, images in tries:
                    outcome = evaluate(model, images, label[rows])._replace(path=torch.full_like(rows, number))
                    outcomes[name] = _worse(outcomes[name], rows, outcome, label) if name in outcomes else outcome
                # The next try skips images that every attack has broken.
                correct = torch.stack([outcome.prediction == label for outcome in outcomes.values()]).any(0)
                rows = torch.nonzero(correct).squeeze(1)
    return outcomes


def correct_under_pgd(
    model: nn.Module, image: Tensor, label: Tensor, *, eps: float, step_size: float, steps: int, seed: int = 0,
    index: Tensor | None = None, precision: Precision = "fp32",
) -> Tensor:  # fmt: skip
    """Whether each image stays correct under PGD-k on all of the model's ``attack_paths``, bool (N,), in float32.

    This is the column pgd-k of ``attacked`` without the cost of the others. Arguments and errors as for ``attrib.pgd``.
    """
    correct = torch.ones_like(label, dtype=torch.bool)
    with keep_prepared(model):
        for path in attack_paths(model):
            snapshots = attack.snapshots(
                model, image, label, objective=path.loss, forward=path.forward, eps=eps, step_size=step_size,
                steps=(steps,), seed=seed, index=index, precision=precision,
            )  # fmt: skip
            correct &= evaluate(model, snapshots[steps], label).prediction == label
    return correct


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
        snapshots = attack.snapshots(
            model, image, label, objective=objective, forward=path.forward, eps=eps, step_size=step_size, steps=steps,
            seed=seed, index=index, restart=restart, worst=worst, precision=precision,
        )  # fmt: skip
        for k, images in snapshots.items():
            yield f"{kind}-{k}", images


def _worse(before: Outcome, rows: Tensor, after: Outcome, label: Tensor) -> Outcome:
    """Per image the worse of the outcome before, (N,), and the one after, which is for ``rows`` only, (n,)."""
    wrong_before, wrong_after = before.prediction[rows] != label[rows], after.prediction != label[rows]
    # Compare correctness first: if logits tie, the margin is 0 for a wrong prediction as for a correct one.
    is_worse = (wrong_after & ~wrong_before) | ((wrong_after == wrong_before) & (after.margin > before.margin[rows]))
    replaced = rows[is_worse]
    return Outcome(*(old.index_copy(0, replaced, new[is_worse]) for old, new in zip(before, after, strict=True)))


def _of_output(score: Objective, number: int, outputs: Tensor, label: Tensor) -> Tensor:
    """``score`` of one of a gated model's outputs: ``all_logits`` (1 + heads, N, K) and label (N,) -> (N,)."""
    return score(outputs[number], label)


def _combined_margin(outputs: Tensor, label: Tensor) -> Tensor:
    """CW's counterpart of ``attrib.models.gated.combined_loss``, with the same weight of the heads."""
    return margin(outputs[0], label) + 2 * torch.stack([margin(head, label) for head in outputs[1:]]).mean(0)
