"""Contributions and valid values against slow definitions: one image and one pair at a time."""

import doctest
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attrib
from attrib import features, stats
from attrib.features import high_contribution, last_layer, scale_free_contribution
from train.methods.guided_dropout import relevance_mask

IMAGES, CLASSES = 7, 10


class Tempered(nn.Module):
    """Its logits are not its linear layer's: (p - onehot(y)) W would be wrong by the factor."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(3072, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.flatten(x)) * 3
        return logits


def mlp_head() -> nn.Module:
    """Its last layer, module 2, is no linear one."""
    head = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, CLASSES))
    return nn.Sequential(nn.Conv2d(3, 8, 5), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), head)


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 5), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, CLASSES, 1), nn.Flatten())


def lenet() -> nn.Module:
    return attrib.build("lenet", num_classes=CLASSES, input_shape=(3, 32, 32))


def gated() -> nn.Module:
    return attrib.build("resnet32", num_classes=CLASSES, input_shape=(3, 32, 32), gated=True)


# The model, its last layer's name, and whether it has to be said.
MODELS: dict[str, tuple[Callable[[], nn.Module], str, bool]] = {
    "lenet": (lenet, "fc", False),
    "gated": (gated, "fc", False),
    "tempered": (Tempered, "fc", False),
    "mlp head": (mlp_head, "2", True),
    "1x1 convolution": (convolutional, "2", True),
}


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    data = next(attrib.dataset("glyphs", limit=IMAGES).batches(IMAGES))
    return data.image, data.label


def build(kind: str) -> tuple[nn.Module, nn.Module, nn.Module | None]:
    """The model in float64, its last layer, and what ``fc=`` is to be."""
    make, name, said = MODELS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = make().double()
    layer = model.get_submodule(name)
    return model, layer, layer if said else None


def one_by_one(model: nn.Module, layer: nn.Module, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """C, R and scale-free C from an ordinary backward pass through the whole model, image by image."""
    rows = []
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    model.eval()
    for x, y in zip(image, label, strict=True):
        logits = model(x[None].clone().requires_grad_())
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y[None]), seen[-1])
        error = logits.softmax(1)[0] - F.one_hot(y, CLASSES)
        size = gradient.abs().flatten()
        rows.append((size, size * seen[-1].abs().flatten(), size / error.abs().sum()))
    hook.remove()
    c, r, free = (torch.stack(column).detach() for column in zip(*rows, strict=True))
    return c, r, free


@pytest.mark.parametrize("kind", MODELS)
def test_contributions_equal_the_loop_over_images(kind: str, batch: tuple[Tensor, Tensor]) -> None:
    model, layer, fc = build(kind)
    image, label = batch[0].double(), batch[1]
    contribution, relevance, scale_free = one_by_one(model, layer, image, label)
    assert contribution.max() > 0
    torch.testing.assert_close(attrib.contribution(model, image, label, fc=fc), contribution)
    torch.testing.assert_close(attrib.relevance(model, image, label, fc=fc), relevance)
    torch.testing.assert_close(scale_free_contribution(model, image, label, fc=fc), scale_free)
    assert torch.equal(last_layer(model, image, label, fc=fc).prediction, model(image).argmax(1))


def test_the_closed_form_is_autograd_s(batch: tuple[Tensor, Tensor]) -> None:
    """The same linear layer, once as such and once hidden in a module that is none."""
    model = build("lenet")[0]
    image, label = batch[0].double(), batch[1]
    closed = last_layer(model, image, label)
    model.fc = nn.Sequential(model.get_submodule("fc"))
    hidden = last_layer(model, image, label, fc=model.get_submodule("fc"))
    for one, other in zip(closed, hidden, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_a_reparametrised_linear_layer_uses_its_effective_weight(batch: tuple[Tensor, Tensor]) -> None:
    model, layer, _ = build("lenet")
    image, label = batch[0].double(), batch[1]
    nn.utils.parametrizations.weight_norm(layer)
    layer.get_parameter("parametrizations.weight.original0").data.mul_(1.7)
    expected = one_by_one(model, model.get_submodule("fc"), image, label)[0]
    torch.testing.assert_close(attrib.contribution(model, image, label), expected)


@pytest.mark.parametrize("kind", ["lenet", "mlp head"])
def test_images_that_the_model_is_sure_of_keep_their_gradient(kind: str, batch: tuple[Tensor, Tensor]) -> None:
    """In float32, where p_y rounds to 1 and p_y - 1 to 0."""
    model, _, fc = build(kind)
    image = batch[0].double()
    label = model(image).argmax(1)
    last = fc[-1] if isinstance(fc, nn.Sequential) else model.get_submodule("fc")
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        margin = model(image).topk(2).values.diff().abs().max()
        for parameter in last.parameters():
            parameter.mul_(40 / margin)
    exact = last_layer(model, image, label, fc=fc)
    rounded = last_layer(model.float(), image.float(), label, fc=fc)
    assert (model(image.float()).softmax(1).amax(1) == 1).any()
    assert exact.error.min() < 1e-9
    torch.testing.assert_close(rounded.contribution.double(), exact.contribution, rtol=1e-2, atol=0)
    torch.testing.assert_close(rounded.scale_free.double(), exact.scale_free, rtol=1e-3, atol=1e-3)


def test_neither_batch_nor_chunk_matters(batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("lenet")[0]
    image, label = batch[0].double(), batch[1]
    whole = attrib.relevance(model, image, label)
    parts = [attrib.relevance(model, x, y) for x, y in zip(image.split(3), label.split(3), strict=True)]
    torch.testing.assert_close(torch.cat(parts), whole)
    monkeypatch.setattr(features, "images_per_chunk", lambda *_: 2)
    torch.testing.assert_close(attrib.relevance(model, image, label), whole)


def test_the_model_is_left_as_it_was(batch: tuple[Tensor, Tensor]) -> None:
    model = build("mlp head")[0].float().train()
    layer = model.get_submodule("2")
    weights = [parameter.clone() for parameter in model.parameters()]
    with torch.no_grad():
        found = attrib.contribution(model, *batch, fc=layer)
    assert found.shape == (IMAGES, 8)
    assert not found.requires_grad
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(*pair) for pair in zip(weights, model.parameters(), strict=True))
    assert not layer._forward_pre_hooks
    assert not layer._forward_hooks


def test_bfloat16_is_close_and_float32(batch: tuple[Tensor, Tensor]) -> None:
    model = build("lenet")[0].float()
    exact = attrib.contribution(model, *batch)
    fast = attrib.contribution(model, *batch, precision="bf16")
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast.mean(0), exact.mean(0), rtol=0.1, atol=1e-3)


def test_the_mask_of_guided_dropout_is_r_above_its_median(batch: tuple[Tensor, Tensor]) -> None:
    """AALP's Eq. 8 on Eq. 7: training's own short form against the one measured here."""
    model = attrib.build("lenet", num_classes=CLASSES, input_shape=(3, 32, 32)).double()
    image, label = batch[0].double(), batch[1]
    r = attrib.relevance(model, image, label).mean(0)
    mask = relevance_mask(model.embed(image), model.fc, label)
    assert mask.tolist() == (r >= np.median(r.detach().numpy())).tolist()


LAYERLESS = nn.Sequential(nn.Conv2d(3, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
WRONG = [
    (lambda i, y: attrib.contribution(lenet(), i[0], y), "image: expected floats of shape"),
    (lambda i, y: attrib.contribution(lenet(), i, y[:2]), "label: expected integers of shape"),
    (lambda i, y: attrib.contribution(lenet(), i, y.float()), "label: expected integers"),
    (lambda i, y: attrib.contribution(lenet(), i, y + 9), r"classes in 0\.\.9"),
    (lambda i, y: attrib.contribution(LAYERLESS, i, y), "does not get its logits .* from a linear layer"),
    (lambda i, y: attrib.contribution(LAYERLESS, i, y, fc=nn.Linear(2, 2)), "never runs the Linear given"),
    (lambda *_: attrib.valid_values(torch.ones(3)), r"shape \(K,D\)"),
    (lambda *_: attrib.valid_values(torch.ones(3, 2), rule="median"), "mean, class-mean, absolute"),
    (lambda *_: attrib.gini(torch.tensor([1.0, -1.0])), "none below 0"),
    (lambda *_: attrib.gini(torch.tensor([1.0, torch.nan])), "none below 0"),
    (lambda *_: attrib.participation_ratio(torch.ones(3, 0)), "at least one"),
    (lambda *_: high_contribution(torch.ones(3), multiple=0), "multiple: expected a number above 0"),
]


@pytest.mark.parametrize(("call", "words"), WRONG, ids=[words for _, words in WRONG])
def test_wrong_arguments_are_named(call: Callable[..., object], words: str, batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(attrib.InputError, match=words):
        call(*batch)


def test_a_layer_that_no_gradient_leads_to_is_named(batch: tuple[Tensor, Tensor]) -> None:
    model = gated()
    head = model.get_submodule("stages.3.gate.head")
    with pytest.raises(attrib.InputError, match="no gradient leads from the logits"):
        attrib.contribution(model, *batch, fc=head)


@pytest.mark.parametrize("rule", features.RULES)
def test_valid_values_equal_the_loop(rule: str) -> None:
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(1)) * 0.3 - 0.1
    mask = attrib.valid_values(weight, rule=rule)
    rows = [[abs(v) if rule == "absolute" else v for v in row] for row in weight.tolist()]
    for k, row in enumerate(rows):
        pool = row if rule == "class-mean" else [v for each in rows for v in each]
        assert mask[k].tolist() == [v > sum(pool) / len(pool) for v in row]


def test_constants_have_no_valid_values() -> None:
    for value in (0.1, 0.3, 0.7):
        for rule in features.RULES:
            assert not attrib.valid_values(torch.full((3, 7), value), rule=rule).any()
    rows = torch.tensor([[0.1, 0.1, 0.1], [0.0, 0.0, 1.0]])
    assert attrib.valid_values(rows, rule="class-mean").sum(1).tolist() == [0, 1]


def test_gini_is_half_the_relative_mean_difference() -> None:
    for count in (1, 2, 5, 12):
        x = torch.rand(3, count, generator=torch.Generator().manual_seed(count)).double()
        pairs = (x[:, :, None] - x[:, None, :]).abs().mean((1, 2)) / (2 * x.mean(1))
        torch.testing.assert_close(attrib.gini(x), pairs)
        torch.testing.assert_close(attrib.gini(x * 1e-30), pairs)


@pytest.mark.parametrize("count", [1, 4, 500])
def test_concentration_of_one_hot_and_constant(count: int) -> None:
    one_hot, constant = F.one_hot(torch.tensor(0), count), torch.full((count,), 3e-30)
    assert attrib.participation_ratio(one_hot) == 1
    assert attrib.participation_ratio(constant).item() == pytest.approx(count)
    assert attrib.gini(one_hot).item() == pytest.approx((count - 1) / count)
    assert attrib.gini(constant).item() == pytest.approx(0, abs=1e-12)
    assert high_contribution(constant, multiple=1) == 0
    for undefined in (attrib.gini, attrib.participation_ratio):
        assert undefined(torch.zeros(count)).isnan()


def test_high_contributions_are_counted() -> None:
    for count in (1, 2, 7, 40):
        x = torch.rand(5, count, generator=torch.Generator().manual_seed(count)) ** 3
        for multiple in (0.5, 1, 2.5):
            expected = [int((row > multiple * np.median(row)).sum()) for row in x.double().numpy()]
            assert high_contribution(x, multiple=multiple).tolist() == expected


def test_every_worked_example_runs() -> None:
    names = [name for name in vars(features) if name.islower() and not name.startswith("_")]
    own = [name for name in names if getattr(vars(features)[name], "__module__", "") == features.__name__]
    assert len(own) == 8
    assert all(">>>" in vars(features)[name].__doc__ for name in own)
    result = doctest.testmod(features)
    assert result.attempted > 20
    assert result.failed == 0


def test_resamples_belong_to_images() -> None:
    drawn = stats.image_weights(np.arange(400), seed=3)
    assert drawn.shape == (400, stats.RESAMPLES)
    assert drawn.mean() == pytest.approx(1, abs=0.01)
    assert drawn.var() == pytest.approx(1, abs=0.01)
    assert np.array_equal(stats.image_weights(np.array([17, 3]), seed=3), drawn[[17, 3]])
    assert not np.array_equal(stats.image_weights(np.array([17]), seed=4), drawn[[17]])
    assert abs(np.corrcoef(drawn[0], drawn[1])[0, 1]) < 0.1


def test_the_interval_of_a_mean_is_the_usual_one() -> None:
    values = np.random.default_rng(0).exponential(1, 500)
    weights = stats.image_weights(np.arange(500))
    found = stats.basic_interval(values.mean(), values @ weights / weights.sum(0))
    assert found == pytest.approx(stats.interval(values), abs=0.03)


def test_the_interval_of_a_gini_coefficient_holds_the_truth_as_often_as_it_says() -> None:
    """Mean contributions of 40 features over 200 images, whose noise the percentile interval would add twice."""
    truth = 1 + np.arange(40) / 40
    expected = float(attrib.gini(torch.from_numpy(truth)))
    draw = np.random.default_rng(0)
    weights = stats.image_weights(np.arange(200))[:, :500].T
    basic = percentile = 0
    for _ in range(60):
        values = truth * draw.exponential(1, (200, 40))
        estimate = float(attrib.gini(torch.from_numpy(values.mean(0))))
        resampled = attrib.gini(torch.from_numpy(weights @ values)).numpy()
        low, high = stats.basic_interval(estimate, resampled)
        basic += low <= expected <= high
        percentile += np.quantile(resampled, 0.025) <= expected <= np.quantile(resampled, 0.975)
    assert basic / 60 >= 0.85
    assert percentile < basic


def test_paired_differences_and_their_p() -> None:
    noise = np.random.default_rng(0).normal(0, 1, stats.RESAMPLES)
    far, near = (stats.basic_paired(d + 1, 1, noise + d, np.zeros_like(noise)) for d in (5.0, 0.1))
    assert far.low < 5 < far.high
    assert far.p < 0.002
    assert near.low < 0 < near.high
    assert near.p > 0.5
    # Resamples that lie 1 too high show a bias of 1: interval and p are those of a difference of 0 - 1.
    for biased in (
        stats.basic_paired(0, 0, noise + 1, np.zeros_like(noise)),
        stats.basic_paired(np.zeros(2), np.zeros(2), np.tile(noise + 1, (2, 1)), np.zeros((2, len(noise)))),
    ):
        assert biased.difference == 0
        assert (biased.low + biased.high) / 2 == pytest.approx(-1, abs=0.1)
        assert biased.p == pytest.approx(0.317, abs=0.05)  # beyond 1 standard deviation
        assert biased.low < -2
    within = stats.basic_paired(0, 0, noise + 1, np.zeros_like(noise), within=(-1, 1))
    assert within[1:3] == pytest.approx((-1, 0.96), abs=0.1)
    edge = stats.basic_paired(1.96, 0, 1.96 + noise, np.zeros_like(noise))
    assert edge.p == pytest.approx(0.05, abs=0.02)
    assert stats.basic_paired(2, 2, noise, noise) == (0, 0, 0, 1)
    nothing = stats.basic_paired(2, 1, np.full(3, np.nan), np.full(3, np.nan))
    assert nothing.difference == 1
    assert np.isnan(nothing[1:]).all()


def test_holm_equals_its_definition() -> None:
    p = np.array([0.04, 0.01, np.nan, 0.03, 0.5])
    assert stats.holm(p) == pytest.approx([0.09, 0.04, np.nan, 0.09, 0.5], nan_ok=True)
    assert stats.holm(np.array([0.9, 0.8])).tolist() == [1, 1]
    assert stats.holm(np.array([0.2])).tolist() == [0.2]
