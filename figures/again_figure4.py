"""AGAIN supplement, Figure 4: the effect of alpha, the share of the true label.

The paper finds 0.6 to be best (ResNet-18 on CIFAR-10).
"""

from pathlib import Path

from figures import curves, shared

TASKS = ("alpha-again", "alpha-again-logit")


def draw(data: Path, out: Path) -> list[Path]:
    """Write again-figure4."""
    return curves.over_alpha(data, out, "again-figure4", tasks=TASKS, title="AGAIN's alpha")


if __name__ == "__main__":
    shared.alone(draw)
