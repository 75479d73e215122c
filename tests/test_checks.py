"""Checks of maps, against loops over pixels, models whose answer is known, and models trained in a few seconds."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from skimage.filters import sobel
from torch import Tensor, nn

import attrib
from attrib import faithfulness, noise, randomisation, spans
from attrib.data import Dataset
from attrib.errors import InputError
from attrib.models.outside import Normalized

TRAINING_IMAGES = 3000


def fitted(data: Dataset, labels: Tensor) -> nn.Module:
    """A LeNet after three epochs of Adam under a one-cycle schedule, which glyphs need no more than."""
    epochs, size, generator = 3, 60, torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    optimizer = torch.optim.Adam(model.parameters())
    steps = epochs * -(-len(data) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in data.batches(size, order=torch.randperm(len(data), generator=generator)):
            optimizer.zero_grad()
            F.cross_entropy(model(batch.image), labels[batch.index]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


class Patch(nn.Module):
    """Reads the 3x3 patch at (2, 4) and nothing else: two logits, 0 and ten times the patch's mean less five."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        seen = x[:, :, 2:5, 4:7].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(seen), self.scale * seen - 5], 1)


class Constant(nn.Module):
    """The same logits for every image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0, -1.0]).expand(len(x), 3)


class Small(nn.Module):
    """Layers registered in another order than they run in; one runs twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)
        self.norm = nn.BatchNorm2d(4)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.first = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.again(self.first(x).relu())).relu()
        logits: Tensor = self.fc(self.again(x).mean((2, 3)))
        return logits


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return noise.uniform(torch.arange(shape[0]), shape[1:], seed=seed)


@pytest.fixture
def small() -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Small()
    model.train()
    model.norm.eval()
    return model


def state(model: nn.Module) -> list[object]:
    tensors = [tensor.clone() for tensor in model.state_dict().values()]
    flags = [module.training for module in model.modules()] + [p.requires_grad for p in model.parameters()]
    return [*(tensor.numpy().tobytes() for tensor in tensors), *flags, torch.get_rng_state().numpy().tobytes()]


def test_layers_come_in_the_order_in_which_they_run(small: Small) -> None:
    assert randomisation.parameter_layers(small, uniform(2, 3, 8, 8)) == ["fc", "again", "norm", "first", "unused"]


def test_an_outside_model_s_layers_have_its_own_names(small: Small) -> None:
    wrapped, image = Normalized(small, [0.5] * 3, [0.2] * 3), uniform(2, 3, 8, 8)
    assert randomisation.parameter_layers(wrapped, image) == randomisation.parameter_layers(small, image)
    for ours, theirs in zip(randomisation.cascade(wrapped, image), randomisation.cascade(small, image), strict=True):
        assert isinstance(ours.model, Normalized)
        assert (ours.layers, ours.lowest) == (theirs.layers, theirs.lowest)
        inner = ours.model.module.state_dict()
        assert all(torch.equal(inner[key], values) for key, values in theirs.model.state_dict().items())


@pytest.mark.parametrize(
    ("layers", "stages", "expected"),
    [(4, 8, [1, 2, 3, 4]), (5, 3, [1, 3, 5]), (41, 5, [1, 11, 21, 31, 41]), (7, 1, [7]), (1, 4, [1])],
)
def test_stage_counts(layers: int, stages: int, expected: list[int]) -> None:
    assert randomisation.stage_counts(layers, stages) == expected


def test_cascade_replaces_the_top_layers_of_a_copy_and_only_those(small: Small) -> None:
    image = uniform(2, 3, 8, 8)
    small(image)  # batch-norm statistics other than a new model's
    small.norm.get_buffer("running_mean").fill_(0.3)
    before = state(small)
    seen = []
    for stage in randomisation.cascade(small, image, layer=small.again, stages=9, seed=3):
        copied = stage.model
        assert isinstance(copied, Small)
        assert stage.layer is copied.again
        assert copied.again is not small.again
        ours, theirs = small.state_dict(), copied.state_dict()
        changed = {key.partition(".")[0] for key in ours if not torch.equal(ours[key], theirs[key])}
        seen.append((stage.layers, stage.lowest, changed))
        last = copied
    names = ["fc", "again", "norm", "first", "unused"]
    assert seen == [(count, names[count - 1], set(names[:count])) for count in range(1, 6)]
    assert not last.norm.get_buffer("running_mean").any()
    assert not last.fc.bias.any()
    assert state(small) == before

    def weights(seed: int, stages: int) -> Tensor:
        *_, last = randomisation.cascade(small, image, stages=stages, seed=seed)
        return torch.cat([parameter.flatten() for parameter in last.model.parameters()])

    assert torch.equal(weights(3, 1), weights(3, 5))  # where one looks doesn't change what is drawn
    assert not torch.equal(weights(3, 1), weights(4, 1))


