"""A result as a style shows it: models called and ordered otherwise, and some of the images. No torch."""

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
    called = _called(style, names)
    order = [names.index(name) for name in called]
    return replace(
        result, style=style, summary=_renamed(result.summary, called),
        frames={part: _frame(frame, called) for part, frame in result.frames.items()},
        arrays={part: _pictures(_of_models(arrays, called, order), style.images)
                for part, arrays in result.arrays.items()},
    )  # fmt: skip


def check_style(style: Style, models: Iterable[str], images: Sequence[int]) -> None:
    """Raise InputError for models and images that a result does not have; images: those of its pictures, if any."""
    models = list(dict.fromkeys(models))
    # One style serves several results, so it may name models of others.
    if style.names and not set(style.names) & set(models):
        raise refused("style: names", next(iter(style.names)), models)
    called = list(_called(style, models).values())
    if len(set(called)) < len(called):
        raise InputError(f"style: names: expected a name of its own for each model, got {', '.join(called)}")
    for position in style.images if images else ():
        if position not in images:
            kept = ", ".join(map(str, images))
            raise InputError(f"style: images: expected some of those that the pictures show, {kept}, got {position}")


def _called(style: Style, models: Iterable[str]) -> dict[str, str]:
    """What every model is called, in the order to show."""
    given, models = style.names or {}, list(models)
    return {name: given.get(name, name) for name in [*(name for name in given if name in models), *models]}


def _renamed(value: Any, called: Mapping[str, str]) -> Any:
    """The summary, in it every list of entries with names in the new order, under the new names."""
    if isinstance(value, Mapping):
        entry = {key: _renamed(item, called) for key, item in value.items()}
        return entry | ({"name": called[entry["name"]]} if entry.get("name") in called else {})
    if not isinstance(value, list | tuple) or not any(isinstance(each, Mapping) for each in value):
        return value
    places = list(called)
    entries = sorted(value, key=lambda each: places.index(each["name"]) if each.get("name") in called else 0)
    return [_renamed(each, called) for each in entries]


def _frame(frame: pd.DataFrame, called: Mapping[str, str]) -> pd.DataFrame:
    """Rows in the models' new order, under the new names."""
    for column in {"model", "run"} & set(frame.columns):
        frame = frame.sort_values(column, key=lambda names: names.map(list(called).index), kind="stable")
        frame = frame.assign(**{column: frame[column].map(called)})
    return frame


def _of_models(arrays: Arrays, called: Mapping[str, str], order: Sequence[int]) -> Arrays:
    """Arrays of pictures in the models' new order, under the new names; those of single models as they are."""
    if "model" not in arrays:  # by the model's position, or one model's
        return {key: arrays.get(f"valid_{order[int(key[6:])]}", array) if key.startswith("valid_") else array
                for key, array in arrays.items()}  # fmt: skip
    labels = [str(name) for name in arrays["model"]]
    firsts = [name.partition("\n")[0] for name in labels]  # an epoch stands on a line of its own
    rows = sorted(range(len(labels)), key=lambda row: list(called).index(firsts[row]))
    shown = [called[firsts[row]] + labels[row][len(firsts[row]) :] for row in rows]
    fixed = {"set", *(PER_IMAGE if "map" in arrays else ())}
    return {key: array if key in fixed else array[rows] for key, array in arrays.items()} | {"model": np.array(shown)}


PER_IMAGE = ("image", "label", "index", "path")
"""Of the arrays of pictures those without an axis for the models."""


def _pictures(arrays: Arrays, images: Sequence[int]) -> Arrays:
    """Of the pictures that all models share those at these positions; the others are of sets, which differ."""
    if not images or "model" not in arrays or "map" not in arrays:
        return arrays
    index = arrays["index"].tolist()
    places = [index.index(position) for position in images]
    return {
        key: array if key == "model" else array[places] if key in PER_IMAGE else array[:, places]
        for key, array in arrays.items()
    }  # fmt: skip
