"""How figures look: every figure at the width of a column, names, images, captions, and the option --style."""

from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

import attrib
from attrib.analyses.base import Analysis
from attrib.analyses.result import Result
from attrib.errors import InputError
from attrib.latex import to_latex
from attrib.plots import base
from attrib.plots.contrib import contribution_curves
from attrib.plots.evolve import contributions, curves
from attrib.plots.maps import map_grid

PRINT = attrib.Style(width="column", title=False)
ATTACK = attrib.Attack("fgsm", eps=8 / 255)
ANALYSES = (
    attrib.Span(floor=2, attack=ATTACK), attrib.Maps(images=3, overlay=True), attrib.Contributions(attack=ATTACK),
    attrib.LastLayer(), attrib.Robustness(steps=(1,), eps=(0.01, 0.02)), attrib.Sets(attack=ATTACK),
    attrib.Checks(stages=2, curve_steps=2, attack=ATTACK), attrib.Relation(floor=0, attack=ATTACK),
)  # fmt: skip


@pytest.fixture(scope="module")
def results(models: Path) -> Callable[[Analysis], Result]:
    """The result of an analysis of two lenets, computed once."""
    known: dict[str, Result] = {}

    def result_of(analysis: Analysis) -> Result:
        if analysis.name not in known:
            files = {"first": models / "a.pt", "second": models / "b.pt"}
            known[analysis.name] = analysis.run(files, attrib.dataset("glyphs", limit=8))
        return known[analysis.name]

    return result_of


@pytest.mark.parametrize("analysis", ANALYSES, ids=lambda analysis: analysis.name)
def test_every_figure_can_be_read_at_the_width_of_a_column(
    analysis: Analysis, results: Callable[[Analysis], Result]
) -> None:
    result = results(analysis)
    printed, shown = result.styled(PRINT), result.figures
    assert printed.captions.keys() == shown.keys()
    for name, figure in printed.figures.items():
        assert 2.5 < figure.get_figwidth() <= 3.25
        assert figure.get_figheight() < 9
        assert figure.get_suptitle() == ""
        readable(figure)
        caption = printed.captions[name]
        assert caption.endswith(".")
        assert len(caption) > 20
        assert " ".join(shown[name].get_suptitle().split()) == " ".join(result.captions[name].split())


def readable(figure: Figure) -> None:
    """No text is smaller than 6 points, sticks out of the figure, or lies on another."""
    figure.draw_without_rendering()
    ticks = {label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels()}
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text().strip()]
    assert min(float(text.get_fontsize()) for text in texts) >= 6
    boxes = {text: text.get_window_extent() for text in texts if text.get_visible() and text not in ticks}
    for text, box in boxes.items():
        assert box.x0 > figure.bbox.x0 - 0.1 * figure.dpi, text
        assert box.x1 < figure.bbox.x1 + 0.1 * figure.dpi, text
    for (text, box), (other, beside) in combinations(boxes.items(), 2):
        across, up = (min(box.max[k], beside.max[k]) - max(box.min[k], beside.min[k]) for k in (0, 1))
        assert min(across, up) < 0.03 * figure.dpi, (text, other)


def test_a_figure_made_twice_is_the_same_to_the_byte(results: Callable[[Analysis], Result]) -> None:
    result = results(ANALYSES[0])
    for suffix in base.SUFFIXES:
        first, second = ({name: base.drawn(each, suffix) for name, each in result.figures.items()} for _ in range(2))
        assert first == second
        assert not any(word in content for content in first.values() for word in (b"CreationDate", b"ModDate"))


