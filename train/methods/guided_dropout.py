"""Guided Dropout (AALP, 3.1): train the half of the features A_fc that the decision rests on.

    R = mean_n |dL/dA_fc * A_fc|        (Eq. 7)
    mask = R >= median(R)               (Eq. 8)

L is the cross-entropy, whose gradient before a linear last layer is ``(p - onehot(y)) W``: no backward pass.
There is one mask for the whole batch, over all processes. What is kept is not rescaled. Inference and attack
never see the mask.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from attrib.models.classifier import Classifier


@torch.no_grad()
def relevance_mask(embedding: Tensor, fc: nn.Linear, label: Tensor) -> Tensor:
    """The features to keep: 1 where Eq. 8 holds, 0 elsewhere, (D,), in the embedding's type, without gradient.

    embedding: (N,D), the A_fc of all images that share the mask; fc: D to K; label: (N,).
    The median is the mean of the middle two, so without ties ceil(D/2) features stay.
    """
    with torch.autocast(embedding.device.type, enabled=False):
        activation = embedding.to(fc.weight.dtype)  # float32, also where autocast made the embedding bfloat16
        error = F.linear(activation, fc.weight, fc.bias).softmax(1) - F.one_hot(label, fc.out_features)
        # The sum stands for the mean, since Eq. 8 is blind to a common factor; so shards may differ in size.
        relevance = (error @ fc.weight * activation).abs().sum(0)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(relevance)
    # Not torch.median, which is the lower of the middle two.
    return (relevance >= relevance.quantile(0.5)).to(embedding.dtype)


def training_logits(model: Classifier, image: Tensor, label: Tensor, *, guided_dropout: bool) -> Tensor:
    """The logits (N,K) that a loss is made of, with or without Guided Dropout, in the type of the images.

    image: (N,C,H,W), all images of the step, which share one mask; label: (N,).
    """
    if guided_dropout:
        embedding = model.embed(image)
        logits: Tensor = model.fc(embedding * relevance_mask(embedding, model.fc, label))
    else:
        logits = model(image)
    return logits.to(image.dtype)