def test_a_model_that_cannot_be_copied_says_so(small: Small) -> None:
    small.kept = small.first.weight * 2  # as old weight normalisation leaves it
    with pytest.raises(InputError, match="Small cannot be copied"):
        next(randomisation.cascade(small, uniform(1, 3, 8, 8)))
    with pytest.raises(InputError, match="no parameters"):
        randomisation.parameter_layers(Constant(), uniform(1, 3, 8, 8))


def test_spearman_is_scipy_s_with_ties() -> None:
    a = (uniform(6, 5, 7) * 8).floor()
    b = (uniform(6, 5, 7, seed=1) * 5 + 0.3 * a).floor()
    expected = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(randomisation.spearman(a, b).numpy(), expected, atol=1e-12)
    torch.testing.assert_close(randomisation.spearman(a, a.exp()), torch.ones(6, dtype=torch.float64))
    flat = torch.full_like(a, 0.1)
    assert randomisation.spearman(a, flat).tolist() == [0] * 6
    assert randomisation.spearman(flat, a).isnan().all()


def test_ssim_of_a_map_with_itself_rescaled_is_one() -> None:
    a = uniform(3, 9, 9)
    torch.testing.assert_close(randomisation.ssim(a, 7 * a), torch.ones(3), atol=1e-5, rtol=0)
    assert (randomisation.ssim(a, uniform(3, 9, 9, seed=1)) < 0.5).all()
    assert randomisation.ssim(torch.zeros(3, 9, 9), a).isnan().all()
    with pytest.raises(InputError, match="at least 3x3"):
        randomisation.ssim(torch.rand(1, 2, 9), torch.rand(1, 2, 9))


def test_edges_are_scikit_image_s() -> None:
    image = uniform(2, 1, 9, 11)
    expected = np.stack([sobel(one.numpy(), mode="nearest") for one in image[:, 0]])
    np.testing.assert_allclose(randomisation.edges(image).numpy() / math.sqrt(2), expected, atol=1e-6)
    assert not randomisation.edges(torch.full((1, 3, 4, 4), 0.7)).any()


