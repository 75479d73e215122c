"""An epoch of PGD-10 adversarial training against the plain float32 loop: ``python -m bench.epoch``.

``train`` runs two epochs with every engine of the device (``--engine``; see train.engine). The second one counts, since
the first one compiles. The plain loop (see bench.train_step) is measured over a few steps. The bound is the time of an
epoch's arithmetic at the rate of a large convolution (see bench.peak) in the precision of training. Seconds are scaled
to the 50,000 images of CIFAR-10. Defaults: on a GPU resnet18 and 12,800 images, on a CPU resnet32 and 512.
"""

import json
import tempfile
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from attrib import inference
from attrib.inference import Precision
from bench.peak import DTYPES, flops
from bench.timing import (
    EPS,
    STEP_SIZE,
    Row,
    add_batch_sizes,
    batch_sizes,
    begin,
    example,
    in_turn,
    middle,
    parser,
    publish,
)
from bench.train_step import STEPS, add_engines, engines, plain_step, sgd
from train.config import Config
from train.engine import Engine
from train.loop import train

HELD_OUT = 100
EPOCH = 50_000


def main() -> None:
    """Print the comparison and write it as JSON."""
    cli = parser(__doc__, rounds=3)
    add_batch_sizes(cli, cpu=64)
    add_engines(cli)
    cli.add_argument("--arch", help="default: CPU resnet32, GPU resnet18")
    cli.add_argument("--limit", type=int, help="images of an epoch (default: CPU 512, GPU 12,800)")
    options = cli.parse_args()
    device = begin(options)
    arch = options.arch or ("resnet18" if device.type == "cuda" else "resnet32")
    limit = options.limit or (12_800 if device.type == "cuda" else 512)
    precision = inference.precision("auto", device)
    rate = peak_rate(precision, device)
    rows: list[Row] = []
    for size in batch_sizes(options, device):
        model, batch = example(arch, size, device)
        optimizer = sgd(model)
        plain_loop = partial(plain_step, model, optimizer, batch.image, batch.label)
        times = in_turn({"plain": plain_loop}, rounds=options.rounds, device=device)["plain"]
        plain = middle(times).clock / size * EPOCH
        # Each step of the attack: forward, and backward to the image. The update: forward and both backward passes.
        bound = flops(model, batch) / size * (STEPS + 1.5) * EPOCH / rate
        config = Config(
            data="glyphs", arch=arch, method="pgd-at", epochs=2, batch_size=size, limit=limit + HELD_OUT,
            holdout=HELD_OUT, eps=EPS, step_size=STEP_SIZE, steps=STEPS,
            lr=1e-3,  # small enough for every network; the speed does not depend on it
        )  # fmt: skip
        for engine in engines(options, device):
            own = trained(config, str(device), engine) * EPOCH
            rows.append(
                {
                    "what": f"{engine}, batch {size}", "attrib s": own, "plain fp32 s": plain,
                    "x by clock": plain / own, "bound s": bound, "share of peak %": 100 * bound / own,
                }
            )  # fmt: skip
    publish(
        "epoch",
        f"An epoch of {EPOCH:,} images of 3x32x32 (from {limit:,}), PGD-{STEPS} adversarial training, {arch},"
        f" {precision}, {torch.get_num_threads()} threads, {device}",
        rows, options, device,
    )  # fmt: skip


def peak_rate(precision: Precision, device: torch.device) -> float:
    """Floating-point operations per second of a large convolution."""
    maps = torch.randn(256, 256, 16, 16, device=device, dtype=DTYPES[precision]).to(memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3, device=device, dtype=DTYPES[precision]).to(memory_format=torch.channels_last)
    times = in_turn({"conv": lambda: F.conv2d(maps, kernel, padding=1)}, rounds=5, device=device)["conv"]
    return 2 * maps.numel() * 256 * 9 / middle(times).clock


def trained(config: Config, device: str, engine: Engine) -> float:
    """Seconds per image of the second epoch's training, without its evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder), device=device, engine=engine)
        last = json.loads((Path(folder) / "log.jsonl").read_text().splitlines()[-1])
    return 1 / float(last["images_per_s"])


if __name__ == "__main__":
    main()
