"""A whole row of AALP's Table 2 against its nine attacks one by one: ``python -m bench.table_row``.

The peer is torchattacks. Install it with ``pip install --no-deps torchattacks requests``: it requires torchvision,
which these attacks do not use. Without it only attrib runs. Its FGSM and its PGD-10, -20, -40 and -100 run unchanged.
Its PGD-k replaces CW-k, since its own CW is another attack (L2) with another cost. Both sides evaluate the clean and
the attacked images in float32. On two free cores a round of 32 images takes about two minutes. With fewer images the
overhead of a step has more weight.
"""

from functools import partial
from importlib.util import find_spec

import torch

from attrib import accuracy, inference
from attrib.data import Batch
from attrib.inference import Precision
from bench.timing import (
    EPS,
    STEP_SIZE,
    add_batch_sizes,
    batch_sizes,
    begin,
    example,
    in_turn,
    middle,
    parser,
    publish,
    versus,
)

TEST_IMAGES = 10_000


def main() -> None:
    """Print the comparison and write it as JSON."""
    cli = parser(__doc__, rounds=1)
    add_batch_sizes(cli, cpu=32)
    cli.add_argument("--arch", default="resnet18")
    cli.add_argument("--precision", default="auto")
    options = cli.parse_args()
    device = begin(options)
    precision = inference.precision(options.precision, device)
    rows, all_seconds = [], {}
    has_peer = bool(find_spec("torchattacks"))
    for size in batch_sizes(options, device):
        model, batch = example(options.arch, size, device)
        sides = {"attrib": partial(one_row, model, batch, precision)}
        warm_up(model, batch, precision)
        if has_peer:
            sides["torchattacks"] = partial(one_by_one, model, batch)
        seconds = in_turn(sides, rounds=options.rounds, device=device, warm_up=False)
        all_seconds[str(size)] = seconds
        what = f"a row{' against nine runs of torchattacks' if has_peer else ''}, {size} images"
        whole = middle(seconds["attrib"]).clock / size * TEST_IMAGES
        rows.append(versus(what, seconds, target=3.5) | {f"attrib s for {TEST_IMAGES:,}": whole})
    publish(
        "table_row",
        f"A Table-2 row, {options.arch}, images of 3x32x32, attacks in {precision},"
        f" {torch.get_num_threads()} threads, {device}; median of {options.rounds} round(s)",
        rows, options, device, seconds=all_seconds,
    )  # fmt: skip


def one_row(model: torch.nn.Module, batch: Batch, precision: Precision) -> None:
    """The clean images and every attack of the row, as ``attrib robust`` computes them."""
    accuracy.evaluate(model, batch.image, batch.label)
    accuracy.attacked(
        model, batch.image, batch.label, eps=EPS, step_size=STEP_SIZE, index=batch.index, precision=precision
    )


def warm_up(model: torch.nn.Module, batch: Batch, precision: Precision) -> None:
    """Run two steps of both sides: a whole row would take too long."""
    accuracy.attacked(model, batch.image, batch.label, eps=EPS, step_size=STEP_SIZE, steps=(2,), precision=precision)
    if find_spec("torchattacks"):
        import torchattacks  # may be missing

        torchattacks.PGD(model, eps=EPS, alpha=STEP_SIZE, steps=2)(batch.image, batch.label)


def one_by_one(model: torch.nn.Module, batch: Batch) -> None:
    """Evaluate the clean images and nine attacks, each run from its start."""
    import torchattacks  # may be missing

    accuracy.evaluate(model, batch.image, batch.label)
    attacks = [torchattacks.FGSM(model, eps=EPS)]
    for _ in ("PGD", "CW"):
        attacks += [torchattacks.PGD(model, eps=EPS, alpha=STEP_SIZE, steps=k) for k in accuracy.TABLE_STEPS]
    for attack in attacks:
        accuracy.evaluate(model, attack(batch.image, batch.label), batch.label)


if __name__ == "__main__":
    main()
