"""The models of an analysis: a path, a zoo name, a factory, a module or a run's folder to :class:`Model`."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attrib.analyses.maps_file import read_maps
from attrib.errors import InputError, meant
from attrib.models import checkpoint, zoo
from attrib.models.checkpoint import Checkpoint
from attrib.models.layers import feature_layer, named
from attrib.models.outside import Normalized, load_factory, unwrapped

Spec = "str | Path | nn.Module | Model | Sequence[str | Path | nn.Module | Model]"


@dataclass(frozen=True, eq=False)
class Model:
    """A model under analysis: one file, one of several seeds behind a name, or a saved epoch of a run."""

    name: str
    """The name given, which several seeds share; of an epoch that of its run."""
    path: str
    """The checkpoint's path, the factory's name, or the class of a module."""
    fingerprint: str
    """Of the weights."""
    module: nn.Module | None = None
    """None for a saved epoch that has not been :meth:`opened`."""
    checkpoint: Checkpoint | None = None
    """What the file says; None for a module or factory."""
    layer: nn.Module | None = None
    """Where maps look; None: the maps find it."""
    layer_name: str | None = None
    """Of a saved epoch: the layer by its dotted name, which it has when it is opened."""
    seed: int = 0
    """The position among the files of the name."""
    seeds: int = 1
    """How many files the name has."""
    epoch: int | None = None
    maps: Mapping[int, Any] | None = None
    """Position in the data to a map (H,W), of maps that were made elsewhere; there is no module then."""
    maps_file: str | None = None
    """The file that these came from."""

    @property
    def label(self) -> str:
        """NAME; of several seeds NAME/0, NAME/1, ...; of a saved epoch NAME epoch K."""
        if self.epoch is not None:
            return f"{self.name} epoch {self.epoch}"
        return self.name if self.seeds == 1 else f"{self.name}/{self.seed}"

    @property
    def shown_as(self) -> str:
        """What its examples are kept under: NAME; of other seeds and epochs the label."""
        return self.name if self.seed == 0 and self.epoch is None else self.label

    @property
    def stem(self) -> str:
        """What a file of this model is called after: NAME, or NAME-seed0, NAME-seed1, ..."""
        return self.label.replace("/", "-seed")

    @property
    def trained_on(self) -> str | None:
        """The data set that the checkpoint names; None where it is not known."""
        known = self.checkpoint and self.checkpoint.data
        return None if not known or known == "unknown" else known

    def key(self) -> list[Any]:
        """What results depend on: name, weights, the layer looked at. Neither path nor device."""
        return [self.label, self.fingerprint, self._layer_name(), type(self.module).__name__, self._input()]

    @contextmanager
    def opened(self, device: torch.device) -> Iterator["Model"]:
        """The model with its module, which a saved epoch has inside only: one epoch in memory at a time."""
        if self.module is not None or self.maps is not None:
            yield self
        else:
            module, _ = checkpoint.load(self.path, device=device)
            yield replace(self, module=module, layer=named(module, self.layer_name) if self.layer_name else None)

    @property
    def opened_module(self) -> nn.Module:
        """The module of a model that is :meth:`opened`."""
        assert self.module is not None
        return self.module

    def identity(self) -> dict[str, Any]:
        """What a result says of its model: name, file, fingerprint.

        Of a module, which no file describes, also the normalisation in front of it, ``input``, and ``layer``, where
        maps look.
        """
        known: dict[str, Any] = {"name": self.label, "checkpoint": self.path, "fingerprint": self.fingerprint}
        if self.maps is not None:
            return known | {"maps": self.maps_file}
        if self.checkpoint:
            return known
        return known | {"input": self._input(), "layer": self._layer_name()}

    def _input(self) -> dict[str, Any] | None:
        if self.module is None or self.checkpoint:
            return None
        front = self.module if isinstance(self.module, Normalized) else None
        return {
            "mean": _digits(front.mean) if front else None, "std": _digits(front.std) if front else None,
            "size": front.size if front else None,
        }  # fmt: skip

    def _layer_name(self) -> str | None:
        if self.layer is None or self.module is None:
            return None
        modules = unwrapped(self.module).named_modules()
        return next((name for name, module in modules if module is self.layer), None)


def model(
    spec: str | Path | nn.Module, *, arch: str | None = None, mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None, size: int | None = None, layer: str | nn.Module | None = None,
    name: str | None = None, device: str | torch.device = "cpu",
) -> Model:  # fmt: skip
    """A model for an analysis, from a spec or a module.

    spec: a checkpoint's path, ``zoo:NAME``, ``package.module:factory``, an ``nn.Module``, or FILE.npz with maps that
    were made elsewhere (arrays ``map`` and ``index``). arch: the architecture of a
    bare state dict. mean, std, size: the normalisation and the image size that a factory or module expects; pixels
    arrive in [0,1]. layer: where maps look, a module or its dotted name. name: what results call it.

    Raises InputError for files and factories that give no model, and for mean without std or the reverse.

    >>> model("zoo:mnist-lenet-raw").name
    'mnist-lenet-raw'
    """
    if (mean is None) != (std is None):
        raise InputError(f"mean and std go together: {'mean' if mean is None else 'std'} is missing")
    if mean is not None and max(mean) > 1:
        listed = ", ".join(f"{value:g}" for value in mean)
        raise InputError(f"mean: expected means of pixels in [0,1], got {listed}; divide mean and std by 255")
    if str(spec).endswith(".npz"):
        made = map_file(name, Path(str(spec)))
    elif isinstance(spec, nn.Module) or is_factory(str(spec)):
        inner = spec if isinstance(spec, nn.Module) else load_factory(str(spec))
        given = (mean, std, size) != (None, None, None)
        module = Normalized(inner, mean, std, size) if given else inner
        path = str(spec) if not isinstance(spec, nn.Module) else type(unwrapped(spec)).__name__
        made = Model(name or path.rpartition(":")[2], path, fingerprint(module), module)
    else:
        if mean is not None or size is not None:
            raise InputError(f"mean, std and size are for a module or factory; the checkpoint {spec} knows its own")
        if not str(spec).startswith("zoo:") and not Path(spec).exists():
            raise InputError(
                f"{spec}: no such file; expected a checkpoint, zoo:NAME or package.module:factory{_meant(Path(spec))}"
            )
        module, ckpt = checkpoint.load(str(spec), arch=arch, device=device)
        made = Model(name or _name_of_path(str(spec)), str(spec), ckpt.fingerprint, module, ckpt)
    if layer is not None:
        made = replace(made, layer=named(module, layer) if isinstance(layer, str) else layer)
    return made


def models_of(given: Any, *, device: torch.device | str) -> list[Model]:
    """Every file of the models given; those read from files are on the device.

    given: a spec, a module, a :class:`Model`, a list of them, or a mapping of names to them, where a list is several
    seeds of one method. A folder with files epoch-K.pt is a training run: its saved epochs.
    Raises InputError for what is no model, names given twice, and seeds of different architectures or data.
    """
    if isinstance(given, Sequence) and given and all(isinstance(each, Model) and each.name for each in given):
        return [_one(None, each, device) for each in given]
    loaded = named_models(_named(given), device=device)
    if not loaded:
        raise InputError("nothing to look at: expected at least one model")
    return loaded


def named_models(given: Iterable[tuple[str | None, Any]], *, device: torch.device | str) -> list[Model]:
    """:func:`models_of` for names (None: the usual one) and specs; a model and a run may have the same name."""
    loaded = [_load(name, spec, device) for name, spec in given]
    names = [(files[0].name, files[0].epoch is None) for files in loaded]
    for name in names:
        if names.count(name) > 1:
            what = "models" if name[1] else "runs"
            raise InputError(f"two {what} are called {name[0]!r}; give each its own name with NAME=SPEC")
    return [each for files in loaded for each in files]


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


def _named(given: Any) -> list[tuple[str | None, Any]]:
    if isinstance(given, Mapping):
        return [(str(name), spec) for name, spec in given.items()]
    if isinstance(given, str | Path | nn.Module | Model):
        return [(None, given)]
    if isinstance(given, Sequence):
        return [(None, spec) for spec in given]
    raise InputError(f"models: expected paths, modules or a mapping of names to them, got {type(given).__name__}")


def _load(name: str | None, spec: Any, device: torch.device | str) -> list[Model]:
    """The files behind one name."""
    if isinstance(spec, str | Path) and Path(spec).is_dir():
        return _epochs(name, Path(spec))
    if isinstance(spec, str | Path | nn.Module | Model):
        return [_one(name, spec, device)]
    if not isinstance(spec, Sequence) or not spec:
        raise InputError(f"model {name}: expected a path, a module or a list of them, got {type(spec).__name__}")
    if name is None:
        raise InputError("several seeds need a name of their own: {'NAME': [files]}")
    files = [_one(name, one, device) for one in spec]
    files = [replace(each, seed=seed, seeds=len(files)) for seed, each in enumerate(files)]
    _check_seeds(name, files)
    return files


def _one(name: str | None, spec: Any, device: torch.device | str) -> Model:
    if isinstance(spec, Model):
        return spec if name is None else replace(spec, name=name)
    if not isinstance(spec, str | Path | nn.Module):
        raise InputError(f"model {name}: expected a path or an nn.Module, got {type(spec).__name__}")
    return model(spec, name=name, device=device)


def map_file(name: str | None, path: Path) -> Model:
    """Maps that were made elsewhere, in the place of a model; raises InputError for a file that holds none."""
    index, maps = read_maps(path)
    digest = hashlib.sha256(index.tobytes() + maps.tobytes()).hexdigest()[:12]
    name = name or path.stem
    return Model(name, name, digest, maps=dict(zip(index.tolist(), maps, strict=True)), maps_file=str(path))


def _check_seeds(name: str, files: Sequence[Model]) -> None:
    """Raise InputError where the files behind a name are not several seeds of one method."""
    paths = {os.path.realpath(each.path) for each in files if each.checkpoint}
    if len(paths) < sum(each.checkpoint is not None for each in files):
        raise InputError(f"{name}: the same file is given twice; name every seed once")
    for what, words in (("arch", "one architecture"), ("data", "models trained on one data set")):
        values: dict[str, str] = {}
        for each in files:
            values.setdefault(getattr(each.checkpoint, what, ""), each.path)
        if len(values) > 1:
            listed = ", ".join(f"{value} ({path})" for value, path in values.items())
            raise InputError(f"{name}: expected seeds of {words}, got {listed}; give each its own name")


def _epochs(name: str | None, run: Path) -> list[Model]:
    """The files epoch-K.pt of a training run by number, not yet opened; raises InputError where there are none."""
    matches = [(re.fullmatch(r"epoch-(\d+)\.pt", path.name), path) for path in run.iterdir()]
    numbered = [(int(match[1]), path) for match, path in matches if match]
    if not numbered:
        raise InputError(f"run: no epoch-*.pt in the directory {run}; train with --save-every 1 to keep the epochs")
    name = name or usual_name(str(run))
    epochs = []
    for number, path in sorted(numbered):
        ckpt = checkpoint.read(path)
        without = replace(ckpt, weights={})
        epochs.append(Model(name, str(path), ckpt.fingerprint, checkpoint=without, epoch=number))
    return epochs


def is_factory(spec: str) -> bool:
    """Whether the spec is package.module:factory; not zoo:NAME, nor a file."""
    return ":" in spec and not spec.startswith("zoo:") and not Path(spec).exists() and "/" not in spec


def _meant(missing: Path) -> str:
    """What a path that is not there may stand for: a file beside it, or a model of the zoo."""
    beside = [path.name for path in missing.parent.iterdir()] if missing.parent.is_dir() else []
    before = "" if missing.parent == Path() else f"{missing.parent}/"
    if near := meant(missing.name, beside, before=before):
        return near
    return meant(str(missing), zoo.names(), before=zoo.PREFIX)


def usual_name(spec: str) -> str:
    """What a model is called if the user gives it no name: after its file, factory or run."""
    if Path(spec).is_dir():
        return Path(spec).resolve().name.replace("=", "-")
    return spec.rpartition(":")[2] if is_factory(spec) else _name_of_path(spec)


def _name_of_path(text: str) -> str:
    """runs/pgd-at/model.pt is called pgd-at, since every run's file has the same name."""
    path = Path(text.removeprefix("zoo:"))
    generic = path.stem in ("model", "last", "best", "checkpoint") and path.parent.name
    return path.parent.name if generic else path.stem


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


def fingerprint(module: nn.Module) -> str:
    """What tells one model from another where no file does: its weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().data)
    return digest.hexdigest()[:12]


def _digits(values: Tensor | None) -> list[float] | None:
    """Numbers as they were given: 0.485, where float64 sees 0.48500001430511475 in float32's."""
    return None if values is None else [float(str(value)) for value in values.flatten().cpu().numpy()]
