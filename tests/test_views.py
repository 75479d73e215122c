"""The explorer's views equal the library's results, and nothing is computed twice."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attrib
from attrib.analyses.options import Attack
from attrib.data import Dataset
from attrib.errors import InputError
from attrib.explorer import views
from attrib.explorer.views import View, ViewCache, pgd_attack
from attrib.features import relevance
from attrib.maps import MAPS

POSITION, SAMPLES, SEED = 5, 3, 7
USUAL = Attack("pgd").resolved("glyphs")


class Flat(nn.Module):
    """No feature map for Grad-CAM, and its last layer is no linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3072, 10))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


@pytest.fixture(scope="module")
def data() -> Dataset:
    return attrib.dataset("glyphs", limit=12)


@pytest.fixture(scope="module")
def lenet() -> nn.Module:
    torch.manual_seed(0)
    return attrib.build("lenet", num_classes=10, input_shape=(3, 32, 32)).eval()


@pytest.fixture
def cache(data: Dataset, lenet: nn.Module) -> ViewCache:
    return cache_of({"lenet": lenet, "flat": Flat()}, data)


def cache_of(modules: dict[str, nn.Module], data: Dataset) -> ViewCache:
    return ViewCache({name: attrib.model(module, name=name) for name, module in modules.items()}, data, SEED)


def look(cache: ViewCache, name: str = "lenet", *, attack: Attack | None = None, **changed: Any) -> View:
    options: dict[str, Any] = {"samples": SAMPLES} if changed.get("map") == "smoothgrad" else {}
    analysis = attrib.Span(attack=attack or USUAL, **options, **changed)
    return views.view(cache, name, POSITION, analysis, attacked=attack is not None)


def template(data: Dataset) -> nn.Module:
    """Sure of the image at POSITION and of what resembles it, with both taken from middle grey."""
    image, label, *_ = list(data.batches(1))[POSITION]
    fc = nn.Linear(3072, 10)
    with torch.no_grad():
        fc.weight.zero_()[label] = 0.02 * (image.flatten() - 0.5)  # so small that the softmax does not saturate
        fc.bias.zero_()[label] = -0.01 * (image - 0.5).sum()
    return nn.Sequential(nn.Flatten(), fc)


@contextmanager
def counted(model: nn.Module) -> Iterator[list[int]]:
    """How often the model runs inside, as the list's length."""
    runs: list[int] = []
    hook = model.register_forward_hook(lambda _module, inputs, _output: runs.append(len(inputs[0])))
    yield runs
    hook.remove()


@pytest.mark.parametrize(
    ("kind", "attack"),
    [
        *((kind, None) for kind in MAPS),
        ("gradient", USUAL),
        ("smoothgrad", USUAL),
        ("gradcam", pgd_attack("glyphs", eps=0.1, steps=3)),
    ],
)
def test_the_view_is_what_the_librarys_functions_give(
    cache: ViewCache, lenet: nn.Module, kind: str, attack: Attack | None
) -> None:
    image, label, index, _ = list(cache.data.batches(1))[POSITION]
    shown = image
    if attack:
        # The usual reach of 10 steps of 2/255 within 8/255: two and a half times the radius.
        assert attack.eps
        assert attack.steps
        step_size = 2.5 * attack.eps / attack.steps
        shown = attrib.pgd(
            lenet, image, label, eps=attack.eps, step_size=step_size, steps=attack.steps, seed=SEED, index=index
        )
    options: dict[str, Any] = {"samples": SAMPLES, "seed": SEED, "index": index} if kind == "smoothgrad" else {}
    heat = MAPS[kind](lenet, shown, label, **options)
    mask = attrib.span(heat, threshold="max:0.4")
    values = relevance(lenet, shown, label)[0]

    found = look(cache, map=kind, threshold="max:0.4", attack=attack)
    np.testing.assert_allclose(found.image, shown[0].permute(1, 2, 0).numpy(), atol=1e-6)
    np.testing.assert_allclose(found.perturbation, (shown - image)[0].permute(1, 2, 0).numpy(), atol=1e-6)
    assert found.map is not None
    np.testing.assert_allclose(found.map, heat[0].numpy(), rtol=1e-5, atol=1e-7)
    assert found.coverage == pytest.approx(mask.float().mean().item())
    if attack is None:
        options = {"samples": SAMPLES} if kind == "smoothgrad" else {}
        floor = attrib.asc_floor(
            lenet, (image, label), map=kind, threshold="max:0.4", seed=SEED, map_options=options
        )  # fmt: skip
        # SmoothGrad's noise belongs to the position, which is another one there.
        assert found.floor == pytest.approx(floor.asc, abs=0.05 if options else 1e-3)
    assert sorted(found.relevance, reverse=True) == list(found.relevance)
    np.testing.assert_allclose(found.relevance, values[torch.from_numpy(found.features)].numpy(), rtol=1e-4)
    assert found.relevance[-1] >= values.sort().values[-len(found.relevance)] * (1 - 1e-4)
    with torch.no_grad():
        np.testing.assert_allclose(
            found.probability, lenet(torch.cat([image, shown])).softmax(1).numpy(), rtol=1e-4, atol=1e-7
        )
    assert not found.error
    assert not found.features_error


def test_the_target_is_the_label_or_what_the_model_says_of_the_image_shown(cache: ViewCache) -> None:
    cache = cache_of({"template": template(cache.data)}, cache.data)
    label, attack = int(cache.data.labels[POSITION]), pgd_attack("glyphs", eps=0.5, steps=10)
    clean, shown = look(cache, "template", attack=attack).prediction
    assert clean == label != shown, "the attack turns this image"
    assert look(cache, "template", attack=attack).target == label
    assert look(cache, "template", attack=attack, target="prediction").target == shown
    assert look(cache, "template", target="prediction").target == label


