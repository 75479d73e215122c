"""Theorem 1 of the AGAIN supplement, checked numerically: ``python -m train.theorem``.

Let z be the logits of an image with label y and fake label y' != y. In the logit form the loss is
    L = alpha CE(z, y) + (1 - alpha) CE(z, y').
Theorem 1: if its gradient with respect to X = z_y - z_y' is zero,
    X = log(alpha c / (1 - alpha)),   c = 1 + sum over j != y, y' of exp(z_j - z_y').
The theorem holds if z_y is free and the other logits are fixed. Then p_y = alpha. For 0 < alpha < 1 the gap X is
finite; with cross-entropy (alpha = 1) it is infinite.

The proof's premise fails. The proof assumes "an ideal robust classifier, L = 0", but L is always above 0. L is the
cross-entropy to the target alpha onehot(y) + (1 - alpha) onehot(y'), so it is at least the target's entropy
    H(alpha) = -alpha log alpha - (1 - alpha) log(1 - alpha),   0.673 for alpha = 0.6.
Over all logits H is the greatest lower bound. L approaches it as the K - 2 other logits go to minus infinity (for K = 2
L attains it). With only z_y free, y' gets the share 1/c of the remaining 1 - alpha, and the minimum of L is
    H(alpha) + (1 - alpha) log c.
The theorem does not need the premise: a zero gradient suffices. The proof also says "C is a constant with respect to
alpha". That is true for fixed c, but c depends on the other logits, which training changes too: over all logits
c -> 1 and X -> log(alpha / (1 - alpha)).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor

from train.methods.again import two_label_loss


class Row(NamedTuple):
    """The numerical results for one alpha and K beside the formulas' values."""

    alpha: float
    classes: int
    c: float
    gap: float
    """z_y - z_y' at the minimum over z_y."""
    gap_predicted: float
    least: float
    """The loss at that minimum."""
    least_predicted: float
    least_over_all: float
    """The least loss with all logits free."""
    entropy: float


def check(alpha: float, classes: int, *, seed: int = 0) -> Row:
    """Minimise the loss over z_y with the other logits fixed at random, then over all logits. y is 0 and y' is 1.

    alpha in (0,1), classes at least 2. Uses scipy's minimisers in float64, and nothing of the derivation.
    """
    logits = 2 * torch.randn(classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    start = logits.clone()

    def loss_at(true_logit: float) -> float:
        logits[0] = true_logit
        return float(_loss(logits, alpha))

    minimum = minimize_scalar(loss_at, bracket=(-1.0, 1.0))
    others = logits[1:]
    c = float((others - others[0]).exp().sum())

    def loss_and_gradient(z: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        free = torch.tensor(z, requires_grad=True)
        value = _loss(free, alpha)
        (gradient,) = torch.autograd.grad(value, free)
        return float(value.detach()), np.asarray(gradient)

    all_free = minimize(loss_and_gradient, start.numpy(), jac=True, method="BFGS", options={"gtol": 1e-8})
    return Row(
        alpha, classes, c,
        gap=float(minimum.x - others[0]), gap_predicted=math.log(alpha * c / (1 - alpha)),
        least=float(minimum.fun), least_predicted=entropy(alpha) + (1 - alpha) * math.log(c),
        least_over_all=float(all_free.fun), entropy=entropy(alpha),
    )  # fmt: skip


def entropy(alpha: float) -> float:
    """H(alpha) of a coin in nats, alpha in (0,1)."""
    return -alpha * math.log(alpha) - (1 - alpha) * math.log(1 - alpha)


def _loss(logits: Tensor, alpha: float) -> Tensor:
    return two_label_loss(logits[None], torch.tensor([0]), fake=torch.tensor([1]), alpha=alpha)


def main() -> None:
    """Print one row for each of several alpha and K."""
    print("Theorem 1 of the AGAIN supplement: other logits fixed at random (2 N(0,1)), z_y free")
    print("gap = log(alpha c / (1 - alpha)); least = H + (1 - alpha) log c; with all logits free the least loss is H\n")
    print(" alpha    K         c |      gap   formula |    least   formula | all free  H(alpha)")
    for classes in (2, 3, 10, 100):
        for alpha in (0.5, 0.6, 0.8, 0.95, 0.999):
            row = check(alpha, classes, seed=5)  # of the first seeds, the one with c well above 1 for every K > 2
            print(
                f"{alpha:6.3f} {classes:4d} {row.c:9.2f} | {row.gap:8.5f}  {row.gap_predicted:8.5f}"
                f" | {row.least:8.5f}  {row.least_predicted:8.5f} | {row.least_over_all:8.5f}  {row.entropy:8.5f}"
            )


if __name__ == "__main__":
    main()