@pytest.mark.parametrize("analysis", ANALYSES, ids=lambda analysis: analysis.name)
def test_names_and_their_order_are_the_style_s(analysis: Analysis, results: Callable[[Analysis], Result]) -> None:
    result = results(analysis)
    styled = result.styled(attrib.Style(names={"second": "B (ours)"}))
    assert [entry["name"] for entry in styled.summary["models"]] == ["B (ours)", "first"]
    assert [entry["name"] for entry in result.summary["models"]] == ["first", "second"]
    for name, figure in styled.figures.items():
        said = " ".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))
        assert "second" not in said
        assert "(ours)" in said, name
        assert "first" in said
    if styled.analysis.papers(styled):
        assert "(ours)" in styled.to_latex()
    # What belongs to a model goes with its name.
    for frame, shown in zip(result.frames.values(), styled.frames.values(), strict=True):
        if "model" in frame:
            for before, after in (("first", "first"), ("second", "B (ours)")):
                rows, now = frame[frame["model"] == before], shown[shown["model"] == after]
                pd.testing.assert_frame_equal(
                    rows.drop(columns="model").reset_index(drop=True),
                    now.drop(columns="model").reset_index(drop=True),
                )
    for part, arrays in result.arrays.items():
        if "map" in arrays and "model" in arrays:
            np.testing.assert_array_equal(styled.arrays[part]["map"], arrays["map"][::-1])
            np.testing.assert_array_equal(styled.arrays[part]["image"], arrays["image"])
        if "valid_0" in arrays:
            np.testing.assert_array_equal(styled.arrays[part]["valid_0"], arrays["valid_1"])


def test_pictures_show_the_images_asked_for(results: Callable[[Analysis], Result]) -> None:
    result = results(ANALYSES[1])
    index = result.arrays["examples"]["index"].tolist()
    chosen = (index[2], index[0])
    styled = result.styled(attrib.Style(images=chosen))
    assert styled.arrays["examples"]["index"].tolist() == list(chosen)
    rows = [axes.get_ylabel() for axes in styled.plot("maps").axes if "#" in axes.get_ylabel()]
    assert [row.partition("#")[2] for row in rows] == [str(position) for position in chosen]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"names": {"third": "x"}}, "style: names: expected one of first, second, got 'third'"),
        ({"names": {"first": "second"}}, "style: names: expected a name of its own for each model"),
        ({"images": (77,)}, "style: images: expected some of those that the pictures show"),
        ({"width": "narrow"}, "width: expected one of column, page"),
        ({"width": 0.5}, "width: expected column, page or 2.5 to 20 inches, got 0.5"),
        ({"font_size": 5}, "font_size: expected 6 to 14 points, got 5"),
        ({"title": "no"}, "title: expected True or False"),
        ({"names": ["a"]}, "names: expected the models' names"),
        ({"images": "1"}, "images: expected a list of positions"),
        ({"images": (True,)}, "images: expected a list of positions"),
    ],
)
def test_what_no_figure_can_look_like_is_refused(
    given: dict[str, Any], said: str, results: Callable[[Analysis], Result]
) -> None:
    with pytest.raises(InputError, match=said):
        results(ANALYSES[1]).plot(style=attrib.Style(**given))


@pytest.mark.parametrize(
    ("text", "said"),
    [("width = ", "expected TOML in"), ("#" * 10**6 + "\n", "at most 1,000,000 bytes"),
     ("fontsize = 8", "did you mean font_size"), ("font_size = 99", "6 to 14"),
     ("width = 'a4'", "expected one of column, page")],
)  # fmt: skip
def test_a_bad_file_is_one_line_that_names_it(text: str, said: str, models: Path, run: Any, tmp_path: Path) -> None:
    (tmp_path / "style.toml").write_text(text)
    line = run("fc", models / "a.pt", "--out", tmp_path / "out", "--style", tmp_path / "style.toml").refused()
    assert "style.toml" in line
    assert said in line
    assert not (tmp_path / "out" / "fc.json").exists()


