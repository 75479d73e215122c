"""AALP, Figure 8: activation maps (Eq. 6) of adversarial images under standard, adversarial, ALP and AALP training.

Every model is attacked by itself with PGD, the image shown is the first model's.
"""

from pathlib import Path

from figures import names, pictures, shared

TASKS = ("eq6",)
MODELS = (names.STANDARD, names.ADV, names.ALP, names.AALP)


def draw(data: Path, out: Path) -> list[Path]:
    """Write aalp-figure8."""
    found = shared.panels(data, "eq6", wanted=MODELS, needed=(names.ALP, names.AALP))
    title = "Activation maps, Eq. 6, of PGD images"
    return pictures.save(found, "eq6", out, "aalp-figure8", title=title, first="attacked\nimage")


if __name__ == "__main__":
    shared.alone(draw)
