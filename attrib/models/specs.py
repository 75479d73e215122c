"""``Model``, a model under analysis, and ``model``, which makes one of a path, a zoo name, a factory or a module."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
from torch import nn

from attrib.analyses.maps_file import read_maps
from attrib.errors import LONGEST_PATH, InputError, check_name
from attrib.formatting import qualified_name
from attrib.models import checkpoint
from attrib.models.checkpoint import Checkpoint
from attrib.models.foreign import load_into
from attrib.models.hubs import HUBS, Loaded, is_hub, load_hub
from attrib.models.layers import named
from attrib.models.names import is_code, meant_model, name_of_path, usual_name
from attrib.models.outside import Normalized, bare, load_factory, made_by, unwrapped
from attrib.models.tokens import Reshape
from attrib.models.types import digits, fingerprint

Spec = str | Path | nn.Module | Callable[[], nn.Module]
"""What ``model`` takes. A callable that is no module is a factory."""


@dataclass(frozen=True, eq=False)
class Model:
    """A model under analysis: one file, one of several seeds of a name, or a saved epoch of a run."""

    name: str
    """The given name. The seeds of one method share it, and the epochs of one run."""
    path: str
    """The checkpoint's path, the factory's or collection's spec, the name of a function, or a module's class."""
    fingerprint: str
    """A hash of the weights."""
    module: nn.Module | None = None
    """None for a saved epoch that has not been ``opened``."""
    checkpoint: Checkpoint | None = None
    """The content of the checkpoint file; None for a module or factory."""
    layer: nn.Module | None = None
    """The layer that maps look at; None: each map finds it."""
    reshape: Reshape | None = None
    """Turns the layer's output into a feature map (N,C,h,w); needed if the output is neither a map nor tokens."""
    layer_name: str | None = None
    """The dotted name of a saved epoch's layer; ``opened`` sets ``layer`` from it."""
    seed: int = 0
    """The position among the files of this name."""
    seeds: int = 1
    """The number of files of this name."""
    epoch: int | None = None
    weights: str | None = None
    """The weight file that was loaded into the factory's module."""
    classes: tuple[str, ...] | None = None
    """The class names in order; None if unknown."""
    maps: Mapping[int, Any] | None = None
    """Maps made elsewhere: position in the data to a map (H,W). Such a model has no module."""
    maps_file: str | None = None
    """The file that these maps came from."""

    def __post_init__(self) -> None:
        """Raise InputError for a name or path that does not fit into a table."""
        check_name("a model's path", self.path, longest=LONGEST_PATH)
        check_name("a model's name", self.name)

    @property
    def label(self) -> str:
        """NAME; of several seeds NAME/0, NAME/1, ...; of a saved epoch NAME epoch K."""
        if self.epoch is not None:
            return f"{self.name} epoch {self.epoch}"
        return self.name if self.seeds == 1 else f"{self.name}/{self.seed}"

    @property
    def shown_as(self) -> str:
        """The key of its example images: NAME; for other seeds and for epochs the label."""
        return self.name if self.seed == 0 and self.epoch is None else self.label

    @property
    def stem(self) -> str:
        """The stem of this model's file names: NAME, or NAME-seed0, NAME-seed1, ..."""
        return self.label.replace("/", "-seed")

    @property
    def trained_on(self) -> str | None:
        """The data set that the checkpoint names; None if unknown."""
        data = self.checkpoint and self.checkpoint.data
        return None if not data or data == "unknown" else data

    def key(self) -> list[Any]:
        """Everything of the model that results depend on: name, weights, layer, reshape; neither path nor device."""
        reshape = [qualified_name(self.reshape)] if self.reshape else []
        return [self.label, self.fingerprint, self._layer_name(), type(self.module).__name__, self._input(), *reshape]

    @contextmanager
    def opened(self, device: torch.device) -> Iterator["Model"]:
        """Inside, the model has its module. A saved epoch is loaded here only, so that one is in memory at a time."""
        if self.module is not None or self.maps is not None:
            yield self
        else:
            module, _ = checkpoint.load(self.path, device=device)
            yield replace(self, module=module, layer=named(module, self.layer_name) if self.layer_name else None)

    @property
    def opened_module(self) -> nn.Module:
        """The module of a model that is ``opened``."""
        assert self.module is not None
        return self.module

    def identity(self) -> dict[str, Any]:
        """The model's entry in a saved result: name, file, fingerprint.

        No file describes a module, so its entry also has ``input`` (the normalisation in front of it), ``layer`` (the
        layer that maps look at) and ``reshape`` (the name of that function).
        """
        entry: dict[str, Any] = {"name": self.label, "checkpoint": self.path, "fingerprint": self.fingerprint}
        if self.weights:
            entry["weights"] = self.weights
        if self.maps is not None:
            return entry | {"maps": self.maps_file}
        if self.checkpoint:
            return entry
        reshape = {"reshape": qualified_name(self.reshape)} if self.reshape else {}
        return entry | {"input": self._input(), "layer": self._layer_name()} | reshape

    def _input(self) -> dict[str, Any] | None:
        if self.module is None or self.checkpoint:
            return None
        wrapper = self.module if isinstance(self.module, Normalized) else None
        return {
            "mean": digits(wrapper.mean) if wrapper else None, "std": digits(wrapper.std) if wrapper else None,
            "size": wrapper.size if wrapper else None,
        }  # fmt: skip

    def _layer_name(self) -> str | None:
        if self.layer is None or self.module is None:
            return None
        modules = unwrapped(self.module).named_modules()
        return next((name for name, module in modules if module is self.layer), None)


