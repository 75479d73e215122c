"""AALP, Figure 2: activation maps (Eq. 6) of adversarial images under standard, adversarial and ALP training.

Every model is attacked by itself with PGD, the image shown is the first model's.
"""

from pathlib import Path

from figures import names, pictures, shared

TASKS = ("eq6",)
MODELS = (names.STANDARD, names.ADV, names.ALP)


def draw(data: Path, out: Path) -> list[Path]:
    """Write aalp-figure2."""
    found = shared.panels(data, "eq6", wanted=MODELS, needed=(names.STANDARD, names.ALP))
    title = "Activation maps, Eq. 6, of PGD images"
    return pictures.save(found, "eq6", out, "aalp-figure2", title=title, first="attacked\nimage")


if __name__ == "__main__":
    shared.alone(draw)
