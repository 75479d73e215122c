"""AGAIN: attribution span enlargement and hybrid feature fusion (Yin et al. 2023), in its two forms.

Span enlargement uses a fake label y' beside the true label y. y' is a permutation of the batch's labels.

``form="gate"`` (the authors' release): the network weights its features by alpha W^y + (1 - alpha) W^{y'}, see
``attrib.models.gated``. The loss, also that of the attack, is CE(final) + 2 * mean of the heads' CE. With the true
label in the gates (``gates="true"``, as released) the label leaks: the layers behind a gate learn to read y off the
gate's weights instead of the image. With ``gates="own"`` (ours) y is the prediction of the gate's own head, as at
test time.

``form="logit"`` (Eq. 1 of the supplement, by the first line of its proof of Theorem 1):
    -log(exp(alpha z_y + (1 - alpha) z_y') / sum_j exp(z_j)) = alpha CE(z, y) + (1 - alpha) CE(z, y'),
with a plain classifier and plain inference. The fake label takes every label of the batch equally often. So the
expected target is alpha onehot(y) + (1 - alpha) * class frequency: label smoothing of strength 1 - alpha.
"""

from contextlib import nullcontext
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attrib.data import Batch
from attrib.errors import InputError
from attrib.models.classifier import Classifier
from attrib.models.gated import GatedClassifier, combined_loss
from train.attack import Attack
from train.methods import trades
from train.methods.fusion import draw_partners, draw_weight, fused
from train.methods.ramp import draws_full

Form = Literal["gate", "logit"]
Gates = Literal["true", "own"]
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
    gates: Gates = "true",
    fusion: bool = True,
    ramp: bool = True,
    base: Base = "pgd-at",
    beta: float = 6.0,
    fusion_stage: int = -1,
    partner: Tensor | None = None,
) -> Tensor:
    """Algorithm 1 of the supplement: with probability ``progress`` (i/N) AGAIN, else the plain step.

    The plain step is AGAIN with alpha = 1 and no fusion. In the logit form this is PGD-AT or TRADES; in the gate form
    the gates are still trained, since inference uses them. ``ramp=False``: AGAIN at every step.
    gates: in the gate form, mix the fake label with the true one or with the gate's own prediction.
    generator: on the CPU. Every step draws from it the coin, the fake labels, fusion's weight and the partners, in this
    order. fusion_stage: fuse the input of this stage. partner: (N,) positions in the batch of the images to fuse with;
    None: a random other image each. beta: that of TRADES.
    Raises InputError if the form does not fit the model, the base or ``gates``, or if alpha is outside [0,1].
    """
    if isinstance(model, GatedClassifier) != (form == "gate"):
        raise InputError(f"form: {form!r} needs build(..., gated={form == 'gate'}), got a {type(model).__name__}")
    if form == "gate" and base == "trades":
        raise InputError("base: 'trades' goes with form 'logit' only")
    if form == "logit" and gates == "own":
        raise InputError("gates: 'own' goes with form 'gate' only")
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha: expected a number in [0,1], got {alpha}")
    count = len(model.gates) if isinstance(model, GatedClassifier) else 1
    full, fakes, weight, random_partner = _draws(batch.label, count, progress, generator)
    if ramp and not full:
        alpha, fusion = 1.0, False

    partner = random_partner if partner is None else partner.to(batch.label.device)
    # Attack the deployed model: before fusion, and before the gates get labels.
    adversarial = _attack(model, batch, attack=attack, base=base)
    with fused(model.stages[fusion_stage], partner, weight) if fusion else nullcontext():
        if isinstance(model, GatedClassifier):
            with model.gated_by(batch.label if gates == "true" else None, fakes, alpha):
                return combined_loss(model.all_logits(adversarial), batch.label).mean()
        classification = partial(two_label_loss, fake=fakes[0], alpha=alpha)
        if base == "trades":
            return trades.loss_on(model, batch, adversarial, beta=beta, classification=classification)
        return classification(model(adversarial), batch.label)


def _attack(model: Classifier, batch: Batch, *, attack: Attack, base: Base) -> Tensor:
    if isinstance(model, GatedClassifier):
        return attack(model, batch, objective=combined_loss, start="normal", forward=GatedClassifier.all_logits)
    return trades.adversarial_images(model, batch, attack=attack) if base == "trades" else attack(model, batch)


def two_label_loss(logits: Tensor, label: Tensor, *, fake: Tensor, alpha: float) -> Tensor:
    """Eq. 1 of the supplement: alpha CE(z, y) + (1 - alpha) CE(z, y'); logits (N,K), label and fake (N,) -> scalar."""
    return alpha * F.cross_entropy(logits, label) + (1 - alpha) * F.cross_entropy(logits, fake)


def _draws(
    label: Tensor, count: int, progress: float, generator: torch.Generator
) -> tuple[bool, list[Tensor], float, Tensor]:
    """Draw whether the step is full, ``count`` times fake labels (N,), fusion's weight and partners (N,)."""
    full = draws_full(progress, generator)
    orders = [torch.randperm(len(label), generator=generator) for _ in range(count)]
    weight = draw_weight(generator)
    positions = torch.stack([*orders, draw_partners(len(label), generator)])
    if label.device.type == "cuda":
        # An upload from pageable memory would wait for all pending work of the GPU.
        positions = positions.pin_memory()
    *orders, partner = positions.to(label.device, non_blocking=True)
    return full, [label[order] for order in orders], weight, partner
