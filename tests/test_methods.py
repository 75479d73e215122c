"""Every loss against its equation, written out image by image and class by class, on stored adversarial images."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from attrib.attack import Forward, Objective, logits
from attrib.data import Batch
from attrib.loss import cross_entropy
from attrib.models.classifier import Classifier
from train.attack import Start, pgd_attack
from train.methods import aalp, alp, guided_dropout, mart, pgd_at, standard, trades
from train.methods.guided_dropout import relevance_mask

Loss = Callable[..., Tensor]

LABELS = [0, 3, 1, 2, 3]
FEATURES, CLASSES = 12, 4


def tiny(*extra: nn.Module, dtype: torch.dtype = torch.float64) -> Classifier:
    """109 weights, smooth, (2,4,4) images to 12 features to 4 classes; ``extra`` modules follow the convolution."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stages = nn.Sequential(nn.Sequential(nn.Conv2d(2, 3, 3), *extra, nn.Tanh()))
        fc = nn.Linear(FEATURES, CLASSES)
        nn.init.normal_(fc.weight)  # decided predictions, so that weights and divergences differ between images
    return Classifier(stages, nn.Flatten(), fc, mean=(0.4, 0.5), std=(0.3, 0.2)).to(dtype)


def images(dtype: torch.dtype = torch.float64) -> tuple[Batch, Tensor]:
    """Five images and their adversarial ones."""
    generator = torch.Generator().manual_seed(1)
    image, noise = torch.rand(2, len(LABELS), 2, 4, 4, generator=generator, dtype=torch.float64).to(dtype)
    adversarial = (image + 0.4 * (noise - 0.5)).clamp(0, 1)
    return Batch(image, torch.tensor(LABELS), torch.arange(len(LABELS)), None), adversarial


class Stored:
    """An attack that answers with the same images and notes what it was asked."""

    def __init__(self, adversarial: Tensor) -> None:
        self.adversarial = adversarial
        self.calls: list[tuple[Objective, Start, Tensor | None]] = []

    def __call__(
        self,
        model: nn.Module,  # noqa: ARG002
        batch: Batch,  # noqa: ARG002
        *,
        objective: Objective = cross_entropy,
        start: Start = "uniform",
        forward: Forward = logits,  # noqa: ARG002
        target: Tensor | None = None,
    ) -> Tensor:
        self.calls.append((objective, start, target))
        return self.adversarial


# The equations, in Python floats.

Row = Sequence[float]
EVERYTHING = [1.0] * FEATURES


def slow_logits(model: Classifier, image: Tensor, mask: Row = EVERYTHING) -> Row:
    activation, weight = model.embed(image[None])[0].tolist(), model.fc.weight.tolist()
    return [
        bias + sum(weight[k][d] * activation[d] * mask[d] for d in range(len(mask)))
        for k, bias in enumerate(model.fc.bias.tolist())
    ]


def softmax(z: Row) -> Row:
    return [math.exp(value) / sum(map(math.exp, z)) for value in z]


def ce(z: Row, y: int, smoothing: float = 0.0) -> float:
    p = softmax(z)
    return -(1 - smoothing) * math.log(p[y]) - smoothing / len(z) * sum(map(math.log, p))


def kl(z: Row, z_adv: Row) -> float:
    return sum(p * math.log(p / q) for p, q in zip(softmax(z), softmax(z_adv), strict=True))


def slow_mask(embed: Callable[[Tensor], Tensor], fc: nn.Module, inputs: Sequence[Tensor], labels: Row) -> Row:
    """Eq. 7-8 with autograd's gradient of each sample's own loss, and numpy's median."""
    relevance = []
    for x, y in zip(inputs, labels, strict=True):
        activation = embed(x[None]).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(fc(activation), torch.tensor([y])), activation)
        relevance.append((gradient * activation).abs()[0].detach().numpy())
    mean = np.mean(relevance, axis=0)
    return [float(value >= np.median(mean)) for value in mean]


def slow_standard(model: Classifier, *, guided: bool = False) -> float:
    batch, _ = images()
    mask = slow_mask(model.embed, model.fc, list(batch.image), LABELS) if guided else EVERYTHING
    return sum(ce(slow_logits(model, x, mask), y) for x, y in zip(batch.image, LABELS, strict=True)) / len(LABELS)


