"""Turn an analysis into a command: the fields of three dataclasses become its options."""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrib.analyses.base import Analysis
from attrib.analyses.options import ATTACKS, Attack, fraction, option
from attrib.cli.show import show
from attrib.errors import InputError
from attrib.files import found_at, given_path
from attrib.lazy import Lazy
from attrib.styles import Style

if TYPE_CHECKING:
    from attrib import data as datasets
    from attrib.analyses import inputs, run
    from attrib.data import Dataset, folders
    from attrib.models import names, several, specs
    from attrib.models.specs import Model
    from attrib.pages.compute import Report

    Kind = type[Analysis] | type[Report]
else:
    specs, datasets = Lazy("attrib.models.specs"), Lazy("attrib.data")
    folders, names, several = Lazy("attrib.data.folders"), Lazy("attrib.models.names"), Lazy("attrib.models.several")
    inputs, run = Lazy("attrib.analyses.inputs"), Lazy("attrib.analyses.run")

SPEC = (
    "A checkpoint, zoo:NAME, package.module:factory, hf:NAME, timm:NAME, torchvision:NAME or robustbench:NAME; repeat"
    " to compare several models. NAME=A.pt,B.pt,...: several seeds of one method."
)
PATHS = (Path, Path | None)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The options for models and data."""

    models: list[str] | None = option(
        None, "Models, as for --ckpt; a folder is a run. A picture or a folder of pictures is data.",
        metavar="[NAME=]SPEC...",
    )  # fmt: skip
    ckpt: list[str] | None = option(None, SPEC, metavar="[NAME=]SPEC")
    model: list[str] | None = option(None, "The same as --ckpt.", metavar="[NAME=]SPEC")
    run: list[str] | None = option(
        None, "Folder with the saved epochs (epoch-*.pt) of a training run; under torchrun, write --run-dir.",
        metavar="[NAME=]DIR",
    )  # fmt: skip
    maps: list[str] | None = option(
        None, "Maps from a file (arrays map, index), measured instead of a model.", metavar="[NAME=]FILE.npz"
    )
    weights: list[str] | None = option(
        None, "Weights for a factory's model; several files are several seeds.", metavar="[NAME=]FILE[,FILE...]"
    )
    arch: str | None = option(None, "Architecture of a checkpoint that is a bare state dict.")
    mean: str | None = option(None, "Channel means that a factory's model expects, as 0.485,0.456,0.406.")
    std: str | None = option(None, "Channel standard deviations that a factory's model expects.")
    size: int | None = option(None, "Image size that a factory's model expects; images are resized to it.")
    data: str | None = option(
        None, "glyphs, mnist, svhn, cifar10, cifar100, folder:DIR, npz:FILE, cifar10c:NAME:SEVERITY or a picture"
        " (default: the checkpoint's own).",
    )  # fmt: skip
    classes: Path | None = option(
        None, "Names of the model's classes, one per line, to match class folders by name.", metavar="FILE"
    )
    data_root: Path | None = option(None, "Folder of data (default: ATTRIB_DATA, else the user cache).", metavar="DIR")
    split: str = option("test", "test or train, if the data is split.")
    limit: int | None = option(None, "Number of images to use: the first ones of the data.")

    def load(self, kind: "Kind") -> "tuple[Sequence[Model], Dataset | None]":
        """The models, and the data if the analysis needs or the user names any. Raises InputError for bad options."""
        if (self.mean is None) != (self.std is None):
            raise InputError(f"--mean and --std go together: {'--mean' if self.mean is None else '--std'} is missing")
        if self.data == "":
            raise InputError("--data: expected the name of a data set, got none")
        positional = self.models or ()
        data_paths = [] if kind.takes == ("runs",) else [text for text in positional if folders.is_data(text)]
        if data_paths and self.data:
            raise InputError(f"--data {self.data} and {data_paths[0]}: name the data once")
        positional = [text for text in positional if text not in data_paths]
        given = [*positional, *(self.ckpt or ()), *(self.model or ()), *(self.run or ())]
        if not given and not self.maps:
            what = "a run: attrib evolve RUN_DIR" if kind.takes == ("runs",) else "a model: a PATH or zoo:NAME"
            raise InputError(f"nothing to look at: name {what}")
        for text in given if kind.takes == ("runs",) else self.run or ():
            if not (place := Path(named_files(text)[1][0])).is_dir():
                option_name = "RUN_DIR" if kind.takes == ("runs",) else "run"
                present = found_at(place)
                raise InputError(f"{option_name}: expected the folder of a training run at {place}, found {present}")
        specs_given = [named_files(text) for text in given]
        weights = _weights(self.weights or (), specs_given)
        named = [(name, self._models(name, files, weights.get(name))) for name, files in specs_given]
        pairs: list[tuple[str, Any]] = [(name, files if len(files) > 1 else files[0]) for name, files in named]
        for name, (path, *_) in map(named_files, self.maps or ()):
            pairs.append((name, specs.map_file(name, Path(path))))
        models = several.named_models(pairs, device="cpu")
        return models, self._dataset(kind, models, data_paths)

    def _models(self, name: str, files: Sequence[str], weights: Sequence[str] | None) -> "Sequence[Model | Path]":
        """The files behind a name, or, for a factory with weights, a model for each file of weights."""
        if weights:
            return [self._model(name, files[0], each) for each in weights]
        return [self._model(name, spec, None) for spec in files]

    def _model(self, name: str, spec: str, weights: str | None) -> "Model | Path":
        if Path(spec).is_dir():
            return Path(spec)
        if names.is_code(spec):
            mean, std = _floats(self.mean, "--mean"), _floats(self.std, "--std")
            return specs.model(spec, name=name, mean=mean, std=std, size=self.size, weights=weights)
        return specs.model(spec, name=name, arch=self.arch)

    def _dataset(self, kind: "Kind", models: "Sequence[Model]", paths: list[str]) -> "Dataset | None":
        if self.data is None and not paths and not kind.needs_data:
            return None
        name: str | list[str] = paths or self.data or inputs.known_data(models)
        if len(paths) == 1:
            name = f"folder:{paths[0]}" if Path(paths[0]).is_dir() else paths[0]
        pictures = not isinstance(name, str) or name.startswith("folder:") or folders.is_picture(Path(name))
        if self.size and not pictures and all(model.checkpoint for model in models):
            raise InputError(
                "--size is for a factory, or for the pictures of folder:DIR; a checkpoint knows its own size"
            )
        # The pictures of a folder are cut to the model's size; other data is resized in front of the model.
        data = datasets.dataset(
            name, split=self.split, root=self.data_root, limit=self.limit if kind.needs_data else 1,
            size=self.size if pictures else None, classes=self.classes,
        )  # fmt: skip
        if self.split == "train" and data.split == datasets.WHOLE:
            raise InputError(
                f"--split train: {data.name} is not split into training and test images; leave out --split"
            )
        return data


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where to compute, and where to write."""

    out: Path | None = option(None, "Folder for the results: CSV, JSON, LaTeX, PDF and PNG.", metavar="DIR")
    style: Path | None = option(
        None, "How figures look: a TOML file with any of width, font_size, title, names, images.", metavar="FILE.toml"
    )
    json: bool = option(False, "Print one JSON object and nothing else.")
    batch_size: int | None = option(None, "Images at a time; results change by rounding at most.")
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")


