"""The floor of ASC, against re-initialisation by hand. It does not depend on the weights or the batch size."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attrib
from attrib import floor, inference, maps
from attrib.data import Dataset
from attrib.errors import InputError
from attrib.models.outside import Normalized


def built(seed: int, arch: str = "resnet32", **options: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return attrib.build(arch, num_classes=10, input_shape=(3, 32, 32), **options)


def reinitialised(model: nn.Module, seed: int) -> nn.Module:
    """By hand, layer by layer in the order of registration: He's normal weights, biases 0, norms as new."""
    copied = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in copied.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
    return copied


def asc(model: nn.Module, data: Dataset, map: str, threshold: str) -> float:
    """The mean coverage, one image at a time."""
    found = []
    for image, label, index, _ in data.batches(1):
        options = {"index": index} if map == "smoothgrad" else {}
        mask = attrib.span(maps.MAPS[map](model, image, label, **options), threshold=threshold)
        found.append(float(mask.float().mean()))
    return float(np.mean(found))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return attrib.dataset("glyphs", limit=60)


@pytest.fixture
def trained() -> nn.Module:
    """A network whose weights and statistics are far from new ones."""
    model = built(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.get_buffer("running_mean").fill_(0.5)
                module.get_buffer("running_var").fill_(4.0)
                module.bias.fill_(0.3)
    return model.train()


@pytest.mark.parametrize(("map", "threshold"), [("gradcam", "mean"), ("eq6", "max:0.3"), ("gradient", "mass:0.5")])
def test_the_floor_is_that_of_networks_re_initialised_by_hand(trained: nn.Module, map: str, threshold: str) -> None:
    few = attrib.dataset("glyphs", limit=30)
    draws = np.array([asc(reinitialised(trained, seed), few, map, threshold) for seed in range(10, 18)])
    found = attrib.asc_floor(trained, few, map=map, threshold=threshold)
    assert found.low <= found.asc <= found.high
    # Two means of 3 and 8 draws from one distribution.
    assert abs(found.asc - draws.mean()) <= 4 * draws.std(ddof=1) * (1 / 3 + 1 / 8) ** 0.5
    assert draws.min() - 4 * draws.std(ddof=1) <= found.low


def test_a_random_network_s_own_asc_is_its_floor(data: Dataset) -> None:
    """The copy of one seed, taken for a model of its own."""
    model, first = built(1), next(data.batches(1)).image
    (random,) = attrib.cascade(model, first, stages=1, seed=1)
    own = asc(random.model, data, "gradcam", "mean")
    found = attrib.asc_floor(model, data)
    assert float(floor.random_coverage(model, data, seed=1).mean()) == pytest.approx(own, abs=1e-5)
    assert found.low - 1e-5 <= own <= found.high + 1e-5


def test_the_floor_knows_neither_weights_nor_batch_size_and_is_computed_once(
    trained: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = 0
    original = maps.attribution

    def counting(*arguments: Any, **options: Any) -> maps.Attribution:
        nonlocal runs
        runs += 1
        return original(*arguments, **options)

    monkeypatch.setattr(maps, "attribution", counting)
    data, again = attrib.dataset("glyphs", limit=50), attrib.dataset("glyphs", limit=50)
    first = attrib.asc_floor(trained, data, images=40)
    assert runs == floor.SEEDS
    assert attrib.asc_floor(built(2), data, images=40) == first
    assert runs == floor.SEEDS
    # Another object may hold other images.
    assert attrib.asc_floor(built(2), again, images=40, batch_size=7) == pytest.approx(first, abs=1e-5)
    assert runs == floor.SEEDS * (1 + 6)
    others: list[tuple[nn.Module, dict[str, Any]]] = [
        (trained, {"images": 39}), (trained, {"images": 40, "threshold": "otsu"}), (trained, {"images": 40, "seed": 9}),
        (trained, {"images": 40, "map": "eq6"}), (trained, {"images": 40, "target": "prediction"}),
        (trained, {"images": 40, "layer": trained.get_submodule("stages.1")}), (built(2, "lenet"), {"images": 40}),
        (built(2, mean=[0.5] * 3), {"images": 40}),
    ]  # fmt: skip
    for model, options in others:
        assert attrib.asc_floor(model, data, **options) != first
    assert runs == floor.SEEDS * (1 + 6 + len(others))


def test_settings_that_no_tensor_holds_tell_structures_apart(data: Dataset) -> None:
    def chain(stride: int, activation: nn.Module) -> nn.Sequential:
        body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=stride, padding=1), activation)
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))

    models = chain(1, nn.ReLU()), chain(2, nn.ReLU()), chain(1, nn.ELU()), chain(1, nn.LeakyReLU(0.2))
    found = [attrib.asc_floor(model, data) for model in (*models, chain(1, nn.LeakyReLU(0.3)))]
    assert len(set(found)) == len(found)


def test_the_model_and_the_global_generator_are_left_alone(trained: nn.Module, data: Dataset) -> None:
    def state() -> list[object]:
        flags = [module.training for module in trained.modules()] + [p.requires_grad for p in trained.parameters()]
        tensors = [tensor.numpy().tobytes() for tensor in trained.state_dict().values()]
        return [*tensors, *flags, torch.get_rng_state().numpy().tobytes()]

    before = state()
    attrib.asc_floor(trained, data, map="smoothgrad", images=5, target="prediction")
    assert state() == before


def test_the_class_explained_is_the_random_network_s_prediction(data: Dataset) -> None:
    model = built(1)
    (random,) = attrib.cascade(model, next(data.batches(1)).image, stages=1, seed=4)
    (batch,) = data.batches(len(data))
    label = inference.logits(random.model, batch.image).argmax(1)
    expected = attrib.coverage(attrib.span(attrib.gradcam(random.model, batch.image, label)))
    found = floor.random_coverage(model, data, target="prediction", seed=4)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_a_function_stands_where_a_map_s_name_stands(data: Dataset) -> None:
    def mine(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
        return attrib.gradcam(model, image, label)

    model = built(1, "lenet")
    assert attrib.asc_floor(model, data, map=mine) == attrib.asc_floor(model, data)


def test_statistics_of_norms_without_parameters_are_re_initialised_too(data: Dataset) -> None:
    def model(mean: float) -> nn.Module:
        norm = nn.BatchNorm2d(8, affine=False)
        norm.get_buffer("running_mean").fill_(mean)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
            return nn.Sequential(*body, nn.Flatten(), nn.Linear(8, 10)).eval()

    assert attrib.asc_floor(model(0.0), data) == attrib.asc_floor(model(0.7), attrib.dataset("glyphs", limit=60))


def test_bad_input(data: Dataset) -> None:
    model = built(1, "lenet")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"images": 0}, "images: expected at least 1, got 0"),
        ({"target": "other"}, "target: expected label, prediction, or a class by its name or number, got 'other'"),
        ({"map": "cam"}, "map: expected one of gradient"),
        ({"threshold": "median"}, "threshold: expected mean"),
        ({"map": "gradient", "layer": model}, "layer belongs to the maps gradcam"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            attrib.asc_floor(model, data, **options)
    empty = Normalized(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), None, None, None)
    with pytest.raises(InputError, match="has no parameters to randomise"):
        attrib.asc_floor(empty, data)
