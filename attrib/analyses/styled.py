"""Apply a style to a result: rename and reorder its models, select its images. No torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attrib.errors import InputError, refused
from attrib.styles import Style

if TYPE_CHECKING:
    from attrib.analyses.result import Result

Arrays = dict[str, NDArray[Any]]


def styled(result: "Result", style: Style) -> "Result":
    """The result with the style; raises InputError for models and images that it does not have."""
    names = list(dict.fromkeys(entry["name"] for entry in result.summary["models"]))
    shown = [position for each in result.arrays.values() if "map" in each and "model" in each
             for position in each["index"].tolist()]  # fmt: skip
    check_style(style, names, shown)
    new_names = _new_names(style, names)
    order = [names.index(name) for name in new_names]
    return replace(
        result, style=style, summary=_renamed(result.summary, new_names),
        frames={part: _frame(frame, new_names) for part, frame in result.frames.items()},
        arrays={part: _pictures(_of_models(arrays, new_names, order), style.images)
                for part, arrays in result.arrays.items()},
    )  # fmt: skip


def check_style(style: Style, models: Iterable[str], images: Sequence[int]) -> None:
    """Raise InputError for models and images that a result does not have; images: those of its pictures, if any."""
    models = list(dict.fromkeys(models))
    # One style serves several results, so it may name models of others.
    if style.names and not set(style.names) & set(models):
        raise refused("style: names", next(iter(style.names)), models)
    new_names = list(_new_names(style, models).values())
    if len(set(new_names)) < len(new_names):
        raise InputError(f"style: names: expected a name of its own for each model, got {', '.join(new_names)}")
    for position in style.images if images else ():
        if position not in images:
            kept = ", ".join(map(str, images))
            raise InputError(f"style: images: expected some of those that the pictures show, {kept}, got {position}")


def _new_names(style: Style, models: Iterable[str]) -> dict[str, str]:
    """The models' names to their names in figures, in the order to show."""
    given, models = style.names or {}, list(models)
    return {name: given.get(name, name) for name in [*(name for name in given if name in models), *models]}


def _renamed(value: Any, new_names: Mapping[str, str]) -> Any:
    """The summary with every list of models renamed and in the new order."""
    if isinstance(value, Mapping):
        entry = {key: _renamed(item, new_names) for key, item in value.items()}
        return entry | ({"name": new_names[entry["name"]]} if entry.get("name") in new_names else {})
    if not isinstance(value, list | tuple) or not any(isinstance(each, Mapping) for each in value):
        return value
    places = list(new_names)
    entries = sorted(value, key=lambda each: places.index(each["name"]) if each.get("name") in new_names else 0)
    return [_renamed(each, new_names) for each in entries]


def _frame(frame: pd.DataFrame, new_names: Mapping[str, str]) -> pd.DataFrame:
    """Rows in the models' new order, under the new names."""
    for column in {"model", "run"} & set(frame.columns):
        frame = frame.sort_values(column, key=lambda names: names.map(list(new_names).index), kind="stable")
        frame = frame.assign(**{column: frame[column].map(new_names)})
    return frame


def _of_models(arrays: Arrays, new_names: Mapping[str, str], order: Sequence[int]) -> Arrays:
    """The arrays of a figure with its models renamed and in the new order; those of single models are unchanged."""
    if "model" not in arrays:  # by the model's position, or one model's
        return {key: arrays.get(f"valid_{order[int(key[6:])]}", array) if key.startswith("valid_") else array
                for key, array in arrays.items()}  # fmt: skip
    labels = [str(name) for name in arrays["model"]]
    firsts = [name.partition("\n")[0] for name in labels]  # an epoch stands on a line of its own
    rows = sorted(range(len(labels)), key=lambda row: list(new_names).index(firsts[row]))
    shown = [new_names[firsts[row]] + labels[row][len(firsts[row]) :] for row in rows]
    fixed = {"set", *(PER_IMAGE if "map" in arrays else ())}
    return {key: array if key in fixed else array[rows] for key, array in arrays.items()} | {"model": np.array(shown)}


PER_IMAGE = ("image", "label", "index", "path")
"""The arrays of a figure that have no axis for models."""


def _pictures(arrays: Arrays, images: Sequence[int]) -> Arrays:
    """Select the images of a figure whose images all models share, by position (those of sets differ by model)."""
    if not images or "model" not in arrays or "map" not in arrays:
        return arrays
    index = arrays["index"].tolist()
    places = [index.index(position) for position in images]
    return {
        key: array if key == "model" else array[places] if key in PER_IMAGE else array[:, places]
        for key, array in arrays.items()
    }  # fmt: skip
