"""Train the papers' models and make every figure: ``python -m figures.reproduce [--short] [--sweeps]``.

Runs go to runs/DATA-ARCH/NAME, in the order of what matters most where time is short: (a) AGAIN and its baselines,
(b) ALP, AALP and its halves, each with three seeds, (c) the other methods, (d) with --sweeps those over alpha. What is
finished is skipped and what was interrupted goes on, so the same command may be given again.

--short is for two CPU cores: one seed of MNIST and CIFAR-10 with short recipes, hours instead of a night on a GPU.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

RUNS = Path("runs")
SAVED = ("--save-every", "1")
"""Of the small networks every epoch is kept; the figures over training need ALP's and AALP's."""


class Row(NamedTuple):
    """One training run."""

    place: str
    """Folder under runs: data set and architecture."""
    name: str
    """Folder under that, by which the figures know the model."""
    recipes: tuple[str, ...]
    options: tuple[str, ...] = ()


def seeds(place: str, recipe: str, method: str, options: tuple[str, ...] = ()) -> list[Row]:
    """Three runs of a method that differ in their seed."""
    return [
        Row(place, method if seed == 0 else f"{method}-seed{seed}", (recipe, method), (*options, "--seed", str(seed)))
        for seed in range(3)
    ]


RESNET18, RESNET32, MNIST = "cifar10-resnet18", "cifar10-resnet32", "mnist-lenet"
AWP = ("--awp", "0.005")
LONG = [
    # (a)
    *(row for method in ("raw", "pgd-at", "pgd-at-smooth", "again-logit", "again")
      for row in seeds(RESNET18, "cifar10-resnet18-fast", method)),
    # (b)
    *(row for method in ("alp", "aalp", "aalp-gd", "aalp-sw")
      for row in seeds(RESNET32, "cifar10-resnet32-fast", method, SAVED)),
    # (c)
    Row(RESNET18, "trades", ("cifar10-resnet18-fast", "trades")),
    Row(RESNET18, "pgd-at-awp", ("cifar10-resnet18-fast", "pgd-at"), AWP),
    Row(RESNET18, "again-no-hff", ("cifar10-resnet18-fast", "again-no-hff")),
    Row(RESNET18, "again-logit-awp", ("cifar10-resnet18-fast", "again-logit"), AWP),
    *(Row(RESNET32, method, ("cifar10-resnet32-fast", method), SAVED)
      for method in ("raw", "madry", "trades", "raw-gd", "adv-gd", "pgd-at", "again-logit")),
    *(Row(MNIST, method, ("mnist-lenet", method), SAVED)
      for method in ("raw", "madry", "alp", "trades", "aalp-gd", "aalp-sw", "aalp", "pgd-at", "again-logit")),
]  # fmt: skip
SWEEPS = [
    # (d)
    *(Row(RESNET18, f"again-logit-alpha-{alpha}", ("cifar10-resnet18-fast", "again-logit"),
          ("--alpha", alpha, "--epochs", "10")) for alpha in ("0", "0.2", "0.4", "0.5", "0.6", "0.8", "1")),
    *(Row(RESNET32, f"aalp-alpha-{alpha}", ("cifar10-resnet32-fast", "aalp"), ("--weight", alpha, "--epochs", "10"))
      for alpha in ("0", "0.1", "0.5", "1", "2", "5")),
]  # fmt: skip
SHORT = [
    *(Row(MNIST, method, ("mnist-lenet-short", method), SAVED)
      for method in ("raw", "pgd-at", "pgd-at-smooth", "again-logit", "alp", "aalp", "aalp-gd", "aalp-sw", "madry",
                     "trades", "again", "raw-gd", "adv-gd")),
    *(Row(RESNET32, method, ("cifar10-resnet32-short", method), SAVED)
      for method in ("raw", "pgd-at", "alp", "aalp", "again-logit", "again", "trades")),
]  # fmt: skip
SHORT_SWEEPS = [
    *(Row(MNIST, f"aalp-alpha-{alpha}", ("mnist-lenet-short", "aalp"), ("--weight", alpha, "--epochs", "2"))
      for alpha in ("0", "1", "5")),
    *(Row(MNIST, f"again-logit-alpha-{alpha}", ("mnist-lenet-short", "again-logit"),
          ("--alpha", alpha, "--epochs", "2")) for alpha in ("0.4", "0.6", "1")),
]  # fmt: skip
LONG_LIMITS = {RESNET18: ["--autoattack", "1000"], RESNET32: [], MNIST: []}
SHORT_LIMITS = {MNIST: ["--attacked", "1000"], RESNET32: ["--limit", "1000", "--attacked", "500"]}
"""Options of figures.run: how many test images."""


def training(row: Row, *, device: str) -> list[str]:
    """The command that trains a row."""
    recipes = [part for recipe in row.recipes for part in ("--recipe", recipe)]
    out = ["--out", str(RUNS / row.place / row.name)]
    return [sys.executable, "-m", "train", *recipes, *row.options, *out, "--device", device]


def analysis(place: str, options: list[str], *, device: str) -> list[str]:
    """The command that makes the data of a place's figures."""
    return [
        sys.executable,
        "-m",
        "figures.run",
        "--ckpts",
        str(RUNS / place),
        *options,
        "--device",
        device,
        "--no-draw",
    ]


def main() -> int:
    """Train, analyse, draw; returns the status of the first command that fails."""
    parser = argparse.ArgumentParser(prog="python -m figures.reproduce", description=__doc__)
    parser.add_argument("--short", action="store_true", help="what two CPU cores can do")
    parser.add_argument("--sweeps", action="store_true", help="those over alpha too")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dry-run", action="store_true", help="only print the commands")
    options = parser.parse_args()
    rows, sweeps, limits = (SHORT, SHORT_SWEEPS, SHORT_LIMITS) if options.short else (LONG, SWEEPS, LONG_LIMITS)
    commands = [training(row, device=options.device) for row in [*rows, *(sweeps if options.sweeps else [])]]
    commands += [analysis(place, of, device=options.device) for place, of in limits.items()]
    commands.append([sys.executable, "-m", "figures"])
    for command in commands:
        print(" ".join(["python", *command[1:]]), flush=True)
        if not options.dry_run and (status := subprocess.run(command, check=False).returncode):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
