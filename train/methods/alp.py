"""Adversarial Logit Pairing (Kannan et al. 2018; AALP, section 2) and the two halves of AALP as options.

    CE(x) + CE(x_adv) + weight * mean_n ||z(x_n) - z(x_n^adv)||^2                    (Eq. 1)
    guided_dropout: one mask of features before all logits, AALP_gd                  (Eq. 7, 8)
    adaptive: ... + weight * mean_n p_y(x_n) ||z(x_n) - z(x_n^adv)||^2, AALP_sw      (Eq. 9)

The squared norm is summed over the classes. AALP uses weight = 1, Kannan et al. 0.5.
Clean and adversarial images share one forward pass and so batch norm's statistics.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from attrib.data import Batch
from attrib.models.classifier import Classifier
from train.attack import Attack
from train.methods.guided_dropout import training_logits


def loss(
    model: Classifier,
    batch: Batch,
    *,
    attack: Attack,
    weight: float = 1.0,
    guided_dropout: bool = False,
    adaptive: bool = False,
) -> Tensor:
    """Cross-entropy of clean and adversarial images plus ``weight`` times the distance between their logits."""
    label = batch.label.repeat(2)
    images = torch.cat([batch.image, attack(model, batch)])
    logits = training_logits(model, images, label, guided_dropout=guided_dropout)
    classification = 2 * F.cross_entropy(logits, label)  # the mean over both halves is half the sum of the two
    clean, adversarial = logits.chunk(2)
    pairing = (clean - adversarial).square().sum(1)
    if adaptive:
        pairing = confidence(clean, batch.label) * pairing
    return classification + weight * pairing.mean()


def confidence(logits: Tensor, label: Tensor) -> Tensor:
    """p_y(x) of each image (N,): Probs_clean of AALP's Eq. 9. It is a weight, so it has no gradient.

    logits: (N,K) of the training pass, masked if Guided Dropout is on. The paper trains with the dropout layer in place
    (Figure 5), which masks z in the same product too. label: (N,).
    """
    return logits.detach().softmax(1).gather(1, label[:, None]).squeeze(1)
