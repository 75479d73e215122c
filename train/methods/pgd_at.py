"""PGD adversarial training (Madry et al. 2018): CE(x_adv), or CE(x) + CE(x_adv) as in AALP's section 1.

With Guided Dropout it is "ADV+gd" of AALP's Table 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from attrib.data import Batch
from attrib.errors import InputError
from attrib.models.classifier import Classifier
from train.attack import Attack
from train.methods.guided_dropout import training_logits
from train.methods.ramp import draws_full


def loss(
    model: Classifier,
    batch: Batch,
    *,
    attack: Attack,
    mixed: bool = False,
    label_smoothing: float = 0.0,
    smoothing_ramp: bool = False,
    guided_dropout: bool = False,
    progress: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cross-entropy of the adversarial images, plus that of the clean ones if ``mixed``.

    label_smoothing: share of the target spread evenly over all K classes. smoothing_ramp: smooth only with probability
    ``progress`` = i/N. This is AGAIN's schedule, and ``generator`` (on the CPU) draws the same coin as AGAIN's loss.
    The attack and the mask of ``guided_dropout`` use the loss without smoothing. The mask is computed from the images
    trained on, so from clean ones only if ``mixed``. Raises InputError for a ramp without a generator.
    """
    if smoothing_ramp:
        if generator is None:
            raise InputError("generator: expected one for smoothing_ramp, got None")
        label_smoothing = label_smoothing if draws_full(progress, generator) else 0.0
    image, label = attack(model, batch), batch.label
    if mixed:
        image, label = torch.cat([batch.image, image]), label.repeat(2)
    logits = training_logits(model, image, label, guided_dropout=guided_dropout)
    # The mean over both halves is half the sum of the two losses.
    return (2 if mixed else 1) * F.cross_entropy(logits, label, label_smoothing=label_smoothing)
