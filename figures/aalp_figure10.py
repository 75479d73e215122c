"""AALP, Figure 10: activation maps (Eq. 6) of adversarial images in the course of AALP training.

Up to six of the saved epochs, evenly spaced; the paper saves every 10,000 steps. Every epoch is attacked by itself with
PGD, the image shown is the first epoch's.
"""

from pathlib import Path

from figures import names, pictures, shared

TASKS = ("eq6-epochs",)


def draw(data: Path, out: Path) -> list[Path]:
    """Write aalp-figure10."""
    found = [
        panel._replace(models=panel.arrays("eq6-epochs")["model"].tolist())
        for panel in shared.panels(data, "eq6-epochs", needed=(names.AALP,))
    ]
    title = "AALP's activation maps, Eq. 6, of PGD images"
    return pictures.save(found, "eq6-epochs", out, "aalp-figure10", title=title, first="attacked\nimage")


if __name__ == "__main__":
    shared.alone(draw)