def slow_pgd_at(model: Classifier, *, mixed: bool = False, smoothing: float = 0.0, guided: bool = False) -> float:
    batch, adversarial = images()
    inputs = [*adversarial, *(batch.image if mixed else [])]
    labels = LABELS * 2 if mixed else LABELS
    mask = slow_mask(model.embed, model.fc, inputs, labels) if guided else EVERYTHING
    total = sum(ce(slow_logits(model, x, mask), y, smoothing) for x, y in zip(inputs, labels, strict=True))
    return total / len(LABELS)


def slow_alp(model: Classifier, *, weight: float = 1.0, guided: bool = False, adaptive: bool = False) -> float:
    batch, adversarial = images()
    inputs = [*batch.image, *adversarial]
    mask = slow_mask(model.embed, model.fc, inputs, LABELS * 2) if guided else EVERYTHING
    total = 0.0
    for x, x_adv, y in zip(batch.image, adversarial, LABELS, strict=True):
        z, z_adv = slow_logits(model, x, mask), slow_logits(model, x_adv, mask)
        distance = sum((a - b) ** 2 for a, b in zip(z, z_adv, strict=True))
        total += ce(z, y) + ce(z_adv, y) + weight * (softmax(z)[y] if adaptive else 1) * distance
    return total / len(LABELS)


def slow_trades(model: Classifier, *, beta: float = 6.0) -> float:
    batch, adversarial = images()
    total = 0.0
    for x, x_adv, y in zip(batch.image, adversarial, LABELS, strict=True):
        z, z_adv = slow_logits(model, x), slow_logits(model, x_adv)
        total += ce(z, y) + beta * kl(z, z_adv)
    return total / len(LABELS)


def slow_mart(model: Classifier, *, weight: float = 5.0) -> float:
    batch, adversarial = images()
    total = 0.0
    for x, x_adv, y in zip(batch.image, adversarial, LABELS, strict=True):
        z, z_adv = slow_logits(model, x), slow_logits(model, x_adv)
        p_adv = softmax(z_adv)
        rival = max(p for k, p in enumerate(p_adv) if k != y)
        total += -math.log(p_adv[y]) - math.log(1 - rival) + weight * kl(z, z_adv) * (1 - softmax(z)[y])
    return total / len(LABELS)


CASES: dict[str, tuple[Loss, Callable[[Classifier], float]]] = {
    "standard": (standard.loss, slow_standard),
    "standard+gd": (partial(standard.loss, guided_dropout=True), partial(slow_standard, guided=True)),
    "pgd-at": (pgd_at.loss, slow_pgd_at),
    "pgd-at mixed": (partial(pgd_at.loss, mixed=True), partial(slow_pgd_at, mixed=True)),
    "pgd-at smoothed": (partial(pgd_at.loss, label_smoothing=0.4), partial(slow_pgd_at, smoothing=0.4)),
    "pgd-at+gd": (partial(pgd_at.loss, guided_dropout=True), partial(slow_pgd_at, guided=True)),
    "pgd-at mixed+gd": (
        partial(pgd_at.loss, mixed=True, label_smoothing=0.1, guided_dropout=True),
        partial(slow_pgd_at, mixed=True, smoothing=0.1, guided=True),
    ),
    "alp": (alp.loss, slow_alp),
    "alp, weight 0.5": (partial(alp.loss, weight=0.5), partial(slow_alp, weight=0.5)),
    "aalp_gd": (partial(alp.loss, guided_dropout=True), partial(slow_alp, guided=True)),
    "aalp_sw": (partial(alp.loss, adaptive=True), partial(slow_alp, adaptive=True)),
    "aalp": (aalp.loss, partial(slow_alp, guided=True, adaptive=True)),
    "aalp, alpha 3": (partial(aalp.loss, alpha=3.0), partial(slow_alp, weight=3.0, guided=True, adaptive=True)),
    "trades": (trades.loss, slow_trades),
    "trades, beta 1": (partial(trades.loss, beta=1.0), partial(slow_trades, beta=1.0)),
    "mart": (mart.loss, slow_mart),
    "mart, weight 2": (partial(mart.loss, weight=2.0), partial(slow_mart, weight=2.0)),
}

