"""The inner maximisation of adversarial training: the attack that the loss functions call."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, Protocol

from torch import Tensor, nn

from attrib import noise
from attrib.attack import Forward, Objective, ascend, logits
from attrib.data import Batch
from attrib.fast import prepared
from attrib.inference import Precision
from attrib.loss import cross_entropy

Start = Literal["uniform", "normal"]
"""Where the ascent starts: anywhere in the eps-ball (Madry), or 0.001 N(0,1) from the image (TRADES, AGAIN)."""


class Attack(Protocol):
    """Images within eps of ``batch.image`` that drive ``objective(forward(model, image), target)`` up.

    The model is the deployed one: eval mode, no dropout. target: (N, ...), the labels by default.
    """

    def __call__(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        objective: Objective = cross_entropy,
        start: Start = "uniform",
        forward: Forward = logits,
        target: Tensor | None = None,
    ) -> Tensor: ...


class Problem(NamedTuple):
    """The inner maximisation: ``steps`` steps up ``objective(forward(model, image), target)``."""

    model: nn.Module
    """Frozen."""
    forward: Forward
    objective: Objective
    steps: int


Number = float | Tensor
Ascent = Callable[[Problem, Tensor, Tensor, Tensor, Number, Number], Tensor]
"""Takes problem, image (N,C,H,W), target (N, ...), start (N,C,H,W), eps, step size; gives adversarial images."""


def eager_ascent(
    problem: Problem, image: Tensor, target: Tensor, start: Tensor, eps: Number, step_size: Number
) -> Tensor:
    """Run the steps with ``attrib.attack.ascend``, one operation after the other."""
    model, forward, objective, steps = problem
    return ascend(
        partial(forward, model), objective, image, target, start=start, eps=eps, step_size=step_size, steps=(steps,)
    )[steps]


def pgd_attack(
    *, eps: float, step_size: float, steps: int, seed: int, epoch: int, precision: Precision,
    ascent: Ascent = eager_ascent,
) -> Attack:  # fmt: skip
    """PGD on the deployed model (eval mode). (seed, epoch, index of the image) determine the random starts.

    Therefore a resumed run and a run over several processes draw the same starts.
    """

    def attack(
        model: nn.Module,
        batch: Batch,
        *,
        objective: Objective = cross_entropy,
        start: Start = "uniform",
        forward: Forward = logits,
        target: Tensor | None = None,
    ) -> Tensor:
        shape, stream = batch.image.shape[1:], _STREAM + epoch
        if start == "uniform":
            offset = eps * (2 * noise.uniform(batch.index, shape, seed=seed, stream=stream) - 1)
        else:
            offset = 0.001 * noise.normal(batch.index, shape, seed=seed, stream=stream)
        target = batch.label if target is None else target
        with prepared(model, batch.image.device, precision) as fast:
            problem = Problem(fast.model, forward, objective, steps)
            return ascent(problem, batch.image, target, batch.image + offset, eps, step_size)

    return attack


_STREAM = 1 << 20
"""The attack uses the noise streams from here on, augmentation those below."""
