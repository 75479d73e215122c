"""What is kept of a command's results: small files, one folder per data set and architecture, for the scripts.

Every function takes the command's folder, the folder of results and the task's name, and returns the files written.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attrib import results, stats
from figures.shared import read_json

POINTS = 2000
"""Images of the scatter, of those measured."""
COMPARED = ("contribution", "scale_free"), ("mean", "participation_ratio", "high")
"""Of the comparisons of contributions those kept: the quantities, and their statistics."""
SCATTERED = ("model", "index", "set", "probability_clean", "probability_adversarial")


def summary(work: Path, data: Path, name: str, *, command: str) -> list[Path]:
    """The JSON, its numbers to six digits."""
    path = data / f"{name}.json"
    results.write_json(_rounded(read_json(work / f"{command}.json")), path)
    return [path]


def span(work: Path, data: Path, name: str, *, shown: Sequence[str]) -> list[Path]:
    """The JSON, and maps and spans of a few images under the models shown."""
    return [*summary(work, data, name, command="span"), *_examples(work / "span-examples.npz", data, name, shown)]


def maps(work: Path, data: Path, name: str) -> list[Path]:
    """The maps of the few images."""
    return [*summary(work, data, name, command="maps"), *_examples(work / "maps-examples.npz", data, name)]


def contrib(work: Path, data: Path, name: str, *, checkpoints: Mapping[str, Sequence[Path]]) -> list[Path]:
    """The JSON less some of its comparisons, contributions on clean images, and the weights of the features used most.

    checkpoints: model to one file per seed. Contributions are those of every feature of the first seed, to four digits.
    """
    every = pd.read_csv(work / "contrib.csv")
    table = _one_seed(every)
    few = table.loc[table["images"] == "clean", ["model", "C", "R", "C_scale_free"]]
    found = read_json(work / "contrib.json")
    # Twelve comparisons of every two models would be the largest part of all that is kept.
    found["pairs"] = [p for p in found["pairs"] if p["of"] in COMPARED[0] and p["statistic"] in COMPARED[1]]
    results.write_json(_rounded(found), data / f"{name}.json")
    results.write_json(_rounded(_high_norms(every, checkpoints)), data / f"{name}-weights.json")
    return [data / f"{name}.json", _csv(few, data, name), data / f"{name}-weights.json"]


def _high_norms(table: pd.DataFrame, checkpoints: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """Per seed the mean norm of W's columns over the features with R >= median, which Guided Dropout keeps (AALP 3.1).

    table: ``contrib.csv``; R is on clean images.
    """
    import attrib

    models = []
    clean = table[table["images"] == "clean"]
    for model, paths in checkpoints.items():
        norms = []
        for seed, path in enumerate(paths):
            rows = clean[(clean["model"] == model) & (clean["seed"] == seed)].sort_values("feature")
            relevance = rows["R"].to_numpy(float)
            norm = attrib.load(path)[0].fc.weight.detach().norm(dim=0).numpy()
            norms.append(float(norm[relevance >= np.median(relevance)].mean()))
        models.append({"name": model, "norms": norms})
    return {"models": models}


def fc(work: Path, data: Path, name: str, *, checkpoints: Mapping[str, Path]) -> list[Path]:
    """The JSON, and of each model the valid values (K,D)."""
    import attrib

    arrays = {}
    for model, path in checkpoints.items():
        weight = attrib.load(path)[0].fc.weight.detach()
        arrays[f"valid {model}"] = attrib.valid_values(weight).numpy()
    results.write_examples(data / f"{name}.npz", arrays)
    return [*summary(work, data, name, command="fc"), data / f"{name}.npz"]


def sets(work: Path, data: Path, name: str) -> list[Path]:
    """The JSON, a sub-sample of the points, how far the attack moves the true class's probability, and examples."""
    every = pd.read_csv(work / "sets.csv")
    table = _one_seed(every)
    index = np.sort(table["index"].unique())
    some = index[np.linspace(0, len(index) - 1, min(POINTS, len(index))).round().astype(int)]
    written = [*summary(work, data, name, command="sets")]
    written.append(_csv(table.loc[table["index"].isin(some), list(SCATTERED)], data, name))
    written.append(data / f"{name}-shift.json")
    results.write_json(_rounded(_shifts(every)), written[-1])
    with np.load(work / "sets-examples.npz") as saved:
        examples = {key: _small(key, saved[key]) for key in saved.files}
    written.append(data / f"{name}.npz")
    results.write_examples(written[-1], examples)
    return written


