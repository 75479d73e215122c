"""Are the models good enough to test a paper's claims on them? Checked from the results themselves.

A claim can be tested if data set, architecture and evaluation attack are the paper's, and if the adversarially
trained baseline is at most three points below the number to expect under the longest PGD: the paper's own (AALP), or
the independent one with the nearest number of epochs (AGAIN, which prints none).
"""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any, NamedTuple

from figures import names, shared

SHORT = 3.0
"""Points that the baseline may lie below the reference."""
LONGEST = "pgd-100"
"""The attack of the comparison; the longest in AALP's Table 2."""


class Baseline(NamedTuple):
    """An adversarially trained baseline and its expected accuracy, in percent."""

    model: str
    accuracy: float
    reference: float
    source: str

    @property
    def short(self) -> float:
        """Points below the reference."""
        return self.reference - self.accuracy


def reasons(place: str, paper: str, robust: Mapping[str, Any] | None, cards: Mapping[str, Any]) -> list[str]:
    """Why the paper's claims cannot be tested in a folder of results; empty if they can.

    place: the folder's name, ``mnist-lenet``; paper: ``again`` or ``aalp``; robust: what ``attrib robust`` wrote for
    all models; cards: models.json, how the checkpoints were trained.
    """
    expected = places(paper)
    if place not in expected.values():
        wanted = " or ".join(names.place(each) for each in expected.values())
        return [f"the paper's models are {wanted}"]
    if robust is None:
        return ["robust.json is missing"]
    problems = attack_differs(robust, place, paper)
    baseline = of_place(place, paper, robust, cards)
    if baseline is None:
        problems.append(f"no adversarially trained baseline under {names.attack(LONGEST)}")
    elif baseline.short > SHORT:
        problems.append(
            f"{names.label(baseline.model)} has {baseline.accuracy:.1f} % under {names.attack(LONGEST)},"
            f" {baseline.short:.1f} points below {baseline.source} ({baseline.reference:.1f} %); {SHORT:g} are allowed"
        )
    return problems


def places(paper: str) -> dict[str, str]:
    """From data set to folder of results, for the models on which a paper rests its claims."""
    numbers = shared.papers()[paper]
    return dict(numbers["places"]) if "places" in numbers else {"cifar10": numbers["place"]}


def attack_differs(attack: Mapping[str, Any], place: str, paper: str, *, steps: bool = False) -> list[str]:
    """Which of eps, the step size and, if wanted, the number of steps of an evaluation differ from the paper.

    attack: eps, step_size and steps as a command's JSON has them.
    """
    wanted = shared.papers()[paper]["attack"].get(place.partition("-")[0])
    if wanted is None:
        return ["the paper has no attack for this data set"]
    keys = ("eps", "step_size", *(("steps",) if steps else ()))
    differ = [key for key in keys if abs(float(attack[key]) - wanted[key]) > 1e-4]
    return [
        f"the attack's {key.replace('_', ' ')}: {attack[key]:.4g}, in the paper {wanted[key]:.4g}" for key in differ
    ]


def of_place(place: str, paper: str, robust: Mapping[str, Any], cards: Mapping[str, Any]) -> Baseline | None:
    """The paper's adversarially trained baseline; None if there is none, or it was not attacked long enough."""
    accuracies = {each["name"]: each["accuracies"] for each in robust["models"]}
    model = shared.pick(list(accuracies), names.ADV if paper == "aalp" else names.PGD_AT)
    if model is None or LONGEST not in accuracies[model]:
        return None
    accuracy = 100 * accuracies[model][LONGEST]
    if paper == "aalp":
        reference = printed(place, "madry")
        source = f"the paper's {names.label('madry')}"
        return Baseline(model, accuracy, reference, source) if reference is not None else None
    experiment = nearest(shared.papers()["again"]["independent"], cards.get(model, [{}])[0])
    source = f"independent experiments with {experiment['epochs']} epochs under {experiment['attack']}"
    return Baseline(model, accuracy, experiment["robust"], source)


def printed(place: str, model: str) -> float | None:
    """A model's accuracy under the longest PGD in AALP's Table 2, in percent; None if the table has none."""
    aalp = shared.papers()["aalp"]
    data = place.partition("-")[0]
    if aalp["places"].get(data) != place or model not in aalp["table2"][data]:
        return None
    return float(aalp["table2"][data][model][aalp["table2"]["columns"].index(LONGEST)])


def nearest(figures: Sequence[Mapping[str, Any]], card: Mapping[str, Any]) -> Mapping[str, Any]:
    """The independent figure with the nearest schedule: by the ratio of epochs, then by averaging of weights."""
    epochs = card.get("epochs") or 1
    averaged = bool(card.get("ema"))
    return min(figures, key=lambda figure: (abs(log(figure["epochs"] / epochs)), figure["average"] != averaged))
