"""The explorer: each control requests the right view, and text and picture match the view."""

import io
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from own_pictures import save
from PIL import Image
from torch import nn

import attrib
from attrib.data import Dataset, default_attack
from attrib.errors import InputError
from attrib.explorer.controls import ATTACKED, BOTH, CLEAN, Settings, map_options
from attrib.explorer.picture import panels, png
from attrib.explorer.views import ViewCache, pgd_attack, view
from attrib.explorer.widget import neighbour, render
from attrib.map_table import OPTIONS

NAME = "a $x_1$ <b>"
SHORT = pgd_attack("glyphs", eps=0.1, steps=2)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return attrib.dataset("glyphs", limit=30)


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    built = {name: attrib.build("lenet", num_classes=10, input_shape=(3, 32, 32)).eval() for name in (NAME, "b")}
    return {**built, "flat": nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))}


@pytest.fixture
def box(models: dict[str, nn.Module], data: Dataset) -> widgets.VBox:
    return attrib.explore({NAME: models[NAME], "b": models["b"]}, data)


def cache_of(models: dict[str, nn.Module], data: Dataset) -> ViewCache:
    named = {name: attrib.model(module, name=name) for name, module in models.items()}
    return ViewCache(named, data, seed=0)


def asked(**changed: Any) -> Settings:
    """Settings; what ``Span`` has, and what settings have."""
    usual: dict[str, Any] = {
        "position": 4, "label": None, "search": None, "models": (NAME, "b"), "shown": CLEAN, "perturbation": False,
        "overlay": False,
    }  # fmt: skip
    analysis = attrib.Span(**({"attack": SHORT} | {key: changed.pop(key) for key in set(changed) - set(usual)}))
    return Settings(**(usual | changed), analysis=analysis)


def control(box: widgets.VBox, words: str) -> Any:
    """The control whose description says so."""
    (found,) = [
        part for line in box.children[:-2] for part in line.children if getattr(part, "description", "") == words
    ]
    return found


def words(box: widgets.VBox) -> str:
    return str(box.children[-2].value)


def shown(content: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def drawn(cache: ViewCache, **changed: Any) -> Any:
    figure, _ = render(cache, asked(**changed))
    assert figure
    return shown(png(figure))


@pytest.mark.parametrize("images", [CLEAN, ATTACKED, BOTH])
def test_the_words_tell_coverage_and_predictions_of_every_model(
    models: dict[str, nn.Module], data: Dataset, images: tuple[bool, ...]
) -> None:
    cache = cache_of(models, data)
    attack = pgd_attack("glyphs", eps=8 / 255, steps=2)
    _, said = render(cache, asked(models=tuple(models), threshold="max:0.3", attack=attack, shown=images))
    assert f"<b>image 4</b> of 30 (glyphs test), class {data.classes[int(data.labels[4])]}" in said
    assert "coverage (max:0.3)" in said
    assert ("PGD-2 within 8/255" in said) == (images != CLEAN)
    assert said.count("</b>, attacked</td>") == (len(models) if images != CLEAN else 0)
    assert NAME not in said, "HTML in a name is harmless"
    for name, attacked in product(models, images):
        seen = view(cache, name, 4, attrib.Span(threshold="max:0.3", attack=attack), attacked=attacked)
        assert f"{data.classes[seen.prediction[0]]} ({seen.probability[0].max():.3f})" in said
        assert seen.error in said
        if not seen.error:
            assert f"{100 * seen.coverage:.2f} %" in said
            assert f"{100 * seen.floor:.2f} %" in said
    assert said.count("no feature map") == len(images)
    assert "floor (random weights)" in said
    _, without = render(replace(cache, floor=False), asked(models=tuple(models)))
    assert "floor" not in without


@pytest.mark.parametrize(
    "changed",
    [
        {"position": 5}, {"models": (NAME,)}, {"map": "gradient"}, {"threshold": "mass:0.2"}, {"shown": ATTACKED},
        {"shown": BOTH}, {"models": (NAME, "b", "flat")}, {"overlay": True}, {"layer": "stages.0"}, {"target": 3},
    ],
    ids=str,
)  # fmt: skip
def test_the_picture_follows_every_setting(
    models: dict[str, nn.Module], data: Dataset, changed: dict[str, Any]
) -> None:
    cache = cache_of(models, data)
    before, after = (drawn(cache, **how) for how in ({}, changed))
    assert before.shape != after.shape or (before != after).any()


def test_the_perturbation_is_shown_with_an_attack_only(models: dict[str, nn.Module], data: Dataset) -> None:
    cache = cache_of(models, data)
    plain, asked_for = (drawn(cache, perturbation=wanted) for wanted in (False, True))
    np.testing.assert_array_equal(plain, asked_for)
    hidden, seen = (drawn(cache, shown=ATTACKED, perturbation=wanted) for wanted in (False, True))
    assert hidden.shape != seen.shape


def test_all_models_share_one_colour_scale(models: dict[str, nn.Module], data: Dataset) -> None:
    cache = cache_of(models, data)
    views = [view(cache, name, 4, attrib.Span()) for name in (NAME, "b")]
    assert views[1].map is not None
    views[1] = views[1]._replace(map=10 * views[1].map, relevance=20 * views[1].relevance)
    figure = panels(views, classes=data.classes, label=0, kind="gradcam")
    limits = [image.get_clim() for axes in figure.axes if "map of" in axes.get_title() for image in axes.images]
    top = np.percentile([seen.map for seen in views if seen.map is not None], 99.5)
    np.testing.assert_allclose(limits, [(0, top)] * 2, rtol=1e-6)
    features = [axes for axes in figure.axes if "top features" in axes.get_title()]
    assert features[0].get_xlim() == features[1].get_xlim()
    assert features[0].get_title() == features[1].get_title()
    longest = [max(bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)) for axes in features]
    assert longest[1] / longest[0] == pytest.approx(views[1].relevance[0] / views[0].relevance[0], rel=1e-5)


