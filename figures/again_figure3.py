"""AGAIN supplement, Figure 3: valid values of the last layer in red, the others in white, for PGD-AT and AGAIN.

Valid: above the mean of W. One file per data set and architecture, since the layers have different sizes.
"""

from pathlib import Path

from attrib.plots.fc import valid_picture
from figures import names, shared

TASKS = ("fc",)
MODELS = (names.PGD_AT, names.AGAIN)


def draw(data: Path, out: Path) -> list[Path]:
    """Write again-figure3-DATA-ARCH for each."""
    written = []
    for panel in shared.panels(data, "fc", wanted=MODELS, needed=MODELS):
        arrays, summary = panel.arrays("fc"), panel.json("fc")
        figure = valid_picture(
            [arrays[f"valid {model}"] for model in panel.models],
            models=[names.label(model) for model in panel.models],
            classes=[shared.entry(summary, model)["classes"] for model in panel.models],
            title=f"{panel.title}: valid values (above the mean of W)",
        )
        written += shared.save(figure, out, f"again-figure3-{panel.folder.name}")
    return written


if __name__ == "__main__":
    shared.alone(draw)
