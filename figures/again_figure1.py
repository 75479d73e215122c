"""AGAIN supplement, Figure 1: SmoothGrad maps under standard training, AGAIN without feature fusion, and AGAIN.

PGD-AT, which the paper leaves out, stands between them.
"""

from pathlib import Path

from figures import names, pictures, shared

TASKS = ("smoothgrad",)
MODELS = (names.STANDARD, names.PGD_AT, names.NO_FUSION, names.AGAIN)


def draw(data: Path, out: Path) -> list[Path]:
    """Write again-figure1."""
    found = shared.panels(data, "smoothgrad", wanted=MODELS, needed=(names.STANDARD, names.AGAIN))
    return pictures.save(found, "smoothgrad", out, "again-figure1", title="SmoothGrad of the true class's score")


if __name__ == "__main__":
    shared.alone(draw)
