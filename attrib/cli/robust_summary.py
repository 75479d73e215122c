"""From the per-image results of ``attrib robust`` to its JSON, and to what an expert would object to."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attrib.cli import common

if TYPE_CHECKING:
    import pandas as pd

    from attrib.data import Dataset
    from attrib.inference import Precision


class Radius(NamedTuple):
    """A radius and the step of the attacks there."""

    eps: float
    step_size: float


class How(NamedTuple):
    """What is done to every image; radii by rising eps."""

    radii: list[Radius]
    steps: list[int]
    restarts: int
    worst: bool
    autoattack: bool
    seed: int
    precision: "Precision"


class Key(NamedTuple):
    """One column of results."""

    split: str
    model: str
    attack: str
    eps: float


Rights = dict[Key, NDArray[np.bool_]]
"""Whether each image was classified correctly, (N,) in the order of the data."""


def rights_of(table: "pd.DataFrame") -> Rights:
    """The columns of results of a long table."""
    found = {}
    for group, part in table.groupby(["split", "model", "attack", "eps"], sort=False):
        split, model, attack, eps = group
        found[Key(str(split), str(model), str(attack), float(str(eps)))] = part["correct"].to_numpy(bool)
    return found


def key(split: str, model: str, attack: str, eps: float) -> Key:
    """Where a result is found; clean images have no radius."""
    return Key(split, model, attack, 0.0 if attack == "clean" else eps)


def summary_of(rights: Rights, subjects: list[common.Subject], data: "Dataset", how: How) -> dict[str, Any]:
    """The command's JSON; where there is a sweep, all but ``sweep`` is at its largest radius."""
    from attrib import robust as library
    from attrib.autoattack import parts

    main = how.radii[-1]
    attacks = ["clean", *library.columns(how.steps), *(["autoattack"] if how.autoattack else [])]
    models = []
    for subject in subjects:
        entry = {
            **common.identity(subject), "n": len(data),
            "attacked": [way.name for way in library.ways(subject.model)],
            **_accuracies(rights, data.split, subject.name, attacks, main.eps),
        }  # fmt: skip
        if len(how.radii) > 1:
            entry["sweep"] = [
                {**radius._asdict(), **_accuracies(rights, data.split, subject.name, attacks, radius.eps)}
                for radius in how.radii
            ]
        if any(key.split != data.split for key in rights):
            entry["gap"] = _gap(rights, subject.name, attacks, main.eps, seed=how.seed)
        models.append(entry)
    names = [subject.name for subject in subjects]
    return {
        "data": data.name, "split": data.split, "eps": main.eps, "step_size": main.step_size, "steps": how.steps,
        "worst": how.worst, "restarts": how.restarts, "seed": how.seed, "precision": how.precision,
        "autoattack": {"version": "standard", "parts": parts(len(data.classes))} if how.autoattack else None,
        "models": models, "pairs": _pairs(rights, data.split, names, attacks, main.eps, seed=how.seed),
        "versions": common.provenance(),
    }  # fmt: skip


def _accuracies(rights: Rights, split: str, name: str, attacks: list[str], eps: float) -> dict[str, Any]:
    from attrib.robust import interval

    held = {attack: rights[key(split, name, attack, eps)] for attack in attacks}
    return {
        "accuracies": {attack: float(right.mean()) for attack, right in held.items()},
        "intervals": {attack: list(interval(right)) for attack, right in held.items()},
    }


def _gap(rights: Rights, name: str, attacks: list[str], eps: float, *, seed: int) -> dict[str, Any]:
    """The robust generalisation gap of every attack: training less test accuracy."""
    from attrib.robust import gap

    train = {attack: rights[key("train", name, attack, eps)] for attack in attacks}
    gaps = {attack: gap(train[attack], rights[key("test", name, attack, eps)], seed=seed) for attack in attacks}
    return {
        "n_train": len(train["clean"]),
        "train": {attack: float(right.mean()) for attack, right in train.items()},
        "difference": {attack: found[0] for attack, found in gaps.items()},
        "intervals": {attack: list(found[1:]) for attack, found in gaps.items()},
    }


def _pairs(
    rights: Rights, split: str, names: list[str], attacks: list[str], eps: float, *, seed: int
) -> list[dict[str, Any]]:
    """Every other model's accuracy less the first one's, paired by image."""
    from attrib.robust import paired

    pairs = []
    for name in names[1:]:
        for attack in attacks:
            at = [key(split, model, attack, eps) for model in (name, names[0])]
            result = paired(rights[at[0]], rights[at[1]], seed=seed)
            pairs.append(
                {
                    "a": name, "b": names[0], "attack": attack, "eps": at[0].eps, "n": len(rights[at[0]]),
                    "difference": result.difference, "ci": [result.low, result.high], "p": result.p,
                }
            )  # fmt: skip
    return pairs


def doubts(
    table: "pd.DataFrame", rights: Rights, subjects: list[common.Subject], data: "Dataset", how: How
) -> list[str]:
    """What an expert would object to, a sentence each, the model's name in front."""
    from attrib import robust as library

    found = []
    eps, step_size = how.radii[-1]
    if not library.reaches(eps, step_size, max(how.steps)):
        found.append(f"{max(how.steps)} steps of {step_size:.4g} cannot reach the edge of eps {eps:.4g}; try --steps")
    own = table[table["split"] == data.split]
    for subject in subjects:
        name = subject.name
        clean = own[(own["model"] == name) & (own["attack"] == "clean")]
        columns = library.columns(how.steps)
        points = [
            library.Point(*radius, {attack: rights[key(data.split, name, attack, radius.eps)] for attack in columns})
            for radius in how.radii
        ]
        said = library.doubts(
            clean["correct"].to_numpy(bool), clean["label"].to_numpy(int), clean["gradient"].to_numpy(float), points,
            classes=len(data.classes), steps=how.steps,
        )  # fmt: skip
        if how.autoattack:
            broken = own[(own["model"] == name) & (own["attack"] == "autoattack")]
            by_square = float((broken["via"] == "square").mean())
            if by_square > 0.002:  # the package's own threshold
                said.append(
                    f"Square, which needs no gradient, broke {by_square:.1%} of the images after AutoAttack's other"
                    " parts had not: a sign of masked gradients"
                )
        found += [f"{name}: {sentence}" for sentence in said]
    return found
