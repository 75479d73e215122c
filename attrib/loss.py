"""The classification loss and the margin, which attacks maximise, and which maps and contributions explain.

Let d = log sum_{j != y} exp z_j - z_y, minus the log-odds of the true class. Then 1 - p_y = sigmoid(d) and

    L = -log p_y = log(1 + exp d),    dL = (1 - p_y) dd

Both are computed in this form. The backward pass of the usual cross-entropy computes 1 - p_y by subtraction, which in
float32 loses its digits when p_y is close to 1. On confidently classified images, its gradient would be noise or zero,
and so would the attacks and maps that use it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from attrib.errors import InputError


def full(logits: Tensor) -> Tensor:
    """The logits in float32, or in float64 if they are float64."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def check_classes(label: Tensor, classes: int) -> None:
    """Raise InputError unless all labels (N,) are in 0..classes - 1; waits for a GPU once."""
    if not len(label):
        return
    low, high = torch.stack(torch.aminmax(label)).tolist()
    if low < 0 or high >= classes:
        raise InputError(f"label: expected classes in 0..{classes - 1}, got {sorted(set(label.tolist()))}")


def without_own(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """z_y (N,), and the logits (N,K) with minus infinity in place of z_y.

    The labels must be classes, or a GPU aborts. Callers check them once with ``check_classes``; a check here would make
    every step of an attack wait for the GPU.
    """
    return logits.gather(1, label[:, None]).squeeze(1), logits.scatter(1, label[:, None], -torch.inf)


def deficit(logits: Tensor, label: Tensor) -> Tensor:
    """d = log sum_{j != y} exp z_j - z_y of each image (N,): minus the log-odds log(p_y / (1 - p_y)).

    logits: (N,K) with K >= 2; label: (N,).

    >>> z, y = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([1])
    >>> p = z.softmax(1)[0, 1]
    >>> torch.allclose(deficit(z, y), -(p / (1 - p)).log())
    True
    """
    own, others = without_own(full(logits), label)
    return others.logsumexp(1) - own


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """The classification loss L = -log p_y of each image, (N,), which FGSM and PGD maximise.

    logits: (N,K) with K >= 2; label: (N,).

    >>> z, y = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([1])
    >>> torch.allclose(cross_entropy(z, y), F.cross_entropy(z, y))
    True
    >>> sure = torch.tensor([[0.0, 30.0]], requires_grad=True)  # 1 - p_y is 1e-13, and 0 in float32
    >>> cross_entropy(sure, y).sum().backward()
    >>> bool(sure.grad[0, 1] < 0), float(sure.grad.sum())
    (True, 0.0)
    """
    return -F.logsigmoid(-deficit(logits, label))


def margin(logits: Tensor, label: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y of each image, (N,), positive if it is misclassified; CW maximises it.

    >>> margin(torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([1]))
    tensor([2.])
    """
    own, others = without_own(full(logits), label)
    return others.amax(1) - own
