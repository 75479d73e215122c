"""All models of an analysis: from what the user gives to a list, on a device, grouped by name."""

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
    """Every file of the models given; those read from files are on the device.

    given: a spec, a module, what makes one, a ``Model``, a list of them, or a mapping of names to them, where a
    list is several seeds of one method. A folder with files epoch-K.pt is a training run: its saved epochs.
    Raises InputError for what is no model, names given twice, and seeds of different architectures or data.
    """
    if isinstance(given, Sequence) and given and all(isinstance(each, Model) and each.name for each in given):
        if len({(each.name, each.seed, each.epoch) for each in given}) < len(given):
            listed = ", ".join(each.label for each in given)
            raise InputError(f"models: expected a name of its own for each, got {listed}; see name of attrib.model")
        return list(given)
    loaded = named_models(_named(given), device=device)
    if not loaded:
        raise InputError("nothing to look at: expected at least one model")
    return loaded


def named_models(given: Iterable[tuple[str | None, Any]], *, device: torch.device | str) -> list[Model]:
    """``models_of`` for names (None: the usual one) and specs; a model and a run may have the same name."""
    loaded = [_load(name, spec, device) for name, spec in given]
    names = [(files[0].name, files[0].epoch is None) for files in loaded]
    for name in names:
        if names.count(name) > 1:
            what = "models" if name[1] else "runs"
            raise InputError(f"two {what} are called {name[0]!r}; give each its own name with NAME=SPEC")
    return [each for files in loaded for each in files]


def _named(given: Any) -> list[tuple[str | None, Any]]:
    if isinstance(given, Mapping):
        return [(str(name), spec) for name, spec in given.items()]
    if _is_one(given):
        return [(None, given)]
    if isinstance(given, Sequence):
        return [(None, spec) for spec in given]
    raise InputError(f"models: expected {_ONE}, a list or mapping of them, got {type(given).__name__}")


def _load(name: str | None, spec: Any, device: torch.device | str) -> list[Model]:
    """The files behind one name."""
    if isinstance(spec, str | Path) and Path(spec).is_dir():
        return _epochs(name, Path(spec))
    if _is_one(spec):
        return [_one(name, spec, device)]
    if not isinstance(spec, Sequence) or not spec:
        raise InputError(f"model {name}: expected {_ONE}, or a list of them, got {type(spec).__name__}")
    if name is None:
        raise InputError("several seeds need a name of their own: {'NAME': [files]}")
    return as_seeds(name, [_one(name, one, device) for one in spec])


_ONE = "a path, a module or a function that makes one"


def _is_one(spec: Any) -> bool:
    """Whether it is one model: a module can be called, as what makes one."""
    return isinstance(spec, str | Path | Model) or callable(spec)


def _one(name: str | None, spec: Any, device: torch.device | str) -> Model:
    if isinstance(spec, Model):
        return spec if name is None else replace(spec, name=name)
    if not _is_one(spec):
        raise InputError(f"model {name}: expected {_ONE}, got {type(spec).__name__}")
    return model(spec, name=name, device=device)


def _epochs(name: str | None, run: Path) -> list[Model]:
    """The files epoch-K.pt of a training run by number, not yet opened; raises InputError where there are none."""
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
    """Inside, the modules are on the device; a user's module goes back to where it was."""
    modules = [each.module for each in models if each.module is not None]
    places = [next((tensor.device for tensor in chain(m.parameters(), m.buffers())), device) for m in modules]
    try:
        for module in modules:
            module.to(device)
        yield
    finally:
        for module, place in zip(modules, places, strict=True):
            module.to(place)


def groups(models: Iterable[Model]) -> dict[str, list[Model]]:
    """The files behind every name, in the order given, without saved epochs."""
    grouped: dict[str, list[Model]] = {}
    for each in models:
        if each.epoch is None:
            grouped.setdefault(each.name, []).append(each)
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
    """A module with the layer where maps look, found by running the example (N,C,H,W), so that results can name it.

    A model without such a layer stays as it is: only a map that needs one complains.
    """
    if model.checkpoint or model.layer is not None or model.module is None:
        return model
    try:
        return replace(model, layer=feature_layer(model.module, example))
    except InputError:
        return model
