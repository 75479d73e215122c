"""L-infinity attacks: FGSM, PGD and CW as one short loop of signed gradient steps.

Images are pixels in [0, 1]; every adversarial image stays in [0, 1] and within ``eps`` of its original.
The attacked model is the deployed one: eval mode, no dropout. Labels are (N,), one class for all, or None for the
model's predictions.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from attrib import noise
from attrib.errors import InputError
from attrib.fast import answering
from attrib.inference import Label, Precision, autocast, check_images, input_gradient
from attrib.loss import check_classes, cross_entropy, full, margin
from attrib.models.answers import adapted

Objective = Callable[[Tensor, Tensor], Tensor]
"""From logits (N, K) and labels (N,) to the score (N,) that an attack maximises."""


class Forward(Protocol):
    """From a model and images (N,C,H,W) to the objective's input: logits (N,K), or all logits of a gated model."""

    def __call__(self, model: Any, image: Tensor, /) -> Tensor: ...


def logits(model: nn.Module, image: Tensor) -> Tensor:
    """The model's own forward pass."""
    output: Tensor = model(image)
    return output


def checked(objective: Objective) -> Objective:
    """The objective, whose first call raises InputError for labels (N,) that are no class of the logits.

    The number of classes is only known after the first forward pass. ``ascend`` itself does not check, so that training
    does not wait for the GPU; training's labels are checked with the data.
    """
    is_checked = False

    def score(logits: Tensor, label: Tensor) -> Tensor:
        nonlocal is_checked
        if not is_checked:
            check_classes(label, logits.shape[-1])
            is_checked = True
        return objective(logits, label)

    return score


def ascend(
    forward: Callable[[Tensor], Tensor],
    objective: Objective,
    image: Tensor,
    label: Tensor,
    *,
    start: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    steps: Collection[int],
    worst: bool = False,
    confirm: Callable[[Tensor], Tensor] | None = None,
) -> dict[int, Tensor]:
    """Signed gradient ascent in the eps-ball from ``start``, with a snapshot after each number in ``steps``.

    image, start: (N,C,H,W); label: (N,). forward: images to logits (N,K), or (1 + heads,N,K), of which the first decide
    the prediction; ``objective`` maps them to the score. With ``worst``, an image stops at its first misclassified
    iterate. So a snapshot is the worst case over all steps up to it, and later steps run on the remaining images only.
    confirm: exact logits of images, which decide whether an image is misclassified if ``forward`` is less exact.
    An image without a gradient does not move.
    """
    lower, upper = (image - eps).clamp(min=0), (image + eps).clamp(max=1)
    adversarial = start.clamp(lower, upper)
    rows = torch.arange(len(image), device=image.device) if worst else slice(None)
    snapshots: dict[int, Tensor] = {}
    for step in range(1, max(steps) + 1):
        if isinstance(rows, Tensor) and not len(rows):
            snapshots |= {later: adversarial for later in steps if later >= step}
            break
        with torch.enable_grad():
            x = adversarial[rows].detach().requires_grad_()
            logits = forward(x)
            score = objective(full(logits), label[rows])
            gradient = input_gradient(score, x)
        moved = (x.detach() + step_size * gradient.sign()).clamp(lower[rows], upper[rows])
        if isinstance(rows, Tensor):
            correct = (logits if logits.ndim == 2 else logits[0]).argmax(-1) == label[rows]
            broken = torch.nonzero(~correct).squeeze(1)
            if confirm is not None and len(broken):
                correct[broken] = confirm(x.detach()[broken]).argmax(-1) == label[rows[broken]]
            rows = rows[correct]
            adversarial = adversarial.index_copy(0, rows, moved[correct])
        else:
            adversarial = moved
        if step in steps:
            snapshots[step] = adversarial
    return snapshots


def fgsm(
    model: nn.Module,
    image: Tensor,
    label: Label,
    *,
    eps: float,
    precision: Precision = "fp32",
    objective: Objective = cross_entropy,
    forward: Forward = logits,
) -> Tensor:
    """One signed gradient step of ``eps``, no random start (Goodfellow et al. 2015).

    image: (N,C,H,W) in [0,1]; label: (N,); objective, forward: as for ``snapshots``. Returns (N,C,H,W).
    Raises InputError as ``pgd`` does.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> adversarial = attrib.fgsm(model, image, label, eps=8 / 255)
    >>> moved = (adversarial - image).abs()
    >>> bool(moved.max() <= 8 / 255 + 1e-6), float(adversarial.min()) >= 0, float(adversarial.max()) <= 1
    (True, True, True)
    """
    label = _check(model, image, label, eps=eps, step_size=eps, steps=(1,))
    with answering(model, image.device, precision) as fast:
        return ascend(
            partial(forward, fast.model), checked(objective), image, label,
            start=image, eps=eps, step_size=eps, steps=(1,),
        )[1]  # fmt: skip


