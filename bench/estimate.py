"""Estimate the time to train ResNet-50 on ImageNet with eight H200s: ``python -m bench.estimate``. It measures nothing.

Given: 989 TFLOP/s of dense bf16 and 450 GB/s of NVLink in each direction per GPU (NVIDIA's data sheet); ResNet-50 at
224x224 does 4.09 billion multiply-adds per forward pass and has 25.6 million parameters (torchvision's table).
Assumed: the share of the peak (two columns); a backward pass to the images or to the weights costs as much as a forward
pass; gradients in float32 go over a ring. Reading images is not counted.
"""

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
    options = parser(__doc__).parse_args()
    rows = [training(steps) for steps in (0, 1, 3, 10)]
    # FGSM, 100 steps of PGD and of CW: forward and backward. Ten evaluations: forward.
    row = VALIDATION * (201 * 2 + 10) * FORWARD
    rows.append(line("a Table-2 row on 50,000 images", row, unit=60, name="min"))
    publish(
        "estimate", f"An estimate, not a measurement: ResNet-50 at 224x224 on {GPUS} H200s", rows,
        options, torch.device("cpu"),
    )  # fmt: skip


def training(steps: int) -> Row:
    """All epochs with this many attack steps, and the share of communication if it does not overlap."""
    passes = 3 + 2 * steps
    row = line(f"{EPOCHS} epochs, PGD-{steps}" if steps else f"{EPOCHS} epochs, standard",
               EPOCHS * TRAINING * passes * FORWARD, unit=3600, name="h")  # fmt: skip
    exchange = 2 * (GPUS - 1) / GPUS * 4 * PARAMETERS / LINK
    step = BATCH * passes * FORWARD / (PEAK * SHARES[-1])
    return row | {f"communication % (batch {GPUS} x {BATCH})": 100 * exchange / (exchange + step)}


def line(what: str, work: float, *, unit: float, name: str) -> Row:
    """The time for ``work`` operations, for each share of the peak."""
    row: Row = {"what": what, "PFLOP": work / 1e15}
    for share in SHARES:
        row[f"at {share:.0%} of peak"] = f"{work / (GPUS * PEAK * share) / unit:.1f} {name}"
    return row


if __name__ == "__main__":
    main()
