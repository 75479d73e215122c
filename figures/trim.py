"""Reduce a result to small files for the drawings, in one folder per data set and architecture.

Every function takes a result, the folder and the name of the files, and returns the paths written.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import attrib
from attrib import stats
from attrib.analyses.result import Result
from attrib.files import atomic, to_json

Trim = Callable[[Result, Path, str], list[Path]]
POINTS = 2000
"""Largest number of images kept for the scatter plot."""
EPOCHS = 6
"""Saved epochs of a run whose contributions are kept."""
COMPARED = ("contribution", "scale_free"), ("mean", "participation_ratio", "high")
"""Comparisons of contributions that are kept: quantities, and statistics."""
SCATTERED = ["model", "index", "set", "probability_clean", "probability_adversarial"]


def summary(result: Result, place: Path, name: str) -> list[Path]:
    """The JSON."""
    return [_json(result.summary, place / f"{name}.json")]


def span(result: Result, place: Path, name: str, *, shown: Sequence[str]) -> list[Path]:
    """The JSON, and maps and spans of a few images under the models shown."""
    arrays = dict(result.arrays["examples"])
    rows = [list(arrays["model"]).index(model) for model in shown]
    arrays |= {key: arrays[key][rows] for key in ("model", "map", "span", "prediction")}
    return [*summary(result, place, name), _npz(arrays, place / f"{name}.npz")]


def examples(result: Result, place: Path, name: str) -> list[Path]:
    """The JSON, and the examples that the analysis draws."""
    return [*summary(result, place, name), _npz(result.arrays["examples"], place / f"{name}.npz")]


def contrib(result: Result, place: Path, name: str) -> list[Path]:
    """The JSON without some comparisons, contributions on clean images, and weights of the most relevant features.

    Contributions are of every feature, for the first seed.
    """
    clean = result.frames[""].query("images == 'clean'")
    # All twelve comparisons of every two models would be the largest of all files.
    pairs = [p for p in result.summary["pairs"] if p["of"] in COMPARED[0] and p["statistic"] in COMPARED[1]]
    return [
        _json(result.summary | {"pairs": pairs}, place / f"{name}.json"),
        _csv(_first_seed(clean)[["model", "C", "R", "C_scale_free"]], place / f"{name}.csv"),
        _json({"models": list(_high_norms(result, clean))}, place / f"{name}-weights.json"),
    ]


def _high_norms(result: Result, clean: pd.DataFrame) -> Iterable[dict[str, Any]]:
    """Per seed the mean norm of W's columns over the features with R >= median, which Guided Dropout keeps (AALP 3.1).

    clean: a row per model, seed and feature.
    """
    for entry in result.summary["models"]:
        norms = []
        for seed, path in enumerate(np.atleast_1d(entry["checkpoint"])):
            rows = clean[(clean["model"] == entry["name"]) & (clean["seed"] == seed)].sort_values("feature")
            relevance = rows["R"].to_numpy(float)
            norm = attrib.load(str(path))[0].fc.weight.detach().norm(dim=0).numpy()
            norms.append(float(norm[relevance >= np.median(relevance)].mean()))
        yield {"name": entry["name"], "norms": norms}


def fc(result: Result, place: Path, name: str) -> list[Path]:
    """The JSON, and of each model's first seed the valid values (K,D)."""
    arrays = result.arrays[""]
    valid = {f"valid {each['name']}": arrays[f"valid_{row}"] for row, each in enumerate(result.summary["models"])}
    return [*summary(result, place, name), _npz(valid, place / f"{name}.npz")]


def sets(result: Result, place: Path, name: str) -> list[Path]:
    """The JSON, a sub-sample of the points, how far the attack moves the true class's probability, and examples."""
    table = _first_seed(result.frames[""])
    some = table["index"].isin(_spread(np.sort(table["index"].unique()), POINTS))
    return [
        *summary(result, place, name), _csv(table.loc[some, SCATTERED], place / f"{name}.csv"),
        _json(shifts(result.frames[""]), place / f"{name}-shift.json"),
        _npz(result.arrays["examples"], place / f"{name}.npz"),
    ]  # fmt: skip


def shifts(table: pd.DataFrame) -> dict[str, Any]:
    """Per model the mean |p clean - p adversarial| over images, the distance to the line y = x of AALP's Figure 11.

    Over all seeds of a model; ``seeds`` says how many.
    """
    shift = (table["probability_clean"] - table["probability_adversarial"]).abs()
    values = {
        str(model): np.array([seed.sort_values("index")["shift"] for _, seed in rows.groupby("seed")], float)
        for model, rows in table.assign(shift=shift).groupby("model", sort=False)
    }
    models = [
        {
            "name": model, "n": found.shape[1], "seeds": len(found), "shift": stats.mean(found),
            "shift_ci": list(stats.interval(found)),
        }
        for model, found in values.items()
    ]  # fmt: skip
    (a, first), (b, second) = values.items()
    paired = stats.paired(first, second)
    pair = {"a": a, "b": b, "difference": paired.difference, "ci": [paired.low, paired.high], "p": paired.p}
    return {"models": models, "pairs": stats.with_holm([pair])}


def evolve(result: Result, place: Path, name: str) -> list[Path]:
    """The JSON, and every feature's contributions at some of each run's epochs, evenly spaced."""
    runs = [
        run.loc[run["epoch"].isin(_spread(run["epoch"].unique(), EPOCHS)), ["run", "epoch", "C", "C_scale_free"]]
        for _, run in result.frames["contrib"].groupby("run", sort=False)
    ]
    return [*summary(result, place, name), _csv(pd.concat(runs), place / f"{name}.csv")]


def rounded(value: Any) -> Any:
    """Round all floats to six digits, more than any interval here justifies."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _spread(values: NDArray[Any], count: int) -> NDArray[Any]:
    """At most so many of the values, evenly spaced."""
    return np.asarray(values[np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)])


def _first_seed(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["seed"] == table.groupby("model")["seed"].transform("min")]


def _small(key: str, array: NDArray[Any]) -> NDArray[Any]:
    """Pixels as bytes and other floats in half precision, scaled so that the smallest maps survive it."""
    if key == "image":
        return (255 * array).round().astype(np.uint8)
    if key == "map":
        # Gradients of a confident model may be too small for half precision; single precision then costs little.
        return array.astype(np.float16 if float(array.max()) > 1e-2 else np.float32)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _json(content: dict[str, Any], path: Path) -> Path:
    return write(path, lambda temporary: temporary.write_text(to_json(rounded(content)) + "\n"))


def _csv(table: pd.DataFrame, path: Path) -> Path:
    """Write a table, its floats with four digits."""
    floats = table.select_dtypes("float").map(lambda value: float(f"{value:.4g}"))
    return write(path, partial(table.assign(**floats).to_csv, index=False))


def _npz(arrays: dict[str, NDArray[Any]], path: Path) -> Path:
    small: dict[str, Any] = {key: _small(key, array) for key, array in arrays.items()}
    return write(path, lambda temporary: np.savez_compressed(temporary, **small))


def write(path: Path, writer: Callable[[Path], object]) -> Path:
    """Write a file whole or not at all; returns its path."""
    with atomic(path) as temporary:
        writer(temporary)
    return path
