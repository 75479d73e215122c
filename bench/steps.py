"""Seconds per training step of every method, relative to pgd-at: ``python -m bench.steps``.

It shows whether a method has overhead beyond its own arithmetic. The methods alternate in every round, in one process.
Each number is the median over rounds.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch

from attrib import inference
from attrib.data import Batch
from attrib.data.glyphs import render
from attrib.models.architectures import build
from train.attack import pgd_attack
from train.config import Config, read_recipe
from train.methods import loss_of

RECIPES = (
    "raw", "raw-gd", "pgd-at", "madry", "adv-gd", "alp", "aalp-gd", "aalp-sw", "aalp", "trades", "mart",
    "again-logit", "again-no-hff", "again",
)  # fmt: skip


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="resnet32")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("bench/results/steps.json"))
    options = parser.parse_args()
    device = inference.device(options.device)
    precision = inference.precision("auto", device)
    image, label, _ = render(torch.arange(options.batch_size), split="train")
    index = torch.arange(options.batch_size, device=device)
    pixels = (image.to(device) / 255).contiguous(memory_format=torch.channels_last)
    batch = Batch(pixels, label.to(device), index, None)
    attack = pgd_attack(eps=8 / 255, step_size=2 / 255, steps=10, seed=0, epoch=1, precision=precision)
    seconds: dict[str, list[float]] = {name: [] for name in RECIPES}
    models = {}
    for name in RECIPES:
        config = Config(**{"data": "glyphs", "arch": options.arch} | read_recipe(Path(name)))
        model = build(options.arch, num_classes=10, input_shape=(3, 32, 32), gated=config.gated)
        models[name] = config, model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for turn in range(options.rounds + 1):
        for name, (config, model) in models.items():
            # progress 1: AGAIN always takes its full step
            loss = loss_of(config, progress=1.0, generator=torch.Generator().manual_seed(turn))
            started = time.perf_counter()
            with inference.autocast(device, precision):
                value = loss(model, batch, attack=attack)
            value.backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    base = median(seconds["pgd-at"])
    print(
        f"{options.arch}, batch {options.batch_size}, PGD-10, {precision}, {device},"
        f" {torch.get_num_threads()} threads, median of {options.rounds} rounds"
    )
    print(f"{'method':<14}{'s/step':>8}{'x pgd-at':>10}")
    for name, times in seconds.items():
        print(f"{name:<14}{median(times):>8.3f}{median(times) / base:>10.2f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    described = {"arch": options.arch, "batch_size": options.batch_size, "precision": precision,
                 "device": str(device), "threads": torch.get_num_threads(), "torch": torch.__version__}  # fmt: skip
    table = {name: {"seconds": times, "relative": median(times) / base} for name, times in seconds.items()}
    options.out.write_text(json.dumps({"settings": described, "methods": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
