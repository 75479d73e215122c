"""The analyses behind the figures: which models, how many images, and what is kept of the result."""

import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from attrib.analyses.base import Analysis
from attrib.analyses.contrib import Contributions
from attrib.analyses.evolve import Evolution
from attrib.analyses.fc import LastLayer
from attrib.analyses.maps import Maps
from attrib.analyses.options import Attack
from attrib.analyses.robust import Robustness
from attrib.analyses.sets import Sets
from attrib.analyses.span import Span
from figures import names, trim
from figures.models import SECTION_2
from figures.names import Role
from figures.shared import papers, pick
from figures.trim import Trim

RULES = ("max:0.2", "max:0.5", "otsu", "mass:0.5", "mass:0.9")
"""Threshold rules that AGAIN's Table 1 is tried with, beside mean."""
OTHER_MAPS = ("eq6", "gradient", "smoothgrad")
"""Maps that it is tried with, beside gradcam; each with mean and otsu."""
FEW = 500
"""Images for the other maps, which cost many gradients each."""
SHOWN = 6
"""Images, or epochs, in a grid of maps."""


class Trained(NamedTuple):
    """What lies under DIR/NAME, and under DIR/NAME-seedK."""

    name: str
    files: dict[Path, str]
    """One model.pt per seed, and the fingerprints of their weights."""
    epochs: dict[Path, str]
    """The first seed's epoch-*.pt, in order."""


class Entry(NamedTuple):
    """One analysis."""

    name: str
    """Of the files kept, and in commands.json."""
    analysis: Analysis
    models: dict[str, Any]
    """As :meth:`Analysis.run` takes them: name to one path per seed, or to the folder of a run."""
    fingerprints: dict[str, list[str]]
    """Of the weights that the result depends on."""
    keep: Trim = trim.summary
    images: int | None = None
    """How many images it looks at; None: none."""
    limit: int | None = None
    """Only the first so many images of the data; None: all."""

    def record(self, data: str) -> dict[str, Any]:
        """What commands.json says of it before its result is there."""
        return {"command": self.command(data), "models": self.fingerprints, "images": self.images}

    def command(self, data: str) -> str:
        """The command line that gives the same result, to be shown."""
        parts = ["attrib", self.analysis.name]
        for name, where in self.models.items():
            if isinstance(where, list):
                parts += ["--ckpt", f"{name}={','.join(map(str, where))}"]
            else:
                parts += [*(["--run"] if "models" in self.analysis.takes else []), f"{name}={where}"]
        parts += ["--data", data] if self.images else []
        parts += ["--limit", str(self.limit)] if self.limit else []
        for each in fields(self.analysis):
            value, usual = getattr(self.analysis, each.name), each.default
            if value == usual:
                continue
            if isinstance(value, Attack):
                parts += [] if isinstance(usual, Attack) and usual.name == value.name else ["--attack", value.name]
                parts += ["--steps", str(value.steps)] if value.steps else []
            else:
                parts.append(f"--{each.name.replace('_', '-')}")
                parts += [] if value is True else [each.metadata["show"](value)]
        return shlex.join(parts)


def same_command(old: str, new: str) -> bool:
    """Whether two commands ask the same, wherever the checkpoints lie; ``--threshold mean`` is the default."""
    asked = [{part for part in shlex.split(text) if os.sep not in part} for text in (old, new)]
    return asked[0] ^ asked[1] <= {"--threshold", "mean"}


