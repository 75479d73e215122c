"""Load models of hf, timm, torchvision and robustbench, each with its own mean, std, size and class names.

A package is imported only when one of its models is loaded.
"""

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from attrib.data.catalog import CATALOG
from attrib.errors import InputError, meant, meant_path, one_line
from attrib.files import at_home
from attrib.models.weights import few

HUBS = ("hf", "timm", "torchvision", "robustbench")
"""The prefixes of such specs, before the colon."""


class Loaded(NamedTuple):
    """A model, and its input statistics and class names from its collection; None if unknown."""

    module: nn.Module
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: tuple[int, int] | None = None
    classes: tuple[str, ...] | None = None
    error: str | None = None
    """The error message if mean and std are unknown, so that the user must give them."""


def is_hub(spec: str) -> bool:
    """Whether the spec is hf:NAME, timm:NAME, torchvision:NAME or robustbench:NAME."""
    return spec.partition(":")[0] in HUBS and ":" in spec


def load_hub(spec: str) -> Loaded:
    """Load a collection's model; its package downloads the model if it is not on the disk.

    hf: a name, or a folder of ``save_pretrained``. robustbench: NAME, DATA/NAME or DATA/THREAT/NAME; DATA is cifar10
    and THREAT is Linf by default. Raises InputError if the package is missing or knows no such classifier.
    """
    hub, _, name = spec.partition(":")
    if not name:
        raise InputError(f"model {spec}: expected a name after {hub}:")
    return {"hf": _hf, "timm": _timm, "torchvision": _torchvision, "robustbench": _robustbench}[hub](spec, name)


def _package(name: str, spec: str, install: str = "") -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        root = name.partition(".")[0]
        raise InputError(f"model {spec}: needs {root}: pip install {install or root} ({one_line(error)})") from None


@contextmanager
def _naming(spec: str, known: Callable[[], Iterable[str]] = tuple) -> Iterator[None]:
    """Turn a package's exceptions into InputError, with the nearest known name; its prints go to stderr."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"model {spec}: its collection does not know {error}") from None
    except Exception as error:  # their code downloads and reads files, and may raise anything
        first = next(iter(str(error).strip().splitlines()), "")
        # The first sentence says what is wrong, unless it only introduces a list.
        reason = (
            " ".join(str(error).split()) if first.endswith(":") else re.split(r"(?<=[a-z])\. ", first)[0].rstrip(".")
        )
        if "trust_remote_code" in str(error):
            reason = "it brings code of its own, which is not run here; name a factory that loads it, as my_code:build"
        (hub, _, name), names = spec.partition(":"), list(known())
        near = "" if name.partition(".")[0] in names else meant(name, names, before=f"{hub}:")
        if hub == "hf" and not at_home(name).exists():
            near = meant_path(at_home(name), before="hf:")
        raise InputError(f"model {spec}: cannot be loaded: {reason or type(error).__name__}{near}") from error


def _hf(spec: str, name: str) -> Loaded:
    transformers = _package("transformers", spec)
    source, on_disk = _place(spec, name)
    options = {"local_files_only": on_disk, "trust_remote_code": False}
    with _naming(spec), _quiet(transformers, bars=not on_disk):
        config = transformers.AutoConfig.from_pretrained(source, **options)
        if type(config) not in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
            raise InputError(f"model {spec}: transformers has no classifier of images of its type, {config.model_type}")
        module, info = transformers.AutoModelForImageClassification.from_pretrained(
            source, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        if missing := sorted(info["missing_keys"]) + sorted(key for key, *_ in info["mismatched_keys"]):
            raise InputError(
                f"model {spec}: its file lacks {few(missing)} in the shape that its config.json asks for; name a model"
                " that was trained to classify images"
            )
        if getattr(config, "problem_type", None) == "multi_label_classification":
            raise InputError(
                f"model {spec}: is a multi-label classifier; attrib looks at those with one answer per image"
            )
        names = [str(config.id2label.get(number, number)) for number in range(config.num_labels)]
        unnamed = all(re.fullmatch(r"LABEL_\d+|\d+", each) for each in names)
        classes = None if unnamed or len(names) == 1 else tuple(names)  # one logit is two classes
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(source, **options)
            statistics = _preprocessing(processor, getattr(config, "num_channels", 3))
        except InputError as error:
            raise InputError(f"model {spec}: {error}") from None
        except Exception as error:  # each processor class raises others
            why = one_line(error).partition(". ")[0]
            reason = f"its image processor cannot be used ({why}); name mean (--mean), std (--std) and size (--size)"
            return Loaded(module, classes=classes, error=f"model {spec}: {reason}")
    return Loaded(module, *statistics, classes)


def _place(spec: str, name: str) -> tuple[str, bool]:
    """The folder or the hub's name, and whether to load it from the disk only."""
    folder = at_home(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"model {spec}: expected a folder of save_pretrained, there is no config.json in it")
        return str(folder), True
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        raise InputError(f"model {spec}: no such folder{meant_path(folder, before='hf:')}")
    hub = import_module("huggingface_hub")
    try:
        hub.HfApi().model_info(name, timeout=10)
    except hub.utils.HfHubHTTPError:  # an answer: loading the model says what is wrong
        return name, False
    except Exception:  # no network; loading would try again and again before it searched the disk
        return name, True
    return name, False


