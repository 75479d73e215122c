"""What must hold on a CUDA device; run with ``pytest -m gpu`` where there is one."""

from pathlib import Path
from typing import Any

import pytest
import torch

import attrib
from attrib import maps, noise, robust
from attrib.glyphs import render
from attrib.model import build
from train.config import Config, read_recipe
from train.loop import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def example() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build("resnet32", num_classes=10, input_shape=(3, 32, 32)).eval()
    image, label, _ = render(torch.arange(64))
    return model, image / 255, label


def test_noise_has_the_same_bits() -> None:
    index = torch.tensor([3, 1_000_000, 0])
    here = noise.uniform(index, (3, 8, 8), seed=5, stream=2)
    assert torch.equal(noise.uniform(index.cuda(), (3, 8, 8), seed=5, stream=2).cpu(), here)
    torch.testing.assert_close(noise.normal(index.cuda(), (9,), seed=5).cpu(), noise.normal(index, (9,), seed=5))


def test_float32_is_no_tf32() -> None:
    model, image, label = example()
    here = robust.judge(model, image, label).margin
    there = robust.judge(model.cuda(), image.cuda(), label.cuda()).margin.cpu()
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-5)
    assert torch.backends.cudnn.allow_tf32  # as it was


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_attack_is_as_strong_and_stays_on_the_device(precision: str) -> None:
    model, image, label = example()
    settings = {"eps": 8 / 255, "step_size": 2 / 255, "steps": 10}
    here = attrib.pgd(model, image, label, eps=8 / 255, step_size=2 / 255, steps=10)
    model.cuda()
    there = attrib.pgd(model, image.cuda(), label.cuda(), precision=precision, **settings)  # type: ignore[arg-type]
    assert there.is_cuda
    assert (there.cpu() - image).abs().max() <= 8 / 255 + 1e-6
    with torch.no_grad():
        losses = [torch.nn.functional.cross_entropy(model(x.cuda()), label.cuda()).item() for x in (image, here, there)]
    assert losses[2] > losses[0]
    assert losses[2] == pytest.approx(losses[1], rel=0.1)


@pytest.mark.parametrize("name", sorted(maps.MAPS))
def test_maps_agree_with_the_cpu(name: str) -> None:
    model, image, label = example()
    here = maps.MAPS[name](model, image[:8], label[:8])
    there = maps.MAPS[name](model.cuda(), image[:8].cuda(), label[:8].cuda()).cpu()
    correlation = torch.corrcoef(torch.stack([here.flatten(), there.flatten()]))[0, 1]
    assert correlation > 0.99


@pytest.mark.parametrize("recipe", ["pgd-at", "aalp", "again", "again-awp"])
def test_compiled_training_runs_and_resumes(recipe: str, tmp_path: Path) -> None:
    base: dict[str, Any] = {
        "data": "glyphs",
        "arch": "resnet32",
        "limit": 600,
        "holdout": 100,
        "batch_size": 100,
        "epochs": 2,
        "lr": 0.05,
    }
    extra = {"awp_from": 1} if recipe == "again-awp" else {}
    train(Config(**base | read_recipe(Path(recipe)) | extra), tmp_path, device="cuda")
    model, _ = attrib.load(tmp_path / "model.pt")
    assert model(torch.rand(2, 3, 32, 32)).isfinite().all()
