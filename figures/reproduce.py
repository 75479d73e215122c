"""Train the papers' models and make every figure: ``python -m figures.reproduce [--short] [--sweeps]``.

Runs go to runs/DATA-ARCH/NAME in the order of their value, which figures/models.py lists. Finished runs are
skipped and interrupted ones continue, so the same command may be given again. A failed run does not stop the others.

--short is for two CPU cores: one seed of MNIST and CIFAR-10 with short recipes, hours instead of a night on a GPU.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrib.errors import InputError, Stopped
from figures import models, run
from figures.__main__ import draw
from figures.models import MNIST, RESNET18, RESNET32, Row
from train.engine import keep_freed_memory
from train.loop import train

LONG: dict[str, dict[str, Any]] = {RESNET18: {"autoattack": 1000}, RESNET32: {}, MNIST: {}}
SHORT: dict[str, dict[str, Any]] = {MNIST: {"attacked": 1000}, RESNET32: {"limit": 1000, "attacked": 500}}
"""Numbers of test images, the arguments of ``figures.run.make``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and draw; returns 1 if a run failed, 2 for wrong input, 130 if interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m figures.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="only what two CPU cores can do")
    parser.add_argument("--sweeps", action="store_true", help="also the sweeps over alpha")
    parser.add_argument(
        "--only", nargs="+", choices=models.GROUPS, metavar="GROUP", help="only these groups, of A to E"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="only print the training commands")
    options = parser.parse_args(arguments)
    if options.short:
        wanted = [*models.SHORT, *(models.SHORT_SWEEPS if options.sweeps else [])]
    else:
        wanted = models.all_rows(sweeps=options.sweeps, groups=options.only or tuple(models.GROUPS))
    if options.dry_run:
        for row in wanted:
            print(" ".join(["python -m train", *models.arguments(row), "--out", str(options.runs / row.key)]))
        return 0
    try:
        failed = train_all(wanted, options.runs, device=options.device)
        for place, images in (SHORT if options.short else LONG).items():
            try:
                run.make(options.runs / place, device=options.device, **images)
            except InputError as error:
                failed.append(f"figures of {place}: {error}")
        draw()
    except (KeyboardInterrupt, Stopped):
        print("figures.reproduce: interrupted; the same command continues", file=sys.stderr)
        return 130
    for each in failed:
        print(f"failed: {each}")
    return 1 if failed else 0


def train_all(wanted: Sequence[Row], runs: Path, *, device: str) -> list[str]:
    """Train the runs that are not finished; returns the failed ones, with reasons."""
    keep_freed_memory()
    failed = []
    for row in wanted:
        try:
            config, out = models.config(row), runs / row.key
            if not models.is_finished(out, epochs=config.epochs):
                print(row.key, flush=True)
                train(config, out, device=device)
        except (InputError, RuntimeError) as error:  # also out of memory
            failed.append(f"{row.key}: {error}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