@contextmanager
def _quiet(transformers: Any, *, bars: bool) -> Iterator[None]:
    """Inside, transformers prints no warnings; bars: it may show progress bars in a terminal."""
    logging = transformers.utils.logging
    before, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars or not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if shown:
            logging.enable_progress_bar()


def _preprocessing(processor: Any, channels: int) -> tuple[list[float], list[float], tuple[int, int] | None]:
    """Mean and std for pixels in [0,1], and the size that the model gets (None: any), measured on one-colour pictures.

    They are not read from the settings, since processors have steps of their own: EfficientNet's divides by std twice,
    Perceiver's crops before it resizes.
    """

    def prepared(colour: tuple[int, ...], side: int) -> Tensor:
        picture = Image.new("RGB" if channels == 3 else "L", (side, side), colour if channels == 3 else colour[0])
        pixels: Tensor = processor(picture, return_tensors="pt")["pixel_values"][0]
        return pixels.double()

    def middle(*colour: int) -> Tensor:
        pixels = prepared(colour, 512)
        return pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2]

    black, white = middle(0, 0, 0), middle(255, 255, 255)
    scale = 1 / (white - black)
    if channels == 3 and not middle(255, 0, 0).allclose(torch.stack([white[0], *black[1:]])):
        raise InputError(
            "takes blue before red; wrap it in a module that flips the channels, x.flip(1), and name its factory"
        )
    size, other = ((made.shape[1], made.shape[2]) for made in (prepared((0, 0, 0), side) for side in (512, 300)))
    mean, std = ([_written(value) for value in values.tolist()] for values in ((0 - black) * scale, scale))
    return mean, std, size if size == other else None


def _written(value: float) -> float:
    """The shortest decimal for a float32 value: 0.485 for 0.48499998."""
    shortened = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return next((short for short in shortened if math.isclose(short, value, rel_tol=3e-7)), value)


def _timm(spec: str, name: str) -> Loaded:
    timm, data = _package("timm", spec), _package("timm.data", spec)
    with _naming(spec, lambda: timm.list_models()):
        module = timm.create_model(name, pretrained=True)
        config = data.resolve_model_data_config(module)
        names = module.pretrained_cfg.get("label_names")
        subset = data.infer_imagenet_subset(module)
        if not names and subset:
            names = data.ImageNetInfo(subset).label_descriptions()
    height, width = config["input_size"][1:]
    return Loaded(module, config["mean"], config["std"], (height, width), tuple(names) if names else None)


def _torchvision(spec: str, name: str) -> Loaded:
    models = _package("torchvision.models", spec)
    with _naming(spec, lambda: models.list_models()):
        weights = models.get_model_weights(name).DEFAULT
        module = models.get_model(name, weights=weights)
        preset = weights.transforms()
    crop = getattr(preset, "crop_size", None)
    if not crop or "categories" not in weights.meta:
        raise InputError(f"model {spec}: expected a classifier of images, got {type(module).__name__}")
    side = crop if isinstance(crop, int) else crop[0]
    return Loaded(module, list(preset.mean), list(preset.std), (side, side), tuple(weights.meta["categories"]))


_SIDES = {"cifar10": 32, "cifar100": 32, "imagenet": 224}


def _robustbench(spec: str, name: str) -> Loaded:
    utils = _package("robustbench.utils", spec, "git+https://github.com/RobustBench/robustbench")
    *place, model = name.split("/")
    if len(place) > 2:
        raise InputError(f"model {spec}: expected robustbench:NAME, DATA/NAME or DATA/THREAT/NAME")
    data, threat = [*place, *("cifar10", "Linf")[len(place) :]]
    with _naming(spec):
        module = utils.load_model(model_name=model, dataset=data, threat_model=threat)
    side, record = _SIDES.get(data), CATALOG.get(data)
    # The models normalise their input themselves.
    return Loaded(module, size=(side, side) if side else None, classes=tuple(record.classes) if record else None)