def test_a_map_over_its_image_hides_it_where_it_is_high(models: dict[str, nn.Module], data: Dataset) -> None:
    seen = view(cache_of(models, data), "b", 4, attrib.Span(map="gradient", attack=SHORT), attacked=True)
    assert seen.map is not None
    figure = panels([seen], classes=data.classes, label=0, kind="gradient", overlay=True)
    (axes,) = [axes for axes in figure.axes if "map of" in axes.get_title()]
    below, above = axes.images
    np.testing.assert_array_equal(np.asarray(below.get_array()), seen.image)
    share = np.minimum(1, seen.map / np.percentile(seen.map, 99.5))
    np.testing.assert_allclose(np.asarray(above.get_alpha()), 0.7 * np.sqrt(share), rtol=1e-5)


def test_many_classes_are_reduced_to_the_likeliest(data: Dataset) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 100))
    names = tuple(f"a class with a long name {k}" for k in range(100))
    many = Dataset("many", "test", names, data.images, data.labels)
    seen = view(cache_of({"m": model}, many), "m", 4, attrib.Span(map="gradient"))
    label = int(seen.probability[0].argmin())
    figure = panels([seen], classes=names, label=label, kind="gradient")
    (bars,) = [axes for axes in figure.axes if axes.get_title() == "class probabilities"]
    heights = sorted(bar.get_width() for bar in bars.patches if isinstance(bar, Rectangle))
    expected = sorted([*np.sort(seen.probability[0])[-9:], seen.probability[0].min()])
    np.testing.assert_allclose(heights, expected, rtol=1e-5)


def test_next_and_previous_stay_among_the_chosen_and_go_round() -> None:
    for place in range(10):
        after, before = [n for n in (2, 5, 7) if n > place] or [2], [n for n in (2, 5, 7) if n < place] or [7]
        assert (neighbour([2, 5, 7], place, 1), neighbour([2, 5, 7], place, -1)) == (after[0], before[-1])
        assert neighbour([], place, 1) == place
    by_disagreement = [5, 2, 7]
    assert [neighbour(by_disagreement, place, 1) for place in by_disagreement] == [2, 7, 5]
    assert [neighbour(by_disagreement, place, -1) for place in by_disagreement] == [7, 5, 2]


