"""AGAIN: attribution span enlargement and hybrid feature fusion (Yin et al. 2023), in its two forms.

Span enlargement uses a fake label y' beside the true label y. y' is a permutation of the batch's labels.

``form="gate"`` (the authors' release): the features are weighted by alpha W^y + (1 - alpha) W^{y'} inside the network,
see ``attrib.models.gated``. The loss, in the attack too, is CE(final) + 2 * mean of the heads' CE. With the true label
in the gates (``gates="true"``, as released) the label leaks: the layers behind a gate learn to read y off the gate's
weights instead of the image. ``gates="own"`` (ours): y is the prediction of the gate's own head, as at test time.

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

    The plain step is AGAIN with alpha = 1 and no fusion: PGD-AT or TRADES in the logit form; in the gate form the
    gates are still trained, since inference uses them. ``ramp=False``: AGAIN at every step.
    gates: whether the gates of the gate form follow the true label or their own prediction (beside the fake label).
    generator: on the CPU. The coin, the fake labels, fusion's weight and the partners are drawn from it in this order,
    all of them at every step. fusion_stage: the stage whose input is fused; partner: (N,) positions in the batch
    instead of a random other image. beta: that of TRADES.
    Raises InputError for a form that does not go with the model, the base or ``gates``, or alpha outside [0,1].
    """
    if isinstance(model, GatedClassifier) != (form == "gate"):
        raise InputError(f"form: {form!r} needs build(..., gated={form == 'gate'}), got a {type(model).__name__}")
    if form == "gate" and base == "trades":
        raise InputError("base: 'trades' goes with form 'logit' only")
    if form == "logit" and gates == "own":
        raise InputError("gates: 'own' goes with form 'gate' only")
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha: expected a number in [0,1], got {alpha}")
    places = len(model.gates) if isinstance(model, GatedClassifier) else 1
    full, fakes, weight, others = _draws(batch.label, places, progress, generator)
    if ramp and not full:
        alpha, fusion = 1.0, False

    partner = others if partner is None else partner.to(batch.label.device)
    # The attack is on the deployed model, so it comes before fusion and before the gates are given labels.
    adversarial = _attacked(model, batch, attack=attack, base=base)
    with fused(model.stages[fusion_stage], partner, weight) if fusion else nullcontext():
        if isinstance(model, GatedClassifier):
            with model.gated_by(batch.label if gates == "true" else None, fakes, alpha):
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


def _draws(
    label: Tensor, places: int, progress: float, generator: torch.Generator
) -> tuple[bool, list[Tensor], float, Tensor]:
    """What a step draws: whether it is a full one, fake labels (N,) for each place, fusion's weight, partners (N,)."""
    full = draws_full(progress, generator)
    orders = [torch.randperm(len(label), generator=generator) for _ in range(places)]
    weight = draw_weight(generator)
    positions = torch.stack([*orders, draw_partners(len(label), generator)])
    if label.device.type == "cuda":
        # From pageable memory the upload would wait for everything that the GPU still has to do.
        positions = positions.pin_memory()
    *orders, partner = positions.to(label.device, non_blocking=True)
    return full, [label[order] for order in orders], weight, partner
