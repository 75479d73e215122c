"""Every figure and table of the papers, and two tables of our own: its data and its drawing function."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from attrib import latex
from attrib.files import folder
from attrib.plots import base
from attrib.plots.fc import valid_picture
from attrib.styles import Style
from figures import asc_rules, curves, maps, names, sets, shared, tables
from figures.crossing import crossing
from figures.framework import framework
from figures.names import AALP, ADV, AGAIN, ALP, LOGIT, NO_FUSION, PGD_AT, SMOOTH, STANDARD, Role
from figures.shared import Missing, Panel, Table
from figures.trim import write

PRINT = Style(title=False)
"""Style of the figures: no titles, since the pages show the captions."""
Drawn = Figure | Table | dict[str, Figure]
"""Several figures: from the suffix of the file's name to a figure."""
SUFFIXES = (".tex", ".md", ".pdf", ".png")
"""Of the files of a drawing."""


class Drawing(NamedTuple):
    """A figure or table."""

    name: str
    title: str
    draw: Callable[[list[Panel], Style], Drawn]
    tasks: tuple[str, ...] = ()
    """The analyses that it is drawn from; each gives panels of its own."""
    wanted: tuple[Role, ...] = ()
    """The models shown; none: all of the analysis."""
    needed: tuple[Role, ...] = ()
    """A folder of results is shown only if it has these models."""
    more: str = ""
    """A further text for the page."""

    def write(self, data: Path, out: Path, look: Style = PRINT) -> list[Path]:
        """Draw it from the results under ``data``; returns the files written. Raises Missing if there are none.

        A figure's caption is a file for a paper (LaTeX) and one for the page (Markdown).
        """
        drawn, name = self.draw(self.panels(data), look), self.name.replace("_", "-")
        if isinstance(drawn, Table):
            place = folder(out) / name
            text = latex.file([latex.to_latex(drawn.frame, caption=drawn.caption, label=name)])
            markdown = shared.markdown(drawn.frame)
            return [
                write(place.with_suffix(".tex"), partial(_write, text)),
                write(place.with_suffix(".md"), partial(_write, f"{markdown}\n\n{drawn.caption}\n")),
            ]
        figures = {f"{name}-{part}": each for part, each in drawn.items()} if isinstance(drawn, dict) else {name: drawn}
        written = []
        for name, figure in figures.items():
            place, caption = folder(out) / name, str(figure.get_label())
            environment = latex.figures({name: (caption, figure.get_figwidth() > base.COLUMN)})
            written += base.save(figure, place)
            for suffix, text in ((".tex", environment), (".md", f"{caption}\n")):
                written.append(write(place.with_suffix(suffix), partial(_write, text)))
        return written

    def files(self, out: Path) -> list[Path]:
        """Its files in a folder, from this and from earlier results."""
        name = self.name.replace("_", "-")
        found = [*out.glob(f"{name}.*"), *out.glob(f"{name}-*")]
        return [path for path in found if path.suffix in SUFFIXES]

    def panels(self, data: Path) -> list[Panel]:
        """The results to draw; raises Missing if it needs an analysis and there are none."""
        result: list[Panel] = []
        for task in self.tasks:
            try:
                result += shared.panels(data, task, wanted=self.wanted, needed=self.needed)
            except Missing:
                if not result and task == self.tasks[-1]:
                    raise
        return result


def _write(text: str, path: Path) -> None:
    path.write_text(text)


def _of_words(table: Callable[[list[Panel]], Table]) -> Callable[[list[Panel], Style], Drawn]:
    """A table as a drawing: it has no style."""
    return lambda panels, _: table(panels)


def _valid_values(panels: Sequence[Panel], look: Style) -> dict[str, Figure]:
    """One figure per data set and architecture, since the layers have different sizes."""
    return {
        panel.folder.name: valid_picture(
            [panel.arrays()[f"valid {model}"] for model in panel.models], models=list(map(names.label, panel.models)),
            classes=[each["classes"] for each in panel.entries()],
            title=f"{panel.title}: valid values (above the mean of W) in red", look=look,
        )
        for panel in panels
    }  # fmt: skip