@overload
def model(
    spec: Spec, *, weights: str | Path | None = None, arch: str | None = None,
    mean: Sequence[float] | None = None, std: Sequence[float] | None = None, size: int | None = None,
    layer: str | nn.Module | None = None, reshape: Reshape | None = None, classes: Sequence[str] | None = None,
    name: str | None = None, device: str | torch.device = "cpu",
) -> Model: ...  # fmt: skip
@overload
def model(
    spec: Spec, *, weights: list[Any] | tuple[Any, ...], arch: str | None = None,
    mean: Sequence[float] | None = None, std: Sequence[float] | None = None, size: int | None = None,
    layer: str | nn.Module | None = None, reshape: Reshape | None = None, classes: Sequence[str] | None = None,
    name: str | None = None, device: str | torch.device = "cpu",
) -> list[Model]: ...  # fmt: skip
def model(
    spec: Spec, *, weights: str | Path | list[Any] | tuple[Any, ...] | None = None,
    arch: str | None = None, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
    size: int | None = None, layer: str | nn.Module | None = None, reshape: Reshape | None = None,
    classes: Sequence[str] | None = None, name: str | None = None, device: str | torch.device = "cpu",
) -> Model | list[Model]:  # fmt: skip
    """Make a model for an analysis; a list of weight files makes a list of models, the seeds of one name.

    spec: a checkpoint's path, ``zoo:NAME``, ``package.module:factory``, ``hf:``, ``timm:``, ``torchvision:`` or
    ``robustbench:`` and a NAME, an ``nn.Module``, a function or class that makes one, or FILE.npz with maps made
    elsewhere (arrays ``map`` and ``index``). weights: weight files for the module that the factory makes. arch: the
    architecture of a bare state dict. mean, std, size: the normalisation and the image size that a factory or module
    expects; pixels arrive in [0,1]. layer: the layer that maps look at, a module or its dotted name. reshape: a
    function from the layer's output to (N,C,h,w), needed if the output is neither a map nor tokens. classes: the class
    names in order. name: the model's name in results.

    Raises InputError if the spec gives no model, if weights do not fit, and for mean without std or the reverse.

    >>> model("zoo:mnist-lenet-raw").name
    'mnist-lenet-raw'
    """
    given = Given(
        arch=arch, mean=mean, std=std, size=size, layer=layer, reshape=reshape, classes=classes, name=name,
        device=device,
    )  # fmt: skip
    if weights is None or isinstance(weights, str | Path):
        return _model(spec, given._replace(weights=weights))
    if isinstance(spec, nn.Module):
        raise InputError("weights: several files need a factory, which makes a module for each of them")
    seeds = [_model(spec, given._replace(weights=file)) for file in weights]
    if not seeds:
        raise InputError("weights: expected at least one file, got none")
    if len({unwrapped(seed.opened_module) for seed in seeds}) < len(seeds):
        raise InputError(f"weights: {seeds[0].path} gives one module again and again; make a new one at each call")
    return as_seeds(seeds[0].name, seeds)


class Given(NamedTuple):
    """The arguments of ``model`` after the spec."""

    weights: str | Path | None = None
    arch: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: int | None = None
    layer: str | nn.Module | None = None
    reshape: Reshape | None = None
    classes: Sequence[str] | None = None
    name: str | None = None
    device: str | torch.device = "cpu"


