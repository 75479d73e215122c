"""What an ImageNet ResNet-50 would take on eight H200s, on paper: ``python -m bench.estimate``. Nothing is measured.

Stated rates: 989 TFLOP/s of dense bf16 and 450 GB/s of NVLink in each direction per GPU (NVIDIA's data sheet);
ResNet-50 at 224x224 does 4.09 billion multiply-adds forward and has 25.6 million parameters (torchvision's table).
Assumed: the share of that peak which is reached (two columns), a backward pass to the images or to the weights as
dear as a forward pass, gradients in float32 over a ring. Reading images is not counted.
"""

import argparse
from pathlib import Path

import torch

from bench.timing import Row, parser, publish

GPUS = 8
PEAK = 989e12
LINK = 450e9
FORWARD = 2 * 4.09e9
PARAMETERS = 25.6e6
TRAINING, VALIDATION = 1_281_167, 50_000
EPOCHS = 90
SHARES = (0.18, 0.4)
BATCH = 128


def main() -> None:
    """Print the table and write it as JSON."""
    options = parser(__doc__)
    options.set_defaults(out=Path("bench/results"))
    chosen = options.parse_args()
    rows = [training(steps) for steps in (0, 1, 3, 10)]
    # FGSM, 100 steps of PGD and of CW, forward and backward; ten judgements, forward.
    row = VALIDATION * (201 * 2 + 10) * FORWARD
    rows.append(line("a Table-2 row on 50,000 images", row, unit=60, name="min"))
    publish(
        "estimate", f"An estimate, not a measurement: ResNet-50 at 224x224 on {GPUS} H200s", rows,
        argparse.Namespace(out=chosen.out), torch.device("cpu"),
    )  # fmt: skip


def training(steps: int) -> Row:
    """All epochs with so many attack steps, and what the exchange of gradients adds where nothing hides it."""
    passes = 3 + 2 * steps
    found = line(f"{EPOCHS} epochs, PGD-{steps}" if steps else f"{EPOCHS} epochs, standard",
                 EPOCHS * TRAINING * passes * FORWARD, unit=3600, name="h")  # fmt: skip
    exchange = 2 * (GPUS - 1) / GPUS * 4 * PARAMETERS / LINK
    step = BATCH * passes * FORWARD / (PEAK * SHARES[-1])
    return found | {f"communication % (batch {GPUS} x {BATCH})": 100 * exchange / (exchange + step)}


def line(what: str, work: float, *, unit: float, name: str) -> Row:
    """The work in that unit of time, for each share of the peak."""
    row: Row = {"what": what, "PFLOP": work / 1e15}
    for share in SHARES:
        row[f"at {share:.0%} of peak"] = f"{work / (GPUS * PEAK * share) / unit:.1f} {name}"
    return row


if __name__ == "__main__":
    main()
