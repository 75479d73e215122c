"""Guided Dropout (AALP, 3.1): train the half of the features A_fc on which the decision depends most.

    R = mean_n |dL/dA_fc * A_fc|        (Eq. 7)
    mask = R >= median(R)               (Eq. 8)

L is the cross-entropy. Its gradient before a linear last layer is ``(p - onehot(y)) W``, so no backward pass is needed.
There is one mask for the whole batch, over all processes. Kept features are not rescaled. Inference and attack do not
use the mask.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from attrib.models.classifier import Classifier


@torch.no_grad()
def relevance_mask(embedding: Tensor, fc: nn.Linear, label: Tensor) -> Tensor:
    """The mask of features (D,): 1 where Eq. 8 holds, else 0. It has the embedding's type and no gradient.

    embedding: (N,D), the A_fc of all images that share the mask; fc: D to K; label: (N,).
    The median is the mean of the middle two, so without ties ceil(D/2) features stay.
    """
    with torch.autocast(embedding.device.type, enabled=False):
        activation = embedding.to(fc.weight.dtype)  # float32, also where autocast made the embedding bfloat16
        error = F.linear(activation, fc.weight, fc.bias).softmax(1) - F.one_hot(label, fc.out_features)
        # Sum instead of mean: a common factor does not change Eq. 8, and the processes' batches may differ in size.
        relevance = (error @ fc.weight * activation).abs().sum(0)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(relevance)
    # Not torch.median, which takes the lower of the middle two.
    return (relevance >= relevance.quantile(0.5)).to(embedding.dtype)


def training_logits(model: Classifier, image: Tensor, label: Tensor, *, guided_dropout: bool) -> Tensor:
    """The logits (N,K) for a training loss, with or without Guided Dropout, in the type of the images.

    image: (N,C,H,W), all images of the step: they share one mask. label: (N,).
    """
    if guided_dropout:
        embedding = model.embed(image)
        logits: Tensor = model.fc(embedding * relevance_mask(embedding, model.fc, label))
    else:
        logits = model(image)
    return logits.to(image.dtype)