def test_nothing_is_computed_twice(cache: ViewCache, lenet: nn.Module) -> None:
    first = look(cache, attack=USUAL)
    with counted(lenet) as runs:
        for threshold in ("max:0.2", "max:0.21", "otsu", "mass:0.5"):
            assert look(cache, attack=USUAL, threshold=threshold).map is not None
        assert not runs, "a threshold needs no model"
        cache = replace(cache, floor=False)
        look(cache, attack=USUAL, map="gradient")
        assert 0 < len(runs) < 6, "another map needs no attack"
        runs.clear()
        look(cache)
        assert 0 < len(runs) < 10, "the clean image's probabilities are known"
        runs.clear()
        again = look(cache, attack=USUAL)
        assert not runs
        look(cache, attack=replace(USUAL, steps=11))
        assert len(runs) > 11, "another attack is another image"
    assert again.map is not None
    assert first.map is not None
    np.testing.assert_array_equal(again.map, first.map)


def test_a_cache_drops_what_was_not_used_for_longest(cache: ViewCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "KEPT", 2)
    computed = []
    for key in "abacab":
        cache.get(key, lambda key=key: computed.append(key))  # type: ignore[misc]
    assert computed == ["a", "b", "c", "b"]
    assert list(cache.values) == ["a", "b"]


def test_what_a_model_has_not_is_told_in_one_line_beside_the_rest(cache: ViewCache) -> None:
    found = look(cache, "flat", attack=USUAL)
    assert "no feature map" in found.error
    assert "linear layer" in found.features_error
    assert "\n" not in found.error + found.features_error
    assert found.map is None
    assert math.isnan(found.coverage)
    assert not len(found.features)
    np.testing.assert_allclose(found.probability, 0.1, rtol=1e-6)
    assert look(cache, "flat", map="gradient").map is not None
    assert not look(cache, "flat").perturbation.any()


def test_a_layer_that_is_named_is_looked_at(data: Dataset, lenet: nn.Module) -> None:
    first = lenet.get_submodule("stages.0")
    image, label, *_ = list(data.batches(1))[POSITION]
    for reshape in (None, lambda output: output.flip(3)):
        expected = attrib.gradcam(lenet, image, label, layer=first, reshape=reshape)[0].numpy()
        found = look(ViewCache({"lenet": attrib.model(lenet, layer=first, reshape=reshape)}, data, SEED))
        assert found.map is not None
        np.testing.assert_allclose(found.map, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"map": "lime"}, "map: expected one of"),
        ({"threshold": "median"}, "threshold: expected"),
        ({"name": "grey"}, "does not take 3x32x32 images"),
        ({"name": "two"}, r"expected logits of shape \(N,10\)"),
    ],
)
def test_what_cannot_be_shown_is_an_input_error(cache: ViewCache, changed: dict[str, Any], said: str) -> None:
    grey = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(1800, 10))
    two = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))
    cache = cache_of({"lenet": Flat(), "grey": grey, "two": two}, cache.data)
    with pytest.raises(InputError, match=said):
        look(cache, **changed)


def test_a_layer_a_class_and_options_are_those_of_the_function(cache: ViewCache, lenet: nn.Module) -> None:
    image = list(cache.data.batches(1))[POSITION].image
    for found, heat in (
        (look(cache, layer="stages.0", target=3), attrib.gradcam(lenet, image, 3, layer="stages.0")),
        (
            look(cache, map="occlusion", window=5),
            attrib.occlusion(lenet, image, cache.data.labels[[POSITION]], window=5),
        ),
    ):
        assert found.map is not None
        np.testing.assert_allclose(found.map, heat[0].numpy(), rtol=1e-5, atol=1e-7)
        assert 0 <= found.floor <= 1
    assert "no 'stages.7'" in look(cache, layer="stages.7").error


def test_found_is_what_the_views_show(data: Dataset) -> None:
    torch.manual_seed(1)
    weak = nn.Sequential(nn.Conv2d(3, 10, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    cache = cache_of({"template": template(data), "weak": weak}, data)
    analysis = attrib.Span(map="gradient", attack=pgd_attack("glyphs", eps=0.3, steps=3), seed=SEED, floor=0)
    seen = [
        [
            [views.view(cache, name, at, analysis, attacked=attacked) for attacked in (False, True)]
            for name in cache.models
        ]
        for at in range(len(data))
    ]
    labels = data.labels.tolist()
    right = [[[v.prediction[v.attacked] == labels[at] for v in both] for both in seen[at]] for at in range(len(data))]
    wrong = [at for at in range(len(data)) if any(not clean for clean, _ in right[at])]
    turned = [at for at in range(len(data)) if any(clean and not attacked for clean, attacked in right[at])]
    apart = [abs(seen[at][0][0].coverage - seen[at][1][0].coverage) for at in range(len(data))]

    def found(search: str | None, label: int | None = None, names: tuple[str, ...] = ("template", "weak")) -> list[int]:
        return views.matching(cache, names, analysis, search=search, label=label)

    assert found(None) == list(range(len(data)))
    assert found("wrong") == wrong != []
    assert found("turned") == turned != []
    assert [apart[at] for at in found("disagreement")] == pytest.approx(sorted(apart, reverse=True))
    for label in set(labels):
        of_class = [at for at in range(len(data)) if labels[at] == label]
        assert found(None, label) == of_class
        assert found("wrong", label) == [at for at in wrong if at in of_class]


def test_empty_maps_are_found(data: Dataset) -> None:
    cache = cache_of({"flat": Flat()}, data)
    analysis = attrib.Span(map="gradient", attack=USUAL, floor=0)
    assert views.matching(cache, ("flat",), analysis, search="empty", label=None) == list(range(len(data)))