def entries(
    models: Sequence[Trained], data: str, *, count: int, attacked: int, autoattack: int | None
) -> list[Entry]:  # fmt: skip
    """All analyses that these models allow, the cheap ones first.

    data: the data set's name; count: images where no attack or a short one is run; attacked: images where a long one
    is (robust, and whatever runs over epochs); autoattack: images for AutoAttack, None for not at all.
    """
    by_name = {model.name: model for model in models}
    main = [model for model in models if not names.SWEEP.fullmatch(model.name)]
    section2 = Attack("pgd", steps=SECTION_2.get(data))

    def of(*roles: Role) -> list[Trained]:
        """The models that stand for these roles."""
        return [by_name[name] for name in dict.fromkeys(pick(list(by_name), role) for role in roles) if name]

    def images(found: Iterable[Entry], number: int) -> list[Entry]:
        return [each._replace(images=number, limit=number) for each in found]

    table1, pair = of(names.STANDARD, names.PGD_AT, names.AGAIN), of(names.ALP, names.AALP)
    maps = Maps(map="eq6", attack=section2, images=SHOWN)
    cheap = [
        _entry("span", Span(), main, partial(trim.span, shown=[model.name for model in table1 or main])),
        _entry("contrib", Contributions(attack=section2), main, trim.contrib),
    ]
    few, forms = [], of(names.STANDARD, names.PGD_AT, names.PGD_AT_AWP, *names.FORMS)
    if len(table1) > 1:
        cheap += [_entry(f"span-{rule.replace(':', '-')}", Span(threshold=rule), forms) for rule in RULES]
        few = [
            _entry(f"span-{map}-{rule}", Span(map=map, threshold=rule), forms)
            for map in OTHER_MAPS for rule in ("mean", "otsu")
        ]  # fmt: skip
    pictures = [
        _entry("smoothgrad", Maps(map="smoothgrad", images=SHOWN),
               of(names.STANDARD, names.PGD_AT, names.NO_FUSION, names.AGAIN), trim.examples),
        _entry("eq6", maps, of(names.STANDARD, names.ADV, names.ALP, names.AALP), trim.examples),
        *[_eq6_epochs(maps, model) for model in of(names.AALP) if model.epochs],
    ]  # fmt: skip
    both = [_entry("sets", Sets(attack=section2), pair, trim.sets)] if len(pair) == 2 else []
    found = [
        _entry("fc", LastLayer(), main, trim.fc), *images(cheap, count), *images(few, min(FEW, count)),
        *(each._replace(images=SHOWN) for each in pictures), *images(both, count),
        *images(_attacked(of, main, section2), attacked), *images(_sweeps(models), attacked),
    ]  # fmt: skip
    if autoattack:
        strongest = _entry("autoattack", Robustness(steps=(10,), autoattack=True), _alp_first(main))
        found += images([strongest], autoattack)
    return [each for each in found if each.models]


def _attacked(of: Callable[..., list[Trained]], main: Sequence[Trained], section2: Attack) -> list[Entry]:
    """What takes a long attack: Guided Dropout, the gap between training and test images, the epochs, accuracies."""
    ten = Robustness(steps=(10,))
    guided = {without: of((without,), (name,)) for without, name in
              (("raw", "raw-gd"), ("madry", "adv-gd"), ("alp", "aalp-gd"))}  # fmt: skip
    found = [_entry(f"gd-{without}", ten, models) for without, models in guided.items() if len(models) == 2]
    gap = of(names.PGD_AT, names.PGD_AT_AWP, names.SMOOTH, names.SMOOTH_RAMP, *names.FORMS)
    if len(gap) > 1:
        found.append(_entry("gap", Robustness(steps=(10,), gap=True), gap))
    runs = [model for model in of(names.ALP, names.AALP) if model.epochs]
    found += [_over_epochs("sets-epochs", Sets(attack=section2), [run]) for run in runs if run.name == "alp"]
    if runs:
        found.append(_over_epochs("evolve", Evolution(), runs, trim.evolve))
    return [*found, _entry("robust", Robustness(), _alp_first(main))]


def _sweeps(models: Sequence[Trained]) -> list[Entry]:
    """Over alpha; 100 steps are for the endpoint of all claims about accuracy, the column "worst"."""
    found, best = [], papers()["again"]["figure4"]["best"]
    for method in ("aalp", "again", "again-logit"):
        sweep = [model for model in models if model.name.startswith(f"{method}-alpha-")]
        # Differences are to the first model, and the paper's best is what the others are compared with.
        sweep.sort(key=lambda model: not model.name.endswith(f"-alpha-{best}"))
        if len(sweep) > 1:
            found.append(_entry(f"alpha-{method}", Robustness(steps=(20, 100)), sweep))
    return found


def _alp_first(models: Sequence[Trained]) -> list[Trained]:
    """Differences are to the first model, and ALP is the one that the papers compare with."""
    return sorted(models, key=lambda model: model.name != "alp")


def _entry(name: str, analysis: Analysis, models: Iterable[Trained], keep: Trim = trim.summary) -> Entry:
    chosen = list(models)
    prints = {model.name: list(model.files.values()) for model in chosen}
    return Entry(name, analysis, {model.name: list(model.files) for model in chosen}, prints, keep)


def _over_epochs(name: str, analysis: Analysis, runs: Sequence[Trained], keep: Trim = trim.summary) -> Entry:
    folders = {run.name: next(iter(run.files)).parent for run in runs}
    return Entry(name, analysis, folders, {run.name: list(run.epochs.values()) for run in runs}, keep)


def _eq6_epochs(maps: Maps, run: Trained) -> Entry:
    """Maps at some of a run's epochs, evenly spaced (AALP, Figure 10)."""
    epochs = list(run.epochs)
    few = dict.fromkeys(epochs[round(k * (len(epochs) - 1) / (SHOWN - 1))] for k in range(SHOWN))
    shown = {path.stem.replace("-", " "): [path] for path in few}
    return Entry("eq6-epochs", maps, shown, {run.name: list(run.epochs.values())}, trim.examples)
