"""An epoch of PGD-10 adversarial training, as it is run, against the plain float32 loop: ``python -m bench.epoch``.

Meant for a GPU (``--arch resnet18 --limit 50000 --batch-size 512``: an epoch of CIFAR-10's size on digits of its
shape); the defaults are small enough for two CPU cores. Own side: ``train`` for two epochs, of which the second
counts, since the first one compiles. The plain loop (see bench.train_step) is measured over a few steps. The bound is
the arithmetic of an epoch at the rate of a large convolution (see bench.peak) in the precision of training.
"""

import json
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from attrib import inference
from bench.peak import DTYPES, flops
from bench.timing import EPS, STEP_SIZE, begin, example, in_turn, middle, parser, publish
from bench.train_step import STEPS, plain_step, sgd
from train.config import Config
from train.loop import train

HELD_OUT = 100


def main() -> None:
    """Print the comparison and write it as JSON."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--arch", default="resnet32")
    options.add_argument("--limit", type=int, default=512, help="images of an epoch")
    options.add_argument("--batch-size", type=int, default=64)
    chosen = options.parse_args()
    device = begin(chosen)
    precision = inference.precision("auto", device)
    config = Config(
        data="glyphs", arch=chosen.arch, method="pgd-at", epochs=2, batch_size=chosen.batch_size,
        limit=chosen.limit + HELD_OUT, holdout=HELD_OUT, eps=EPS, step_size=STEP_SIZE, steps=STEPS,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        own = trained(config, Path(folder), str(device))
    model, batch = example(chosen.arch, chosen.batch_size, device)
    optimizer = sgd(model)
    taken = in_turn(
        {"plain": lambda: plain_step(model, optimizer, *batch[:2])}, rounds=chosen.rounds, device=device
    )  # fmt: skip
    plain = middle(taken["plain"]).clock / chosen.batch_size * chosen.limit
    maps = torch.randn(256, 256, 16, 16, device=device, dtype=DTYPES[precision]).to(memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3, device=device, dtype=DTYPES[precision]).to(memory_format=torch.channels_last)
    peak = in_turn({"conv": lambda: F.conv2d(maps, kernel, padding=1)}, rounds=5, device=device)["conv"]
    rate = 2 * maps.numel() * 256 * 9 / middle(peak).clock
    # Forward and backward to the image for every step of the attack; forward and both backward passes for the descent.
    arithmetic = flops(model, batch) / chosen.batch_size * (STEPS + 1.5) * chosen.limit
    publish(
        "epoch",
        f"An epoch of {chosen.limit:,} images of 3x32x32, PGD-{STEPS} adversarial training, {chosen.arch}, batch"
        f" {chosen.batch_size}, {precision}, {torch.get_num_threads()} threads, {device}",
        [
            {
                "attrib s": own, "plain fp32 s": plain, "x by clock": plain / own, "bound s": arithmetic / rate,
                "share of peak %": 100 * arithmetic / rate / own,
            }
        ],
        chosen, device,
    )  # fmt: skip


def trained(config: Config, folder: Path, device: str) -> float:
    """Seconds of the second epoch's training, its evaluation left out."""
    train(config, folder, device=device)
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert config.limit is not None
    return (config.limit - HELD_OUT) / float(last["images_per_s"])


if __name__ == "__main__":
    main()