def test_the_controls_change_the_words_and_compute_only_what_is_new(
    box: widgets.VBox, models: dict[str, nn.Module], data: Dataset
) -> None:
    runs: list[int] = []
    hooks = [model.register_forward_hook(lambda *_: runs.append(1)) for model in models.values()]
    assert "image 0" in words(box)
    control(box, "next ▶").click()
    assert "image 1<" in words(box)
    assert runs
    runs.clear()
    control(box, "◀ previous").click()
    assert "image 0<" in words(box)
    mean = words(box)
    control(box, "span").value = "max"
    control(box, "t").value = 0.9
    assert "coverage (max:0.9)" in words(box)
    assert words(box) != mean
    control(box, "span").value = "mass"
    assert "coverage (mass:0.5)" in words(box)
    control(box, "span").value = "mean"
    assert words(box) == mean
    assert not runs, "all of this was known already"
    control(box, "show").value = ATTACKED
    assert "PGD-10 within 8/255" in words(box)
    assert runs
    runs.clear()
    control(box, "show").value = CLEAN
    control(box, "show").value = ATTACKED
    control(box, "show").value = BOTH
    control(box, "show perturbation").value = True
    control(box, "map over the image").value = True
    assert not runs
    control(box, "class").value = 3
    chosen = [n for n, k in enumerate(data.labels.tolist()) if k == 3]
    assert f"image {chosen[0]}<" in words(box)
    assert f"1 of {len(chosen)} chosen" in words(box)
    control(box, "image").value = next(n for n, k in enumerate(data.labels.tolist()) if k != 3)
    assert f"not one of the {len(chosen)} chosen" in words(box)
    for name in (NAME, "b"):
        control(box, name).value = False
    assert "No model is chosen" in words(box)
    for hook in hooks:
        hook.remove()


def test_a_search_steps_through_what_it_finds(models: dict[str, nn.Module], data: Dataset) -> None:
    box = attrib.explore({NAME: models[NAME], "b": models["b"]}, data, floor=False)
    control(box, "find").value = "wrong"
    batches = list(data.batches(1))
    wrong = [
        n for n, batch in enumerate(batches)
        if any(models[name](batch.image).argmax(1) != batch.label for name in (NAME, "b"))
    ]  # fmt: skip
    assert f"image {wrong[0]}<" in words(box)
    control(box, "next ▶").click()
    assert f"image {wrong[1]}<" in words(box)
    assert f"2 of {len(wrong)} chosen" in words(box)
    control(box, "find").value = "disagreement"
    maps = ([attrib.gradcam(models[name], batch.image, batch.label) for name in (NAME, "b")] for batch in batches)
    covered = [[float(attrib.coverage(attrib.span(heat))) for heat in pair] for pair in maps]
    apart = [abs(a - b) for a, b in covered]
    assert f"image {apart.index(max(apart))}<" in words(box)
    control(box, "find").value = "empty"
    assert "0.00 %" in words(box)
    control(box, "map").value = "gradient"
    assert "not one of the 0 chosen" in words(box)
    control(box, "next ▶").click()
    assert "computing" not in words(box)


def test_only_the_options_of_the_map_are_shown(box: widgets.VBox) -> None:
    assert map_options(32, samples=1).keys() == set(OPTIONS)
    for kind, options in (
        ("gradcam", {"at"}), ("smoothgrad", {"samples", "sigma"}), ("occlusion", {"window"}),
        ("integrated-gradients", {"integration steps"}), ("gradient", set()),
    ):  # fmt: skip
        control(box, "map").value = kind
        names = ("at", "samples", "sigma", "window", "integration steps")
        assert {name for name in names if control(box, name).layout.display != "none"} == options
    control(box, "map").value = "smoothgrad"
    before = words(box)
    control(box, "sigma").value = 0.5
    assert words(box) != before
    control(box, "map").value = "gradcam"
    assert [value for _, value in control(box, "at").options] == [None, "stages.0.0", "stages.0", "stages.1.0",
                                                                  "stages.1", "stages"]  # fmt: skip


