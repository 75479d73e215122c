"""PGD-10 against torchattacks and foolbox with the same images, radius and steps: ``python -m bench.attack``.

Times are measured on an untrained resnet18, since weights do not affect them. Robust accuracy, which has to agree, is
measured on a trained model and its data (``--ckpt``; by default that of ``make demo``, if it exists). Each attack draws
its own random starts. Peers that are not installed are left out. Install torchattacks with ``pip install --no-deps
torchattacks requests``: it requires torchvision, which its PGD does not use.
"""

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import attrib
from attrib import inference
from attrib.accuracy import evaluate
from attrib.data import default_attack
from bench.timing import (
    EPS,
    STEP_SIZE,
    Row,
    add_batch_sizes,
    batch_sizes,
    begin,
    example,
    in_turn,
    parser,
    publish,
    versus,
)

TARGET = {"auto": 2.2, "fp32": 1.1}


def main() -> None:
    """Print the comparison and write it as JSON."""
    cli = parser(__doc__, rounds=3)
    add_batch_sizes(cli, cpu=64)
    cli.add_argument("--arch", default="resnet18")
    cli.add_argument("--ckpt", type=Path, default=Path("runs/demo/pgd-at/model.pt"))
    cli.add_argument("--limit", type=int, default=2000, help="images for the accuracy")
    options = cli.parse_args()
    device = begin(options)
    settings: dict[str, Any] = {"eps": EPS, "step_size": STEP_SIZE, "steps": 10}
    rows, all_seconds = [], {}
    for size in batch_sizes(options, device):
        model, batch = example(options.arch, size, device)
        for name, peer in comparisons():
            precision = inference.precision(name, device)
            sides = {
                "attrib": partial(attrib.pgd, model, *batch[:2], index=batch.index, precision=precision, **settings)
            }
            if peer:
                sides[peer] = partial(PEERS[peer], model, *batch[:2], **settings)
            seconds = in_turn(sides, rounds=options.rounds, device=device)
            against = f" against {peer}" if peer else ""
            what = f"{name} ({precision}){against}, {size} images"
            all_seconds[what] = seconds
            rows.append(versus(what, seconds, target=TARGET[name] if peer == "torchattacks" else None))
    publish(
        "attack",
        f"PGD-10, {options.arch}, images of 3x32x32, {torch.get_num_threads()} threads, {device};"
        f" median of {options.rounds} rounds",
        rows, options, device, seconds=all_seconds,
        **({"accuracy": accuracies(options.ckpt, options.limit, device)} if options.ckpt.exists() else {}),
    )  # fmt: skip


def comparisons() -> list[tuple[str, str | None]]:
    """The precisions, each with an installed peer; None if there is no peer."""
    wanted = ("auto", "torchattacks"), ("fp32", "torchattacks"), ("auto", "foolbox")
    pairs: list[tuple[str, str | None]] = [(name, peer) for name, peer in wanted if peer in installed()]
    return pairs + [(name, None) for name in TARGET if name not in dict(pairs)]


def installed() -> list[str]:
    """The installed peers."""
    return [name for name in PEERS if find_spec(name)]


def torchattacks_pgd(
    model: nn.Module, image: Tensor, label: Tensor, *, eps: float, step_size: float, steps: int
) -> Tensor:
    """torchattacks' PGD from a random start."""
    import torchattacks  # may be missing

    adversarial: Tensor = torchattacks.PGD(model, eps=eps, alpha=step_size, steps=steps)(image, label)
    return adversarial


def foolbox_pgd(model: nn.Module, image: Tensor, label: Tensor, *, eps: float, step_size: float, steps: int) -> Tensor:
    """foolbox's LinfPGD from a random start."""
    import foolbox  # may be missing

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=image.device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps)
    adversarial: Tensor = attack(wrapped, image, label, epsilons=eps)[1]
    return adversarial


PEERS = {"torchattacks": torchattacks_pgd, "foolbox": foolbox_pgd}


def accuracies(ckpt: Path, limit: int, device: torch.device) -> list[Row]:
    """Print and return a trained model's accuracy under every attack, evaluated in float32."""
    model, described = attrib.load(ckpt)
    model.to(device)
    data = attrib.dataset(described.data, limit=limit)
    eps, step_size, _ = default_attack(described.data)
    settings: dict[str, Any] = {"eps": eps, "step_size": step_size, "steps": 10}
    correct = dict.fromkeys(("clean", *(f"attrib {name}" for name in TARGET), *installed()), 0)
    torch.manual_seed(0)
    for batch in data.batches(250, device=device):
        image, label, index, _ = batch
        images = {"clean": image} | {peer: PEERS[peer](model, image, label, **settings) for peer in installed()}
        for name in TARGET:
            precision = inference.precision(name, device)
            images[f"attrib {name}"] = attrib.pgd(model, image, label, index=index, precision=precision, **settings)
        for name in correct:
            correct[name] += int((evaluate(model, images[name], label).prediction == label).sum())
    rows: list[Row] = [{"under": name, "accuracy %": 100 * count / len(data)} for name, count in correct.items()]
    print(f"PGD-10 on {ckpt} ({described.arch}, {described.data}), {len(data):,} test images, eps {eps:.4g}")
    print("  ".join(f"{row['under']} {row['accuracy %']:.2f} %" for row in rows))
    return rows


if __name__ == "__main__":
    main()