def command(kind: type[Analysis]) -> Callable[..., None]:
    """The command of an analysis: its options are the fields of Chosen, of the analysis, and of Where."""
    return derived(kind, Where, _run)


def derived(
    kind: "Kind", places: type, action: "Callable[[Any, Sequence[Model], Dataset | None, Any], None]"
) -> Callable[..., None]:
    """A command whose options are the fields of Chosen, of ``kind`` (what to compute), and of ``places``.

    action: called with an object of ``kind``, the models, the data, and an object of ``places``.
    """
    parameters = {each.name: each for group in (Chosen, kind, places) for each in _parameters(group, kind)}

    def body(**given: Any) -> None:
        try:
            chosen, where = Chosen(**_of(Chosen, given)), places(**_of(places, given))
            settings = kind(**_settings(kind, given))
            action(settings, *chosen.load(kind), where)
        except InputError as error:
            raise InputError(_with_option(str(error), parameters)) from None

    body.__signature__ = Signature(list(parameters.values()))  # type: ignore[attr-defined]
    body.__annotations__ = {name: each.annotation for name, each in parameters.items()}
    body.__doc__ = kind.__doc__
    return body


def _run(analysis: Analysis, models: "Sequence[Model]", data: "Dataset | None", where: Where) -> None:
    """Run an analysis and print its result."""
    if where.style and not where.out:
        raise InputError("--style is for the figures that --out DIR writes; name a folder")
    style = Style.read(where.style) if where.style else None
    with redirect_stdout(sys.stderr):  # a model may print whenever it runs
        result, written = run.execute(
            analysis, models, data, out=where.out, batch_size=where.batch_size, device=where.device, style=style
        )
    show(result, written, as_json=where.json)


