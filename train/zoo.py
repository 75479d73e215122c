"""Add finished runs to the zoo that ships with the package: ``python -m train.zoo --recipe NAME RUN_DIR...``.

Each model.pt is converted to fp16, evaluated in that form, and written to attrib/models/zoo/DATA-ARCH-RUN.pt. RUN is
the name of the folder and of the method's recipe.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

from attrib import inference
from attrib.accuracy import correct_under_pgd, evaluate
from attrib.data import dataset, default_attack
from attrib.errors import InputError
from attrib.models import checkpoint, zoo
from attrib.models.checkpoint import Checkpoint
from train.config import RECIPES, Config, read_recipes

STEPS = 40
"""Steps of the attack behind the zoo's robust accuracy. eps and step size are the data set's."""

FREE = {"save_every", "seed"}
"""Options that may differ from the recipe."""


def main() -> int:
    """Add the runs named on the command line. Returns 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--recipe", required=True, help="the data-and-architecture recipe that the runs followed")
    parser.add_argument("--limit", type=int, help="evaluate on the first LIMIT test images")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    try:
        for run in options.runs:
            ckpt = add(run, recipe=options.recipe, limit=options.limit, device=inference.device(options.device))
            print(f"{ckpt.data}-{ckpt.arch}-{run.name}: " + "  ".join(f"{k} {v:.4g}" for k, v in ckpt.metrics.items()))
    except InputError as error:
        print(f"train.zoo: error: {error}", file=sys.stderr)
        return 2
    return 0


def add(run: Path, *, recipe: str, limit: int | None, device: torch.device, place: Path = zoo.HERE) -> Checkpoint:
    """Convert, evaluate and write the model of one run. Raises InputError if the run did not follow the recipes."""
    ckpt = checkpoint.read(run / "model.pt")
    _check_recipe(ckpt, run, recipe)
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in ckpt.weights.items()}
    rounded = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in half.items()}
    ckpt = dataclasses.replace(ckpt, weights=rounded, hyper=ckpt.hyper | {"recipe": f"{recipe} + {run.name}"})
    ckpt = dataclasses.replace(ckpt, metrics=measure(ckpt, limit=limit, device=device))
    place.mkdir(exist_ok=True)
    checkpoint.save(dataclasses.replace(ckpt, weights=half), place / f"{ckpt.data}-{ckpt.arch}-{run.name}.pt")
    return ckpt


def measure(ckpt: Checkpoint, *, limit: int | None, device: torch.device) -> dict[str, float]:
    """Clean and PGD accuracy on the test images, and the attack's settings."""
    model = checkpoint.to_model(ckpt, device=device)
    budget, data = default_attack(ckpt.data), dataset(ckpt.data, limit=limit)
    clean = robust = 0
    for batch in data.batches(500, device=device):
        correct = correct_under_pgd(
            model, batch.image, batch.label, eps=budget.eps, step_size=budget.step_size, steps=STEPS,
            index=batch.index, precision=inference.precision("auto", device),
        )  # fmt: skip
        clean += int((evaluate(model, batch.image, batch.label).prediction == batch.label).sum())
        robust += int(correct.sum())
    return {
        "clean": clean / len(data), "robust": robust / len(data), "images": float(len(data)),
        "eps": budget.eps, "step_size": budget.step_size, "steps": float(STEPS),
    }  # fmt: skip


def _check_recipe(ckpt: Checkpoint, run: Path, recipe: str) -> None:
    """Raise InputError unless the run's configuration is that of the recipes in its name."""
    if not (RECIPES / f"{run.name}.toml").exists():
        raise InputError(f"{run}: expected a folder named like its method's recipe in train/recipes, got {run.name!r}")
    expected = Config(**read_recipes(recipe, run.name)).as_dict()
    different = [key for key, value in expected.items() if key not in FREE and ckpt.hyper.get(key) != value]
    if different:
        differences = ", ".join(f"{key} {ckpt.hyper.get(key)} instead of {expected[key]}" for key in different)
        raise InputError(f"{run}: was not trained by the recipes {recipe} and {run.name}: {differences}")


if __name__ == "__main__":
    sys.exit(main())
