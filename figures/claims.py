"""The papers' claims in their order, and the verdicts on them from each folder of results."""

from pathlib import Path
from typing import NamedTuple

from figures import judge_aalp, judge_again, judge_training, names, precondition, shared, verdicts
from figures.finding import Finding, Judge, cards, summary_of
from figures.shared import Panel
from figures.verdicts import Verdict

SVHN = ("svhn",)


class Claim(NamedTuple):
    """A sentence of a paper, and how it is judged."""

    source: str
    statement: str
    rule: str
    """Its parts: differences that have to be above 0."""
    tasks: tuple[str, ...]
    """The analyses that it is judged from, each separately."""
    judge: Judge
    paper: str = "aalp"
    """Whose models the claim is about: ``again`` or ``aalp``."""
    data: tuple[str, ...] | None = None
    """Data sets on which the paper makes the claim; None: all of its data sets, or the paper does not say."""


class Judged(NamedTuple):
    """The verdicts on a claim from one folder of results."""

    place: Path
    finding: Finding
    verdicts: list[Verdict]
    """One per part."""
    unfit: list[str]
    """Why no claim of the paper can be tested on these models."""
    elsewhere: list[str]
    """If the paper makes this claim on other data only: on which."""


CLAIMS = (
    Claim(
        "AGAIN, Table 1", "ASC: standard > AGAIN > PGD-AT",
        "standard − AGAIN and AGAIN − PGD-AT, paired by image (Grad-CAM, threshold mean), each with and without empty"
        " maps", ("span",), judge_again.asc_order, "again",
    ),
    Claim(
        "AGAIN, Table 1", "ASC is 54.86, 51.80 and 53.54 %",
        "each value lies within one point of the printed one, with Grad-CAM above its mean, fixed beforehand (the paper"
        " prints no rule)", ("span",), judge_again.asc_values, "again",
    ),
    Claim(
        "AGAIN, Table 2", "the last layer has more valid values with AGAIN than with PGD-AT (308 against 272.3)",
        "AGAIN − PGD-AT, mean over the classes, tested over seeds", ("fc",), judge_again.valid, "again",
    ),
    Claim(
        "AGAIN, Figure 4", "alpha 0.6 is best", "accuracy under attack at 0.6 minus that at every other alpha",
        ("alpha-again", "alpha-again-logit"), judge_again.best_alpha, "again",
    ),
    Claim(
        "AGAIN, section 2", "AGAIN generalises better: a smaller robust generalisation gap than PGD-AT",
        "PGD-AT's gap minus AGAIN's (gap: training minus test accuracy, under attack)", ("gap",), judge_again.gap,
        "again",
    ),
    Claim(
        "ours", "AGAIN's logit form beats PGD-AT with label smoothing 0.4, to which it reduces in expectation",
        "AGAIN (logit form) − PGD-AT with smoothing, neither with ramp or feature fusion",
        ("robust",), judge_again.smoothing, "again",
    ),
    Claim(
        "AALP, Figures 1 and 7", "fewer high-contribution features: COM > ADV > ALP > AALP",
        "participation ratio of C (as for claim 14): every model minus the next, on clean and on attacked images",
        ("contrib",), judge_aalp.contributions("participation_ratio", "participation ratio of C", scale=1, share=True),
        data=("svhn", "cifar10"),
    ),
    Claim(
        "AALP, Figures 1 and 7", "the same on the figures' common axis: contributions fall, COM > ADV > ALP > AALP",
        "1000 × mean C: every model minus the next, on clean and on attacked images (its scale follows the model's"
        " confidence)", ("contrib",), judge_aalp.contributions("mean", "1000 × mean C", scale=1000, share=False),
        data=("svhn", "cifar10"),
    ),
    Claim(
        "AALP, Table 1", "consistent images: higher confidence, lower classification and ALP loss, a lower ALP share",
        "each of the five between ALP's two sets; the ALP share is that of the total loss",
        ("sets",), judge_aalp.two_sets,
    ),
    Claim(
        "AALP, Figure 4", "ALP loss rises for the inconsistent and falls for the consistent set over ALP training",
        "last minus first epoch at full eps (inconsistent), first minus last (consistent)", ("sets-epochs",),
        judge_training.rising_loss,
    ),
    Claim(
        "AALP, Table 2", "AALP gains over ALP in every attack's column", "AALP − ALP, accuracy under attack",
        ("robust",), judge_aalp.gains(("aalp", "alp")),
    ),
    Claim(
        "AALP, section 4.2", "AALP gains over TRADES in every attack's column but FGSM",
        "AALP − TRADES, accuracy under attack", ("robust",), judge_aalp.gains(("aalp", "trades")),
    ),
    Claim(
        "AALP, Figure 6", "a larger alpha improves the defence and costs clean accuracy",
        "alpha 1, which the paper chose, against alpha 0: accuracy under attack gained, clean accuracy lost",
        ("alpha-aalp",), judge_aalp.alpha_trade, data=SVHN,
    ),
    Claim(
        "AALP, Figure 9", "high-contribution features become fewer in the course of AALP training",
        "fall of the participation ratio of C (as for claim 7) from the first to the last epoch at full eps, and this"
        " minus the fall with ALP, the control", ("evolve",), judge_training.fewer_over_training,
    ),
    Claim(
        "AALP, Table 3", "Guided Dropout improves adversarial training and ALP under PGD-10 and CW-10",
        "accuracy under attack with minus without", ("robust",),
        judge_aalp.gains(("adv-gd", "madry"), ("aalp-gd", "alp")), data=SVHN,
    ),
    Claim(
        "AALP, Table 4", "the share of the consistent set rises", "AALP − ALP, paired by image",
        ("sets",), judge_aalp.consistent,
    ),
    Claim(
        "AALP, Figure 11", "AALP's points lie nearer to the line y = x", "ALP − AALP, mean distance of probabilities",
        ("sets",), judge_aalp.nearer,
    ),
    Claim(
        "AALP, Figure 12", "AALP converges faster than ALP",
        "accuracy under PGD, AALP − ALP, mean of the epochs at full eps in the first half of training",
        ("evolve",), judge_training.convergence, data=("mnist",),
    ),
    Claim(
        "AALP, section 3.1", "the weights of high-contribution features shrink under Guided Dropout",
        "norm of these features' columns of W, ALP − AALP-gd, both trained with weight decay",
        ("contrib",), judge_aalp.weights,
    ),
)  # fmt: skip


