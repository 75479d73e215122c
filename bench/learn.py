"""Does every method learn? Each recipe on a few thousand images, clean and robust: ``python -m bench.learn``.

This is a smoke test with a table. The runs are far too short to compare methods. AGAIN's gate form is missing, since
LeNet cannot have gates.
"""

import argparse
import json
from pathlib import Path

from attrib.errors import InputError
from train.config import Config, read_recipe
from train.loop import train

RECIPES = (
    "raw", "raw-gd", "pgd-at", "madry", "adv-gd", "alp", "aalp-gd", "aalp-sw", "aalp", "trades", "mart",
    "pgd-at-smooth", "pgd-at-smooth-ramp", "pgd-at-awp", "again-logit", "again-logit-plain", "again-trades",
)  # fmt: skip
ATTACKS = {"glyphs": (8 / 255, 3 / 255, 4), "mnist": (0.2, 0.05, 6)}


def main() -> None:
    """Train, or continue earlier runs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=list(ATTACKS))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--limit", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("runs/learn"))
    options = parser.parse_args()
    rows = {}
    for data in options.data:
        eps, step_size, steps = ATTACKS[data]
        for name in RECIPES:
            recipe = {
                "data": data, "arch": "lenet", "epochs": options.epochs, "limit": options.limit, "holdout": 500,
                "optimizer": "adam", "lr": 2e-3, "weight_decay": 0.0, "batch_size": 64,
                "eps": eps, "step_size": step_size, "steps": steps, "eps_warmup": 0.5,
            }  # fmt: skip
            config = Config(**recipe | read_recipe(Path(name)) | ({"awp_from": 3} if name == "pgd-at-awp" else {}))
            out = options.out / data / name
            try:
                train(config, out)
            except InputError as error:
                print(f"{data} {name}: {error}")
                continue
            last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
            rows[data, name] = last["clean"], last["robust"]
    print(f"LeNet, {options.limit} images, {options.epochs} epochs, on 500 held-out images of the last epoch")
    print(f"{'data':<8}{'recipe':<14}{'clean %':>9}{'robust %':>10}   attack")
    for (data, name), (clean, robust) in rows.items():
        eps, step_size, steps = ATTACKS[data]
        print(f"{data:<8}{name:<14}{100 * clean:>9.1f}{100 * robust:>10.1f}   PGD-{steps}, eps {eps:.3f}")


if __name__ == "__main__":
    main()