each_method = pytest.mark.parametrize("name", CASES)


@each_method
def test_is_its_equation(name: str) -> None:
    fast, slow = CASES[name]
    model = tiny()
    batch, adversarial = images()
    value = fast(model, batch, attack=Stored(adversarial))
    assert value.shape == ()
    assert value.item() == pytest.approx(slow(model), rel=1e-12)


def held(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function's first value, whatever it is asked later: what has no gradient must not move either."""
    values: list[Tensor] = []

    def first(*arguments: Any) -> Tensor:
        if not values:
            values.append(function(*arguments))
        return values[0]

    return first


@each_method
def test_gradient_is_finite_differences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With respect to every weight; adversarial images, masks and detached weights are held fixed."""
    monkeypatch.setattr(guided_dropout, "relevance_mask", held(relevance_mask))
    monkeypatch.setattr(alp, "confidence", held(alp.confidence))
    model = tiny()
    batch, adversarial = images()
    loss = partial(CASES[name][0], model, batch, attack=Stored(adversarial))
    weights = list(model.parameters())
    gradients = torch.autograd.grad(loss(), weights)
    step = 1e-5
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            numeric = torch.empty_like(weight)
            for position in np.ndindex(*weight.shape):
                middle = weight[position].item()
                weight[position] = middle + step
                above = loss()
                weight[position] = middle - step
                numeric[position] = (above - loss()) / (2 * step)
                weight[position] = middle
            torch.testing.assert_close(gradient, numeric, rtol=1e-6, atol=1e-8)


@each_method
def test_under_autocast(name: str) -> None:
    """bfloat16 in the layers, float32 in the loss; no weight loses its gradient to autocast's cache."""
    loss = CASES[name][0]
    model = tiny(dtype=torch.float32)
    batch, adversarial = images(torch.float32)
    exact = loss(model, batch, attack=Stored(adversarial))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(model, batch, attack=Stored(adversarial))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, exact, rtol=0.03, atol=0)
    value.backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


class Rounded(nn.Module):
    """A model whose logits are bfloat16 numbers, and of that type, as under autocast."""

    def __init__(self, model: Classifier, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model(image)
        return logits.bfloat16().to(self.dtype)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("aalp") and "gd" not in name])
