"""Adaptive Adversarial Logits Pairing (AALP, Eq. 10): ALP with Guided Dropout and adaptive sample weights.

    CE(x) + CE(x_adv) + alpha * mean_n p_y(x_n) ||z(x_n) - z(x_n^adv)||^2

All logits are masked by Guided Dropout. Clean and adversarial images share one mask.
"""

from torch import Tensor

from attrib.data import Batch
from attrib.models.classifier import Classifier
from train.attack import Attack
from train.methods import alp


def loss(model: Classifier, batch: Batch, *, attack: Attack, alpha: float = 1.0) -> Tensor:
    """ALP with both halves of AALP. ``alpha`` weights the pairing against the classification."""
    return alp.loss(model, batch, attack=attack, weight=alpha, guided_dropout=True, adaptive=True)
