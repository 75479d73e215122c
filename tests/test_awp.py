import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from attrib.data import Batch
from attrib.models.classifier import Classifier
from train.attack import pgd_attack
from train.awp import once, perturbed
from train.methods import aalp, alp, mart, pgd_at, standard, trades


def tiny(*, norm: bool = True) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        between: list[nn.Module] = [nn.BatchNorm2d(4)] if norm else []
        stages = nn.Sequential(nn.Sequential(nn.Conv2d(2, 4, 3), *between, nn.ReLU()))
        return Classifier(stages, nn.Flatten(), nn.Linear(16, 3), mean=(0.5, 0.5), std=(0.3, 0.3))


@pytest.fixture
def model() -> Classifier:
    return tiny()


@pytest.fixture
def batch() -> Batch:
    image = torch.rand(6, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    return Batch(image, torch.tensor([0, 1, 2, 2, 1, 0]), torch.arange(6), None)


@pytest.fixture
def loss(model: Classifier, batch: Batch) -> Callable[[], Tensor]:
    return lambda: F.cross_entropy(model(batch.image), batch.label)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Bit by bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_moves_each_weight_along_its_gradient(model: Classifier, loss: Callable[[], Tensor]) -> None:
    twin = copy.deepcopy(model)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with perturbed(model, loss, gamma=0.01):
        moved = {name: weight.detach() - before[name] for name, weight in model.named_parameters()}
    model.load_state_dict(twin.state_dict())
    loss().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        if weight.ndim > 1:
            torch.testing.assert_close(moved[name].norm(), 0.01 * before[name].norm(), rtol=1e-4, atol=0)
            along = F.cosine_similarity(moved[name].flatten(), weight.grad.flatten(), dim=0)
            torch.testing.assert_close(along, torch.tensor(1.0), rtol=1e-5, atol=0)
        else:
            assert not moved[name].any()


def test_the_loss_rises_by_gamma_w_g(batch: Batch) -> None:
    """To first order by the sum of gamma |w| |g| over the tensors; float64, so that the second order shows."""
    model = tiny().double()

    def loss() -> Tensor:
        return F.cross_entropy(model(batch.image.double()), batch.label)

    weights = [weight for weight in model.parameters() if weight.ndim > 1]
    here = loss()
    gradients = torch.autograd.grad(here, weights)
    slope = sum((w.norm() * g.norm()).item() for w, g in zip(weights, gradients, strict=True))
    errors = []
    for gamma in (1e-4, 5e-5):
        with perturbed(model, loss, gamma=gamma):
            errors.append((loss() - here).item() - gamma * slope)
    assert abs(errors[0]) < 1e-2 * 1e-4 * slope
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.02)


def test_weights_come_back_bit_by_bit(model: Classifier, loss: Callable[[], Tensor]) -> None:
    before = state(model)
    with perturbed(model, loss, gamma=0.3):
        assert not torch.equal(model.fc.weight, before["fc.weight"])
        assert torch.equal(model.fc.bias, before["fc.bias"])
        buffers = dict(model.named_buffers())
        assert same(buffers, {name: before[name] for name in buffers})  # the extra pass is not seen
    assert same(state(model), before)


def test_only_the_body_updates_batch_norm(model: Classifier, loss: Callable[[], Tensor]) -> None:
    with perturbed(model, loss, gamma=0.3):
        twin = copy.deepcopy(model)  # has the perturbed weights
        loss()
    twin(torch.rand(6, 2, 4, 4, generator=torch.Generator().manual_seed(1)))
    assert same(dict(model.named_buffers()), dict(twin.named_buffers()))


def test_weights_come_back_after_an_exception(model: Classifier, loss: Callable[[], Tensor]) -> None:
    before = state(model)
    with pytest.raises(RuntimeError, match="in the body"), perturbed(model, loss):
        raise RuntimeError("in the body")
    assert same(state(model), before)

    def broken() -> Tensor:
        loss()
        raise RuntimeError("in the loss")

    with pytest.raises(RuntimeError, match="in the loss"), perturbed(model, broken):
        pass
    assert same(state(model), before)

    with perturbed(model, lambda: loss() * torch.nan):
        assert model.fc.weight.isnan().all()
    assert same(state(model), before)


