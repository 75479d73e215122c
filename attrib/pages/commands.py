"""The command line that reproduces a result, for display only."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from attrib.analyses.options import Attack
from attrib.lazy import Lazy

if TYPE_CHECKING:
    from attrib.data import Dataset
    from attrib.models import names, several
    from attrib.models.specs import Model
else:
    names, several = Lazy("attrib.models.names"), Lazy("attrib.models.several")


def command_line(
    name: str, settings: Any, models: "Sequence[Model]", data: "Dataset | None", *, device: str, **where: object
) -> str:
    """The command with these settings, models and data, or the call in Python if a model or the data has no name.

    settings: the dataclass that the command's options come from. where: options such as ``out``; None is left out.
    """
    files = all(model.checkpoint or names.is_code(model.path) for model in models)
    if not files or (data is not None and data.source is None):
        changed = (f"{each.name}={value!r}" for each, value in _changed(settings))
        return f"attrib.{type(settings).__name__}({', '.join(changed)}).run(models, data)"
    where |= {"device": None if device == "auto" else device}
    options = [*_model_options(models), *_data_options(data), *_setting_options(settings), *where.items()]
    words = [word for option, value in options for word in _words(option, value)]
    return shlex.join(["attrib", name, *words])


def _changed(settings: Any) -> Iterator[tuple[Any, Any]]:
    """The fields that differ from their defaults, and their values."""
    for each in fields(settings):
        value = getattr(settings, each.name)
        if value != each.default:
            yield each, value


def _model_options(models: "Sequence[Model]") -> Iterator[tuple[str, Any]]:
    for name, files in several.groups(models).items():
        weights = [model.weights for model in files if model.weights]
        paths = files[0].path if weights else ",".join(model.path for model in files)
        yield "ckpt", paths if names.usual_name(paths) == name else f"{name}={paths}"
        if weights:
            yield "weights", f"{name}={','.join(weights)}"
    for model in models:
        if expected := model.identity().get("input"):
            for key, value in expected.items():
                yield key, ",".join(f"{number:g}" for number in value) if isinstance(value, list) else value
            return


def _data_options(data: "Dataset | None") -> Iterator[tuple[str, Any]]:
    if data is None or data.source is None:
        return
    yield "data", data.name
    yield "classes", None if data.source.classes is None else "CLASSES.txt"
    yield "data_root", data.source.root
    yield "split", "train" if data.split == "train" else None
    yield "size", data.source.size
    yield "limit", len(data)


def _setting_options(settings: Any) -> Iterator[tuple[str, Any]]:
    for each, value in _changed(settings):
        if isinstance(value, Attack):
            yield "attack", value.name
            yield from ((part, getattr(value, part)) for part in ("eps", "step_size", "steps"))
        elif each.name != "limit":
            yield each.name, each.metadata["show"](value) if value is not None else None


def _words(option: str, value: object) -> list[str]:
    """The words of one option; none if it has no value."""
    flag = f"--{option.replace('_', '-')}"
    return [] if value is None or value is False else [flag] if value is True else [flag, str(value)]
