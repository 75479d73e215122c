"""The analyses behind the figures: their models, their number of images, and which results are kept."""

import shlex
from collections.abc import Sequence
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
"""Threshold rules tried for AGAIN's Table 1, beside mean."""
OTHER_MAPS = ("eq6", "gradient", "smoothgrad")
"""Maps tried for it, beside gradcam, each with mean and otsu."""
FEW = 500
"""Images for the other maps, some of which cost many gradients each."""
SHOWN = 6
"""Images, or epochs, in a grid of maps."""
GUIDED = {"raw": "raw-gd", "madry": "adv-gd", "alp": "aalp-gd"}
"""From a model without Guided Dropout to the same with it."""
GAP = (names.PGD_AT, names.PGD_AT_AWP, names.SMOOTH, names.SMOOTH_RAMP, *names.FORMS)
"""Models whose generalisation gap is measured."""


class Trained(NamedTuple):
    """The checkpoints in DIR/NAME and in DIR/NAME-seedK."""

    name: str
    files: dict[Path, str]
    """The model.pt of every seed, with the fingerprint of its weights."""
    epochs: dict[Path, str]
    """The first seed's epoch-*.pt, in order, with fingerprints."""


class Entry(NamedTuple):
    """One analysis."""

    name: str
    """Name of the files kept, and key in commands.json."""
    analysis: Analysis
    models: dict[str, Any]
    """As ``Analysis.run`` takes them: name to one path per seed, or to the folder of a run."""
    fingerprints: dict[str, list[str]]
    """Of the weights that the result depends on."""
    keep: Trim = trim.summary
    images: int | None = None
    """How many images it uses; None: none."""
    least: int = 1
    """The smallest number of models for which it makes sense."""

    @property
    def limit(self) -> int | None:
        """How many of the first images of the data to use; None: all, from which an analysis of maps chooses."""
        return None if isinstance(self.analysis, Maps) else self.images

    def record(self, data: str) -> dict[str, Any]:
        """Its entry in commands.json, before its result exists."""
        return {"command": self.command(data), "models": self.fingerprints, "images": self.images}

    def command(self, data: str) -> str:
        """The command line that gives the same result, for display."""
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


def entries(
    models: Sequence[Trained], data: str, *, count: int, attacked: int, autoattack: int | None
) -> list[Entry]:  # fmt: skip
    """All analyses that these models allow, the cheap ones first.

    data: the data set's name; count: images for analyses with a short attack or none; attacked: images for long attacks
    (robust, and all analyses over epochs); autoattack: images for AutoAttack, None to leave it out.
    """
    by_name = {model.name: model for model in models}
    main = [model for model in models if not names.SWEEP.fullmatch(model.name)]

    def of(*roles: Role) -> list[Trained]:
        """The models that stand for these roles."""
        return [by_name[name] for name in dict.fromkeys(pick(list(by_name), role) for role in roles) if name]

    section2 = Attack("pgd", steps=SECTION_2.get(data))
    eq6, smoothgrad = Maps(map="eq6", attack=section2, images=SHOWN), Maps(map="smoothgrad", images=SHOWN)
    table1, pair = of(names.STANDARD, names.PGD_AT, names.AGAIN), of(names.ALP, names.AALP)
    forms = of(names.STANDARD, names.PGD_AT, names.PGD_AT_AWP, *names.FORMS) if len(table1) > 1 else []
    runs = [model for model in pair if model.epochs]
    # Differences are to the first model, and the papers compare with ALP.
    alp_first = sorted(main, key=lambda model: model.name != "alp")
    analyses = [
        _entry("fc", LastLayer(), main, None, trim.fc),
        _entry("span", Span(), main, count, partial(trim.span, shown=[model.name for model in table1 or main])),
        _entry("contrib", Contributions(attack=section2), main, count, trim.contrib),
        *(_entry(f"span-{rule.replace(':', '-')}", Span(threshold=rule), forms, count) for rule in RULES),
        *(_entry(f"span-{map}-{rule}", Span(map=map, threshold=rule), forms, min(FEW, count))
          for map in OTHER_MAPS for rule in ("mean", "otsu")),
        _entry("smoothgrad", smoothgrad, of(names.STANDARD, names.PGD_AT, names.NO_FUSION, names.AGAIN), SHOWN,
               trim.examples),
        _entry("eq6", eq6, of(names.STANDARD, names.ADV, names.ALP, names.AALP), SHOWN, trim.examples),
        *(_eq6_epochs(eq6, run) for run in runs if run.name == "aalp"),
        _entry("sets", Sets(attack=section2), pair, count, trim.sets, least=2),
        *(_entry(f"gd-{without}", Robustness(steps=(10,)), of((without,), (guided,)), attacked, least=2)
          for without, guided in GUIDED.items()),
        _entry("gap", Robustness(steps=(10,), gap=True), of(*GAP), attacked, least=2),
        *(_over_epochs("sets-epochs", Sets(attack=section2), [run], attacked) for run in runs if run.name == "alp"),
        _over_epochs("evolve", Evolution(), runs, attacked, trim.evolve),
        # 100 steps are for the endpoint of all claims about accuracy, the column "worst".
        *(_entry(f"alpha-{method}", Robustness(steps=(20, 100)), _sweep(models, method), attacked, least=2)
          for method in ("aalp", "again", "again-logit")),
        _entry("robust", Robustness(), alp_first, attacked),
    ]  # fmt: skip
    if autoattack:
        analyses.append(_entry("autoattack", Robustness(steps=(10,), autoattack=True), alp_first, autoattack))
    return [each for each in analyses if len(each.models) >= each.least]


def _sweep(models: Sequence[Trained], method: str) -> list[Trained]:
    """A sweep over alpha. Differences are to the first model, so the paper's best alpha comes first."""
    best = papers()["again"]["figure4"]["best"]
    sweep = [model for model in models if model.name.startswith(f"{method}-alpha-")]
    return sorted(sweep, key=lambda model: not model.name.endswith(f"-alpha-{best}"))


def _entry(
    name: str, analysis: Analysis, models: Sequence[Trained], images: int | None, keep: Trim = trim.summary, *,
    least: int = 1,
) -> Entry:  # fmt: skip
    prints = {model.name: list(model.files.values()) for model in models}
    return Entry(name, analysis, {model.name: list(model.files) for model in models}, prints, keep, images, least)


def _over_epochs(
    name: str, analysis: Analysis, runs: Sequence[Trained], images: int, keep: Trim = trim.summary
) -> Entry:  # fmt: skip
    folders = {run.name: next(iter(run.files)).parent for run in runs}
    return Entry(name, analysis, folders, {run.name: list(run.epochs.values()) for run in runs}, keep, images)


def _eq6_epochs(maps: Maps, run: Trained) -> Entry:
    """Maps at some of a run's epochs, evenly spaced (AALP, Figure 10)."""
    epochs = list(run.epochs)
    few = dict.fromkeys(epochs[round(k * (len(epochs) - 1) / (SHOWN - 1))] for k in range(SHOWN))
    shown = {path.stem.replace("-", " "): [path] for path in few}
    return Entry("eq6-epochs", maps, shown, {run.name: list(run.epochs.values())}, trim.examples, SHOWN)
