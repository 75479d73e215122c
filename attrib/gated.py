"""AGAIN's gate form: a classifier whose features are weighted, channel by channel, by the weights of a class."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrib.errors import InputError
from attrib.loss import cross_entropy
from attrib.model import Classifier, Residual


class Gate(nn.Module):
    """Features (N,C,h,w) times ``alpha W^y + (1 - alpha) W^{y'}``, W (K,C) being the weights of the gate's own head.

    The head is linear on the features averaged over positions. Without labels y is what the head predicts, and
    there is no fake label: alpha is 1. Raises InputError where labels were given for another number of images.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, num_classes)
        self.blend: Tensor | None = None
        """alpha onehot(y) + (1 - alpha) onehot(y'), (N,K), while labels are given."""
        self.record: list[Tensor] | None = None
        """Where the head's logits (N,K) go while somebody asks for them."""

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features.mean((2, 3)))
        if self.record is not None:
            self.record.append(logits)
        blend = self.blend
        if blend is None:
            blend = F.one_hot(logits.argmax(1), self.head.out_features)
        elif len(blend) != len(features):
            raise InputError(f"gated_by: labels were given for {len(blend)} images, the model came to {len(features)}")
        # A product with one-hot rows is exact and, unlike indexing W, has a backward pass that repeats bit by bit.
        weights = blend.to(self.head.weight.dtype) @ self.head.weight
        return features * weights[:, :, None, None].to(features.dtype)


class GatedResidual(Residual):
    """``after(branch(gate(x)) + shortcut(x))``: the shortcut stays ungated."""

    def __init__(self, block: Residual, gate: Gate) -> None:
        super().__init__(block.branch, block.shortcut, block.after)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(self.branch(self.gate(x)) + self.shortcut(x))
        return out


class GatedClassifier(Classifier):
    """A classifier with two gates, as in the authors' release of AGAIN, each with a linear head of its own.

    The first gates the input of the last residual block's branch, the second the final features. An architecture
    without residual blocks (lenet) has the second one only: averaged over positions, the 20 channels before its
    last convolution tell no class, and a gate that follows a head at chance leaves the whole model there. The gate
    of the final features is the last module *inside* the last stage, so all that ``Classifier`` promises still
    holds: ``features`` is the output of ``stages[-1]``, ``embed`` its pooling, ``forward`` the last layer on that.
    Grad-CAM there is the same map as on the ungated final features, because a gate only scales channels:
    dz/dF_c F_c = dz/dG_c G_c for G_c = w_c F_c.

    ``forward`` stays one function of x: the gates follow their heads' predictions, except inside ``gated_by``.
    A prediction is an argmax, so no gradient says how to change it: an attack on the final logits alone can
    overrate the model (see ``combined_loss`` and ``heads_loss``). The parts that are given become this model's.
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
    def gated_by(self, label: Tensor, fake_labels: Sequence[Tensor], alpha: float) -> Iterator[None]:
        """Inside, gate g weighs by ``alpha W^label + (1 - alpha) W^fake_labels[g]`` and not by its prediction.

        label: (N,); fake_labels: one (N,) per gate; alpha in [0,1]. What was before is restored, also when the
        body raises. Raises InputError for another number or shape of fake labels, or another alpha.
        """
        gates = self.gates
        if [fake.shape for fake in fake_labels] != [label.shape] * len(gates):
            found = ", ".join(str(tuple(fake.shape)) for fake in fake_labels) or "none"
            raise InputError(f"fake_labels: expected {len(gates)} of shape {tuple(label.shape)}, got {found}")
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha: expected a number in [0,1], got {alpha}")
        true = self._one_hot(label)
        before = [gate.blend for gate in gates]
        try:
            for gate, fake in zip(gates, fake_labels, strict=True):
                gate.blend = alpha * true + (1 - alpha) * self._one_hot(fake)
            yield
        finally:
            for gate, blend in zip(gates, before, strict=True):
                gate.blend = blend

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
    """CE of the final logits + 2 * mean of the heads' CE (AGAIN's release): what training descends and attacks ascend.

    ``all_logits`` (1 + heads, N, K) and label (N,) -> (N,). An attack on it is
    ``ascend(model.all_logits, combined_loss, ...)``.
    """
    return cross_entropy(logits[0], label) + heads_weight * heads_loss(logits, label)


def _insert_gates(stages: nn.Sequential, num_classes: int) -> None:
    """Put the gates into the stages; no other module, and so no other weight, changes its name."""
    last = stages[-1]
    assert isinstance(last, nn.Sequential)
    blocks = [(name, module) for name, module in stages.named_modules() if isinstance(module, Residual)]
    if blocks:
        name, block = blocks[-1]
        gated = GatedResidual(block, Gate(_convolutions(block.branch)[0].in_channels, num_classes))
        parent, _, child = name.rpartition(".")
        setattr(stages.get_submodule(parent), child, gated)
    last.add_module("gate", Gate(_convolutions(last)[-1].out_channels, num_classes))


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]