def test_the_command_draws_in_the_style_and_again_in_another(models: Path, run: Any, tmp_path: Path) -> None:
    file, out = tmp_path / "style.toml", tmp_path / "out"
    given = ("maps", f"first={models / 'a.pt'}", "--limit", 8, "--images", 2, "--out", out, "--style", file)
    file.write_text("width = 'column'\ntitle = false\n[names]\nfirst = 'The first'\nelsewhere = 'Another'\n")
    assert run(*given).status == 0
    caption = (out / "maps-figures.tex").read_text()
    assert r"\includegraphics[max width=\columnwidth]{maps}" in caption
    assert "Grad-CAM, glyphs test" in caption
    first, rows = (out / "maps.png").read_bytes(), (out / "maps.csv").read_bytes()
    assert b"The first" not in rows
    file.write_text("font_size = 9")
    assert run(*given).status == 0
    assert (out / "maps.csv").read_bytes() == rows
    assert (out / "maps.png").read_bytes() != first
    assert run(*given[:-2]).status == 0  # read, and not drawn anew
    second = (out / "maps.png").read_bytes()
    assert run(*given).status == 0
    assert (out / "maps.png").read_bytes() == second
    assert "--out DIR" in run("fc", models / "a.pt", "--style", file).refused()


def test_an_empty_map_says_so_and_a_span_its_coverage() -> None:
    maps, spans = np.zeros((2, 2, 4, 4)), np.zeros((2, 2, 4, 4), bool)
    maps[0, 0, 1], spans[0, 0, 1] = 1, True
    maps[1] = 3
    examples = {
        "image": np.zeros((2, 4, 4, 3)), "map": maps, "span": spans, "label": ["cat", "dog"], "index": np.arange(2),
        "model": ["a", "b"], "prediction": np.array([["cat", "cat"], ["cat", "dog"]]),
    }  # fmt: skip
    for outlined in (False, True):
        axes = np.array(map_grid(examples, title="", spans=outlined).axes[:6]).reshape(2, 3)
        empty = {place for place in product(range(2), range(3)) if [text.get_text() for text in axes[place].texts]}
        assert empty == {(1, 1)}
        below = [axes[place].get_xlabel().split("\n") for place in product(range(2), (1, 2))]
        coverage = [[f"{100 * spans[model, image].mean():.1f} %"] for image in (0, 1) for model in (0, 1)]
        tops = [["1"], ["3"], [], ["3"]]
        said = [[], [], ["cat"], []]
        assert [[word for word in words if word] for words in below] == [
            number + word for number, word in zip(coverage if outlined else tops, said, strict=True)
        ]
    shared, other = (axes[0, column].get_title() for column in (1, 2))
    assert (shared, other) == ("a", "b")


def test_many_points_are_squares_of_the_colour_of_most() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.random((2, 3000))
    kind = generator.random(3000) < x  # the further right, the more are of the kind
    axes = Figure().add_subplot(xlim=(0, 1), ylim=(0, 2))
    base.density(axes, x, 2 * y, {"#ff0000": kind, "#0000ff": ~kind})
    (image,) = axes.images
    shown = np.asarray(image.get_array())
    assert tuple(image.get_extent()) == (0, 1, 0, 2)
    counts = np.zeros((2, 50, 50), int)
    for across, up, of in zip(x, y, kind, strict=True):
        counts[int(not of), int(50 * up), int(50 * across)] += 1
    assert ((shown[..., 3] > 0) == (counts.sum(0) > 0)).all()
    assert np.argmax(shown[..., 3]) in np.flatnonzero(counts.sum(0).ravel() == counts.sum(0).max())
    reds = (shown[..., 0] == 1) & (shown[..., 3] > 0)
    assert (reds == ((counts[0] >= counts[1]) & (counts.sum(0) > 0))).all()


