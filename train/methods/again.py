"""AGAIN: attribution span enlargement and hybrid feature fusion (Yin et al. 2023), in the two forms there are of it.

Span enlargement lets a fake label y', a permutation of the batch's labels, take part beside the true one.

``form="gate"`` (the authors' release): the features are weighted by alpha W^y + (1 - alpha) W^{y'} inside the
network, see ``attrib.gated``. The loss, in the attack too, is CE(final) + 2 * mean of the heads' CE.

``form="logit"`` (Eq. 1 of the supplement, by the first line of its proof of Theorem 1):
    -log(exp(alpha z_y + (1 - alpha) z_y') / sum_j exp(z_j)) = alpha CE(z, y) + (1 - alpha) CE(z, y'),
with a plain classifier and plain inference. A fake label is any label of the batch equally often, so in expectation
the target is alpha onehot(y) + (1 - alpha) * class frequency: label smoothing of strength 1 - alpha.
"""

from contextlib import nullcontext
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attrib.data import Batch
from attrib.errors import InputError
from attrib.gated import GatedClassifier, combined_loss
from attrib.model import Classifier
from train.attack import Attack
from train.methods import trades
from train.methods.fusion import draw_partners, draw_weight, fused

Form = Literal["gate", "logit"]
Base = Literal["pgd-at", "trades"]


def loss(
    model: Classifier,
    batch: Batch,
    *,
    attack: Attack,
    progress: float,
    generator: torch.Generator,
    alpha: float = 0.6,
    form: Form = "gate",
    fusion: bool = True,
    ramp: bool = True,
    base: Base = "pgd-at",
    beta: float = 6.0,
    fusion_stage: int = -1,
    partner: Tensor | None = None,
) -> Tensor:
    """Algorithm 1 of the supplement: with probability ``progress`` (i/N) AGAIN, else the plain step.

    The plain step is AGAIN with alpha = 1 and no fusion: PGD-AT or TRADES in the logit form; in the gate form the
    gates are still trained, since inference uses them. ``ramp=False``: AGAIN at every step.
    generator: a generator on the CPU; the coin, the fake labels, fusion's weight and partners are drawn from it in
    that order, all of them always. fusion_stage: the stage whose input is fused; partner: (N,) positions in the batch
    instead of a random other image. beta: that of TRADES.
    Raises InputError for a form that does not go with the model or the base, or alpha outside [0,1].
    """
    if isinstance(model, GatedClassifier) != (form == "gate"):
        raise InputError(f"form: {form!r} needs build(..., gated={form == 'gate'}), got a {type(model).__name__}")
    if form == "gate" and base == "trades":
        raise InputError("base: 'trades' goes with form 'logit' only")
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha: expected a number in [0,1], got {alpha}")
    coin = float(torch.rand((), generator=generator))
    places = len(model.gates) if isinstance(model, GatedClassifier) else 1
    fakes = [_permuted(batch.label, generator) for _ in range(places)]
    weight = draw_weight(generator)
    others = draw_partners(len(batch.label), generator)
    if ramp and coin >= progress:
        alpha, fusion = 1.0, False

    partner = (others if partner is None else partner).to(batch.label.device)
    # The attack is on the deployed model, so it comes before fusion and before the gates are given labels.
    adversarial = _attacked(model, batch, attack=attack, base=base)
    with fused(model.stages[fusion_stage], partner, weight) if fusion else nullcontext():
        if isinstance(model, GatedClassifier):
            with model.gated_by(batch.label, fakes, alpha):
                return combined_loss(model.all_logits(adversarial), batch.label).mean()
        classification = partial(two_label_loss, fake=fakes[0], alpha=alpha)
        if base == "trades":
            return trades.loss_on(model, batch, adversarial, beta=beta, classification=classification)
        return classification(model(adversarial), batch.label)


def _attacked(model: Classifier, batch: Batch, *, attack: Attack, base: Base) -> Tensor:
    if isinstance(model, GatedClassifier):
        return attack(model, batch, objective=combined_loss, start="normal", forward=GatedClassifier.all_logits)
    return trades.attacked(model, batch, attack=attack) if base == "trades" else attack(model, batch)


def two_label_loss(logits: Tensor, label: Tensor, *, fake: Tensor, alpha: float) -> Tensor:
    """Eq. 1 of the supplement: alpha CE(z, y) + (1 - alpha) CE(z, y'); logits (N,K), label and fake (N,) -> scalar."""
    return alpha * F.cross_entropy(logits, label) + (1 - alpha) * F.cross_entropy(logits, fake)


def _permuted(label: Tensor, generator: torch.Generator) -> Tensor:
    return label[torch.randperm(len(label), generator=generator).to(label.device)]
