"""Adversarial weight perturbation (AWP; Wu et al. 2020): descend the loss at the worst weights nearby.

    v = gamma ||w|| g / ||g||,  g = dL/dw at w, tensor by tensor      (one step of the inner maximisation)
    w <- w - lr * dL/dw at w + v

One step of training, for every method. The images are attacked once, on the unperturbed weights:

    attack = once(attack)
    with perturbed(model, lambda: loss(model, batch, attack=attack)):
        loss(model, batch, attack=attack).backward()
    optimizer.step()
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from attrib.attack import Forward, Objective, logits
from attrib.data import Batch
from attrib.loss import cross_entropy
from train.attack import Attack, Start


@contextmanager
def perturbed(model: nn.Module, loss: Callable[[], Tensor], *, gamma: float = 0.005) -> Iterator[None]:
    """Inside, the weights are moved uphill by ``gamma`` of their norm. On exit they are restored exactly.

    loss: gives the 0-dim loss of a forward pass of ``model``. (With DistributedDataParallel, of the wrapped module: the
    wrapper would wait for a backward pass that never comes.) Call ``backward`` in the body: the pass for ``loss``
    changes neither buffers nor ``.grad``. Only tensors of more than one dimension move; biases and batch norm stay.
    The gradients are averaged over all processes, so that all move alike. The weights are restored before the
    optimizer steps, also when the body raises. The authors' code steps first, so its weight decay acts on w + v.
    """
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1 and parameter.requires_grad]
    saved = [weight.detach().clone() for weight in weights]
    try:
        _move(weights, _gradients(model, loss, weights), gamma)
        torch.clear_autocast_cache()  # It holds bfloat16 copies of the old weights.
        yield
    finally:
        _overwrite(weights, saved)
        torch.clear_autocast_cache()


def once(attack: Attack) -> Attack:
    """Run the attack at the first call only. Later calls return the same images, whatever their arguments.

    It serves one step, which may compute the loss more than once.
    """
    images: list[Tensor] = []

    def cached(
        model: nn.Module,
        batch: Batch,
        *,
        objective: Objective = cross_entropy,
        start: Start = "uniform",
        forward: Forward = logits,
        target: Tensor | None = None,
    ) -> Tensor:
        if not images:
            images.append(attack(model, batch, objective=objective, start=start, forward=forward, target=target))
        return images[0]

    return cached


def _gradients(model: nn.Module, loss: Callable[[], Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """dL/dw of each weight, zero if the loss does not depend on it. Restores the buffers."""
    buffers = list(model.buffers())
    saved = [buffer.clone() for buffer in buffers]
    try:
        # Not backward(), which would add to .grad and set off the hooks of DistributedDataParallel.
        gradients = torch.autograd.grad(loss(), weights, materialize_grads=True)
    finally:
        _overwrite(buffers, saved)
    if dist.is_available() and dist.is_initialized():
        gradients = tuple(gradient.contiguous() for gradient in gradients)  # as NCCL requires
        for gradient in gradients:
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
    return gradients


@torch.no_grad()
def _move(weights: Sequence[Tensor], gradients: Sequence[Tensor], gamma: float) -> None:
    for weight, gradient in zip(weights, gradients, strict=True):
        weight += gamma * weight.norm() / (gradient.norm() + 1e-12) * gradient


@torch.no_grad()
def _overwrite(tensors: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, saved, strict=True):
        tensor.copy_(value)