def _model(spec: Spec, given: Given) -> Model:
    if (given.mean is None) != (given.std is None):
        raise InputError(f"mean and std go together: {'mean' if given.mean is None else 'std'} is missing")
    if given.mean is not None and max(given.mean) > 1:
        listed = ", ".join(f"{value:g}" for value in given.mean)
        raise InputError(f"mean: expected means of pixels in [0,1], got {listed}; divide mean and std by 255")
    if not isinstance(spec, str | Path) or is_code(str(spec)):
        result = _from_code(spec, given)
    elif given.weights is not None:
        raise InputError(f"weights: expected a factory, package.module:factory, to load them into, got {spec}")
    elif str(spec).endswith((".npz", ".npy")):
        result = map_file(given.name, Path(str(spec)))
    else:
        if given.mean is not None or given.size is not None:
            raise InputError(f"mean, std and size are for a module or factory; the checkpoint {spec} knows its own")
        if not str(spec).startswith("zoo:") and not Path(spec).exists():
            others = ", ".join(f"{hub}:NAME" for hub in HUBS)
            raise InputError(
                f"{spec}: no such file; expected a checkpoint, zoo:NAME, package.module:factory or"
                f" {others}{meant_model(Path(spec))}"
            )
        refuse_pretrained(Path(spec))
        module, ckpt = checkpoint.load(str(spec), arch=given.arch, device=given.device)
        result = Model(given.name or name_of_path(str(spec)), str(spec), ckpt.fingerprint, module, ckpt)
    if given.classes is not None:
        result = replace(result, classes=tuple(given.classes))
    if given.layer is not None and result.module is not None:
        layer = named(result.module, given.layer) if isinstance(given.layer, str) else given.layer
        result = replace(result, layer=layer)
    if given.reshape is not None:
        result = replace(result, reshape=given.reshape)
    return result


def _from_code(spec: Spec, given: Given) -> Model:
    """A model from a module, factory or collection; a given mean, std or size replaces the collection's."""
    if isinstance(spec, nn.Module):
        loaded, path = Loaded(spec), type(unwrapped(spec)).__name__
    elif isinstance(spec, str | Path):
        path = str(spec)
        loaded = load_hub(path) if is_hub(path) else Loaded(load_factory(path))
    else:
        path = qualified_name(spec)
        loaded = Loaded(made_by(spec, path))
    if loaded.error and given.mean is None:
        raise InputError(loaded.error)
    if given.weights is not None:
        load_into(loaded.module, given.weights)
    mean, std = (loaded.mean, loaded.std) if given.mean is None else (given.mean, given.std)
    size = loaded.size if given.size is None else given.size
    inner = bare(loaded.module)
    module = Normalized(inner, mean, std, size) if (mean, std, size) != (None, None, None) else inner
    name = given.name or (usual_name(path) if isinstance(spec, str | Path) else path)
    weights = None if given.weights is None else str(given.weights)
    return Model(name, path, fingerprint(module), module, classes=loaded.classes, weights=weights)


def map_file(name: str | None, path: Path) -> Model:
    """A model that consists of maps made elsewhere; raises InputError for a file without maps."""
    index, maps = read_maps(path)
    digest = hashlib.sha256(index.tobytes() + maps.tobytes()).hexdigest()[:12]
    name = name or path.stem
    return Model(name, name, digest, maps=dict(zip(index.tolist(), maps, strict=True)), maps_file=str(path))


def as_seeds(name: str, files: Sequence[Model]) -> list[Model]:
    """Number the files of one name; raises InputError if they share weights, or differ in architecture or data."""
    for (first, one), (second, other) in combinations(enumerate(files), 2):
        if one.fingerprint == other.fingerprint:
            paths = {file.weights or file.path: None for file in (one, other)}
            raise InputError(
                f"{name}: seeds {first} and {second} are one network, with the same weights ({', '.join(paths)});"
                " name every seed once"
            )
    for field, expected in (("arch", "one architecture"), ("data", "models trained on one data set")):
        values: dict[str, str] = {}
        for file in files:
            values.setdefault(getattr(file.checkpoint, field, ""), file.path)
        if len(values) > 1:
            listed = ", ".join(f"{value} ({path})" for value, path in values.items())
            raise InputError(f"{name}: expected seeds of {expected}, got {listed}; give each its own name")
    return [replace(file, seed=seed, seeds=len(files)) for seed, file in enumerate(files)]


def refuse_pretrained(folder: Path) -> None:
    """Raise InputError for a folder of ``save_pretrained``, whose spec is hf:FOLDER."""
    if (folder / "config.json").is_file():
        raise InputError(f"{folder}: a folder of save_pretrained is given as hf:{folder}")