def pgd(
    model: nn.Module,
    image: Tensor,
    label: Label,
    *,
    eps: float,
    step_size: float,
    steps: int,
    seed: int = 0,
    index: Tensor | None = None,
    worst: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """PGD-k (Madry et al. 2018): uniform random start, k steps along the sign of the gradient of L.

    image: (N,C,H,W) in [0,1]; label: (N,). index: (N,) positions in the data set (default: in the batch); the random
    starts depend on them and on ``seed`` only. Returns (N,C,H,W). worst: see ``ascend``.
    Raises InputError for images or labels of another shape, images outside [0,1], labels that are no class, eps or
    step_size outside [0,1], and no steps.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> adversarial = attrib.pgd(model, image, label, eps=8 / 255, step_size=2 / 255, steps=5)
    >>> before, after = (cross_entropy(model(x), label).mean() for x in (image, adversarial))
    >>> bool(after > before), bool((adversarial - image).abs().max() <= 8 / 255 + 1e-6)
    (True, True)
    >>> one = attrib.pgd(model, image[3:], label[3:], eps=8 / 255, step_size=2 / 255, steps=5, index=torch.tensor([3]))
    >>> bool((adversarial[3:] - one).abs().mean() < 1e-3)  # the start does not depend on the batch
    True
    """
    return snapshots(
        model, image, label, objective=cross_entropy, eps=eps, step_size=step_size, steps=(steps,),
        seed=seed, index=index, worst=worst, precision=precision,
    )[steps]  # fmt: skip


def cw(
    model: nn.Module,
    image: Tensor,
    label: Label,
    *,
    eps: float,
    step_size: float,
    steps: int,
    seed: int = 0,
    index: Tensor | None = None,
    worst: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """CW-k: the loop of PGD on the margin ``max_{j!=y} z_j - z_y`` of Carlini & Wagner (2017).

    Arguments, result and errors as for ``pgd``.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> adversarial = attrib.cw(model, image, label, eps=8 / 255, step_size=2 / 255, steps=5)
    >>> bool(margin(model(adversarial), label).mean() > margin(model(image), label).mean())
    True
    """
    return snapshots(
        model, image, label, objective=margin, eps=eps, step_size=step_size, steps=(steps,),
        seed=seed, index=index, worst=worst, precision=precision,
    )[steps]  # fmt: skip


def snapshots(
    model: nn.Module,
    image: Tensor,
    label: Label,
    *,
    objective: Objective,
    eps: float,
    step_size: float,
    steps: Collection[int],
    seed: int = 0,
    index: Tensor | None = None,
    worst: bool = False,
    precision: Precision = "fp32",
    forward: Forward = logits,
    restart: int = 0,
) -> dict[int, Tensor]:
    """The adversarial images after each number of ``steps``: PGD-10, -20 and -100 are prefixes of one run.

    objective: ``attrib.loss.cross_entropy`` (PGD), ``attrib.loss.margin`` (CW) or your own, applied to the output of
    ``forward``. restart: each has its own random starts. The rest is as for ``pgd``.
    """
    label = _check(model, image, label, index, eps=eps, step_size=step_size, steps=steps)
    if index is None:
        index = torch.arange(len(image), device=image.device)
    start = image + eps * (2 * noise.uniform(index, image.shape[1:], seed=seed, stream=restart) - 1)

    def exact(x: Tensor) -> Tensor:
        with torch.no_grad(), autocast(image.device, "fp32"):
            return logits(adapted(model, x.device), x)

    with answering(model, image.device, precision) as fast:
        return ascend(
            partial(forward, fast.model), checked(objective), image, label,
            start=start, eps=eps, step_size=step_size, steps=steps, worst=worst,
            confirm=exact if precision == "bf16" else None,
        )  # fmt: skip


def _check(
    model: nn.Module, image: Tensor, label: Label, index: Tensor | None = None,
    *, eps: float, step_size: float, steps: Collection[int],
) -> Tensor:  # fmt: skip
    """The labels as int64; raises InputError for invalid images, labels or settings."""
    label = check_images(model, image, label, index)
    for name, size in (("eps", eps), ("step_size", step_size)):
        if not 0 <= size <= 1:
            raise InputError(f"{name}: expected a number in [0,1], as pixels are (8/255, not 8), got {size}")
    if not steps or min(steps) < 1:
        raise InputError(f"steps: expected at least 1, got {', '.join(map(str, steps)) or 'none'}")
    return label
