"""A model under analysis, ``Model``, and how a path, a zoo name, a factory or a module becomes one."""

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
from attrib.models.hubs import HUBS, Known, is_hub, load_hub
from attrib.models.layers import named
from attrib.models.names import is_code, meant_model, name_of_path, usual_name
from attrib.models.outside import Normalized, bare, load_factory, made_by, unwrapped
from attrib.models.tokens import Reshape
from attrib.models.types import digits, fingerprint

Spec = str | Path | nn.Module | Callable[[], nn.Module]
"""What a model is made from; what can be called and is no module is a factory."""


@dataclass(frozen=True, eq=False)
class Model:
    """A model under analysis: one file, one of several seeds behind a name, or a saved epoch of a run."""

    name: str
    """The name given, which several seeds share; of an epoch that of its run."""
    path: str
    """The checkpoint's path, the factory's or collection's spec, the name of a function, or a module's class."""
    fingerprint: str
    """Of the weights."""
    module: nn.Module | None = None
    """None for a saved epoch that has not been ``opened``."""
    checkpoint: Checkpoint | None = None
    """What the file says; None for a module or factory."""
    layer: nn.Module | None = None
    """Where maps look; None: the maps find it."""
    reshape: Reshape | None = None
    """What brings the layer's output to (N,C,h,w), where that is neither a map nor tokens."""
    layer_name: str | None = None
    """Of a saved epoch: the layer by its dotted name, which it has when it is opened."""
    seed: int = 0
    """The position among the files of the name."""
    seeds: int = 1
    """How many files the name has."""
    epoch: int | None = None
    weights: str | None = None
    """The file whose weights were loaded into what a factory made."""
    classes: tuple[str, ...] | None = None
    """The names of the classes, in order, where they are known."""
    maps: Mapping[int, Any] | None = None
    """Position in the data to a map (H,W), of maps that were made elsewhere; there is no module then."""
    maps_file: str | None = None
    """The file that these came from."""

    def __post_init__(self) -> None:
        """Refuse names and paths that no table holds."""
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
        """What results depend on: name, weights, the layer looked at and how. Neither path nor device."""
        reshape = [qualified_name(self.reshape)] if self.reshape else []
        return [self.label, self.fingerprint, self._layer_name(), type(self.module).__name__, self._input(), *reshape]

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
        """The module of a model that is ``opened``."""
        assert self.module is not None
        return self.module

    def identity(self) -> dict[str, Any]:
        """What a result says of its model: name, file, fingerprint.

        Of a module, which no file describes, also the normalisation in front of it, ``input``, and ``layer``, where
        maps look, and the name of what reshapes its output.
        """
        known: dict[str, Any] = {"name": self.label, "checkpoint": self.path, "fingerprint": self.fingerprint}
        if self.weights:
            known["weights"] = self.weights
        if self.maps is not None:
            return known | {"maps": self.maps_file}
        if self.checkpoint:
            return known
        reshape = {"reshape": qualified_name(self.reshape)} if self.reshape else {}
        return known | {"input": self._input(), "layer": self._layer_name()} | reshape

    def _input(self) -> dict[str, Any] | None:
        if self.module is None or self.checkpoint:
            return None
        front = self.module if isinstance(self.module, Normalized) else None
        return {
            "mean": digits(front.mean) if front else None, "std": digits(front.std) if front else None,
            "size": front.size if front else None,
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
    """A model for an analysis, from a spec or a module; with a list of weights one for each file, the seeds of a name.

    spec: a checkpoint's path, ``zoo:NAME``, ``package.module:factory``, ``hf:``, ``timm:``, ``torchvision:`` or
    ``robustbench:`` and a NAME, an ``nn.Module``, a function or class that makes one, or FILE.npz with maps that were
    made elsewhere (arrays ``map`` and ``index``). weights: files of weights, loaded into what the factory makes. arch:
    the architecture of a bare state dict. mean, std, size: the normalisation and the image size that a factory or
    module expects; pixels arrive in [0,1]. layer: where maps look, a module or its dotted name; reshape: a function of
    its output to (N,C,h,w), where that is neither a map nor tokens. classes: the names of its classes, in order. name:
    what results call it.

    Raises InputError for what gives no model, weights that do not fit, and for mean without std or the reverse.

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
    made = [_model(spec, given._replace(weights=each)) for each in weights]
    if not made:
        raise InputError("weights: expected at least one file, got none")
    if len({unwrapped(each.opened_module) for each in made}) < len(made):
        raise InputError(f"weights: {made[0].path} gives one module again and again; make a new one at each call")
    return as_seeds(made[0].name, made)


class Given(NamedTuple):
    """What ``model`` is given beside the spec."""

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
        made = _from_code(spec, given)
    elif given.weights is not None:
        raise InputError(f"weights: go with a factory, package.module:factory, that makes the network; got {spec}")
    elif str(spec).endswith((".npz", ".npy")):
        made = map_file(given.name, Path(str(spec)))
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
        made = Model(given.name or name_of_path(str(spec)), str(spec), ckpt.fingerprint, module, ckpt)
    if given.classes is not None:
        made = replace(made, classes=tuple(given.classes))
    if given.layer is not None and made.module is not None:
        made = replace(made, layer=named(made.module, given.layer) if isinstance(given.layer, str) else given.layer)
    if given.reshape is not None:
        made = replace(made, reshape=given.reshape)
    return made


def _from_code(spec: Spec, given: Given) -> Model:
    """A model of a module, a factory or a collection, with the normalisation given or known in front."""
    if isinstance(spec, nn.Module):
        known, path = Known(spec), type(unwrapped(spec)).__name__
    elif isinstance(spec, str | Path):
        path = str(spec)
        known = load_hub(path) if is_hub(path) else Known(load_factory(path))
    else:
        path = qualified_name(spec)
        known = Known(made_by(spec, path))
    if known.lacks and given.mean is None:
        raise InputError(known.lacks)
    if given.weights is not None:
        load_into(known.module, given.weights)
    mean, std = (known.mean, known.std) if given.mean is None else (given.mean, given.std)
    size = known.size if given.size is None else given.size
    inner = bare(known.module)
    module = Normalized(inner, mean, std, size) if (mean, std, size) != (None, None, None) else inner
    name = given.name or (usual_name(path) if isinstance(spec, str | Path) else path)
    weights = None if given.weights is None else str(given.weights)
    return Model(name, path, fingerprint(module), module, classes=known.classes, weights=weights)


def map_file(name: str | None, path: Path) -> Model:
    """Maps that were made elsewhere, in the place of a model; raises InputError for a file that holds none."""
    index, maps = read_maps(path)
    digest = hashlib.sha256(index.tobytes() + maps.tobytes()).hexdigest()[:12]
    name = name or path.stem
    return Model(name, name, digest, maps=dict(zip(index.tolist(), maps, strict=True)), maps_file=str(path))


def as_seeds(name: str, files: Sequence[Model]) -> list[Model]:
    """The files behind a name, numbered; raises InputError where they are not several seeds of one method."""
    for (first, one), (second, other) in combinations(enumerate(files), 2):
        if one.fingerprint == other.fingerprint:
            paths = {each.weights or each.path: None for each in (one, other)}
            raise InputError(
                f"{name}: seeds {first} and {second} are one network, with the same weights ({', '.join(paths)});"
                " name every seed once"
            )
    for what, words in (("arch", "one architecture"), ("data", "models trained on one data set")):
        values: dict[str, str] = {}
        for each in files:
            values.setdefault(getattr(each.checkpoint, what, ""), each.path)
        if len(values) > 1:
            listed = ", ".join(f"{value} ({path})" for value, path in values.items())
            raise InputError(f"{name}: expected seeds of {words}, got {listed}; give each its own name")
    return [replace(each, seed=seed, seeds=len(files)) for seed, each in enumerate(files)]


def refuse_pretrained(folder: Path) -> None:
    """Raise InputError for a folder of transformers, which stands behind another spec."""
    if (folder / "config.json").is_file():
        raise InputError(f"{folder}: a folder of save_pretrained is given as hf:{folder}")
