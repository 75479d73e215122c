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
    # What the attack moves away from is fixed: the deployed model's prediction (eval mode), without gradient.
    with frozen(model), torch.no_grad():
        deployed = model(batch.image).to(batch.image.dtype)
    adversarial = attack(model, batch, objective=lambda logits, _: divergence(deployed, logits), start="normal")
    # Under autocast the logits are bfloat16, too coarse for differences of logarithms.
    logits = model(torch.cat([batch.image, adversarial])).to(batch.image.dtype)
    clean, attacked = logits.chunk(2)
    return classification(clean, batch.label) + beta * divergence(clean, attacked).mean()


def divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """KL(p(x) || p(x_adv)) of each image (N,), summed over the classes; both arguments are logits (N,K)."""
    log_p, log_q = clean.log_softmax(1), adversarial.log_softmax(1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
