"""A whole row of AALP's Table 2 against its nine attacks one by one: ``python -m bench.table_row``.

The peer is torchattacks (installed with ``pip install --no-deps torchattacks requests``: it requires torchvision, which
these attacks do not use). Its FGSM and its PGD-10, -20, -40 and -100 run as they are; for CW-k its PGD-k stands in,
since its own CW is another attack (L2) at another cost. Both sides judge the clean and the attacked images in
float32. They alternate in every round, in one process; a figure is the median over rounds. On two free cores a round
of 32 images takes about four minutes; with fewer images what a step costs beside the convolutions weighs more. The
processor's seconds stand beside the clock's, since other work on the machine stretches only the latter.
"""

import argparse
import json
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torchattacks

from attrib import inference, robust
from attrib.data import Batch, dataset
from attrib.model import build

EPS, STEP = 8 / 255, 2 / 255


class Seconds(NamedTuple):
    """By the clock, and by all threads of the process together."""

    clock: float
    cpu: float


def main() -> None:
    """Print the comparison and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("bench/results/table_row.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = inference.device(options.device)
    precision = inference.precision(options.precision, device)
    torch.manual_seed(0)
    model = build(options.arch, num_classes=10, input_shape=(3, 32, 32)).to(device).eval()
    # As `attrib robust` does it; the peer's float32 is no faster for it.
    laid = robust.fast_layout(deepcopy(model)) if precision == "bf16" else model
    (batch,) = dataset("glyphs", limit=options.images).batches(options.images, device=device)

    def ours() -> None:
        robust.judge(laid, batch.image, batch.label)
        robust.attacked(laid, batch.image, batch.label, eps=EPS, step_size=STEP, index=batch.index, precision=precision)

    sides: dict[str, Callable[[], None]] = {
        "one row of attrib": ours,
        "nine attacks of torchattacks": lambda: one_by_one(model, batch),
    }
    taken: dict[str, list[Seconds]] = {name: [] for name in sides}
    torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=2)(batch.image, batch.label)  # both warm up
    robust.attacked(laid, batch.image, batch.label, eps=EPS, step_size=STEP, steps=(2,), precision=precision)
    for _ in range(options.rounds):
        for name, side in sides.items():
            taken[name].append(timed(side, device))
    middle = {name: Seconds(*map(median, zip(*rounds, strict=True))) for name, rounds in taken.items()}
    ratio = Seconds(*(peer / own for own, peer in zip(*middle.values(), strict=True)))
    print(
        f"{options.arch}, {options.images} images, attacks in {precision}, {device}, {torch.get_num_threads()} threads,"
        f" median of {options.rounds} round(s)"
    )
    print(f"{'':<30}{'clock s':>10}{'CPU s':>10}")
    for name, seconds in [*middle.items(), ("ratio", ratio)]:
        print(f"{name:<30}{seconds.clock:>10.2f}{seconds.cpu:>10.2f}")
    settings = {
        "arch": options.arch, "images": options.images, "precision": precision, "device": str(device),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "torchattacks": torchattacks.__version__,
    }  # fmt: skip
    rounds = {name: [seconds._asdict() for seconds in every] for name, every in taken.items()}
    found = {"settings": settings, "seconds": rounds, "ratio": ratio._asdict()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")


def one_by_one(model: torch.nn.Module, batch: Batch) -> None:
    """The clean images and nine attacks, each run from its start and judged."""
    robust.judge(model, batch.image, batch.label)
    attacks = [torchattacks.FGSM(model, eps=EPS)]
    for _ in ("PGD", "CW"):
        attacks += [torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=k) for k in robust.TABLE_STEPS]
    for attack in attacks:
        robust.judge(model, attack(batch.image, batch.label), batch.label)


def timed(work: Callable[[], None], device: torch.device) -> Seconds:
    """What it takes."""
    started = Seconds(time.perf_counter(), time.process_time())
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Seconds(time.perf_counter() - started.clock, time.process_time() - started.cpu)


if __name__ == "__main__":
    main()
