"""AALP, Figure 6: the effect of alpha, the weight of the adaptive ALP loss.

The paper (SVHN) finds that a larger alpha improves the defence and costs clean accuracy.
"""

from pathlib import Path

from figures import curves, shared

TASKS = ("alpha-aalp",)


def draw(data: Path, out: Path) -> list[Path]:
    """Write aalp-figure6."""
    return curves.over_alpha(data, out, "aalp-figure6", tasks=TASKS, title="AALP's alpha")


if __name__ == "__main__":
    shared.alone(draw)
