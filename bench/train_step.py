"""A step of PGD adversarial training against the plain float32 loop of the references: ``python -m bench.train_step``.

The peer is the loop of the TRADES repository's PGD-AT baseline: the attack in eval mode with autograd.grad to the
images only, then one update in training mode, all in float32. attrib's side is the step of ``python -m train pgd-at``.
Each side has its own network and optimizer.
"""

import argparse
from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrib import inference
from attrib.data import Batch
from attrib.models.classifier import Classifier
from bench.timing import (
    EPS,
    STEP_SIZE,
    add_batch_sizes,
    batch_sizes,
    begin,
    example,
    in_turn,
    parser,
    publish,
    versus,
)
from train.attack import pgd_attack
from train.engine import ENGINES, Engine, ascent_of, running
from train.methods import pgd_at

STEPS = 10


def main() -> None:
    """Print the comparison and write it as JSON."""
    cli = parser(__doc__, rounds=3)
    add_batch_sizes(cli, cpu=64)
    add_engines(cli)
    cli.add_argument("--arch", default="resnet18")
    options = cli.parse_args()
    device = begin(options)
    precision = inference.precision("auto", device)
    rows, all_seconds = [], {}
    for size in batch_sizes(options, device):
        for engine in engines(options, device):
            model, batch = example(options.arch, size, device)
            plain = deepcopy(model)
            optimizer = sgd(plain)
            assert isinstance(model, Classifier)
            own = Own(model, engine, device)
            fast_batch = batch._replace(image=batch.image.contiguous(memory_format=torch.channels_last))
            sides = {
                "attrib": partial(own.step, fast_batch),
                "plain": partial(plain_step, plain, optimizer, batch.image, batch.label),
            }
            with running(model, engine, device):
                what = f"auto ({engine}) against the plain fp32 loop, batch {size}"
                all_seconds[what] = in_turn(sides, rounds=options.rounds, device=device)
            rows.append(versus(what, all_seconds[what], target=5 if device.type == "cuda" else 2.2))
    publish(
        "train_step",
        f"One step of PGD-{STEPS} adversarial training, {options.arch}, {precision},"
        f" {torch.get_num_threads()} threads, {device}; median of {options.rounds} rounds",
        rows, options, device, seconds=all_seconds,
    )  # fmt: skip


def add_engines(cli: argparse.ArgumentParser) -> None:
    """Add the option for the engines of train.engine; see ``engines``."""
    cli.add_argument("--engine", nargs="+", choices=ENGINES, help="engines, a row each (GPU: all; the CPU has one)")


def engines(options: argparse.Namespace, device: torch.device) -> list[Engine]:
    """The options engines, or all that the device has."""
    everything: list[Engine] = ["eager", "compiled", "graph"] if device.type == "cuda" else ["eager"]
    names: list[Engine] = options.engine or everything
    return names


def sgd(model: nn.Module) -> torch.optim.SGD:
    """SGD with the recipes' settings."""
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)


class Own:
    """The training step of ``train``. Call it inside ``train.engine.running``."""

    def __init__(self, model: Classifier, engine: Engine, device: torch.device) -> None:
        self.precision = inference.precision("auto", device)
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = sgd(self.model)
        self.attack = pgd_attack(
            eps=EPS, step_size=STEP_SIZE, steps=STEPS, seed=0, epoch=1, precision=self.precision,
            ascent=ascent_of(engine),
        )  # fmt: skip

    def step(self, batch: Batch) -> None:
        """Take one step."""
        self.model.train()
        self.optimizer.zero_grad()
        with inference.autocast(batch.image.device, self.precision):
            loss = pgd_at.loss(self.model, batch, attack=self.attack)
        loss.backward()
        self.optimizer.step()


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, image: Tensor, label: Tensor) -> None:
    """Take one step of the reference's loop."""
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