def by_hand(model: nn.Module, label: int, one: Tensor, *, steps: int, start: Tensor, end: Tensor) -> list[float]:
    """One image (C,H,W), pixel by pixel, the highest first; Python's sort keeps ties in their order."""
    order = sorted(range(one.numel()), key=lambda pixel: -float(one.flatten()[pixel]))
    now = start.clone()
    found = []
    for step in range(steps + 1):
        for pixel in order[: round(step * one.numel() / steps)]:
            now[:, pixel // one.shape[1], pixel % one.shape[1]] = end[:, pixel // one.shape[1], pixel % one.shape[1]]
        with torch.no_grad():
            found.append(float(model(now[None]).softmax(1)[0, label]))
    return found


@pytest.mark.parametrize("baseline", ["mean", "black"])
@pytest.mark.parametrize("steps", [1, 7, 20])
def test_curves_equal_a_loop_over_pixels(small: Small, baseline: str, steps: int) -> None:
    small.eval()
    image, label = uniform(3, 3, 4, 5), torch.tensor([0, 2, 1])
    maps = (uniform(3, 4, 5, seed=1) * 6).floor()  # with ties
    inserted = faithfulness.insertion(small, image, label, maps, steps=steps, baseline=baseline)
    deleted = faithfulness.deletion(small, image, label, maps, steps=steps, baseline=baseline)
    for row, (one, y, m) in enumerate(zip(image, label.tolist(), maps, strict=True)):
        colour = one.mean((1, 2), keepdim=True) if baseline == "mean" else torch.zeros(3, 1, 1)
        empty = colour.expand_as(one)
        np.testing.assert_allclose(inserted[row], by_hand(small, y, m, steps=steps, start=empty, end=one), atol=1e-6)
        np.testing.assert_allclose(deleted[row], by_hand(small, y, m, steps=steps, start=one, end=empty), atol=1e-6)
    np.testing.assert_allclose(inserted[:, 0], deleted[:, -1])
    np.testing.assert_allclose(inserted[:, -1], deleted[:, 0])


def test_areas() -> None:
    image, label = uniform(2, 3, 5, 5), torch.tensor([1, 2])
    curve = faithfulness.insertion(Constant(), image, label, uniform(2, 5, 5), steps=4)
    expected = torch.tensor([0.0, 1.0, -1.0]).double().softmax(0)[label]
    torch.testing.assert_close(faithfulness.area(curve, 25), expected)
    shares = torch.tensor(faithfulness.fractions(25, 4), dtype=torch.float64)
    assert shares.tolist() == [0, 6 / 25, 12 / 25, 19 / 25, 1]
    # The trapezoidal rule is exact for a straight line.
    torch.testing.assert_close(faithfulness.area(shares[None], 25), torch.tensor([0.5], dtype=torch.float64))
    for steps in (0, 26):
        with pytest.raises(InputError, match="steps: expected 1 to 25"):
            faithfulness.fractions(25, steps)


def test_without_its_patch_the_model_falls_to_the_baseline() -> None:
    model, index = Patch(), torch.arange(20)
    image = 0.2 * uniform(20, 1, 12, 12)
    image[:, :, 2:5, 4:7] = 1
    label = torch.ones(20, dtype=torch.int64)
    maps = torch.zeros(20, 12, 12)
    maps[:, 2:5, 4:7] = 1
    whole = faithfulness.probability(model, image, label)
    black = faithfulness.probability(model, torch.zeros_like(image), label)
    dropped = faithfulness.span_deletion(model, image, label, spans.span(maps), index=index, baseline="black")
    torch.testing.assert_close(dropped.span, whole - black)
    assert dropped.random.mean() < 0.05
    assert dropped.moved.mean() < 0.25
    assert faithfulness.area(faithfulness.deletion(model, image, label, maps), 144).max() < 0.1
    assert faithfulness.area(faithfulness.insertion(model, image, label, maps), 144).min() > 0.9


def test_controls_have_as_many_pixels_and_depend_on_seed_and_index_only() -> None:
    mask, index = uniform(9, 6, 7) > 0.7, torch.arange(9) + 100
    for control in (faithfulness.random_pixels, faithfulness.moved):
        made = control(mask, index, seed=4)
        assert (made.sum((1, 2)) == mask.sum((1, 2))).all()
        back = control(mask.flip(0), index.flip(0), seed=4).flip(0)
        assert torch.equal(made, back)
        assert torch.equal(made[3:4], control(mask[3:4], index[3:4], seed=4))
        assert not torch.equal(made, control(mask, index, seed=5))
        assert not torch.equal(made, mask)
    rolls = {tuple(mask[0].roll((dy, dx), (0, 1)).flatten().tolist()) for dy in range(6) for dx in range(7)}
    assert tuple(faithfulness.moved(mask[:1], index[:1])[0].flatten().tolist()) in rolls
    one = torch.zeros(500, 6, 7, dtype=torch.bool)
    one[:, 2, 3] = True
    landed = faithfulness.moved(one, torch.arange(500)).sum(0)
    assert landed[2, 3] == 0
    assert (landed > 0).sum() == 41
    anywhere = faithfulness.random_pixels(one, torch.arange(500)).sum(0)
    assert (anywhere > 0).all()


def test_chance_iou_is_what_independent_masks_have() -> None:
    a, b = uniform(40, 50, 50) < 0.3, uniform(40, 50, 50, seed=1) < 0.6
    torch.testing.assert_close(
        faithfulness.chance_iou(a, b).mean(), spans.iou(a, b).double().mean(), atol=0.005, rtol=0
    )


def test_no_answer_depends_on_the_batch_or_its_chunks(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    image, label, maps, index = uniform(7, 3, 8, 8), torch.arange(7) % 3, uniform(7, 8, 8, seed=1), torch.arange(7)

    def answers(rows: slice) -> Tensor:
        given = small, image[rows], label[rows]
        dropped = faithfulness.span_deletion(*given, maps[rows] > 0.5, index=index[rows])
        random = faithfulness.random_maps(index[rows], (8, 8))
        return torch.cat(
            [
                faithfulness.insertion(*given, maps[rows]),
                faithfulness.deletion(*given, random),
                torch.stack(dropped, 1),
            ],
            1,
        )

    whole = answers(slice(None))
    pieces = torch.cat([answers(slice(0, 3)), answers(slice(3, 7))])
    torch.testing.assert_close(whole, pieces, atol=1e-6, rtol=0)
    monkeypatch.setattr(faithfulness, "images_per_chunk", lambda *_: 2)
    torch.testing.assert_close(whole, answers(slice(None)), atol=1e-6, rtol=0)


class Raises(Small):
    """Fails on its third image batch."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 3:
            raise ZeroDivisionError
        return super().forward(x)


USES: list[Callable[[nn.Module, Tensor, Tensor, Tensor], object]] = [
    lambda model, x, y, m: faithfulness.insertion(model, x, y, m),
    lambda model, x, y, m: faithfulness.deletion(model, x, y, m),
    lambda model, x, y, m: faithfulness.span_deletion(model, x, y, m > 0.5, index=torch.arange(len(x))),
    lambda model, x, _y, _m: list(randomisation.cascade(model, x)),
]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", [Small, Raises])
def test_the_model_is_left_as_it_was(kind: type[Small], use: Callable[..., object]) -> None:
    with torch.random.fork_rng():
        model = kind()
    model.train()
    model.first.weight.requires_grad_(False)
    hooks = [len(module._forward_hooks) for module in model.modules()]
    before = state(model)
    given = model, uniform(2, 3, 8, 8), torch.tensor([0, 1]), uniform(2, 8, 8, seed=1)
    if isinstance(model, Raises):
        model.calls = 3
        with pytest.raises(ZeroDivisionError):
            use(*given)
    else:
        use(*given)
    assert state(model) == before
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


@pytest.mark.parametrize("name", ["insertion", "deletion"])
def test_wrong_arguments_are_named(small: Small, name: str) -> None:
    run, image, label = getattr(faithfulness, name), uniform(2, 3, 4, 4), torch.tensor([0, 1])
    with pytest.raises(InputError, match="baseline: expected one of mean, black, got 'blur'"):
        run(small, image, label, uniform(2, 4, 4), baseline="blur")
    with pytest.raises(InputError, match=r"maps: expected floats of shape \(2,4,4\), got"):
        run(small, image, label, uniform(2, 5, 5))
    with pytest.raises(InputError, match="stages: expected at least 1"):
        next(randomisation.cascade(small, image, stages=0))


class Trained(NamedTuple):
    """A LeNet on glyphs with their own labels, another with shuffled ones, and images of the test set."""

    model: nn.Module
    shuffled: nn.Module
    batch: attrib.Batch


@pytest.fixture(scope="module")
def trained() -> Trained:
    data = attrib.dataset("glyphs", split="train", limit=TRAINING_IMAGES)
    shuffled = data.labels[torch.randperm(len(data), generator=torch.Generator().manual_seed(1))]
    (batch,) = attrib.dataset("glyphs", limit=300).batches(300)
    return Trained(fitted(data, data.labels), fitted(data, shuffled), batch)


def test_randomisation_tells_gradcam_from_an_edge_detector(trained: Trained) -> None:
    image, label, *_ = trained.batch
    maps = attrib.gradcam(trained.model, image, label)
    found, control = [], []
    for stage in randomisation.cascade(trained.model, image):
        other = attrib.gradcam(stage.model, image, label)
        found.append(float(randomisation.spearman(maps, other).nanmean()))
        control.append(float(randomisation.spearman(randomisation.edges(image), randomisation.edges(image)).nanmean()))
    assert control == pytest.approx([1.0] * len(found))
    assert max(found) < 0.4


def test_what_similarity_is_left_is_the_architecture_s(trained: Trained) -> None:
    """The gradients of two LeNets share an order of pixels whatever they have learned: their floor is not 0."""
    image, label, index, _ = trained.batch
    maps = attrib.gradient(trained.model, image, label)
    *_, last = randomisation.cascade(trained.model, image)
    random = attrib.gradient(last.model, randomisation.noise_images(image, index), label)
    floor = float(randomisation.spearman(maps, random).mean())
    assert floor > 0.3
    assert float(randomisation.spearman(maps, attrib.gradient(last.model, image, label)).mean()) == pytest.approx(
        floor, abs=0.1
    )


def test_a_trained_model_s_gradient_points_at_the_digit(trained: Trained) -> None:
    """Above chance alone says little: a model trained on noise, and an edge detector, are above chance too."""
    image, label, _, mask = trained.batch
    assert mask is not None
    chance = float(spans.coverage(mask).mean())
    game = {
        name: float(spans.pointing(attrib.gradient(model, image, label), mask).mean())
        for name, model in (("trained", trained.model), ("shuffled", trained.shuffled))
    }
    assert (trained.model(image).argmax(1) == label).float().mean() > 0.7
    assert (trained.shuffled(image).argmax(1) == label).float().mean() < 0.2
    assert game["trained"] > chance + 0.2
    assert game["trained"] > game["shuffled"] + 0.05
