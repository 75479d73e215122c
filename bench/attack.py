"""PGD-10 against torchattacks and foolbox, the same images, radius and steps: ``python -m bench.attack``.

Time on an untrained resnet18, as good as any for that; robust accuracy, which has to be the same, on a trained model
(``--ckpt``; by default what ``make demo`` trains) and its data. Each attack draws random starts of its own.
torchattacks is installed by ``pip install --no-deps torchattacks requests``: it asks for torchvision, which its PGD
does not use.
"""

from functools import partial
from typing import Any

import foolbox
import torch
import torchattacks
from torch import Tensor, nn

import attrib
from attrib import inference
from attrib.data import ATTACK
from attrib.robust import judge
from bench.timing import EPS, STEP_SIZE, Row, begin, example, in_turn, parser, publish, versus

ASKED = {"auto": 2.2, "fp32": 1.1}


def main() -> None:
    """Print the comparison and write it as JSON."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--arch", default="resnet18")
    options.add_argument("--images", type=int, default=64)
    options.add_argument("--ckpt", default="runs/demo/pgd-at/model.pt")
    options.add_argument("--limit", type=int, default=2000, help="images for the accuracy")
    chosen = options.parse_args()
    device = begin(chosen)
    model, batch = example(chosen.arch, chosen.images, device)
    settings: dict[str, Any] = {"eps": EPS, "step_size": STEP_SIZE, "steps": 10}
    rows, seconds = [], {}
    for name, peer in (("auto", "torchattacks"), ("fp32", "torchattacks"), ("auto", "foolbox")):
        precision = inference.precision(name, device)
        own = partial(attrib.pgd, model, batch.image, batch.label, index=batch.index, precision=precision, **settings)
        theirs = partial(PEERS[peer], model, batch.image, batch.label, **settings)
        taken = in_turn({"attrib": own, peer: theirs}, rounds=chosen.rounds, device=device)
        seconds[f"{name} {peer}"] = taken
        asked = ASKED[name] if peer == "torchattacks" else None
        rows.append(versus(f"{name} ({precision}) against {peer}", taken, asked=asked))
    publish(
        "attack",
        f"PGD-10, {chosen.arch}, {chosen.images} images of 3x32x32, {torch.get_num_threads()} threads, {device};"
        f" median of {chosen.rounds} rounds",
        rows, chosen, device, seconds=seconds, accuracy=accuracies(chosen.ckpt, chosen.limit, device),
    )  # fmt: skip


def torchattacks_pgd(
    model: nn.Module, image: Tensor, label: Tensor, *, eps: float, step_size: float, steps: int
) -> Tensor:
    """torchattacks' PGD from a random start."""
    found: Tensor = torchattacks.PGD(model, eps=eps, alpha=step_size, steps=steps)(image, label)
    return found


def foolbox_pgd(model: nn.Module, image: Tensor, label: Tensor, *, eps: float, step_size: float, steps: int) -> Tensor:
    """foolbox's LinfPGD from a random start."""
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=image.device)
    found: Tensor = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps)(wrapped, image, label, epsilons=eps)[1]
    return found


PEERS = {"torchattacks": torchattacks_pgd, "foolbox": foolbox_pgd}


def accuracies(ckpt: str, limit: int, device: torch.device) -> list[Row]:
    """Robust accuracy of a trained model under every attack, judged in float32; printed too."""
    model, described = attrib.load(ckpt)
    model.to(device)
    data = attrib.dataset(described.data, limit=limit)
    eps, step_size, _ = ATTACK[described.data]
    settings: dict[str, Any] = {"eps": eps, "step_size": step_size, "steps": 10}
    right = dict.fromkeys(("clean", *(f"attrib {name}" for name in ASKED), *PEERS), 0)
    torch.manual_seed(0)
    for batch in data.batches(250, device=device):
        image, label, index, _ = batch
        images = {"clean": image} | {name: attack(model, image, label, **settings) for name, attack in PEERS.items()}
        for name in ASKED:
            precision = inference.precision(name, device)
            images[f"attrib {name}"] = attrib.pgd(model, image, label, index=index, precision=precision, **settings)
        for name in right:
            right[name] += int((judge(model, images[name], label).prediction == label).sum())
    rows: list[Row] = [{"under": name, "accuracy %": 100 * count / len(data)} for name, count in right.items()]
    print(f"PGD-10 on {ckpt} ({described.arch}, {described.data}), {len(data):,} test images, eps {eps:.4g}")
    print("  ".join(f"{row['under']} {row['accuracy %']:.2f} %" for row in rows))
    return rows


if __name__ == "__main__":
    main()
