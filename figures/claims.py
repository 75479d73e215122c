"""The papers' claims in their order, and the rule by which each is judged."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from figures import judges, names, shared
from figures.judges import Finding
from figures.shared import Panel


class Claim(NamedTuple):
    """A sentence of a paper, and how it is judged."""

    source: str
    said: str
    rule: str
    """What has to lie above 0 with its whole 95 % interval, where nothing else is said."""
    judge: Callable[[Panel], list[Finding]]


CLAIMS = (
    Claim(
        "AGAIN, Table 1", "ASC: standard > AGAIN > PGD-AT",
        "standard − AGAIN and AGAIN − PGD-AT, paired by image (Grad-CAM, threshold mean)", judges.asc_order,
    ),
    Claim(
        "AGAIN, Table 1", "ASC is 54.86, 51.80 and 53.54 %",
        "reproduced if, under the map and rule that come closest, each value lies within one point (ResNet-18 on"
        " CIFAR-10 only)", judges.asc_values,
    ),
    Claim(
        "AGAIN, Table 2", "the last layer has more valid values with AGAIN than with PGD-AT (308 against 272.3)",
        "AGAIN − PGD-AT, over the classes", judges.valid,
    ),
    Claim(
        "AGAIN, Figure 4", "alpha 0.6 is best", "accuracy under PGD-20 at 0.6 less that at every other alpha",
        judges.best_alpha,
    ),
    Claim(
        "AGAIN, section 2", "AGAIN generalises better: a smaller robust generalisation gap than PGD-AT",
        "PGD-AT's training less test accuracy under PGD-10, less AGAIN's", judges.gap,
    ),
    Claim(
        "ours", "AGAIN's logit form beats PGD-AT with label smoothing 0.4, to which it reduces in expectation",
        "AGAIN (logit) − PGD-AT with smoothing, every column but clean; with Algorithm 1's ramp both or neither, and"
        " without the ramped smoothing the plain one",
        judges.gains(
            ("again-logit", "pgd-at-smooth-ramp"), ("again-logit-plain", "pgd-at-smooth"),
            ("again-logit", "pgd-at-smooth"),
        ),
    ),
    Claim(
        "AALP, Figures 1 and 7", "fewer high-contribution features: COM > ADV > ALP > AALP",
        "features with C above twice the model's own median: every model less the next",
        judges.contributions("high", "features above 2 × median", 1),
    ),
    Claim(
        "AALP, Figures 1 and 7", "the same on the figures' common axis: contributions fall, COM > ADV > ALP > AALP",
        "mean C: every model less the next (its scale follows the model's confidence)",
        judges.contributions("mean", "1000 × mean C", 1000),
    ),
    Claim(
        "AALP, Table 1", "consistent images: higher confidence, lower classification and ALP loss, a lower ALP share",
        "each of the five between ALP's two sets, in the direction claimed", judges.two_sets,
    ),
    Claim(
        "AALP, Figure 4", "ALP loss rises for the inconsistent and falls for the consistent set over ALP training",
        "last less first epoch, and first less last", judges.rising_loss,
    ),
    Claim(
        "AALP, Table 2", "AALP gains over ALP in every attack's column", "AALP − ALP in every column but clean",
        judges.gains(("aalp", "alp")),
    ),
    Claim(
        "AALP, section 4.2", "AALP gains over TRADES in every attack's column but FGSM",
        "AALP − TRADES in every column but clean and FGSM", judges.gains(("aalp", "trades"), without=("clean", "fgsm")),
    ),
    Claim(
        "AALP, Figure 6", "a larger alpha improves the defence and costs clean accuracy",
        "gain under PGD-20 and loss on clean images from the smallest to the largest alpha", judges.alpha_trade,
    ),
    Claim(
        "AALP, Figure 9", "high-contribution features become fewer in the course of AALP training",
        "participation ratio of C at the first less that at the last epoch", judges.fewer_over_training,
    ),
    Claim(
        "AALP, Table 3", "Guided Dropout improves adversarial training and ALP under PGD-10 and CW-10",
        "with less without, paired by image", judges.guided,
    ),
    Claim("AALP, Table 4", "the share of the consistent set rises", "AALP − ALP, paired by image", judges.consistent),
    Claim(
        "AALP, Figure 11", "AALP's points lie nearer to the line y = x", "ALP − AALP, mean distance of probabilities",
        judges.nearer,
    ),
    Claim(
        "AALP, Figure 12", "AALP converges faster than ALP",
        "accuracy under PGD, AALP − ALP, at every epoch of the first half of training", judges.convergence,
    ),
    Claim(
        "AALP, section 3.1", "the weights of high-contribution features shrink under Guided Dropout",
        "norm of these features' columns of W, ALP − AALP-gd", judges.weights,
    ),
)  # fmt: skip


def places(data: Path) -> list[Path]:
    """The folders of results, in the order in which they are shown."""
    found = (path for path in data.glob("*/") if shared.manifest(path))
    return sorted(found, key=lambda path: names.place_order(path.name))


def judged(data: Path) -> list[tuple[Claim, list[tuple[str, Finding]]]]:
    """Every claim with what each folder of results says of it."""
    found = []
    for claim in CLAIMS:
        of_claim = []
        for place in places(data):
            models = dict.fromkeys(name for record in shared.manifest(place).values() for name in record["models"])
            panel = Panel(place, names.place(place.name), list(models))
            of_claim += [(panel.title, finding) for finding in claim.judge(panel)]
        found.append((claim, of_claim))
    return found