def test_loss_of_bfloat16_logits_is_computed_in_float32(name: str) -> None:
    model = tiny(dtype=torch.float32)
    batch, adversarial = images(torch.float32)
    coarse, fine = (
        CASES[name][0](Rounded(model, dtype), batch, attack=Stored(adversarial))
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert torch.equal(coarse, fine)


@each_method
def test_attacks_once(name: str) -> None:
    attack = Stored(images()[1])
    CASES[name][0](tiny(), images()[0], attack=attack)
    assert len(attack.calls) == (not name.startswith("standard"))
    if attack.calls and not name.startswith("trades"):
        assert attack.calls == [(cross_entropy, "uniform", None)]


# Guided Dropout


@pytest.mark.parametrize("features", [1, 2, 5, 8, 9])
@pytest.mark.parametrize("bias", [True, False])
def test_mask_is_relevance_above_the_median(features: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(features)
    embedding = torch.randn(7, features, generator=generator, dtype=torch.float64, requires_grad=True)
    label = torch.randint(3, (7,), generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(features)
        fc = nn.Linear(features, 3, bias=bias).double()
    mask = relevance_mask(embedding, fc, label)
    assert mask.tolist() == slow_mask(lambda x: x, fc, list(embedding), label.tolist())
    assert mask.sum() == math.ceil(features / 2)
    assert not mask.requires_grad
    assert fc.weight.grad is None


def test_features_that_tie_with_the_median_stay() -> None:
    """Eq. 8 has >=: where more than half of the features are dead, the median is 0 and nothing is dropped."""
    fc = nn.Linear(5, 3)
    label = torch.tensor([0, 2])
    assert relevance_mask(torch.tensor([[1.0, 0, 0, 2, 0], [3, 0, 0, 1, 0]]), fc, label).tolist() == [1] * 5


def test_mask_is_computed_in_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(8, 5000, generator=generator).bfloat16()  # enough for some to lie close to the median
    label = torch.randint(4, (8,), generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fc = nn.Linear(5000, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mask = relevance_mask(embedding, fc, label)
    assert mask.dtype == torch.bfloat16
    assert torch.equal(mask.float(), relevance_mask(embedding.float(), fc, label))


def mask_of_a_shard(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model, (batch, _) = tiny(), images()
    shard = slice(0, 3) if rank == 0 else slice(3, 5)
    mask = relevance_mask(model.embed(batch.image[shard]), model.fc, batch.label[shard])
    torch.save(mask, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_mask_is_that_of_all_processes(tmp_path: Path) -> None:
    """Shards of 3 and 2 images get the mask of the 5, which is neither shard's own."""
    model, (batch, _) = tiny(), images()
    together = relevance_mask(model.embed(batch.image), model.fc, batch.label)
    assert not torch.equal(relevance_mask(model.embed(batch.image[:3]), model.fc, batch.label[:3]), together)
    assert not torch.equal(relevance_mask(model.embed(batch.image[3:]), model.fc, batch.label[3:]), together)
    torch.multiprocessing.spawn(mask_of_a_shard, (tmp_path,), nprocs=2)
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt"), together)


# Degenerate cases are identities.


@pytest.fixture
def stored() -> Stored:
    return Stored(images()[1])


def test_aalp_with_a_full_mask_and_weights_one_is_alp(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (batch, _) = tiny(), images()
    different = aalp.loss(model, batch, attack=stored)
    monkeypatch.setattr(guided_dropout, "relevance_mask", lambda embedding, *_: torch.ones_like(embedding[0]))
    monkeypatch.setattr(alp, "confidence", lambda _, label: torch.ones(len(label)))
    same = aalp.loss(model, batch, attack=stored)
    assert torch.equal(same, alp.loss(model, batch, attack=stored))
    assert not torch.isclose(same, different)


@pytest.mark.parametrize("guided", [False, True])
def test_alp_of_weight_zero_is_mixed_pgd_at(stored: Stored, guided: bool) -> None:
    model, (batch, _) = tiny(), images()
    torch.testing.assert_close(
        alp.loss(model, batch, attack=stored, weight=0.0, guided_dropout=guided),
        pgd_at.loss(model, batch, attack=stored, mixed=True, guided_dropout=guided),
    )


def test_trades_of_beta_zero_is_standard(stored: Stored) -> None:
    model, (batch, _) = tiny(), images()
    torch.testing.assert_close(
        trades.loss(model, batch, attack=stored, beta=0.0), standard.loss(model, batch, attack=stored)
    )


def test_without_a_perturbation_all_is_clean() -> None:
    """The real attack with eps 0, from either start."""
    model, (batch, _) = tiny(), images()
    attack = pgd_attack(eps=0.0, step_size=0.1, steps=2, seed=0, epoch=1, precision="fp32")
    clean = standard.loss(model, batch, attack=attack)
    for loss, multiple in ((pgd_at.loss, 1), (partial(pgd_at.loss, mixed=True), 2), (alp.loss, 2), (trades.loss, 1)):
        torch.testing.assert_close(loss(model, batch, attack=attack), multiple * clean)
    guided = partial(standard.loss, guided_dropout=True)(model, batch, attack=attack)
    torch.testing.assert_close(aalp.loss(model, batch, attack=attack), 2 * guided)


def test_alp_approaches_the_jacobian() -> None:
    """Eq. 2: mean |J dx|^2, with an error of third order in dx, so an eighth after each halving."""
    model, (batch, adversarial) = tiny(), images()
    direction = adversarial - batch.image
    _, along = torch.autograd.functional.jvp(model, batch.image, direction)
    errors = []
    for size in (2**-6, 2**-7, 2**-8):
        attack = Stored(batch.image + size * direction)
        pairing = alp.loss(model, batch, attack=attack) - alp.loss(model, batch, attack=attack, weight=0.0)
        linear = size**2 * along.square().sum(1).mean()
        torch.testing.assert_close(pairing, linear, rtol=4 * size, atol=0)
        errors.append((pairing - linear).item())
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(8, rel=0.05)


def test_pairing_of_aalp_weighs_confident_images_more(stored: Stored) -> None:
    """p_y of the training forward: behind the mask, where there is one."""
    model, (batch, _) = tiny(), images()
    mask = torch.tensor(slow_mask(model.embed, model.fc, [*batch.image, *stored.adversarial], LABELS * 2))
    masked = [softmax(slow_logits(model, x, mask.tolist()))[y] for x, y in zip(batch.image, LABELS, strict=True)]
    logits = model.fc(model.embed(batch.image) * mask)
    assert alp.confidence(logits, batch.label).tolist() == pytest.approx(masked)
    assert not alp.confidence(logits, batch.label).requires_grad


# TRADES and MART


def test_trades_attacks_the_divergence_from_the_deployed_prediction(stored: Stored) -> None:
    """In eval mode, although the model trains with batch norm and dropout, and without a trace."""
    norm, dropout = nn.BatchNorm2d(3), nn.Dropout(0.5)
    model, (batch, adversarial) = tiny(norm, dropout), images()
    deployed = tiny(norm, dropout).eval()
    fixed = [slow_logits(deployed, x) for x in batch.image]
    attacked = model.eval()(adversarial).detach()
    trades.loss(model.train(), batch, attack=stored)
    [(objective, start, target)] = stored.calls
    assert target is not None
    assert start == "normal"
    expected = [kl(z, z_adv) for z, z_adv in zip(fixed, attacked.tolist(), strict=True)]
    assert objective(attacked, target).tolist() == pytest.approx(expected)
    assert norm.num_batches_tracked == 1
    assert all(module.training for module in model.modules())
    assert all(weight.requires_grad for weight in model.parameters())


def test_trades_attack_raises_the_divergence() -> None:
    model, (batch, _) = tiny(dtype=torch.float32), images(torch.float32)
    seen = []

    def attack(model: nn.Module, batch: Batch, **asked: Any) -> Tensor:
        for steps in (1, 10):
            run = pgd_attack(eps=0.05, step_size=0.01, steps=steps, seed=0, epoch=1, precision="fp32")
            seen.append(run(model, batch, **asked))
        return seen[-1]

    trades.loss(model, batch, attack=attack)
    few, many = (trades.divergence(model(batch.image), model(x)) for x in seen)
    assert (many > few).all()


def test_trades_takes_another_classification_loss() -> None:
    model, (batch, adversarial) = tiny(), images()
    smoothed = partial(F.cross_entropy, label_smoothing=0.3)
    value = trades.loss_on(model, batch, adversarial, beta=2.0, classification=smoothed)
    expected = 0.0
    for x, x_adv, y in zip(batch.image, adversarial, LABELS, strict=True):
        z = slow_logits(model, x)
        expected += ce(z, y, 0.3) + 2 * kl(z, slow_logits(model, x_adv))
    assert value.item() == pytest.approx(expected / len(LABELS))


def test_boosted_cross_entropy_of_two_classes_is_twice_the_cross_entropy() -> None:
    logits, label = torch.tensor([[0.3, -1.0], [2.0, 0.5], [0.0, 0.0]]), torch.tensor([0, 1, 1])
    torch.testing.assert_close(mart.boosted_cross_entropy(logits, label), 2 * F.cross_entropy(logits, label))


def test_certain_predictions_cost_what_they_should() -> None:
    """Where p rounds to 0 or 1 in float32, values and gradients are still right."""
    label = torch.tensor([0, 1])
    logits = torch.tensor([[0.0, 200.0, 0.0], [0.0, 300.0, 0.0]], requires_grad=True)
    # -log p_y and -log(1 - p_rival): 200 and 200 - log 2 for the wrong one, 0 and 0 for the right one
    boosted = mart.boosted_cross_entropy(logits, label)
    assert boosted.item() == pytest.approx((400 - math.log(2)) / 2)
    boosted.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0], torch.tensor([-0.75, 1.0, -0.25]))

    clean = torch.tensor([[200.0, 0.0, 0.0]])
    attacked = torch.tensor([[0.0, 200.0, 0.0]], requires_grad=True)
    divergence = trades.divergence(clean, attacked)
    torch.testing.assert_close(divergence, torch.tensor([200.0]))
    divergence.sum().backward()
    assert attacked.grad is not None
    torch.testing.assert_close(attacked.grad, torch.tensor([[-1.0, 1.0, 0.0]]))
