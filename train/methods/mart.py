"""MART (Wang et al. 2020): misclassified images get a stronger pull towards consistency.

    mean_n BCE(x_n^adv) + weight * mean_n KL(p(x_n) || p(x_n^adv)) (1 - p_y(x_n))
    BCE(x_adv) = -log p_y(x_adv) - log(1 - max_{k != y} p_k(x_adv))

x_adv comes from PGD on the cross-entropy with a uniform start (the authors' code starts at x + 0.001 N(0,1)).
The factor 1 - p_y(x) has a gradient, as in their code. Clean and adversarial images share one forward pass.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrib.data import Batch
from train.attack import Attack
from train.methods.trades import divergence


def loss(model: nn.Module, batch: Batch, *, attack: Attack, weight: float = 5.0) -> Tensor:
    """Boosted cross-entropy of the adversarial images plus ``weight`` times the second mean of the equation."""
    images = torch.cat([batch.image, attack(model, batch)])
    # Under autocast the logits are bfloat16, which is too coarse for differences of logarithms.
    logits: Tensor = model(images).to(batch.image.dtype)
    clean, adversarial = logits.chunk(2)
    doubt = 1 - clean.softmax(1).gather(1, batch.label[:, None]).squeeze(1)
    return boosted_cross_entropy(adversarial, batch.label) + weight * (divergence(clean, adversarial) * doubt).mean()


def boosted_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """BCE: the cross-entropy plus a margin term against the strongest wrong class, mean over (N,).

    logits: (N,K), K >= 2; label: (N,).
    """
    log_p = logits.log_softmax(1)
    rival = log_p.scatter(1, label[:, None], -torch.inf).argmax(1, keepdim=True)
    # 1 - p_rival as the sum of all other p: its logarithm needs no guard against log 0.
    # (The authors' code takes log(1.0001 - p + 1e-12), which caps the term at 9.2 and bounds its gradient.)
    log_rest = log_p.scatter(1, rival, -torch.inf).logsumexp(1)
    return F.nll_loss(log_p, label) - log_rest.mean()