def test_contributions_are_curves_on_axes_that_are_shared() -> None:
    rows = [
        {"model": model, "images": images, "C": scale * (n + 1), "R": n * scale, "C_scale_free": n + 1.0}
        for model, scale in (("a", 1e-5), ("b", 1e-2)) for images in ("clean", "pgd") for n in range(8)
    ]  # fmt: skip
    figure = contribution_curves(pd.DataFrame(rows), multiple=2, title="t")
    grid = np.array(figure.axes).reshape(3, 2)
    for left, right in grid:
        assert left.get_xlim() == right.get_xlim()
        assert left.get_xscale() == "log"
        assert left.get_ylim() == right.get_ylim() == (0, 100)
        marked = [
            float(np.asarray(line.get_xdata())[0]) for line in left.lines if len(np.asarray(line.get_xdata())) == 2
        ]
        assert len(marked) == 2
        assert all(left.get_xlim()[0] < place < left.get_xlim()[1] for place in marked)
    curve = grid[0, 0].lines[0]
    for value in (1e-5, 3e-5, 7.5e-5):
        at = np.searchsorted(curve.get_xdata(), value, side="right") - 1
        assert curve.get_ydata()[at] == pytest.approx(100 * np.mean([1e-5 * (n + 1) <= value for n in range(8)]))
    assert [axes.get_title().partition(" ")[0] for axes in grid.flat] == [f"({letter})" for letter in "abcdef"]


def test_epochs_that_are_not_shown_are_said_and_losses_share_their_scale() -> None:
    saved = range(1, 9)
    table = pd.DataFrame(
        [{"run": "r", "epoch": epoch, "C": n + epoch, "C_scale_free": n + 1} for epoch in saved for n in range(9)]
    )
    shown = contributions(table, epochs=[1, 4, 8], title="t")
    assert "3 of the 8 saved epochs" in str(shown.get_label())
    assert "All saved epochs" in str(contributions(table, epochs=list(saved), title="t").get_label())
    columns = ["loss", "loss_adversarial", "accuracy", "robust_accuracy", "asc", "participation_ratio", "gini",
               "participation_ratio_scale_free", "gini_scale_free"]  # fmt: skip
    numbers = {f"{column}{end}": 0.5 for column in columns for end in ("", "_low", "_high")}
    rows = [{"run": "r", "epoch": epoch, **numbers, "train_loss": np.nan, "loss_adversarial": 5.0} for epoch in saved]
    clean, adversarial = curves(pd.DataFrame(rows), title="t").axes[:2]
    assert clean.get_ylim() == adversarial.get_ylim()
    assert clean.get_ylim()[1] > 5


def test_neighbours_that_begin_alike_stand_under_one_heading() -> None:
    names = ["model", "clean", "PGD-10", "PGD-20", "CW-10", "ALP loss", "ALP %", "p", "p (Holm)", "last row"]
    table = pd.DataFrame([[f"cell {name} is long" for name in names]], columns=names)
    above, rules, below, *_ = to_latex(table, caption="", label="x").partition("\\toprule\n")[2].splitlines()
    assert above == r" &  & \multicolumn{2}{c}{PGD} &  & \multicolumn{2}{c}{ALP} &  &  &  \\"
    assert rules == r"\cmidrule(lr){3-4} \cmidrule(lr){6-7}"
    assert below == r"model & clean & 10 & 20 & CW-10 & loss & \% & p & p (Holm) & last row \\"


@pytest.mark.parametrize("size", [6, 7, 9.5])
def test_letters_have_the_size_asked_for(size: float) -> None:
    before = dict(mpl.rcParams)
    with base.style(attrib.Style(font_size=size)):
        figure = Figure()
        axes = figure.subplots()
        axes.set(title="title", xlabel="label")
        sizes = axes.title.get_fontsize(), axes.xaxis.label.get_fontsize(), axes.get_xticklabels()[0].get_fontsize()
    assert sizes == (size, size, max(6, size - 1))
    assert dict(mpl.rcParams) == before


def test_latex_that_is_saved_has_the_names_of_the_style(results: Callable[[Analysis], Result], tmp_path: Path) -> None:
    style = attrib.Style(names={"second": "B (ours)", "elsewhere": "C"})
    results(ANALYSES[0]).save(tmp_path, style=style)
    (table,) = tmp_path.glob(f"{ANALYSES[0].name}.tex")
    assert "B (ours)" in table.read_text()
    assert "second" in (tmp_path / f"{ANALYSES[0].name}.csv").read_text()
