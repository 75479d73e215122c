"""AGAIN supplement, Figure 2: attribution spans under standard training, PGD-AT and AGAIN.

The paper does not print its threshold; here a pixel belongs to the span when Grad-CAM there exceeds the map's mean.
"""

from pathlib import Path

from figures import names, pictures, shared

TASKS = ("span",)
MODELS = (names.STANDARD, names.PGD_AT, names.AGAIN)


def draw(data: Path, out: Path) -> list[Path]:
    """Write again-figure2."""
    found = shared.panels(data, "span", wanted=MODELS, needed=(names.STANDARD, names.PGD_AT))
    title = "Grad-CAM of the true class; span: above the map's mean"
    return pictures.save(found, "span", out, "again-figure2", title=title, spans=True)


if __name__ == "__main__":
    shared.alone(draw)
