"""A whole row of AALP's Table 2 against its nine attacks one by one: ``python -m bench.table_row``.

The peer is torchattacks (installed with ``pip install --no-deps torchattacks requests``: it requires torchvision, which
these attacks do not use). Its FGSM and its PGD-10, -20, -40 and -100 run as they are; for CW-k its PGD-k stands in,
since its own CW is another attack (L2) at another cost. Both sides judge the clean and the attacked images in
float32. On two free cores a round of 32 images takes about two minutes; with fewer images what a step costs beside the
convolutions weighs more.
"""

import torch
import torchattacks

from attrib import inference, robust
from attrib.data import Batch
from bench.timing import EPS, STEP_SIZE, begin, example, in_turn, parser, publish, versus


def main() -> None:
    """Print the comparison and write it as JSON."""
    options = parser(__doc__, rounds=1)
    options.add_argument("--arch", default="resnet18")
    options.add_argument("--images", type=int, default=32)
    options.add_argument("--precision", default="auto")
    chosen = options.parse_args()
    device = begin(chosen)
    precision = inference.precision(chosen.precision, device)
    model, batch = example(chosen.arch, chosen.images, device)

    def ours() -> None:
        robust.judge(model, batch.image, batch.label)
        robust.attacked(
            model, batch.image, batch.label, eps=EPS, step_size=STEP_SIZE, index=batch.index, precision=precision
        )

    sides = {"one row of attrib": ours, "nine attacks of torchattacks": lambda: one_by_one(model, batch)}
    torchattacks.PGD(model, eps=EPS, alpha=STEP_SIZE, steps=2)(batch.image, batch.label)  # both warm up
    robust.attacked(model, batch.image, batch.label, eps=EPS, step_size=STEP_SIZE, steps=(2,), precision=precision)
    taken = in_turn(sides, rounds=chosen.rounds, device=device, warm_up=False)
    publish(
        "table_row",
        f"A Table-2 row, {chosen.arch}, {chosen.images} images of 3x32x32, attacks in {precision},"
        f" {torch.get_num_threads()} threads, {device}; median of {chosen.rounds} round(s)",
        [versus("a row against nine runs of torchattacks", taken, asked=3.5)], chosen, device, seconds=taken,
    )  # fmt: skip


def one_by_one(model: torch.nn.Module, batch: Batch) -> None:
    """The clean images and nine attacks, each run from its start and judged."""
    robust.judge(model, batch.image, batch.label)
    attacks = [torchattacks.FGSM(model, eps=EPS)]
    for _ in ("PGD", "CW"):
        attacks += [torchattacks.PGD(model, eps=EPS, alpha=STEP_SIZE, steps=k) for k in robust.TABLE_STEPS]
    for attack in attacks:
        robust.judge(model, attack(batch.image, batch.label), batch.label)


if __name__ == "__main__":
    main()
