"""Put finished runs into the zoo that ships with the package: ``python -m train.zoo --recipe NAME RUN_DIR...``.

Every run's model.pt is halved to fp16, measured as it will ship, and written to attrib/models/zoo/ under the name
DATA-ARCH-RUN, where RUN is the folder's name and that of its method's recipe.
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
from train.config import RECIPES, Config, read_recipe

STEPS = 40
"""Steps of the attack that the zoo's robust accuracy speaks of; eps and the size of a step are the data set's."""

FREE = {"save_every", "seed"}
"""What a run may set differently from its recipe and still be called by it."""


def main() -> int:
    """Write the models named on the command line; 2 for what the user can mend, said in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--recipe", required=True, help="the data-and-architecture recipe that the runs followed")
    parser.add_argument("--limit", type=int, help="measure on the first so many test images")
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
    """Halve, measure and write the model of one run; raises InputError where it did not follow the recipes."""
    ckpt = checkpoint.read(run / "model.pt")
    _check_recipe(ckpt, run, recipe)
    halved = {k: v.half() if v.is_floating_point() else v for k, v in ckpt.weights.items()}
    as_read = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in halved.items()}
    ckpt = dataclasses.replace(ckpt, weights=as_read, hyper=ckpt.hyper | {"recipe": f"{recipe} + {run.name}"})
    ckpt = dataclasses.replace(ckpt, metrics=measure(ckpt, limit=limit, device=device))
    place.mkdir(exist_ok=True)
    checkpoint.save(dataclasses.replace(ckpt, weights=halved), place / f"{ckpt.data}-{ckpt.arch}-{run.name}.pt")
    return ckpt


def measure(ckpt: Checkpoint, *, limit: int | None, device: torch.device) -> dict[str, float]:
    """Clean and PGD accuracy on the test images, and the attack's settings."""
    model = checkpoint.to_model(ckpt, device=device)
    budget, data = default_attack(ckpt.data), dataset(ckpt.data, limit=limit)
    clean = robust = 0
    for batch in data.batches(500, device=device):
        stood = correct_under_pgd(
            model, batch.image, batch.label, eps=budget.eps, step_size=budget.step_size, steps=STEPS,
            index=batch.index, precision=inference.precision("auto", device),
        )  # fmt: skip
        clean += int((evaluate(model, batch.image, batch.label).prediction == batch.label).sum())
        robust += int(stood.sum())
    return {
        "clean": clean / len(data), "robust": robust / len(data), "images": float(len(data)),
        "eps": budget.eps, "step_size": budget.step_size, "steps": float(STEPS),
    }  # fmt: skip


def _check_recipe(ckpt: Checkpoint, run: Path, recipe: str) -> None:
    """The name promises a recipe: the run's configuration has to be that of the recipes."""
    if not (RECIPES / f"{run.name}.toml").exists():
        raise InputError(f"{run}: expected a folder named like its method's recipe in train/recipes, got {run.name!r}")
    promised = Config(**read_recipe(Path(recipe)) | read_recipe(Path(run.name))).as_dict()
    other = [key for key, value in promised.items() if key not in FREE and ckpt.hyper.get(key) != value]
    if other:
        said = ", ".join(f"{key} {ckpt.hyper.get(key)} instead of {promised[key]}" for key in other)
        raise InputError(f"{run}: was not trained by the recipes {recipe} and {run.name}: {said}")


if __name__ == "__main__":
    sys.exit(main())
