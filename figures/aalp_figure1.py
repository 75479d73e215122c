"""AALP, Figure 1: how contributions are distributed over features under standard, adversarial and ALP training.

The paper calls them COM, ADV and ALP; SVHN and CIFAR-10. Its images are not said to be attacked, so they are clean.
"""

from pathlib import Path

from figures import curves, names, shared

TASKS = ("contrib",)
MODELS = (names.STANDARD, names.ADV, names.ALP)


def draw(data: Path, out: Path) -> list[Path]:
    """Write aalp-figure1."""
    found = shared.panels(data, "contrib", wanted=MODELS, needed=(names.STANDARD, names.ALP))
    return curves.contributions(found, out, "aalp-figure1", title="Feature contributions, clean test images")


if __name__ == "__main__":
    shared.alone(draw)
