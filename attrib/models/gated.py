"""AGAIN's gate form: a classifier that multiplies its features, channel by channel, by a class's weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrib.errors import InputError
from attrib.loss import cross_entropy
from attrib.models.classifier import Classifier, Residual


class Gate(nn.Module):
    """Multiply features (N,C,h,w) channel by channel by a row of W (K,C), the weights of the gate's own linear head.

    The head classifies the features averaged over positions. The row is W^y for the class y that the head predicts;
    inside ``GatedClassifier.gated_by`` it is a mix of rows (AGAIN, supplement; authors' release). Raises InputError if
    the number of given labels is not the number of images.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, num_classes)
        self.given: Tensor | None = None
        """(N,K): the share of each class in the mix, from the given labels; None: no labels were given."""
        self.own: Tensor | None = None
        """0-dim: the share of the head's own prediction beside ``given``; None: no share."""
        self.record: list[Tensor] | None = None
        """If it is a list, the head appends its logits (N,K)."""

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features.mean((2, 3)))
        if self.record is not None:
            self.record.append(logits)
        given, own = self.given, self.own
        if given is not None and len(given) != len(features):
            raise InputError(f"gated_by: labels were given for {len(given)} images, the model came to {len(features)}")
        if given is None or own is not None:
            # A product with one-hot rows is exact and, unlike indexing W, has a backward pass that repeats bit by bit.
            predicted = F.one_hot(logits.argmax(1), self.head.out_features).to(self.head.weight.dtype)
            given = predicted if given is None or own is None else given + own * predicted
        weights = given.to(self.head.weight.dtype) @ self.head.weight
        return features * weights[:, :, None, None].to(features.dtype)


class GatedClassifier(Classifier):
    """A classifier with two gates, each with a linear head of its own, as in the authors' release of AGAIN.

    The first gate acts on the input of the first convolution of the last residual block's branch: relu(bn(x)) in a
    pre-activation block, the block's input x in a post-activation block. The shortcut is not gated. The second gate
    acts on the final features and is the last module of the last stage. So ``features`` is the output of
    ``stages[-1]``, ``embed`` pools it, and ``forward`` applies the last layer, as in every ``Classifier``. Grad-CAM
    equals Grad-CAM on the ungated final features, because a gate only scales channels:
    dz/dF_c F_c = dz/dG_c G_c for G_c = w_c F_c.

    Outside ``gated_by`` the gates use the predictions of their heads, so ``forward`` depends on x alone.
    A prediction is an argmax, which has no gradient. An attack on the final logits alone therefore overestimates the
    robustness; see ``attrib.accuracy.attack_paths``. The given modules are changed in place.
    Raises InputError if the stages have no residual block.
    """

    def __init__(
        self,
        stages: nn.Sequential,
        pool: nn.Module,
        fc: nn.Linear,
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(stages, pool, fc, mean=mean, std=std)
        _insert_gates(stages, fc.out_features)

    @property
    def gates(self) -> list[Gate]:
        """The gates in the order in which the features pass them."""
        return [module for module in self.stages.modules() if isinstance(module, Gate)]

    @contextmanager
    def gated_by(self, label: Tensor | None, fake_labels: Sequence[Tensor], alpha: float) -> Iterator[None]:
        """Inside, gate g multiplies by ``alpha W^y + (1 - alpha) W^fake_labels[g]`` instead of W^prediction.

        label: y, (N,); None: y is the prediction of the gate's own head. fake_labels: one (N,) per gate; alpha in
        [0,1]. The former state is restored at the end, also after an exception. Raises InputError for a wrong number
        or shape of fake labels, or another alpha.
        """
        gates = self.gates
        shape = next((labels.shape for labels in (label, *fake_labels) if labels is not None), torch.Size())
        if [fake.shape for fake in fake_labels] != [shape] * len(gates):
            shapes = ", ".join(str(tuple(fake.shape)) for fake in fake_labels) or "none"
            raise InputError(f"fake_labels: expected {len(gates)} of shape {tuple(shape)}, got {shapes}")
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha: expected a number in [0,1], got {alpha}")
        before = [(gate.given, gate.own) for gate in gates]
        try:
            for gate, fake in zip(gates, fake_labels, strict=True):
                gate.given = (1 - alpha) * self._one_hot(fake)
                if label is None:
                    # torch.compile would compile the gate again for every new number, but not for a tensor.
                    gate.own = gate.given.new_full((), alpha)
                else:
                    gate.given += alpha * self._one_hot(label)
                    gate.own = None
            yield
        finally:
            for gate, (given, own) in zip(gates, before, strict=True):
                gate.given, gate.own = given, own

    def _one_hot(self, label: Tensor) -> Tensor:
        return F.one_hot(label, self.fc.out_features).to(self.fc.weight.dtype)

    def all_logits(self, x: Tensor) -> Tensor:
        """The final logits and each head's, from one pass: (N,C,H,W) in [0,1] -> (1 + heads, N, K), final first."""
        record: list[Tensor] = []
        try:
            for gate in self.gates:
                gate.record = record
            final: Tensor = self(x)
        finally:
            for gate in self.gates:
                gate.record = None
        return torch.stack([final, *record])

    def heads(self, x: Tensor) -> list[Tensor]:
        """The logits of each gate's head, (N,K) each: (N,C,H,W) in [0,1] -> list in the order of ``gates``."""
        return list(self.all_logits(x)[1:])


def heads_loss(logits: Tensor, label: Tensor) -> Tensor:
    """The mean of the heads' cross-entropies: ``all_logits`` (1 + heads, N, K) and label (N,) -> (N,)."""
    return torch.stack([cross_entropy(head, label) for head in logits[1:]]).mean(0)


def combined_loss(logits: Tensor, label: Tensor, *, heads_weight: float = 2.0) -> Tensor:
    """CE of the final logits + 2 * mean of the heads' CE: the loss of training and of attacks (AGAIN's release).

    ``all_logits`` (1 + heads, N, K) and label (N,) -> (N,). ``ascend(model.all_logits, combined_loss, ...)`` attacks
    it.
    """
    return cross_entropy(logits[0], label) + heads_weight * heads_loss(logits, label)


def _insert_gates(stages: nn.Sequential, num_classes: int) -> None:
    """Insert the gates into the stages; no other weight changes its name."""
    last = stages[-1]
    blocks = [module for module in stages.modules() if isinstance(module, Residual)]
    if not blocks or not isinstance(last, nn.Sequential):
        raise InputError("stages: expected a residual block for the first gate, and a Sequential as the last stage")
    branch = blocks[-1].branch
    parts = list(branch.named_children())
    first, convolution = next((n, part) for n, (_, part) in enumerate(parts) if isinstance(part, nn.Conv2d))
    # A Sequential runs its children in the order of insertion, so the rest is added again after the gate.
    for name, _ in parts[first:]:
        delattr(branch, name)
    branch.add_module("gate", Gate(convolution.in_channels, num_classes))
    for name, part in parts[first:]:
        branch.add_module(name, part)
    last.add_module("gate", Gate(_convolutions(last)[-1].out_channels, num_classes))


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]
