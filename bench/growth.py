"""How time and memory grow with images, width, checkpoints, attack steps and samples: ``python -m bench.growth``.

Every case runs in its own process, which calls attrib batch by batch, as the commands do. Reported are the time after a
first batch that warms up, and the largest resident size. The exponent is the slope of log seconds over log size between
the first and the last case: 1 is linear.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time

import torch
from torch import nn

import attrib
from attrib import accuracy, inference
from attrib.models.classifier import Classifier
from bench.timing import EPS, STEP_SIZE, Row, begin, parser, publish

BASE = {"images": 512, "width": 16, "checkpoints": 1, "steps": 10, "samples": 4}
CASES = {
    "images": (256, 512, 1024, 2048),
    "width": (8, 16, 32, 64),
    "checkpoints": (1, 2, 4),
    "steps": (5, 10, 20, 40),
    "samples": (4, 8, 16, 32),
}
WORK = {"images": "attack and maps", "width": "attack and maps", "checkpoints": "attack and maps",
        "steps": "PGD", "samples": "SmoothGrad"}  # fmt: skip
MIB = 2**20


def main() -> None:
    """Print the table and write it as JSON; with ``--case``, do the work of one case."""
    cli = parser(__doc__, rounds=1)
    cli.add_argument("--case", help=argparse.SUPPRESS)
    options = cli.parse_args()
    device = begin(options)
    if options.case:
        what, case = json.loads(options.case)
        print(json.dumps(one(what, case, device)))
        return
    rows: list[Row] = []
    for what, sizes in CASES.items():
        measured = [alone(what, BASE | {what: size}, options) for size in sizes]
        seconds, mebibytes = zip(*measured, strict=True)
        slope = math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])
        for size, elapsed, resident in zip(sizes, seconds, mebibytes, strict=True):
            row: Row = {
                "what": f"{what} ({WORK[what]})",
                "size": size,
                "CPU s": elapsed,
                "ms per unit": 1e3 * elapsed / size,
            }
            rows.append(row | {"MiB": resident} | ({"exponent": slope} if size == sizes[-1] else {}))
    publish(
        "growth",
        "Growth from " + ", ".join(f"{size} {what}" for what, size in BASE.items())
        + f"; a network of three convolutions, glyphs, {torch.get_num_threads()} threads, {device}",
        rows, options, device,
    )  # fmt: skip


def alone(what: str, case: dict[str, int], options: argparse.Namespace) -> tuple[float, float]:
    """Run one case in its own process. Returns seconds of processor time and MiB."""
    described = json.dumps([what, case])
    command = [sys.executable, "-m", "bench.growth", "--threads", str(options.threads), "--device", options.device]
    process = subprocess.Popen([*command, "--case", described], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"the case {described} ended with status {status}")
    return float(json.loads(output)), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MIB


def one(what: str, case: dict[str, int], device: torch.device) -> float:
    """Seconds of processor time for one case (on a GPU: wall-clock time)."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    precision = inference.precision("auto", device)
    models = [network(case["width"], seed).to(device).eval() for seed in range(case["checkpoints"])]
    data = attrib.dataset("glyphs", limit=case["images"] + 128)
    started = 0.0
    for number, batch in enumerate(data.batches(128, device=device)):
        if number == 1:  # the first batch warms up
            started = clock()
        for model in models:
            if what != "samples":
                accuracy.attacked(
                    model, batch.image, batch.label, eps=EPS, step_size=STEP_SIZE, steps=(case["steps"],),
                    index=batch.index, precision=precision,
                )  # fmt: skip
            if what != "steps":
                attrib.smoothgrad(
                    model, batch.image, batch.label, samples=case["samples"], index=batch.index, precision=precision
                )
                attrib.gradcam(model, batch.image, batch.label)
        if device.type == "cuda":
            torch.cuda.synchronize()
    return clock() - started


def network(width: int, seed: int) -> Classifier:
    """Three convolutions of ``width``, ``2 width`` and ``4 width`` channels; arithmetic grows as ``width`` squared."""
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    inputs = 3
    for number in range(3):
        outputs = width * 2**number
        conv = nn.Conv2d(inputs, outputs, 3, stride=2 if number else 1, padding=1, bias=False)
        parts.append(nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU()))
        inputs = outputs
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(nn.Sequential(*parts), pool, nn.Linear(inputs, 10), mean=[0.5] * 3, std=[0.3] * 3)


if __name__ == "__main__":
    main()