ATTACK_OPTIONS = {
    "attack": (str | None, ""),
    "eps": (str | None, "Radius of the attack, as 0.03 or 8/255 (default: the data set's)."),
    "step_size": (str | None, "Step size of the attack, as 0.01 or 2/255."),
    "steps": (int | None, "Number of steps of the attack."),
}


def _parameters(group: type, kind: "Kind") -> Iterator[Parameter]:
    """The options of a dataclass's fields."""
    for each in fields(group):
        if each.name in _NEEDS and _NEEDS[each.name] not in kind.takes:
            continue
        if each.name in _OF_IMAGES and not kind.needs_data:
            continue
        if isinstance(each.default, Attack) or each.name == "attack":
            default = each.default if isinstance(each.default, Attack) else None
            yield from _attack_parameters(default, each.metadata["help"])
        elif each.name == "models":
            words = "Folders with epoch-*.pt." if kind.takes == ("runs",) else each.metadata["help"]
            info = typer.Argument(metavar=_metavar(kind), help=words)
            yield _parameter("models", Annotated[each.type, info], None)
        else:
            yield _option(each.name, each.type, each.default, each.metadata)


_NEEDS = {
    "ckpt": "models", "model": "models", "arch": "models", "mean": "models", "std": "models", "size": "models",
    "weights": "models",
    "run": "runs", "maps": "map files",
}  # fmt: skip
"""The input that a command must accept (``Analysis.takes``) to have this option."""
_OF_IMAGES = ("limit", "batch_size", "seed", "precision")
"""Options without effect if no model is run on images."""


def _option(name: str, type_: Any, default: Any, rules: Mapping[str, Any]) -> Parameter:
    flags = [f"--{name.replace('_', '-')}"] + (["--run-dir"] if name == "run" else [])
    if rules["parse"] or type_ in PATHS:  # typer would read an empty path as the current folder
        type_ = str if default is not None else str | None
        default = rules["show"](default) if default is not None else None
    elif type_ is Any:
        type_ = str
    info = typer.Option(*flags, help=rules["help"], metavar=rules["metavar"])
    return _parameter(name, Annotated[type_, info], default)


def _attack_parameters(default: Attack | None, help: str) -> Iterator[Parameter]:
    for name, (type_, words) in ATTACK_OPTIONS.items():
        info = typer.Option(f"--{name.replace('_', '-')}", help=words or help)
        yield _parameter(name, Annotated[type_, info], default.name if default and name == "attack" else None)


