"""Accuracy under attack: one model, one batch, every attack of a table row at the cost of the longest two.

PGD-10, -20, -40 and -100 are snapshots of one run, and so are the CW-k. The attacks may run in bfloat16, since a
direction is all they need; what they made is judged in float32, since it is the deployed model's answer that is
counted and eight bits of logit turn near ties around.
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
    """The position in ``attack_paths`` of the path whose attack did best on the image."""


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
            f"head {number}", _all_logits, partial(_of_output, cross_entropy, number),
            partial(_of_output, margin, number),
        )
        for number in range(1, 1 + len(model.gates))
    ]  # fmt: skip
    return [logits, AttackPath("combined", _all_logits, combined_loss, _combined_margin), *heads]


def _all_logits(model: Any, image: Tensor) -> Tensor:
    """(1 + heads,N,K): of a gated model, or of what stands for one that is not in float32."""
    logits: Tensor = model.all_logits(image)
    return logits


def columns(steps: Collection[int]) -> list[str]:
    """The attacks of a table row: fgsm, pgd-k and cw-k for every k."""
    return ["fgsm", *(f"{kind}-{k}" for kind in ("pgd", "cw") for k in sorted(steps))]


def evaluate(model: nn.Module, image: Tensor, label: Tensor) -> Outcome:
    """The deployed model's answer in float32: image (N,C,H,W) in [0,1], label (N,).

    Raises InputError for labels that are no class.
    """
    label = check_images(model, image, label)
    logits = inference.logits(model, image)
    check_classes(label, logits.shape[1])
    return Outcome(logits.argmax(1), margin(logits, label), torch.zeros_like(label))


def gradient_size(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    """The largest entry of \\|dL/dx\\| of each clean image in float32, (N,): 0 where attacks by gradient are blind.

    image: (N,C,H,W) in [0,1]; label: (N,). NaN or infinity where the gradient holds them. Raises InputError for
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
    """Every attack of a table row (see ``columns``) on a batch, judged in float32 (AALP, Table 2).

    image: (N,C,H,W) in [0,1]; label: (N,); index: (N,) positions in the data set, which with ``seed`` and the number
    of the restart fix the random starts (default: positions in the batch). An image counts as broken by PGD-k
    if the k-th iterate of any restart on any of the model's ``attack_paths`` is misclassified; with ``worst`` if
    the clean image, the random start or any iterate up to the k-th is. Raises InputError as ``attrib.pgd`` does.
    """
    names = columns(steps)
    rows = torch.arange(len(image), device=image.device)
    found: dict[str, Outcome] = {}
    if worst or eps == 0:
        found = dict.fromkeys(names, evaluate(model, image, label))
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
                    outcome = evaluate(model, images, label[rows])._replace(path=torch.full_like(rows, number))
                    found[name] = _worse(found[name], rows, outcome, label) if name in found else outcome
                # The next try is spared what no column has left standing.
                standing = torch.stack([outcome.prediction == label for outcome in found.values()]).any(0)
                rows = torch.nonzero(standing).squeeze(1)
    return found


def correct_under_pgd(
    model: nn.Module, image: Tensor, label: Tensor, *, eps: float, step_size: float, steps: int, seed: int = 0,
    index: Tensor | None = None, precision: Precision = "fp32",
) -> Tensor:  # fmt: skip
    """Which images stay right under PGD-k on each of the model's ``attack_paths``, bool (N,), judged in float32.

    ``attacked``'s column pgd-k alone, at the cost of it alone. Arguments and errors as for ``attrib.pgd``.
    """
    right = torch.ones_like(label, dtype=torch.bool)
    with keep_prepared(model):
        for path in attack_paths(model):
            taken = attack.snapshots(
                model, image, label, objective=path.loss, forward=path.forward, eps=eps, step_size=step_size,
                steps=(steps,), seed=seed, index=index, precision=precision,
            )  # fmt: skip
            right &= evaluate(model, taken[steps], label).prediction == label
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
    """CW's counterpart of ``attrib.models.gated.combined_loss``, with the same weight of the heads."""
    return margin(outputs[0], label) + 2 * torch.stack([margin(head, label) for head in outputs[1:]]).mean(0)
