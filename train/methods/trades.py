"""TRADES (Zhang et al. 2019, Algorithm 1): accuracy on x, smoothness around it.

    CE(x) + beta * mean_n KL(p(x_n) || p(x_n^adv)),   x_adv = argmax KL(p(x) || p(x_adv))

The attack starts at x + 0.001 N(0,1), since the KL has no gradient at x itself. Clean and adversarial images
share one forward pass, where the authors' code makes two: with batch norm their statistics are joint.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrib.data import Batch
from attrib.inference import frozen
from train.attack import Attack


def loss(
    model: nn.Module,
    batch: Batch,
    *,
    attack: Attack,
    beta: float = 6.0,
    classification: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """Loss of the clean images plus ``beta`` times the divergence of the adversarial predictions from theirs.

    classification: clean logits (N,K) and labels (N,) to the mean loss, for methods that replace the cross-entropy.
    """
    adversarial = attacked(model, batch, attack=attack)
    return loss_on(model, batch, adversarial, beta=beta, classification=classification)


def attacked(model: nn.Module, batch: Batch, *, attack: Attack) -> Tensor:
    """x_adv (N,C,H,W): the images whose predictions are furthest from those of the clean ones.

    What the attack moves away from is fixed: the deployed model's prediction (eval mode), without gradient.
    """
    with frozen(model), torch.no_grad():
        clean = model(batch.image).to(batch.image.dtype)
    return attack(model, batch, objective=_divergence_from, start="normal", target=clean)


def loss_on(
    model: nn.Module,
    batch: Batch,
    adversarial: Tensor,
    *,
    beta: float,
    classification: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The loss (0-dim) of given adversarial images (N,C,H,W); arguments as for ``loss``."""
    # Under autocast the logits are bfloat16, too coarse for differences of logarithms.
    logits = model(torch.cat([batch.image, adversarial])).to(batch.image.dtype)
    clean, moved = logits.chunk(2)
    return classification(clean, batch.label) + beta * divergence(clean, moved).mean()


def divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """KL(p(x) || p(x_adv)) of each image (N,), summed over the classes; both arguments are logits (N,K)."""
    log_p, log_q = clean.log_softmax(1), adversarial.log_softmax(1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def _divergence_from(adversarial: Tensor, clean: Tensor) -> Tensor:
    return divergence(clean, adversarial)
