"""Turn the user's models into a list, on one device, grouped by name."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attrib.errors import InputError
from attrib.models import checkpoint
from attrib.models.layers import feature_layer
from attrib.models.names import usual_name
from attrib.models.specs import Model, as_seeds, model, refuse_pretrained


def models_of(given: Any, *, device: torch.device | str) -> list[Model]:
    """One ``Model`` per file of the models given; models read from files are on the device.

    given: a spec, a module, a factory, a ``Model``, a list of them, or a mapping of names to them. In a mapping, a
    list is several seeds of one method. A folder with files epoch-K.pt is a training run and gives its saved epochs.
    Raises InputError for anything else, names given twice, and seeds that differ in architecture or data.
    """
    if isinstance(given, Sequence) and given and all(isinstance(model, Model) and model.name for model in given):
        if len({(model.name, model.seed, model.epoch) for model in given}) < len(given):
            listed = ", ".join(model.label for model in given)
            raise InputError(f"models: expected different names, got {listed}; give them with attrib.model(..., name=)")
        return list(given)
    loaded = named_models(_named(given), device=device)
    if not loaded:
        raise InputError("nothing to look at: expected at least one model")
    return loaded


def named_models(given: Iterable[tuple[str | None, Any]], *, device: torch.device | str) -> list[Model]:
    """``models_of`` for pairs of name (None: the usual one) and spec; a model and a run may have the same name."""
    loaded = [_load(name, spec, device) for name, spec in given]
    names = [(files[0].name, files[0].epoch is None) for files in loaded]
    for name in names:
        if names.count(name) > 1:
            kind = "models" if name[1] else "runs"
            raise InputError(f"two {kind} are called {name[0]!r}; give each its own name with NAME=SPEC")
    return [file for files in loaded for file in files]


def _named(given: Any) -> list[tuple[str | None, Any]]:
    if isinstance(given, Mapping):
        return [(str(name), spec) for name, spec in given.items()]
    if _is_one(given):
        return [(None, given)]
    if isinstance(given, Sequence):
        return [(None, spec) for spec in given]
    raise InputError(f"models: expected {_ONE}, a list or mapping of them, got {type(given).__name__}")


def _load(name: str | None, spec: Any, device: torch.device | str) -> list[Model]:
    """The files of one name."""
    if isinstance(spec, str | Path) and Path(spec).is_dir():
        return _epochs(name, Path(spec))
    if _is_one(spec):
        return [_one(name, spec, device)]
    if not isinstance(spec, Sequence) or not spec:
        raise InputError(f"model {name}: expected {_ONE}, or a list of them, got {type(spec).__name__}")
    if name is None:
        raise InputError("several seeds need a name of their own: {'NAME': [files]}")
    return as_seeds(name, [_one(name, seed, device) for seed in spec])


_ONE = "a path, a module or a function that makes one"


def _is_one(spec: Any) -> bool:
    """Whether the spec is of one model, not of several."""
    return isinstance(spec, str | Path | Model) or callable(spec)  # modules and factories are callable


def _one(name: str | None, spec: Any, device: torch.device | str) -> Model:
    if isinstance(spec, Model):
        return spec if name is None else replace(spec, name=name)
    if not _is_one(spec):
        raise InputError(f"model {name}: expected {_ONE}, got {type(spec).__name__}")
    return model(spec, name=name, device=device)


def _epochs(name: str | None, run: Path) -> list[Model]:
    """The saved epochs of a training run, epoch-K.pt, by number and without weights."""
    matches = [(re.fullmatch(r"epoch-(\d+)\.pt", path.name), path) for path in run.iterdir()]
    numbered = [(int(match[1]), path) for match, path in matches if match]
    if not numbered:
        refuse_pretrained(run)
        raise InputError(
            f"run: no epoch-*.pt in the directory {run}; train with save_every=1 (--save-every 1) to keep the epochs"
        )
    name = name or usual_name(str(run))
    epochs = []
    for number, path in sorted(numbered):
        ckpt = checkpoint.read(path)
        without = replace(ckpt, weights={})
        epochs.append(Model(name, str(path), ckpt.fingerprint, checkpoint=without, epoch=number))
    return epochs


@contextmanager
def on_device(models: Sequence[Model], device: torch.device) -> Iterator[None]:
    """Inside, the modules are on the device; afterwards each goes back to its own."""
    modules = [model.module for model in models if model.module is not None]
    places = [next((tensor.device for tensor in chain(m.parameters(), m.buffers())), device) for m in modules]
    try:
        for module in modules:
            module.to(device)
        yield
    finally:
        for module, place in zip(modules, places, strict=True):
            module.to(place)


def groups(models: Iterable[Model]) -> dict[str, list[Model]]:
    """The files of every name, in the order given, without saved epochs."""
    grouped: dict[str, list[Model]] = {}
    for file in models:
        if file.epoch is None:
            grouped.setdefault(file.name, []).append(file)
    return grouped


def with_short_names(models: Sequence[Model]) -> list[Model]:
    """Without the DATA-ARCH- that begins all names of several, as it does those of the zoo; else as they are."""
    begins = {f"{each.checkpoint.data}-{each.checkpoint.arch}-" if each.checkpoint else "" for each in models}
    shared = begins.pop() if len(begins) == 1 else ""
    names = [each.name.removeprefix(shared) for each in models]
    begin_so = shared and all(each.name.startswith(shared) for each in models) and all(names)
    if not begin_so or len(set(names)) == 1:
        return list(models)
    return [replace(each, name=name) for each, name in zip(models, names, strict=True)]


def with_layer(model: Model, example: Tensor) -> Model:
    """The model with its layer set, so that results can name it; the example (N,C,H,W) is run to find the layer.

    A model without such a layer is returned as it is; a map that needs the layer raises InputError later.
    """
    if model.checkpoint or model.layer is not None or model.module is None:
        return model
    try:
        return replace(model, layer=feature_layer(model.module, example))
    except InputError:
        return model
