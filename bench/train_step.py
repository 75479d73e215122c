"""A step of PGD adversarial training against the plain float32 loop of the references: ``python -m bench.train_step``.

The peer is the loop of the TRADES repository's PGD-AT baseline: the attack in eval mode with autograd.grad to the
images only, then one descent in training mode, all in float32. Own side: what ``python -m train pgd-at`` does for a
batch. Both have a network and an optimizer of their own.
"""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrib import inference
from attrib.data import Batch
from attrib.model import Classifier
from bench.timing import EPS, STEP_SIZE, begin, example, in_turn, parser, publish, versus
from train.attack import pgd_attack
from train.methods import pgd_at

STEPS = 10


def main() -> None:
    """Print the comparison and write it as JSON."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--arch", default="resnet18")
    options.add_argument("--batch-size", type=int, default=64)
    chosen = options.parse_args()
    device = begin(chosen)
    model, batch = example(chosen.arch, chosen.batch_size, device)
    plain = deepcopy(model)
    plain_optimizer = sgd(plain)
    own = Own(model, device)
    laid = batch._replace(image=batch.image.contiguous(memory_format=torch.channels_last))
    taken = in_turn(
        {"attrib": lambda: own.step(laid), "plain": lambda: plain_step(plain, plain_optimizer, *batch[:2])},
        rounds=chosen.rounds, device=device,
    )  # fmt: skip
    publish(
        "train_step",
        f"One step of PGD-{STEPS} adversarial training, {chosen.arch}, batch {chosen.batch_size}, {own.precision},"
        f" {torch.get_num_threads()} threads, {device}; median of {chosen.rounds} rounds",
        [versus("auto against the plain fp32 loop", taken, asked=5 if device.type == "cuda" else 2.2)],
        chosen, device, seconds=taken,
    )  # fmt: skip


def sgd(model: nn.Module) -> torch.optim.SGD:
    """As the recipes have it."""
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)


class Own:
    """What training does for one batch, with what ``train`` does to the model before."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        assert isinstance(model, Classifier)
        self.precision = inference.precision("auto", device)
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if device.type == "cuda":
            for stage in self.model.stages:
                stage.forward = torch.compile(stage.forward)
        self.optimizer = sgd(self.model)
        self.attack = pgd_attack(
            eps=EPS, step_size=STEP_SIZE, steps=STEPS, seed=0, epoch=1, precision=self.precision
        )  # fmt: skip

    def step(self, batch: Batch) -> None:
        """One descent."""
        self.model.train()
        self.optimizer.zero_grad()
        with inference.autocast(batch.image.device, self.precision):
            loss = pgd_at.loss(self.model, batch, attack=self.attack)
        loss.backward()
        self.optimizer.step()


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, image: Tensor, label: Tensor) -> None:
    """One descent of the reference's loop."""
    model.eval()
    x = image + torch.empty_like(image).uniform_(-EPS, EPS)
    for _ in range(STEPS):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), label), [x])
        x = x.detach() + STEP_SIZE * gradient.sign()
        x = torch.min(torch.max(x, image - EPS), image + EPS).clamp(0, 1)
    model.train()
    optimizer.zero_grad()
    F.cross_entropy(model(x), label).backward()
    optimizer.step()


if __name__ == "__main__":
    main()