def panel_of(place: Path) -> Panel:
    """A folder of results with all of its models."""
    models = dict.fromkeys(name for record in shared.manifest(place).values() for name in record["models"])
    return Panel(place, names.place(place.name), list(models))


def reasons(panel: Panel, paper: str) -> list[str]:
    """Why the paper's claims cannot be tested on the models of a folder; empty if they can."""
    return precondition.reasons(panel.folder.name, paper, summary_of(panel, "robust"), cards(panel))


def judged(data: Path) -> list[tuple[Claim, list[Judged]]]:
    """Every claim with the verdicts from each folder of results; Holm's correction is over all claims together."""
    by_claim: list[list[Judged]] = []
    for claim in CLAIMS:
        of_claim = []
        for place in shared.places(data):
            panel = panel_of(place)
            of_claim += [
                Judged(place, finding, [], reasons(panel, claim.paper), _elsewhere(claim, place.name))
                for task in claim.tasks
                if (summary := summary_of(panel, task))
                for finding in claim.judge(panel._replace(task=task), summary)
            ]
        by_claim.append(of_claim)
    decided = verdicts.decide(
        [
            [
                part._replace(missing=(*each.unfit, *each.elsewhere, *part.missing))
                for each in of_claim for part in each.finding.parts
            ]
            for of_claim in by_claim
        ]
    )  # fmt: skip
    result = []
    for claim, of_claim, of_parts in zip(CLAIMS, by_claim, decided, strict=True):
        remaining = iter(of_parts)
        result.append((claim, [each._replace(verdicts=[next(remaining) for _ in each.finding.parts])
                               for each in of_claim]))  # fmt: skip
    return result


def _elsewhere(claim: Claim, place: str) -> list[str]:
    if claim.data is None or place.partition("-")[0] in claim.data:
        return []
    return [f"the paper makes this claim on {' and '.join(names.DATA[each] for each in claim.data)}"]