eq6 = partial(maps.map_grid, title="Activation maps, Eq. 6, of PGD images", first="attacked\nimage")
LADDER = (STANDARD, ADV, ALP, AALP)
TABLE1 = (STANDARD, PGD_AT, AGAIN)
OWN_ATTACK = "Each model is attacked separately with PGD. The attacked image shown is the first model's."
CLEAN = "The paper does not mention an attack on these images, so they are clean."

DRAWINGS = (
    Drawing(
        "again_figure1",
        "AGAIN supplement, Figure 1: SmoothGrad maps under standard training, AGAIN without feature fusion, and AGAIN",
        partial(maps.map_grid, title="SmoothGrad of the true class's score"), ("smoothgrad",),
        (STANDARD, PGD_AT, NO_FUSION, AGAIN), (STANDARD, AGAIN),
        "PGD-AT, which the paper leaves out, stands between them.",
    ),
    Drawing(
        "again_figure2", "AGAIN supplement, Figure 2: attribution spans under standard training, PGD-AT and AGAIN",
        partial(maps.map_grid, title="Grad-CAM of the true class; span: above the map's mean", spans=True), ("span",),
        TABLE1, (STANDARD, PGD_AT),
        "The paper does not print its threshold; here a pixel belongs to the span if Grad-CAM exceeds the map's mean"
        " there.",
    ),
    Drawing(
        "again_figure3",
        "AGAIN supplement, Figure 3: valid values of the last layer in red, the others in white, for PGD-AT and AGAIN",
        _valid_values, ("fc",), (PGD_AT, AGAIN), (PGD_AT, AGAIN),
        "Valid: above the mean of W. One file per data set and architecture, since the layers have different sizes.",
    ),
    Drawing(
        "again_figure4", "AGAIN supplement, Figure 4: the effect of alpha, the share of the true label",
        partial(curves.over_alpha, title="AGAIN's alpha"), ("alpha-again", "alpha-again-logit"),
        more="The paper finds 0.6 to be best (ResNet-18 on CIFAR-10).",
    ),
    Drawing(
        "again_table1",
        "AGAIN supplement, Table 1: average attribution span coverage (ASC) under standard training, PGD-AT and AGAIN",
        _of_words(tables.again_table1), ("span",), (STANDARD, PGD_AT, NO_FUSION, AGAIN, LOGIT), (STANDARD, PGD_AT),
        "The paper's numbers are for ResNet-18 on CIFAR-10, and it does not print its threshold. Ours is the mean of"
        " Grad-CAM.",
    ),
    Drawing(
        "again_table2",
        "AGAIN supplement, Table 2: valid values of the last layer's weights per class, PGD-AT against AGAIN",
        _of_words(tables.again_table2), ("fc",), (STANDARD, PGD_AT, SMOOTH, NO_FUSION, AGAIN, LOGIT), (PGD_AT, AGAIN),
        "The text of the paper gives only the means: 272.3 and 308 of 512 (ResNet-18 on CIFAR-10).",
    ),
    Drawing(
        "aalp_figure1",
        "AALP, Figure 1: how contributions are distributed over features under standard, adversarial and ALP training",
        curves.contributions, ("contrib",), LADDER[:3], (STANDARD, ALP),
        f"The paper calls them COM, ADV and ALP; SVHN and CIFAR-10. {CLEAN}",
    ),
    Drawing(
        "aalp_figure2",
        "AALP, Figure 2: activation maps (Eq. 6) of adversarial images under standard, adversarial and ALP training",
        eq6, ("eq6",), LADDER[:3], (STANDARD, ALP), OWN_ATTACK,
    ),
    Drawing(
        "aalp_figure3",
        "AALP, Figure 3: images of ALP's consistent and inconsistent set, clean and attacked, with two probabilities",
        sets.examples, ("sets",), (ALP,), (ALP,),
        "Green: the true class; red: the attack's class. Images are the first of each class, not chosen by eye.",
    ),
    Drawing(
        "aalp_figure4",
        "AALP, Figure 4: the ALP loss of the consistent and the inconsistent set over the epochs of ALP training",
        curves.loss_of_sets, ("sets-epochs",), needed=(ALP,),
        more="The sets are those of the last epoch. At every epoch, the loss is under an attack on that epoch's model.",
    ),
    Drawing(
        "aalp_figure5",
        "AALP, Figure 5: the training framework, redrawn from this implementation (``train/methods/aalp.py``)",
        lambda _, look: framework(look), more="It needs no results.",
    ),
    Drawing(
        "aalp_figure6", "AALP, Figure 6: the effect of alpha, the weight of the adaptive ALP loss",
        partial(curves.over_alpha, title="AALP's alpha"), ("alpha-aalp",),
        more="The paper (SVHN) finds that a larger alpha improves the defence and costs clean accuracy.",
    ),
    Drawing(
        "aalp_figure7",
        "AALP, Figure 7: how contributions are distributed over features under standard, adversarial, ALP and AALP"
        " training", curves.contributions, ("contrib",), LADDER, (ALP, AALP),
        f"The paper calls them COM, ADV, ALP and AALP. {CLEAN}",
    ),
    Drawing(
        "aalp_figure8",
        "AALP, Figure 8: activation maps (Eq. 6) of adversarial images under standard, adversarial, ALP and AALP"
        " training", eq6, ("eq6",), LADDER, (ALP, AALP), OWN_ATTACK,
    ),
    Drawing(
        "aalp_figure9",
        "AALP, Figure 9: how contributions are distributed over features in the course of AALP training",
        curves.contributions_over_training, ("evolve",), (AALP,), (AALP,),
        "Up to six of the saved epochs, evenly spaced, on clean images; the paper saves every 10,000 steps.",
    ),
    Drawing(
        "aalp_figure10",
        "AALP, Figure 10: activation maps (Eq. 6) of adversarial images in the course of AALP training",
        lambda panels, look: eq6(maps.epochs(panels), look, title="AALP's activation maps, Eq. 6, of PGD images"),
        ("eq6-epochs",), needed=(AALP,),
        more="Up to six of the saved epochs, evenly spaced; the paper saves every 10,000 steps. Each epoch is attacked"
        " separately with PGD. The attacked image shown is the first epoch's.",
    ),
    Drawing(
        "aalp_figure11",
        "AALP, Figure 11: probability of the true class, clean against attacked, for ALP and AALP",
        sets.probabilities, ("sets",), (ALP, AALP), (ALP, AALP),
        "Blue: consistent images, red: inconsistent, grey: wrong when clean. The shares in the titles are of all"
        " images.",
    ),
    Drawing(
        "aalp_figure12",
        "AALP, Figure 12: loss and accuracy on test images over the epochs of ALP and of AALP training",
        curves.over_training, ("evolve",), (ALP, AALP), (ALP, AALP),
        "Solid: clean images; dashed: under PGD. The paper shows MNIST.",
    ),
    Drawing(
        "aalp_table1",
        "AALP, Table 1: confidence and losses of the ALP model's consistent and inconsistent set",
        _of_words(tables.aalp_table1), ("sets",), needed=(ALP,),
        more="The paper does not define its \"classification loss\". Ours is the sum of clean and adversarial"
        " cross-entropy.",
    ),
    Drawing(
        "aalp_table2", "AALP, Table 2: accuracy of every method, clean and under FGSM, PGD and CW",
        _of_words(tables.aalp_table2), ("robust",),
        more="Below each of our rows stand its 95 % interval and, if it exists, the paper's row. On MNIST ten steps of"
        " 0.01, as the paper prints them, move a pixel by at most 0.1 of the 0.3 allowed, so PGD-10 is weak there.",
    ),
    Drawing(
        "aalp_table3", "AALP, Table 3: Guided Dropout with standard, adversarial and ALP training",
        _of_words(tables.aalp_table3), ("gd-raw", "gd-madry", "gd-alp"),
        more="The paper's numbers are of ResNet-9 on SVHN.",
    ),
    Drawing(
        "aalp_table4", "AALP, Table 4: the share of the consistent set under ALP and AALP",
        _of_words(tables.aalp_table4), ("sets",), (ALP, AALP), (ALP, AALP),
    ),
    Drawing(
        "asc_rules", "Which map and threshold rule comes closest to AGAIN's Table 1?", _of_words(tables.rules),
        ("span",), asc_rules.MODELS, asc_rules.MODELS,
    ),
    Drawing(
        "crossing", "The two papers crossed: spans of AALP's models, contributions of AGAIN's", _of_words(crossing),
        ("robust",),
    ),
)  # fmt: skip
"""In the order of the papers."""
