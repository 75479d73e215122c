"""Tests that need a CUDA device; run them with ``pytest -m gpu``.

Tests that also run on the CPU are in the other files, with the devices of ``tests/devices.py``. The compiled engine
comes last: compiling takes most of the time.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import GPU

import attrib
from attrib import accuracy, maps, noise
from attrib.data.glyphs import render
from attrib.errors import one_line
from attrib.models.architectures import build
from train import loop
from train.config import Config, read_recipe
from train.engine import Engine

pytestmark = GPU

RECIPES = {"pgd-at": "lenet", "trades": "lenet", "aalp": "lenet", "again": "resnet32", "again-release": "resnet32"}
"""Recipes and the smallest network that has what they need."""
HARD = {"eps": 8 / 255, "step_size": 2 / 255, "steps": 10}


def example() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A network as it is made, in eval mode, and digits, on the CPU."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build("resnet32", num_classes=10, input_shape=(3, 32, 32)).eval()
    image, label, _ = render(torch.arange(64))
    return model, image / 255, label


def test_noise_has_the_same_bits() -> None:
    index = torch.tensor([3, 1_000_000, 0])
    on_cpu = noise.uniform(index, (3, 8, 8), seed=5, stream=2)
    assert torch.equal(noise.uniform(index.cuda(), (3, 8, 8), seed=5, stream=2).cpu(), on_cpu)
    torch.testing.assert_close(
        noise.normal(index.cuda(), (9,), seed=5).cpu(), noise.normal(index, (9,), seed=5), rtol=1e-5, atol=1e-5
    )


def test_float32_is_no_tf32() -> None:
    """Of these margins, up to 80, TF32 changes some by 0.05, and another order of additions none by 0.0001."""
    model, image, label = example()
    on_cpu = accuracy.evaluate(model, image, label).margin
    assert torch.backends.cudnn.allow_tf32
    on_gpu = accuracy.evaluate(model.cuda(), image.cuda(), label.cuda()).margin.cpu()
    torch.testing.assert_close(on_gpu, on_cpu, rtol=0, atol=2e-3)
    assert torch.backends.cudnn.allow_tf32  # as it was


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_attack_is_as_strong_and_stays_on_the_device(precision: str) -> None:
    model, image, label = example()
    on_cpu = attrib.pgd(model, image, label, **HARD)  # type: ignore[arg-type]
    model.cuda()
    on_gpu = attrib.pgd(model, image.cuda(), label.cuda(), precision=precision, **HARD)  # type: ignore[arg-type]
    assert on_gpu.is_cuda
    assert on_gpu.dtype == torch.float32
    assert (on_gpu.cpu() - image).abs().max() <= HARD["eps"] + 1e-6
    with torch.no_grad():
        clean, of_cpu, of_gpu = (
            torch.nn.functional.cross_entropy(model(x.cuda()), label.cuda()).item() for x in (image, on_cpu, on_gpu)
        )
    assert of_gpu > clean
    assert of_gpu == pytest.approx(of_cpu, rel=0.1)


@pytest.mark.parametrize("name", sorted(maps.MAPS))
def test_maps_agree_with_the_cpu_and_stay_on_the_device(name: str) -> None:
    model, image, label = example()
    on_cpu = maps.MAPS[name](model, image[:8], label[:8])
    on_gpu = maps.MAPS[name](model.cuda(), image[:8].cuda(), label[:8].cuda())
    assert on_gpu.is_cuda
    correlation = torch.corrcoef(torch.stack([on_cpu.flatten(), on_gpu.cpu().flatten()]))[0, 1]
    assert correlation > 0.99


def test_a_table_row_agrees_with_the_cpu() -> None:
    model, image, label = example()
    label = model(image).argmax(1)  # right when clean
    settings: dict[str, Any] = {"eps": 1 / 255, "step_size": 0.5 / 255, "steps": (2, 4)}
    on_cpu = accuracy.attacked(model, image, label, **settings)
    on_gpu = accuracy.attacked(model.cuda(), image.cuda(), label.cuda(), **settings)
    assert on_cpu.keys() == on_gpu.keys()
    for name, outcome in on_gpu.items():
        same = (outcome.prediction.cpu() == on_cpu[name].prediction).float().mean()
        assert same > 0.9, name


@cache
def compiler_problem() -> str:
    """Why torch.compile does not work here (no C compiler, no Python headers); empty where it does."""
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.rand(8, device="cuda"))
    except Exception as error:  # triton, gcc and dynamo each raise their own
        return one_line(error)
    return ""


def config_of(recipe: str, **changes: Any) -> Config:
    """One epoch of five steps."""
    base: dict[str, Any] = {
        "data": "glyphs", "arch": RECIPES[recipe], "limit": 350, "holdout": 100, "batch_size": 50, "epochs": 1,
        "optimizer": "sgd", "lr": 0.02, "schedule": "constant", "steps": 3,
    }  # fmt: skip
    awp = {"awp_from": 1} if recipe == "again-release" else {}
    return Config(**base | read_recipe(Path(recipe)) | awp | changes)


def losses_of(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def eager_losses(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The recipe's losses with the eager engine, once per recipe."""

    @cache
    def run(recipe: str) -> list[float]:
        out = tmp_path_factory.mktemp(recipe)
        loop.train(config_of(recipe), out, device="cuda", engine="eager")
        return losses_of(out)

    return run


@pytest.mark.parametrize("recipe", ["pgd-at", "again-release"])
def test_a_resumed_run_draws_the_same(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order, augmentation, attack starts, fake labels: then the second epoch's loss differs by rounding only."""
    config = config_of(recipe, epochs=2, precision="fp32")
    loop.train(config, tmp_path / "whole", device="cuda", engine="eager")
    run_epoch = loop._run_epoch

    def stopping(module: Any, state: Any, *arguments: Any) -> None:
        if state.history:
            raise KeyboardInterrupt
        run_epoch(module, state, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_run_epoch", stopping)
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, tmp_path / "pieces", device="cuda", engine="eager")
    loop.train(config, tmp_path / "pieces", device="cuda", engine="eager")
    assert losses_of(tmp_path / "pieces") == pytest.approx(losses_of(tmp_path / "whole"), rel=0.02)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("engine", ["eager", "graph", "compiled"])
def test_every_engine_trains_alike(
    recipe: str, engine: Engine, eager_losses: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if engine == "compiled" and (problem := compiler_problem()):
        pytest.skip(f"torch.compile does not work here: {problem}")
    loop.train(config_of(recipe), tmp_path, device="cuda", engine=engine)
    assert "without a CUDA graph" not in capsys.readouterr().err
    # Rounding in bfloat16 moves single pixels of the attack, and with them the loss a little.
    assert losses_of(tmp_path) == pytest.approx(eager_losses(recipe), rel=0.1)
    model, _ = attrib.load(tmp_path / "model.pt")
    with torch.no_grad():
        assert model(torch.rand(2, 3, 32, 32)).isfinite().all()
