"""The inner maximisation of adversarial training, as the loss functions are given it."""

from collections.abc import Callable
from typing import Literal, Protocol

from torch import Tensor, nn

from attrib import noise
from attrib.attack import Objective, ascend
from attrib.data import Batch
from attrib.fast import running
from attrib.inference import Precision
from attrib.loss import cross_entropy

Start = Literal["uniform", "normal"]
"""Where the ascent starts: anywhere in the eps-ball (Madry), or 0.001 N(0,1) from the image (TRADES, AGAIN)."""


class Attack(Protocol):
    """Images within eps of ``batch.image`` that drive ``objective`` of the deployed model's logits up.

    ``forward`` (images to whatever ``objective`` scores) stands in for the model's own forward pass.
    """

    def __call__(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        objective: Objective = cross_entropy,
        start: Start = "uniform",
        forward: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor: ...


def pgd_attack(*, eps: float, step_size: float, steps: int, seed: int, epoch: int, precision: Precision) -> Attack:
    """PGD on the deployed model (eval mode), its random starts fixed by (seed, epoch, index of the image).

    So an interrupted and resumed run, and one whose batches are spread over several processes, draw the same.
    """

    def attack(
        model: nn.Module,
        batch: Batch,
        *,
        objective: Objective = cross_entropy,
        start: Start = "uniform",
        forward: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        shape, stream = batch.image.shape[1:], _STREAM + epoch
        if start == "uniform":
            offset = eps * (2 * noise.uniform(batch.index, shape, seed=seed, stream=stream) - 1)
        else:
            offset = 0.001 * noise.normal(batch.index, shape, seed=seed, stream=stream)
        # The weights are new at every step of training, but a copy costs less than one pass of the attack.
        with running(model, batch.image.device, precision, forward) as run:
            return ascend(
                run, objective, batch.image, batch.label,
                start=batch.image + offset, eps=eps, step_size=step_size, steps=(steps,),
            )[steps]  # fmt: skip

    return attack


_STREAM = 1 << 20
"""Streams of noise from here on belong to the attack, those below to augmentation."""
