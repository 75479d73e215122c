"""How much of the machine PGD uses, as a share of the rate of large products: ``python -m bench.peak``.

The peaks are measured: a large matrix product and a large convolution of the same precision. torch.utils.flop_counter
counts the convolutions and products of one attack step of the plain model, forward and backward to the image.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import attrib
from attrib import inference
from attrib.data import Batch
from attrib.inference import frozen
from attrib.loss import cross_entropy
from bench.timing import EPS, STEP_SIZE, Row, begin, example, in_turn, middle, parser, publish

STEPS = 10
REPEATS = 10
"""Repetitions of the large products, since one takes too little time to measure."""
DTYPES: dict[inference.Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> None:
    """Print the shares and write them as JSON."""
    cli = parser(__doc__, rounds=3)
    cli.add_argument("--arch", default="resnet18")
    cli.add_argument("--images", type=int, default=64)
    options = cli.parse_args()
    device = begin(options)
    model, batch = example(options.arch, options.images, device)
    work = flops(model, batch)
    large = 8 if device.type == "cuda" else 1
    rows: list[Row] = []
    for precision, dtype in DTYPES.items():
        if precision == "bf16" and not inference.has_fast_bf16(device):
            continue
        pgd = partial(
            attrib.pgd, model, batch.image, batch.label, eps=EPS, step_size=STEP_SIZE, steps=STEPS, precision=precision
        )
        matrix = torch.randn(2048 * large, 2048, device=device, dtype=dtype)
        square = torch.randn(2048, 2048, device=device, dtype=dtype)
        maps = torch.randn(64 * large, 256, 16, 16, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        kernel = torch.randn(256, 256, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        sides: dict[str, Callable[[], object]] = {
            "matrix product": partial(repeated, partial(torch.matmul, matrix, square)),
            "convolution": partial(repeated, partial(F.conv2d, maps, kernel, padding=1)),
            "PGD": pgd,
        }
        counts = {
            "matrix product": REPEATS * 2 * 2048**3 * large,
            "convolution": REPEATS * 2 * maps.numel() * 256 * 9,
            "PGD": STEPS * work,
        }
        times = in_turn(sides, rounds=options.rounds, device=device)
        rate = {name: counts[name] / middle(times[name]).clock / 1e9 for name in sides}
        shares = {f"of {name} %": 100 * rate["PGD"] / rate[name] for name in ("matrix product", "convolution")}
        gigaflops = {f"{name} GFLOP/s": value for name, value in rate.items()}
        rows.append({"precision": precision} | gigaflops | shares | {"target": ">= 80 of matrix product"})
    publish(
        "peak",
        f"PGD-{STEPS}, {options.arch}, {options.images} images of 3x32x32, {work / 1e9:.1f} GFLOP a step,"
        f" {torch.get_num_threads()} threads, {device}; median of {options.rounds} rounds",
        rows, options, device,
    )  # fmt: skip


def repeated(work: Callable[[], object]) -> None:
    """Do the work REPEATS times."""
    for _ in range(REPEATS):
        work()


def flops(model: nn.Module, batch: Batch) -> int:
    """Floating-point operations of one step: forward, and backward to the image."""
    with frozen(model), FlopCounterMode(display=False) as counter:
        x = batch.image.clone().requires_grad_()
        cross_entropy(model(x), batch.label).sum().backward()
    return int(counter.get_total_flops())


if __name__ == "__main__":
    main()
