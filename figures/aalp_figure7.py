"""AALP, Figure 7: how contributions are distributed over features under standard, adversarial, ALP and AALP training.

The paper calls them COM, ADV, ALP and AALP. Its images are not said to be attacked, so they are clean.
"""

from pathlib import Path

from figures import curves, names, shared

TASKS = ("contrib",)
MODELS = (names.STANDARD, names.ADV, names.ALP, names.AALP)


def draw(data: Path, out: Path) -> list[Path]:
    """Write aalp-figure7."""
    found = shared.panels(data, "contrib", wanted=MODELS, needed=(names.ALP, names.AALP))
    return curves.contributions(found, out, "aalp-figure7", title="Feature contributions, clean test images")


if __name__ == "__main__":
    shared.alone(draw)
