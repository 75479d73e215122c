"""TRADES (Zhang et al. 2019, Algorithm 1): accuracy on x, smoothness around it.

    CE(x) + beta * mean_n KL(p(x_n) || p(x_n^adv)),   x_adv = argmax KL(p(x) || p(x_adv))

The attack starts at x + 0.001 N(0,1), since the KL has no gradient at x itself. Clean and adversarial images share one
forward pass and so batch norm's statistics. The authors' code makes two passes.
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
) -> Tensor:
    """Cross-entropy of the clean images plus ``beta`` times the divergence of clean and adversarial predictions."""
    return loss_on(model, batch, adversarial_images(model, batch, attack=attack), beta=beta)


def adversarial_images(model: nn.Module, batch: Batch, *, attack: Attack) -> Tensor:
    """x_adv (N,C,H,W): the images whose predictions are furthest from those of the clean ones.

    The clean predictions are those of the deployed model (eval mode). They are fixed and have no gradient.
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
    classification: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """The loss (0-dim) for given adversarial images (N,C,H,W).

    classification: takes clean logits (N,K) and labels (N,), gives the mean loss; for methods built on TRADES.
    """
    # Under autocast the logits are bfloat16, which is too coarse for differences of logarithms.
    logits = model(torch.cat([batch.image, adversarial])).to(batch.image.dtype)
    clean, perturbed = logits.chunk(2)
    return classification(clean, batch.label) + beta * divergence(clean, perturbed).mean()


def divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """KL(p(x) || p(x_adv)) of each image (N,), summed over the classes; both arguments are logits (N,K)."""
    log_p, log_q = clean.log_softmax(1), adversarial.log_softmax(1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def _divergence_from(adversarial: Tensor, clean: Tensor) -> Tensor:
    return divergence(clean, adversarial)
