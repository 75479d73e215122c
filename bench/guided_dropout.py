"""Does Guided Dropout move the participation ratio of C (AALP, 3.1)? ``python -m bench.guided_dropout``.

It trains ALP with and without Guided Dropout on the embedded digits, over several seeds. It reports participation ratio
and Gini coefficient of C (Eq. 5) on test images, and the paired difference over seeds with its 95 % interval. The
interval is Student's t, since a few seeds are too few to resample.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

import attrib
from train.config import Config, read_recipe
from train.loop import train


def measured(checkpoint: Path, images: int) -> dict[str, float]:
    """Participation ratio of C (as a share of the features), Gini coefficient, clean and robust accuracy."""
    model, ckpt = attrib.load(checkpoint)
    data = attrib.dataset(ckpt.data, limit=images)
    total = torch.zeros(model.fc.in_features, dtype=torch.float64)
    for batch in data.batches(500):
        total += attrib.contribution(model, batch.image, batch.label).double().sum(0)
    contribution = total / len(data)
    ratio = float(attrib.participation_ratio(contribution)) / len(contribution)
    return {
        "participation ratio / D": ratio,
        "gini": float(attrib.gini(contribution)),
        "clean": ckpt.metrics["holdout_clean"],
        "robust": ckpt.metrics["holdout_robust"],
    }


def main() -> None:
    """Train, or continue earlier runs; measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--limit", type=int, default=4000)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--runs", type=Path, default=Path("runs/guided-dropout"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/guided_dropout.json"))
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {"alp": [], "aalp-gd": []}
    for seed in range(options.seeds):
        for recipe, rows in runs.items():
            base = {
                "data": "glyphs", "arch": "lenet", "epochs": options.epochs, "limit": options.limit, "holdout": 500,
                "optimizer": "adam", "lr": 2e-3, "weight_decay": 1e-4, "batch_size": 64, "steps": 3,
                "step_size": 0.015, "eps_warmup": 0.3, "seed": seed,
            }  # fmt: skip
            out = options.runs / f"{recipe}-{seed}"
            train(Config(**base | read_recipe(Path(recipe))), out)
            rows.append(measured(out / "model.pt", options.images))
    print(f"{options.seeds} seeds, LeNet on glyphs, C on {options.images} clean test images")
    print(f"{'':<26}{'ALP':>9}{'ALP + gd':>10}{'difference':>12}   95 % interval over seeds")
    differences = {}
    for key in runs["alp"][0]:
        without, with_gd = (np.array([row[key] for row in runs[name]]) for name in ("alp", "aalp-gd"))
        difference = with_gd - without
        error = student.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
        low, high = difference.mean() - error, difference.mean() + error
        differences[key] = {"difference": difference.mean(), "ci": [low, high]}
        print(
            f"{key:<26}{without.mean():>9.4f}{with_gd.mean():>10.4f}{difference.mean():>+12.4f}"
            f"   {low:+.4f} … {high:+.4f}"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"runs": runs, "differences": differences}, indent=2) + "\n")


if __name__ == "__main__":
    main()
