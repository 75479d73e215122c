"""What ``figures.run`` does: one command of attrib per task, and what is kept of what it writes."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from figures import keep, names, shared
from figures.names import Role
from figures.shared import pick

RULES = ("max:0.2", "max:0.5", "otsu", "mass:0.5", "mass:0.9")
"""Threshold rules that AGAIN's Table 1 is tried with, beside mean."""
OTHER_MAPS = ("eq6", "gradient", "smoothgrad")
"""Maps that it is tried with, beside gradcam; each with mean and otsu."""
FEW = 500
"""Images for the other maps, which cost many gradients each."""
SHOWN = 6
"""Images, or epochs, in a grid of maps."""
SECTION_2 = {"cifar10": ["--steps", "7"]}
"""Options of the attack of AALP's section 2 for data sets whose default attack (AGAIN's for CIFAR-10) is another."""


class Model(NamedTuple):
    """What lies under DIR/NAME, and under DIR/NAME-seedK."""

    name: str
    paths: list[Path]
    """One model.pt per seed."""
    fingerprints: list[str]
    epochs: dict[int, Path]
    """Number to epoch-*.pt of the first seed."""

    @property
    def ckpt(self) -> str:
        """As --ckpt takes it."""
        return f"{self.name}={','.join(map(str, self.paths))}"


class Task(NamedTuple):
    """One command."""

    name: str
    """Of the files kept, and in the list of commands."""
    command: list[str]
    """The arguments of attrib, without --out."""
    models: list[Model]
    images: int | None
    """How many images it looks at; None: none."""
    keep: Callable[[Path, Path, str], list[Path]]
    """From the command's folder and the folder of results, the task's name between: the files kept."""


