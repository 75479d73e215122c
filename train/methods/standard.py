"""Standard training: CE(x), without an attack. With Guided Dropout it is "Raw+gd" of AALP's Table 3."""

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
    attack: Attack,  # noqa: ARG001
    guided_dropout: bool = False,
) -> Tensor:
    """Cross-entropy of the clean images; ``attack`` is not used."""
    logits = training_logits(model, batch.image, batch.label, guided_dropout=guided_dropout)
    return F.cross_entropy(logits, batch.label)
