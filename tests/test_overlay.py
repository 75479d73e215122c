import numpy as np
import pytest
import torch
from torch import nn

import attrib
from attrib.analyses.base import Analysis
from attrib.errors import InputError
from attrib.plots.maps import map_grid, overlay_grid

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_the_map_lies_over_its_image_the_more_opaque_the_higher() -> None:
    maps = torch.zeros(3, 8, 8)
    maps[1, 2, 5] = 4
    figure = attrib.overlay(IMAGES, maps, titles=["a", "$b", "c"], columns=2)
    axes = figure.axes
    assert [each.get_title() for each in axes] == ["a", "$b", "c", ""]
    picture, heat = axes[1].images
    np.testing.assert_allclose(np.asarray(picture.get_array()), IMAGES[1].permute(1, 2, 0))
    opacity = np.asarray(heat.get_alpha())
    assert opacity[2, 5] == pytest.approx(0.6)
    assert np.count_nonzero(opacity) == 1
    assert not np.asarray(axes[0].images[1].get_alpha()).any()  # an empty map hides nothing
    assert figure.get_supxlabel() == "each map on its own scale"
    figure.savefig("/dev/null", format="png")


@pytest.mark.parametrize(
    ("columns", "order"), [(4, "00 01 02 10 11 12"), (2, "00 01 10 11 02 12"), (1, "00 10 01 11 02 12")]
)
def test_models_are_rows_below_each_other(columns: int, order: str) -> None:
    maps = np.zeros((2, 3, 8, 8))
    for model, image in np.ndindex(2, 3):
        maps[model, image, model, image] = 1
    figure = attrib.overlay(IMAGES[:, :1].numpy(), maps, names=["raw", "robust"], columns=columns)
    filled = [axes for axes in figure.axes if axes.images]
    assert len(figure.axes) == min(columns, 3) * 2 * -(-3 // columns)
    shown = [np.argwhere(np.asarray(axes.images[1].get_array())).ravel().tolist() for axes in filled]
    assert shown == [[int(digit) for digit in cell] for cell in order.split()]
    names = [text.get_text() for axes in filled for text in axes.texts]
    assert names == ["raw", "robust"] * -(-3 // columns)


@pytest.mark.parametrize(
    ("models", "count", "sides"),
    [(1, 1, (8, 8)), (1, 12, (8, 8)), (1, 40, (8, 8)), (2, 12, (16, 8)), (4, 12, (8, 16)), (9, 8, (8, 8))],
)
def test_overlays_fit_a_page(models: int, count: int, sides: tuple[int, int]) -> None:
    examples = {
        "image": np.zeros((count, *sides, 3)), "map": np.ones((models, count, *sides)),
        "label": ["garden spider, " * 4] * count,
        "path": [f"photos/{number}-{'long' * 9}.jpg" for number in range(count)],
        "model": [f"m{number}" for number in range(models)], "prediction": np.full((models, count), "cat"),
        "probability": np.full((models, count), 0.5),
    }  # fmt: skip
    figure = overlay_grid(examples, title="a title")
    width, height = figure.get_size_inches()
    assert width <= 6.9
    assert height <= 8.7
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    files = [title.split("\n")[1] for title in titles[:: 1 + models]]
    assert [file.partition("-")[0] for file in files] == [str(number) for number in range(count)]
    assert sum("cat\n50.0 %" in title for title in titles) == models * count
    figure.draw_without_rendering()
    boxes = [axes.get_window_extent() for axes in figure.axes if axes.images]
    assert min(max(box.width, box.height) for box in boxes) > 0.45 * figure.dpi
    assert max(axes.title.get_window_extent().width for axes in figure.axes) < 1.2 * max(box.width for box in boxes)


@pytest.mark.parametrize("label", ["cat", "golden retriever"])
def test_long_names_leave_the_pictures_their_size(label: str) -> None:
    examples = {
        "image": np.zeros((4, 8, 8, 3)), "map": np.ones((1, 4, 8, 8)), "label": [label] * 4, "model": ["m"],
        "path": [f"photos/{'long' * 9}{number}.jpg" for number in range(4)], "prediction": np.full((1, 4), label),
    }  # fmt: skip
    figure = map_grid(examples, title="a title")
    figure.draw_without_rendering()
    assert figure.axes[0].get_window_extent().width > 0.6 * figure.dpi
    first, last = figure.axes[2].get_ylabel().removeprefix(f"{label}\n").split("…")
    assert first
    assert f"{'long' * 9}1".startswith(first)
    assert f"{'long' * 9}1".endswith(last)


@pytest.mark.parametrize(
    ("images", "maps", "titles", "words"),
    [
        (IMAGES, torch.ones(2, 8, 8), None, r"maps: expected shape \(3, 8, 8\), as the images, got \(2, 8, 8\)"),
        (IMAGES * 255, torch.ones(3, 8, 8), None, r"images: expected floats in \[0,1\], got float32 in"),
        (IMAGES[0], torch.ones(3, 8, 8), None, r"images: expected shape \(N,C,H,W\)"),
        (IMAGES, torch.ones(3, 8, 8), ["a"], "titles: expected 3, one per image, got 1"),
    ],
)
def test_bad_input(images: torch.Tensor, maps: torch.Tensor, titles: list[str] | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        attrib.overlay(images, maps, titles=titles)


class Blind(nn.Module):
    """Its logits do not depend on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)
        nn.init.zeros_(self.fc.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.conv(x).mean((2, 3)))
        return logits


PGD = attrib.Attack("pgd", steps=1, step_size=0.1)


@pytest.mark.parametrize(
    ("analysis", "images"),
    [
        (attrib.Span(floor=0, attack=PGD), ["clean", "pgd"]),
        (attrib.Maps(images=2, overlay=True), ["clean"]),
        (attrib.Maps(images=2, attack=PGD), ["pgd"]),
        (attrib.Checks(stages=1, curve_steps=1, attack=PGD), ["clean"]),
        (attrib.Relation(attack=PGD), ["clean"]),
    ],
    ids=lambda value: value.name if isinstance(value, Analysis) else "",
)
def test_empty_maps_mean_nothing(analysis: Analysis, images: list[str]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # with some weights most maps of the other model are empty too
        models = {"blind": Blind(), "other": attrib.build("lenet", num_classes=10, input_shape=(3, 32, 32))}
    result = analysis.run(models, attrib.dataset("glyphs", limit=6))
    empty = [warning for warning in result.warnings if "empty" in warning]
    assert [warning.partition(", so its numbers")[0] for warning in empty] == [
        f"blind: every map of the {kind} images is empty" for kind in images
    ]
    assert result.figures