def _parameter(name: str, annotation: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _of(group: type, given: Mapping[str, Any]) -> dict[str, Any]:
    paths = {each.name for each in fields(group) if each.type in PATHS}
    values = {each.name: given[each.name] for each in fields(group) if each.name in given}
    return {name: given_path(value, name) if value is not None and name in paths else value
            for name, value in values.items()}  # fmt: skip


def _settings(kind: "Kind", given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the analysis from the options' values."""
    settings, names = {}, {each.name for each in fields(kind)}
    for each in fields(kind):
        if isinstance(each.default, Attack) or each.name == "attack":
            settings[each.name] = _attack(given, names & ATTACK_OPTIONS.keys() - {"attack"})
        elif each.name in given:
            parse, value = each.metadata["parse"], given[each.name]
            settings[each.name] = parse(value) if parse and value is not None else value
    return settings


def _attack(given: Mapping[str, Any], own: Collection[str]) -> Attack | None:
    """The attack; own: the options that are fields of the analysis itself, not of its attack."""
    strength = {name: given[name] for name in ("eps", "step_size", "steps") if name not in own}
    if given["attack"] in (None, "none"):
        if any(value is not None for value in strength.values()):
            raise InputError(f"--eps, --step-size and --steps need --attack {', '.join(ATTACKS)}")
        return None
    if given["attack"] == "fgsm" and not own and (strength["step_size"], strength["steps"]) != (None, None):
        raise InputError("--step-size and --steps belong to pgd and cw; fgsm takes one step of --eps")
    for name in ("eps", "step_size"):
        if strength[name] is not None:
            strength[name] = fraction(strength[name], name)
    return Attack(given["attack"], **strength)


def _with_option(message: str, parameters: Mapping[str, Parameter]) -> str:
    """The message with the option's name, if it begins with the field's."""
    name, separator, rest = message.partition(": ")
    return f"--{name.replace('_', '-')}: {rest}" if separator and name in parameters else message


def named_files(text: str) -> tuple[str, list[str]]:
    """Split NAME=A,B into the name and its files; without NAME= the name comes from the path."""
    name, separator, value = text.partition("=")
    # A path may itself hold an equals sign; a name holds no slash.
    if not separator or "/" in name:
        name, value = "", text
    files = files_of(value)
    if (separator and not value) or (separator and "/" not in text.partition("=")[0] and not name):
        raise InputError(f"expected NAME=SPEC with both, got {text!r}")
    if not name and len(files) > 1:
        raise InputError(f"several seeds need a name of their own: NAME={value}")
    return name or names.usual_name(files[0]), files


def _weights(given: Sequence[str], chosen: Sequence[tuple[str, list[str]]]) -> dict[str, list[str]]:
    """The files of weights by the name of their factory; files without a name belong to the only factory."""
    factories = [name for name, files in chosen if len(files) == 1 and names.is_code(files[0])]
    weights: dict[str, list[str]] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or "/" in name:  # as in named_files
            name, value = factories[0] if len(factories) == 1 else "", text
        if name not in factories:
            listed = ", ".join(factories) or "none is given"
            raise InputError(f"--weights: expected NAME=FILE with the name of a factory ({listed}), got {text!r}")
        if name in weights:
            raise InputError(f"--weights: given twice for {name}; several seeds are NAME=FILE,FILE")
        weights[name] = files_of(value)
    return weights


def files_of(text: str) -> list[str]:
    """Split a list of files at its commas; an existing file may have commas in its name.

    Raises InputError for an empty name.
    """
    files, parts = [], text.split(",")
    while parts:
        counts = (count for count in range(len(parts), 0, -1) if Path(",".join(parts[:count])).exists())
        count = next(counts, 1)
        files.append(",".join(parts[:count]))
        del parts[:count]
    if not all(files):
        raise InputError(f"expected files separated by single commas, got {text!r}")
    return files


def _floats(text: str | None, name: str) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name}: expected numbers separated by commas, got {text!r}") from None


def _metavar(kind: "Kind") -> str:
    return "[NAME=]RUN_DIR..." if kind.takes == ("runs",) else "[[NAME=]SPEC...]"