def _shifts(table: pd.DataFrame) -> dict[str, Any]:
    """Per model the mean |p clean - p adversarial| over images, the distance to the line y = x of AALP's Figure 11.

    Over all seeds of a model; ``seeds`` says how many.
    """
    shift = (table["probability_clean"] - table["probability_adversarial"]).abs()
    values: dict[str, NDArray[Any]] = {}
    for model, rows in table.assign(shift=shift).groupby("model", sort=False):
        seeds = [seed.sort_values("index")["shift"] for _, seed in rows.groupby("seed", dropna=False)]
        values[str(model)] = np.array(seeds, float) if len(seeds) > 1 else seeds[0].to_numpy(float)
    models = [
        {
            "name": model, "n": found.shape[-1], "seeds": len(np.atleast_2d(found)), "shift": stats.mean(found),
            "shift_ci": list(stats.interval(found)),
        }
        for model, found in values.items()
    ]  # fmt: skip
    (a, first), (b, second) = values.items()
    paired = stats.paired(first, second)
    pair = {"a": a, "b": b, "difference": paired.difference, "ci": [paired.low, paired.high], "p": paired.p}
    return {"models": models, "pairs": stats.with_holm([pair])}


def evolve(work: Path, data: Path, name: str) -> list[Path]:
    """The JSON, and every feature's contributions at up to six of each run's epochs, evenly spaced."""
    table = pd.read_csv(work / "evolve-contrib.csv")
    parts = []
    for _, run in table.groupby("run", sort=False):
        epochs = run["epoch"].unique()
        some = epochs[np.linspace(0, len(epochs) - 1, min(6, len(epochs))).round().astype(int)]
        parts.append(run.loc[run["epoch"].isin(some), ["run", "epoch", "C", "C_scale_free"]])
    return [*summary(work, data, name, command="evolve"), _csv(pd.concat(parts), data, name)]


def _examples(path: Path, data: Path, name: str, shown: Sequence[str] | None = None) -> list[Path]:
    """The arrays of :func:`attrib.plots.maps.map_grid`, of the models shown, small."""
    with np.load(path) as saved:
        arrays = {key: saved[key] for key in saved.files}
    if shown is not None:
        rows = [list(arrays["model"]).index(model) for model in shown]
        arrays |= {key: arrays[key][rows] for key in ("model", "map", "span", "prediction")}
    results.write_examples(data / f"{name}.npz", {key: _small(key, array) for key, array in arrays.items()})
    return [data / f"{name}.npz"]


def _small(key: str, array: NDArray[Any]) -> NDArray[Any]:
    """Pixels as bytes and other floats in half precision, scaled so that the smallest maps survive it."""
    if key == "image":
        return (255 * array).round().astype(np.uint8)
    if key == "map":
        # Gradients of a sure model may lie below what half precision holds; single precision costs little then.
        return array.astype(np.float16 if float(array.max()) > 1e-2 else np.float32)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _csv(table: pd.DataFrame, data: Path, name: str) -> Path:
    """Write the table with four digits."""
    short = table.copy()
    for column in [name for name in short if short[name].dtype.kind == "f"]:
        short[column] = short[column].map(lambda value: float(f"{value:.4g}"))
    results.write_csv(short, data / f"{name}.csv")
    return data / f"{name}.csv"


def _one_seed(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each model's first seed, where there are several."""
    if "seed" not in table or table["seed"].isna().all():
        return table
    return table[table["seed"] == table.groupby("model")["seed"].transform("min")]


def _rounded(value: Any) -> Any:
    """All floats to six digits, which is more than any interval here is worth."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
