"""From the per-image results of ``attrib robust`` to its JSON, and to what an expert would object to."""

from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attrib.cli import common
from attrib.cli.subjects import Subject, entry_of, groups

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    seed: int
    attack: str
    eps: float


Rights = dict[Key, NDArray[np.bool_]]
"""Whether each image was classified correctly, (N,) in the order of the data."""


WORST = "worst"
"""The column of the images that are right under the longest PGD and under the longest CW."""


def rights_of(table: "pd.DataFrame", steps: "Sequence[int]") -> Rights:
    """The columns of results of a long table, and :data:`WORST`, image by image; steps: the k of PGD-k and CW-k."""
    found = {}
    for group, part in table.groupby(["split", "model", "seed", "attack", "eps"], sort=False):
        split, model, seed, attack, eps = group
        found[Key(str(split), str(model), int(str(seed)), str(attack), float(str(eps)))] = part["correct"].to_numpy(
            bool
        )
    pgd, cw = f"pgd-{max(steps)}", f"cw-{max(steps)}"
    return found | {
        key._replace(attack=WORST): right & found[key._replace(attack=cw)]
        for key, right in found.items()
        if key.attack == pgd
    }


def of_files(rights: Rights, split: str, files: "Sequence[Subject]", attack: str, eps: float) -> NDArray[np.bool_]:
    """The results of a model's files, (S,N); clean images have no radius."""
    radius = 0.0 if attack == "clean" else eps
    return np.array([rights[Key(split, file.group, file.seed, attack, radius)] for file in files])


def summary_of(rights: Rights, subjects: list[Subject], data: "Dataset", how: How) -> dict[str, Any]:
    """The command's JSON; where there is a sweep, all but ``sweep`` is at its largest radius."""
    from attrib import accuracy as library
    from attrib.autoattack import parts

    main = how.radii[-1]
    attacks = ["clean", *library.columns(how.steps), WORST, *(["autoattack"] if how.autoattack else [])]

    def numbers(files: "Sequence[Subject]") -> dict[str, Any]:
        entry = {
            "n": len(data), "attacked": [path.name for path in library.attack_paths(files[0].model)],
            **_accuracies(rights, data.split, files, attacks, main.eps),
        }  # fmt: skip
        if len(how.radii) > 1:
            entry["sweep"] = [
                {**radius._asdict(), **_accuracies(rights, data.split, files, attacks, radius.eps)}
                for radius in how.radii
            ]
        if any(key.split != data.split for key in rights):
            entry["gap"] = _gap(rights, files, attacks, main.eps)
        return entry

    return {
        "data": data.name, "split": data.split, "eps": main.eps, "step_size": main.step_size, "steps": how.steps,
        "worst": how.worst, "restarts": how.restarts, "seed": how.seed, "precision": how.precision,
        "autoattack": {"version": "standard", "parts": parts(len(data.classes))} if how.autoattack else None,
        "models": [entry_of(files, numbers) for files in groups(subjects).values()],
        "pairs": _pairs(rights, data.split, groups(subjects), attacks, main.eps),
        "versions": common.provenance(),
    }  # fmt: skip


def _accuracies(
    rights: Rights, split: str, files: "Sequence[Subject]", attacks: list[str], eps: float
) -> dict[str, Any]:
    from attrib.stats import share_interval

    held = {attack: of_files(rights, split, files, attack, eps) for attack in attacks}
    return {
        "accuracies": {attack: float(right.mean()) for attack, right in held.items()},
        "intervals": {attack: list(share_interval(right)) for attack, right in held.items()},
    }


def _gap(rights: Rights, files: "Sequence[Subject]", attacks: list[str], eps: float) -> dict[str, Any]:
    """The robust generalisation gap of every attack: training less test accuracy."""
    from attrib import accuracy, stats

    train, test = (
        {attack: of_files(rights, split, files, attack, eps) for attack in attacks} for split in ("train", "test")
    )
    found = {}
    for attack in attacks:
        if len(files) == 1:
            found[attack] = accuracy.gap(train[attack][0], test[attack][0])
        else:
            # Other images: those of the one split are missing from the other.
            missing = np.full_like(train[attack], np.nan, float), np.full_like(test[attack], np.nan, float)
            sides = np.hstack([train[attack], missing[1]]), np.hstack([missing[0], test[attack]])
            found[attack] = stats.groups_over_seeds(*sides)[:3]
    return {
        "n_train": train["clean"].shape[1],
        "train": {attack: float(right.mean()) for attack, right in train.items()},
        "difference": {attack: difference for attack, (difference, *_) in found.items()},
        "intervals": {attack: ends for attack, (_, *ends) in found.items()},
    }


def _pairs(
    rights: Rights, split: str, seeds: dict[str, list[Subject]], attacks: list[str], eps: float
) -> list[dict[str, Any]]:
    """Every two models' difference in accuracy, a less b, paired by image, under each attack."""
    from attrib import stats

    pairs = []
    for first, second in combinations(seeds, 2):
        for attack in attacks:
            a, b = (of_files(rights, split, seeds[model], attack, eps) for model in (first, second))
            result = stats.paired_shares(a, b)
            pairs.append(
                {
                    "a": first, "b": second, "attack": attack, "eps": 0.0 if attack == "clean" else eps,
                    "n": a.shape[1], "difference": result.difference, "ci": [result.low, result.high], "p": result.p,
                }
            )  # fmt: skip
    return stats.with_holm(pairs)


def doubts(table: "pd.DataFrame", rights: Rights, subjects: list[Subject], data: "Dataset", how: How) -> list[str]:
    """What an expert would object to, a sentence each, the model's name in front."""
    from attrib import accuracy as library
    from attrib import objections

    found: list[str] = []
    eps, step_size = how.radii[-1]
    found += objections.warn_short_attack(eps, step_size, max(how.steps))
    own = table[table["split"] == data.split]
    for subject in subjects:
        mine = own[(own["model"] == subject.group) & (own["seed"] == subject.seed)]
        clean = mine[mine["attack"] == "clean"]
        columns = library.columns(how.steps)
        points = [
            objections.Point(
                *radius, {attack: of_files(rights, data.split, [subject], attack, radius.eps)[0] for attack in columns}
            )
            for radius in how.radii
        ]
        said = objections.objections(
            clean["correct"].to_numpy(bool), clean["label"].to_numpy(int), clean["gradient"].to_numpy(float), points,
            classes=len(data.classes), steps=how.steps,
        )  # fmt: skip
        if how.autoattack:
            broken = mine[mine["attack"] == "autoattack"]
            by_square = float((broken["via"] == "square").mean())
            if by_square > 0.002:  # the package's own threshold
                said.append(
                    f"Square, which needs no gradient, broke {by_square:.1%} of the images after AutoAttack's other"
                    " parts had not: a sign of masked gradients"
                )
        found += [f"{subject.name}: {sentence}" for sentence in said]
    return found
