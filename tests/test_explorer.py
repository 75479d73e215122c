"""The explorer: its controls ask for what they say, its words and picture are those of the views."""

import io
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
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
from attrib.analyses.options import Attack
from attrib.data import Dataset, default_attack
from attrib.errors import InputError
from attrib.explorer.picture import panels
from attrib.explorer.views import ViewCache, pgd_attack, view
from attrib.explorer.widget import Settings, neighbour, render

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
    return ViewCache(named, data, samples=2, seed=0)


def asked(**changed: Any) -> Settings:
    usual: dict[str, Any] = {
        "position": 4, "label": None, "models": (NAME, "b"), "kind": "gradcam", "threshold": "mean",
        "target": "label", "attack": None, "perturbation": False, "overlay": False,
    }  # fmt: skip
    return Settings(**(usual | changed))


def control(box: widgets.VBox, words: str) -> Any:
    """The control whose description says so."""
    (found,) = [
        part for line in box.children[:-2] for part in line.children if getattr(part, "description", "") == words
    ]
    return found


def words(box: widgets.VBox) -> str:
    return str(box.children[-2].value)


def shown(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.mark.parametrize("attack", [None, pgd_attack("glyphs", eps=8 / 255, steps=2)])
def test_the_words_tell_coverage_and_predictions_of_every_model(
    models: dict[str, nn.Module], data: Dataset, attack: Attack | None
) -> None:
    cache = cache_of(models, data)
    _, said = render(cache, asked(models=tuple(models), threshold="max:0.3", attack=attack))
    assert f"<b>image 4</b> of 30 (glyphs test), class {data.classes[int(data.labels[4])]}" in said
    assert "coverage (max:0.3)" in said
    assert ("PGD-2 within 8/255" in said) == (attack is not None)
    assert NAME not in said, "HTML in a name is harmless"
    for name in models:
        seen = view(cache, name, 4, kind="gradcam", threshold="max:0.3", target="label", attack=attack)
        assert f"{data.classes[seen.prediction[0]]} ({seen.probability[0].max():.3f})" in said
        assert seen.error in said
        if not seen.error:
            assert f"{100 * seen.coverage:.2f} %" in said
            assert f"{100 * seen.floor:.2f} %" in said
    assert said.count("no feature map") == 1
    assert "floor (random weights)" in said
    _, without = render(replace(cache, floor=False), asked(models=tuple(models)))
    assert "floor" not in without


@pytest.mark.parametrize(
    "changed",
    [
        {"position": 5}, {"models": (NAME,)}, {"kind": "gradient"}, {"threshold": "mass:0.2"},
        {"attack": SHORT}, {"models": (NAME, "b", "flat")}, {"overlay": True},
    ],
    ids=str,
)  # fmt: skip
def test_the_picture_follows_every_setting(
    models: dict[str, nn.Module], data: Dataset, changed: dict[str, Any]
) -> None:
    cache = cache_of(models, data)
    before, after = (shown(render(cache, asked(**how))[0]) for how in ({}, changed))
    assert before.shape != after.shape or (before != after).any()


def test_the_perturbation_is_shown_with_an_attack_only(models: dict[str, nn.Module], data: Dataset) -> None:
    cache = cache_of(models, data)
    plain, asked_for = (render(cache, asked(perturbation=wanted))[0] for wanted in (False, True))
    assert plain == asked_for
    hidden, seen = (shown(render(cache, asked(attack=SHORT, perturbation=wanted))[0]) for wanted in (False, True))
    assert hidden.shape != seen.shape


def test_all_models_share_one_colour_scale(models: dict[str, nn.Module], data: Dataset) -> None:
    cache = cache_of(models, data)
    views = [
        view(cache, name, 4, kind="gradcam", threshold="mean", target="label", attack=None) for name in (NAME, "b")
    ]
    assert views[1].map is not None
    views[1] = views[1]._replace(map=10 * views[1].map)
    figure = panels(views, classes=data.classes, label=0, kind="gradcam", attacked=False, perturbation=False)
    limits = [image.get_clim() for axes in figure.axes if "map of" in axes.get_title() for image in axes.images]
    top = np.percentile([seen.map for seen in views if seen.map is not None], 99.5)
    np.testing.assert_allclose(limits, [(0, top)] * 2, rtol=1e-6)


def test_a_map_over_its_image_hides_it_where_it_is_high(models: dict[str, nn.Module], data: Dataset) -> None:
    seen = view(
        cache_of(models, data), "b", 4, kind="gradient", threshold="mean", target="label",
        attack=pgd_attack("glyphs", eps=0.1, steps=2),
    )  # fmt: skip
    assert seen.map is not None
    figure = panels(
        [seen], classes=data.classes, label=0, kind="gradient", attacked=True, perturbation=False, overlay=True
    )
    (axes,) = [axes for axes in figure.axes if "map of" in axes.get_title()]
    below, above = axes.images
    np.testing.assert_array_equal(np.asarray(below.get_array()), seen.image)
    share = np.minimum(1, seen.map / np.percentile(seen.map, 99.5))
    np.testing.assert_allclose(np.asarray(above.get_alpha()), 0.7 * np.sqrt(share), rtol=1e-5)


def test_many_classes_are_reduced_to_the_likeliest(data: Dataset) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 100))
    names = tuple(f"a class with a long name {k}" for k in range(100))
    many = Dataset("many", "test", names, data.images, data.labels)
    seen = view(cache_of({"m": model}, many), "m", 4, kind="gradient", threshold="mean", target="label", attack=None)
    label = int(seen.probability[0].argmin())
    figure = panels([seen], classes=names, label=label, kind="gradient", attacked=False, perturbation=False)
    (bars,) = [axes for axes in figure.axes if axes.get_title() == "class probabilities"]
    heights = sorted(bar.get_width() for bar in bars.patches if isinstance(bar, Rectangle))
    expected = sorted([*np.sort(seen.probability[0])[-9:], seen.probability[0].min()])
    np.testing.assert_allclose(heights, expected, rtol=1e-5)


@pytest.mark.parametrize("label", [None, 3])
def test_next_and_previous_stay_in_the_class_and_go_round(data: Dataset, label: int | None) -> None:
    chosen = [n for n, k in enumerate(data.labels.tolist()) if label in (None, k)]
    for place in range(len(data)):
        here = asked(position=place, label=label)
        after = [n for n in chosen if n > place] or chosen
        before = [n for n in chosen if n < place] or chosen
        assert (neighbour(data, here, 1), neighbour(data, here, -1)) == (after[0], before[-1])


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
    control(box, "attack (PGD)").value = True
    assert "PGD-10 within 8/255" in words(box)
    assert runs
    runs.clear()
    control(box, "attack (PGD)").value = False
    control(box, "attack (PGD)").value = True
    control(box, "show what it adds").value = True
    control(box, "map over the image").value = True
    assert not runs
    control(box, "class").value = 3
    chosen = [n for n, k in enumerate(data.labels.tolist()) if k == 3]
    assert f"image {chosen[0]}<" in words(box)
    assert f"1 of {len(chosen)} of that class" in words(box)
    control(box, "image").value = next(n for n, k in enumerate(data.labels.tolist()) if k != 3)
    assert "not of the class chosen" in words(box)
    for name in (NAME, "b"):
        control(box, name).value = False
    assert "No model is chosen" in words(box)
    for hook in hooks:
        hook.remove()


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
    control(box, "attack (PGD)").value = True
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