def test_gamma_zero_is_the_identity(model: Classifier, loss: Callable[[], Tensor]) -> None:
    plain = loss()
    before = state(model)
    with perturbed(model, loss, gamma=0.0):
        assert same(state(model), before)
        assert torch.equal(loss(), plain)


def test_leaves_gradients_alone(model: Classifier, loss: Callable[[], Tensor]) -> None:
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    with perturbed(model, loss):
        assert model.fc.weight.grad.eq(1).all()
        assert model.fc.bias.grad is None


def test_backward_in_the_body_is_the_gradient_at_the_perturbed_weights(
    model: Classifier, loss: Callable[[], Tensor], batch: Batch
) -> None:
    with perturbed(model, loss, gamma=0.2):
        twin = copy.deepcopy(model)
        loss().backward()
    F.cross_entropy(twin(batch.image), batch.label).backward()
    for weight, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, expected.grad)


def test_weights_without_influence_or_gradient_stay(model: Classifier, batch: Batch) -> None:
    model.fc.weight.requires_grad_(False)
    before = state(model)
    with perturbed(model, lambda: model.features(batch.image).square().mean(), gamma=0.1):
        assert torch.equal(model.fc.weight, before["fc.weight"])
    model.fc.weight.requires_grad_(True)
    with perturbed(model, lambda: model.features(batch.image).square().mean(), gamma=0.1):
        assert torch.equal(model.fc.weight, before["fc.weight"])
        assert not torch.equal(next(model.stages.parameters()), before["stages.0.0.weight"])


def test_inside_autocast_the_new_weights_are_seen(model: Classifier, loss: Callable[[], Tensor]) -> None:
    """Although autocast keeps the bfloat16 copy that it made of a weight until its context ends."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = loss()
        with perturbed(model, loss, gamma=0.3):
            worse = loss()
        again = loss()
    assert worse > plain + 0.1
    assert torch.equal(again, plain)


@pytest.mark.parametrize(
    "method",
    [standard.loss, pgd_at.loss, partial(pgd_at.loss, mixed=True), alp.loss, aalp.loss, trades.loss, mart.loss],
)
def test_goes_with_every_method(model: Classifier, batch: Batch, method: Callable[..., Tensor]) -> None:
    """One attack, on the unperturbed weights; the perturbation raises the loss; every weight gets a gradient."""
    pgd = pgd_attack(eps=0.1, step_size=0.05, steps=3, seed=0, epoch=1, precision="fp32")
    calls = []

    def counted(model: nn.Module, batch: Batch, **asked: Any) -> Tensor:
        calls.append(state(model))
        return pgd(model, batch, **asked)

    before = state(model)
    attack = once(counted)
    plain = method(copy.deepcopy(model), batch, attack=pgd)
    with perturbed(model, lambda: method(model, batch, attack=attack), gamma=0.05):
        worse = method(model, batch, attack=attack)
        worse.backward()
    assert worse > plain
    assert all(weight.grad is not None for weight in model.parameters())
    assert len(calls) == (method is not standard.loss)
    assert all(same(seen, before) for seen in calls)


def test_once_runs_once(model: Classifier, batch: Batch) -> None:
    answers: Iterator[Tensor] = iter([batch.image + 0.1, batch.image + 0.2])
    attack = once(lambda *_, **__: next(answers))
    first = attack(model, batch)
    assert attack(model, batch, start="normal") is first
    torch.testing.assert_close(first, batch.image + 0.1)


def move_on_a_shard(rank: int, folder: Path, batch: Batch) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = tiny(norm=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    half = slice(3 * rank, 3 * rank + 3)
    with perturbed(model, lambda: F.cross_entropy(model(batch.image[half]), batch.label[half]), gamma=0.1):
        torch.save(state(model), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_all_processes_move_alike(batch: Batch, tmp_path: Path) -> None:
    """Two halves of a batch on two processes: the perturbation of the whole (no batch norm)."""
    torch.multiprocessing.spawn(move_on_a_shard, (tmp_path, batch), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert same(first, second)
    model = tiny(norm=False)
    with perturbed(model, lambda: F.cross_entropy(model(batch.image), batch.label), gamma=0.1):
        for name, value in model.state_dict().items():
            torch.testing.assert_close(first[name], value)