def plan(models: Sequence[Model], data: str, *, count: int, attacked: int, autoattack: int | None) -> list[Task]:
    """All tasks that these models allow, the cheap ones first.

    data: the data set's name; count: images where no attack or a short one is run; attacked: images where a long one
    is (robust, and whatever runs over epochs); autoattack: images for AutoAttack, None for not at all.
    """
    main = [model for model in models if not names.SWEEP.fullmatch(model.name)]
    rest = ["--data", data, "--limit", str(count)]
    dear = ["--data", data, "--limit", str(attacked)]
    section2 = SECTION_2.get(data, [])

    def task(name: str, command: str, of: Iterable[Model], options: Sequence[str], kept: object = None) -> Task:
        chosen = list(of)
        ckpts = [part for model in chosen for part in ("--ckpt", model.ckpt)]
        images = int(options[options.index("--limit") + 1]) if "--limit" in options else None
        function = kept if callable(kept) else partial(keep.summary, command=command)
        return Task(name, [command, *ckpts, *options], chosen, images, function)

    def these(*roles: Role) -> list[Model]:
        by_name = {model.name: model for model in models}
        found = dict.fromkeys(pick(list(by_name), role) for role in roles)
        return [by_name[name] for name in found if name]

    table1 = these(names.STANDARD, names.PGD_AT, names.AGAIN)
    aalp = these(names.STANDARD, names.ADV, names.ALP, names.AALP)
    seeds = {model.name: model.paths for model in main}
    found = [
        task("fc", "fc", main, [], partial(keep.fc, checkpoints={model.name: model.paths[0] for model in main})),
        task("span", "span", main, rest, partial(keep.span, shown=[model.name for model in table1 or main])),
        task(
            "contrib", "contrib", main, [*rest, "--attack", "pgd", *section2], partial(keep.contrib, checkpoints=seeds)
        ),
    ]
    forms = these(names.STANDARD, names.PGD_AT, names.PGD_AT_AWP, *names.FORMS)
    if len(table1) > 1:
        found += [task(f"span-{_slug(rule)}", "span", forms, [*rest, "--threshold", rule]) for rule in RULES]
        few = ["--data", data, "--limit", str(min(FEW, count))]
        found += [
            task(f"span-{other}-{rule}", "span", forms, [*few, "--map", other, "--threshold", rule])
            for other in OTHER_MAPS for rule in ("mean", "otsu")
        ]  # fmt: skip
    pictures = ["--data", data, "--images", str(SHOWN)]
    smooth = these(names.STANDARD, names.PGD_AT, names.NO_FUSION, names.AGAIN)
    attacked_maps = [*pictures, "--map", "eq6", "--attack", "pgd", *section2]
    found += [
        task("smoothgrad", "maps", smooth, [*pictures, "--map", "smoothgrad"], keep.maps)._replace(images=SHOWN),
        task("eq6", "maps", aalp, attacked_maps, keep.maps)._replace(images=SHOWN),
    ]
    pair = these(names.ALP, names.AALP)
    if len(pair) == 2:
        found.append(task("sets", "sets", pair, [*rest, *section2], keep.sets))
    for without, guided in (("raw", "raw-gd"), ("madry", "adv-gd"), ("alp", "aalp-gd")):
        both = these((without,), (guided,))
        if len(both) == 2:
            found.append(task(f"gd-{without}", "robust", both, [*dear, "--steps", "10"]))
    gap = these(names.PGD_AT, names.PGD_AT_AWP, names.SMOOTH, names.SMOOTH_RAMP, *names.FORMS)
    if len(gap) > 1:
        found.append(task("gap", "robust", gap, [*dear, "--steps", "10", "--gap"]))
    for model in pair:
        if model.epochs:
            found += _over_epochs(model, [*dear, *section2], attacked_maps, attacked)
    runs = [model for model in pair if model.epochs]
    if runs:
        command = ["evolve", *(f"{model.name}={model.paths[0].parent}" for model in runs), *dear]
        found.append(Task("evolve", command, [_epochs(model) for model in runs], attacked, keep.evolve))
    for method in ("aalp", "again", "again-logit"):
        sweep = [model for model in models if model.name.startswith(f"{method}-alpha-")]
        if len(sweep) > 1:
            # Differences are to the first model, and the paper's best is what the others are compared with.
            best = shared.papers()["again"]["figure4"]["best"]
            sweep.sort(key=lambda model: not model.name.endswith(f"-alpha-{best}"))
            # 100 steps for the endpoint of all claims about accuracy, the column "worst".
            found.append(task(f"alpha-{method}", "robust", sweep, [*dear, "--steps", "20,100"]))
    # Differences are to the first model, and ALP is the one that the papers compare with.
    first = [*these(names.ALP), *(model for model in main if model.name != "alp")]
    found.append(task("robust", "robust", first, dear))
    if autoattack:
        strongest = ["--data", data, "--limit", str(autoattack), "--steps", "10", "--autoattack"]
        found.append(task("autoattack", "robust", first, strongest))
    return [task for task in found if task.models]


def _over_epochs(model: Model, dear: list[str], maps: list[str], attacked: int) -> list[Task]:
    """ALP's sets over its epochs (AALP, Figure 4), AALP's maps over its epochs (Figure 10)."""
    one = _epochs(model)
    if model.name == "alp":
        command = ["sets", "--run", str(model.paths[0].parent), *dear]
        return [Task("sets-epochs", command, [one], attacked, partial(keep.summary, command="sets"))]
    numbers = list(model.epochs)
    few = [numbers[round(k * (len(numbers) - 1) / (SHOWN - 1))] for k in range(SHOWN)]
    ckpts = [part for n in sorted(set(few)) for part in ("--ckpt", f"epoch {n}={model.epochs[n]}")]
    return [Task("eq6-epochs", ["maps", *ckpts, *maps], [one], SHOWN, keep.maps)]


def _epochs(model: Model) -> Model:
    """The model as a run: its fingerprints are those of its epochs."""
    return model._replace(fingerprints=[fingerprint(path) for path in model.epochs.values()])


def fingerprint(path: Path) -> str:
    """The fingerprint of a checkpoint's weights."""
    from attrib.models import checkpoint

    return checkpoint.read(path).fingerprint


def _slug(rule: str) -> str:
    return rule.replace(":", "-")