def test_the_view_is_saved_as_a_figure(box: widgets.VBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    control(box, "image").value = 3
    control(box, "save figure").click()
    names = ["explore-3-gradcam.pdf", "explore-3-gradcam.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert f"Saved as {' and '.join(names)}." in words(box)
    assert (tmp_path / names[0]).read_bytes().startswith(b"%PDF")
    control(box, "next ▶").click()
    assert "Saved" not in words(box)


def test_an_error_is_one_line_and_goes_with_its_cause(
    box: widgets.VBox, models: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: nn.Module, _x: object) -> None:
        raise RuntimeError("first <line>\nsecond line")

    with monkeypatch.context() as patched:
        patched.setattr(type(models["b"]), "forward", broken)
        control(box, "next ▶").click()
        assert re.search("first &lt;line&gt;", words(box))
        assert "second" not in words(box)
        assert "computing" not in words(box)
    control(box, "next ▶").click()
    assert "image 2<" in words(box)


def saved(path: Path, shape: tuple[int, int, int]) -> Path:
    weights = attrib.build("lenet", num_classes=10, input_shape=shape).state_dict()
    ckpt = attrib.Checkpoint(
        arch="lenet", arch_kwargs={}, num_classes=10, input_shape=shape, data="mnist", method="standard", hyper={},
        epoch=1, metrics={}, weights=weights,
    )  # fmt: skip
    attrib.save(ckpt, path)
    return path


def test_checkpoints_are_loaded_and_digits_have_their_own_unit(tmp_path: Path) -> None:
    black = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    mnist = Dataset("mnist", "test", tuple("0123456789"), black, torch.tensor([0, 1, 9]))
    box = attrib.explore({"loaded": saved(tmp_path / "grey.pt", (1, 28, 28))}, mnist)
    assert control(box, "eps").value == pytest.approx(default_attack("mnist").eps)
    assert control(box, "steps").value == default_attack("mnist").steps
    control(box, "show").value = ATTACKED
    assert "PGD-40 within 0.3" in words(box)
    with pytest.raises(InputError, match="images are grey"):
        attrib.explore({"colour": saved(tmp_path / "colour.pt", (3, 28, 28))}, mnist)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda _, data: attrib.explore({}, data), "at least one model"),
        (lambda models, data: attrib.explore(models, data, samples=0), "samples: expected at least 1"),
        (lambda models, data: attrib.explore(models, data, layer={"c": models["b"]}), "layer: expected names"),
        (lambda _, data: attrib.explore({"m": nn.Flatten()}, data), r"m: expected logits of shape \(N,10\)"),
        (lambda _, data: attrib.explore({"m": "nowhere.pt"}, data), "nowhere.pt"),
        (lambda models, data: attrib.explore(models, data, device="abacus"), "device: expected"),
        (lambda models, data: attrib.explore(models["b"], list(data.classes)), "expected a picture"),
        (lambda _, data: attrib.explore(attrib.Model("made", "made", "", maps={}), data), "made: explore takes no"),
    ],
)
def test_what_cannot_be_explored_is_an_input_error(
    models: dict[str, nn.Module], data: Dataset, call: Callable[..., object], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        call(models, data)


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), ["Sequential"]),
        ("zoo:cifar10-resnet32-raw", ["cifar10-resnet32-raw"]),
        ({"seeds": [nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)) for _ in range(2)]}, ["seeds/0", "seeds/1"]),
    ],
    ids=["module", "zoo", "seeds"],
)
def test_models_and_data_are_given_as_to_an_analysis(models: Any, names: list[str], data: Dataset) -> None:
    box = attrib.explore(models, (data.images, data.labels))
    assert re.findall(r"<td><b>(.*?)</b></td>", words(box)) == names


def test_without_ipywidgets_the_names_can_be_imported_and_calling_says_what_is_missing() -> None:
    code = "import sys; sys.modules['ipywidgets'] = None; from attrib import *; explore({}, [])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "InputError: explore: needs ipywidgets" in done.stderr.splitlines()[-1]


def test_pictures_become_what_the_model_takes(tmp_path: Path, untrained: Callable[..., Path]) -> None:
    for name in ("Truck", "cat"):
        save(tmp_path / "pictures" / name / "1.png", (40, 36))
    grey = untrained(tmp_path / "model.pt", data="cifar10", channels=1)
    said = words(attrib.explore({"grey": grey}, f"folder:{tmp_path}/pictures"))
    assert "<b>image 0</b> of 2" in said
    assert "class truck" in said
