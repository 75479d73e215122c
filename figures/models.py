"""The training runs of the papers' models, in order of value."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from train.__main__ import parse
from train.config import Config

SMALL = ("lenet", "resnet32")
"""Architectures whose training state is a few MB: an unfinished run can continue on another machine."""

SECTION_2 = {"cifar10": 7}
"""Steps of the attack in AALP's section 2, if the default attack of the data (AGAIN's for CIFAR-10) differs."""


class Row(NamedTuple):
    """One training run."""

    place: str
    """Folder under the runs folder: data set and architecture."""
    method: str
    """The name by which the figures know the model."""
    recipes: tuple[str, ...]
    options: tuple[str, ...] = ()
    seed: int = 0

    @property
    def name(self) -> str:
        """Folder of the run under ``place``."""
        return self.method if self.seed == 0 else f"{self.method}-seed{self.seed}"

    @property
    def recipe(self) -> str:
        """``place/method``, as the ledger names it."""
        return f"{self.place}/{self.method}"

    @property
    def key(self) -> str:
        """``place/name``: its folder under the runs folder."""
        return f"{self.place}/{self.name}"

    @property
    def small(self) -> bool:
        """Whether the training state fits into an archive and several runs fit side by side on one device."""
        return self.place.partition("-")[2] in SMALL


def _rows(place: str, recipe: str, methods: Sequence[str], *options: str, seeds: Sequence[int] = (0,)) -> list[Row]:
    """Runs of several methods that share the recipe of their data set and architecture."""
    return [Row(place, method, (recipe, method), options, seed) for seed in seeds for method in methods]


def _saving(rows: Sequence[Row], every: int) -> list[Row]:
    """The rows, where ALP's and AALP's first seeds save epochs for the figures about training."""
    kept = ("--save-every", str(every))
    wanted = ("alp", "aalp")
    return [
        row._replace(options=(*row.options, *kept)) if row.method in wanted and row.seed == 0 else row for row in rows
    ]


RESNET18, RESNET32, MNIST = "cifar10-resnet18", "cifar10-resnet32", "mnist-lenet"
FAST18, FAST32, FAST_MNIST = "cifar10-resnet18-fast", "cifar10-resnet32-fast", "mnist-lenet-fast"
A = ("pgd-at", "again-release", "pgd-at-awp", "again-logit-plain", "pgd-at-smooth", "again-own", "again", "raw")
B = ("madry", "alp", "trades", "aalp", "aalp-gd", "aalp-sw", "raw", "pgd-at")
TABLE2 = ("raw", "madry", "alp", "trades", "aalp-gd", "aalp-sw", "aalp")
AWP = ("--awp", "0.005")
GROUPS = {
    "A": _rows(RESNET18, FAST18, A),
    "B": _saving(_rows(RESNET32, FAST32, B), 5),
    "C": _saving(_rows(MNIST, "mnist-lenet", TABLE2, seeds=(0, 1, 2)), 5),
    "D": [*_rows(RESNET18, FAST18, A, seeds=(1, 2)), *_rows(RESNET32, FAST32, B, seeds=(1, 2))],
    "E": [
        Row(RESNET18, "again-logit-awp", (FAST18, "again-logit"), AWP),
        *_rows(RESNET18, FAST18, ("again-logit", "pgd-at-smooth-ramp", "again-no-hff", "trades")),
        *_rows(RESNET32, FAST32, ("raw-gd", "adv-gd", "again-logit")),
        *_rows(MNIST, "mnist-lenet", ("pgd-at", "again-logit")),
    ],
}
"""Groups in order of value. A group's methods share their schedule, so that they can be compared."""
SWEEPS = [
    *(Row(RESNET18, f"again-logit-alpha-{alpha}", (FAST18, "again-logit"), ("--alpha", alpha, "--epochs", "10"))
      for alpha in ("0", "0.2", "0.4", "0.5", "0.6", "0.8", "1")),
    *(Row(RESNET32, f"aalp-alpha-{alpha}", (FAST32, "aalp"), ("--weight", alpha, "--epochs", "10"))
      for alpha in ("0", "0.1", "0.5", "1", "2", "5")),
]  # fmt: skip
SHORT = [
    *_saving(_rows(MNIST, FAST_MNIST, (*TABLE2, "pgd-at", "adv-gd", "raw-gd", "pgd-at-smooth", "again-logit")), 2),
    *_saving(_rows(RESNET32, "cifar10-resnet32-short", ("raw", "pgd-at", "alp", "aalp", "again-logit", "again",
                                                        "trades")), 1),
]  # fmt: skip
_BRIEF = ("--epochs", "3")
SHORT_SWEEPS = [
    *(Row(MNIST, f"aalp-alpha-{alpha}", (FAST_MNIST, "aalp"), ("--weight", alpha, *_BRIEF))
      for alpha in ("0", "1", "5")),
    *(Row(MNIST, f"again-logit-alpha-{alpha}", (FAST_MNIST, "again-logit"), ("--alpha", alpha, *_BRIEF))
      for alpha in ("0.4", "0.6", "1")),
]  # fmt: skip


def all_rows(*, sweeps: bool, groups: Sequence[str] = tuple(GROUPS)) -> list[Row]:
    """The rows of the groups in order of value, with those over alpha last."""
    return [*(row for group in groups for row in GROUPS[group]), *(SWEEPS if sweeps else [])]


def arguments(row: Row) -> list[str]:
    """The arguments of ``python -m train`` for a row, without --out and --device."""
    recipes = [part for recipe in row.recipes for part in ("--recipe", recipe)]
    return [*recipes, *row.options, "--seed", str(row.seed)]


def config(row: Row) -> Config:
    """The configuration that a row is trained with; raises InputError for an unknown recipe or a bad option."""
    return parse([*arguments(row), "--out", "."])[0]


def is_finished(run: Path, *, epochs: int) -> bool:
    """Whether the run in this folder has done all its epochs."""
    log = run / "log.jsonl"
    return (run / "model.pt").exists() and log.exists() and len(log.read_text().splitlines()) >= epochs
