"""The models in the package, and the script that adds them."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attrib.accuracy import evaluate
from attrib.data import dataset
from attrib.errors import InputError
from attrib.models import checkpoint, zoo
from attrib.models.architectures import build
from attrib.models.checkpoint import Checkpoint
from train.config import RECIPES, Config, read_recipe
from train.zoo import add


def test_zoo_is_small() -> None:
    sizes = {name: zoo.file(f"zoo:{name}").stat().st_size for name in zoo.names()}
    assert all(size < 1_000_000 for size in sizes.values()), sizes
    assert sum(sizes.values()) < 10_000_000


@pytest.mark.parametrize("name", zoo.names())
def test_card_holds_what_the_weights_do(name: str, real_data: Path) -> None:
    model, ckpt = checkpoint.load(f"zoo:{name}")
    assert name.startswith(f"{ckpt.data}-{ckpt.arch}-")
    data = dataset(ckpt.data, root=real_data, limit=500)
    right = sum(int((evaluate(model, b.image, b.label).prediction == b.label).sum()) for b in data.batches(250))
    images = ckpt.metrics["images"]
    # Four standard errors of 500 images, and of those that the card speaks of.
    error = (ckpt.metrics["clean"] * (1 - ckpt.metrics["clean"]) * (1 / 500 + 1 / images)) ** 0.5
    assert abs(right / 500 - ckpt.metrics["clean"]) <= 4 * error + 1e-9


def test_command_lists_every_model_with_its_measure() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "attrib.cli", "zoo", "--json"], capture_output=True, text=True, check=True
    )
    cards = json.loads(run.stdout)["models"]
    assert [card["name"] for card in cards] == zoo.names()
    assert all(0 <= card["robust"] <= card["clean"] <= 1 and card["images"] > 0 for card in cards)
    recipes = {recipe for card in cards for recipe in card["recipe"].split(" + ")}
    assert recipes <= {path.stem for path in RECIPES.glob("*.toml")}


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"^zoo:nothing: no such model in the zoo; it holds "):
        checkpoint.read("zoo:nothing")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run by the recipes demo and alp, its model as initialised."""
    config = Config(**read_recipe(Path("demo")) | read_recipe(Path("alp")), seed=3)
    torch.manual_seed(0)
    model = build(config.arch, num_classes=10, input_shape=(3, 32, 32))
    arch_kwargs = {"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist()}
    ckpt = Checkpoint(
        config.arch, arch_kwargs, 10, (3, 32, 32), config.data, config.method, config.as_dict(), 1,
        {}, dict(model.state_dict()),
    )  # fmt: skip
    (tmp_path / "alp").mkdir()
    checkpoint.save(ckpt, tmp_path / "alp" / "model.pt")
    return tmp_path / "alp"


def test_added_model_is_halved_and_measured(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "zoo"
    added = add(run, recipe="demo", limit=50, device=torch.device("cpu"), place=place)
    (file,) = place.iterdir()
    assert file.name == f"{added.data}-{added.arch}-alp.pt"
    assert file.stat().st_size < 0.6 * (run / "model.pt").stat().st_size
    model, read = checkpoint.load(file)
    assert read.fingerprint == added.fingerprint
    assert read.hyper["recipe"] == "demo + alp"
    assert read.hyper["seed"] == 3
    (batch,) = dataset("glyphs", limit=50).batches(50)
    assert read.metrics["clean"] == (model(batch.image).argmax(1) == batch.label).double().mean()
    assert read.metrics["robust"] <= read.metrics["clean"]
    before = checkpoint.read(run / "model.pt").weights
    for name, tensor in read.weights.items():
        torch.testing.assert_close(tensor, before[name], rtol=2**-10, atol=1e-7)


def test_run_that_left_its_recipe_is_refused(run: Path, tmp_path: Path) -> None:
    ckpt = checkpoint.read(run / "model.pt")
    checkpoint.save(dataclasses.replace(ckpt, hyper=ckpt.hyper | {"epochs": 99}), run / "model.pt")
    with pytest.raises(InputError, match=r"was not trained by the recipes demo and alp: epochs 99 instead of \d+"):
        add(run, recipe="demo", limit=50, device=torch.device("cpu"), place=tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_folder_without_a_recipe_is_refused(run: Path, tmp_path: Path) -> None:
    other = run.rename(tmp_path / "mine")
    with pytest.raises(InputError, match="expected a folder named like its method's recipe"):
        add(other, recipe="demo", limit=50, device=torch.device("cpu"), place=tmp_path / "zoo")
