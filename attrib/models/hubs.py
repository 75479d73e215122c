"""Models of public collections, each with its own mean, std, size and class names: hf, timm, torchvision, robustbench.

The packages are imported where a model of theirs is asked for.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from attrib.data.catalog import CATALOG
from attrib.errors import InputError, one_line

HUBS = ("hf", "timm", "torchvision", "robustbench")
"""What stands before the colon of such a spec."""


class Known(NamedTuple):
    """A model and what its collection says of it; None where it says nothing."""

    module: nn.Module
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: tuple[int, int] | None = None
    classes: tuple[str, ...] | None = None


def is_hub(spec: str) -> bool:
    """Whether the spec is hf:NAME, timm:NAME, torchvision:NAME or robustbench:NAME."""
    return spec.partition(":")[0] in HUBS and ":" in spec


def load_hub(spec: str) -> Known:
    """The model of a collection, downloaded by its package where it is not on the disk yet.

    hf: a name, or a folder of ``save_pretrained``. robustbench: NAME, DATA/NAME or DATA/THREAT/NAME, by default of
    cifar10 and Linf. Raises InputError where the package is missing, or knows no such classifier.
    """
    hub, _, name = spec.partition(":")
    if not name:
        raise InputError(f"model {spec}: expected a name behind {hub}:")
    return {"hf": _hf, "timm": _timm, "torchvision": _torchvision, "robustbench": _robustbench}[hub](spec, name)


def _package(name: str, spec: str, install: str = "") -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        root = name.partition(".")[0]
        raise InputError(f"model {spec}: needs {root}: pip install {install or root} ({one_line(error)})") from None


@contextmanager
def _naming(spec: str) -> Iterator[None]:
    """Whatever the packages raise, in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # their code downloads and reads files, and may raise anything
        said = " ".join(str(error).split())
        raise InputError(f"model {spec}: cannot be loaded: {said or type(error).__name__}") from error


def _hf(spec: str, name: str) -> Known:
    transformers = _package("transformers", spec)
    folder = Path(name).expanduser()
    source = str(folder) if folder.is_dir() else name
    with _naming(spec):
        module, info = transformers.AutoModelForImageClassification.from_pretrained(source, output_loading_info=True)
        if missing := sorted(info["missing_keys"]):
            raise InputError(
                f"model {spec}: its file lacks {', '.join(missing[:3])}, as one that no classifier was trained on does;"
                " name one that was trained to classify images"
            )
        processor = transformers.AutoImageProcessor.from_pretrained(source)
    config = module.config
    if getattr(config, "problem_type", None) == "multi_label_classification":
        raise InputError(f"model {spec}: is a multi-label classifier; attrib looks at those with one answer per image")
    if getattr(processor, "do_flip_channel_order", False):
        raise InputError(
            f"model {spec}: takes blue before red; wrap it in a module that flips the channels, x.flip(1), and name its"
            " factory"
        )
    names = [str(config.id2label.get(number, number)) for number in range(config.num_labels)]
    classes = None if all(re.fullmatch(r"LABEL_\d+|\d+", each) for each in names) else tuple(names)
    return Known(module, *_statistics(processor, getattr(config, "num_channels", 3)), _hf_size(processor), classes)


def _statistics(processor: Any, channels: int) -> tuple[list[float] | None, list[float] | None]:
    """Mean and std for pixels in [0,1], which the processor applies to pixels of 0..255 times its factor."""
    factor = 255 * (processor.rescale_factor if getattr(processor, "do_rescale", True) else 1)
    offset = 1 if getattr(processor, "rescale_offset", False) else 0
    mean, std = [0.0], [1.0]
    if getattr(processor, "do_normalize", True):
        mean, std = list(processor.image_mean), list(processor.image_std)
    if getattr(processor, "include_top", False):  # EfficientNet's divides by std once more
        std = [value**2 for value in std]
    if factor == 1 and not offset and (mean, std) == ([0.0], [1.0]):
        return None, None
    mean, std = (values * channels if len(values) == 1 else values for values in (mean, std))
    return [(m + offset) / factor for m in mean], [s / factor for s in std]


def _hf_size(processor: Any) -> tuple[int, int] | None:
    """The size that the model sees at the end: of the crop, else of the resizing."""
    if getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None):
        return _sides(processor.crop_size)
    return _sides(processor.size) if getattr(processor, "do_resize", True) else None


def _sides(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    height, width, shortest = (_get(size, key) for key in ("height", "width", "shortest_edge"))
    if height and width:
        return int(height), int(width)
    return (int(shortest), int(shortest)) if shortest else None


def _get(size: Any, key: str) -> Any:
    return size.get(key) if isinstance(size, dict) else getattr(size, key, None)


def _timm(spec: str, name: str) -> Known:
    timm, data = _package("timm", spec), _package("timm.data", spec)
    with _naming(spec):
        module = timm.create_model(name, pretrained=True)
        config = data.resolve_model_data_config(module)
        names = module.pretrained_cfg.get("label_names")
        subset = data.infer_imagenet_subset(module)
        if not names and subset:
            names = data.ImageNetInfo(subset).label_descriptions()
    height, width = config["input_size"][1:]
    return Known(module, config["mean"], config["std"], (height, width), tuple(names) if names else None)


def _torchvision(spec: str, name: str) -> Known:
    models = _package("torchvision.models", spec)
    with _naming(spec):
        weights = models.get_model_weights(name).DEFAULT
        module = models.get_model(name, weights=weights)
        preset = weights.transforms()
    crop = getattr(preset, "crop_size", None)
    if not crop or "categories" not in weights.meta:
        raise InputError(f"model {spec}: expected a classifier of images, got {type(module).__name__}")
    side = crop if isinstance(crop, int) else crop[0]
    return Known(module, list(preset.mean), list(preset.std), (side, side), tuple(weights.meta["categories"]))


_SIDES = {"cifar10": 32, "cifar100": 32, "imagenet": 224}


def _robustbench(spec: str, name: str) -> Known:
    utils = _package("robustbench.utils", spec, "git+https://github.com/RobustBench/robustbench")
    *place, model = name.split("/")
    if len(place) > 2:
        raise InputError(f"model {spec}: expected robustbench:NAME, DATA/NAME or DATA/THREAT/NAME")
    data, threat = [*place, *("cifar10", "Linf")[len(place) :]]
    with _naming(spec):
        module = utils.load_model(model_name=model, dataset=data, threat_model=threat)
    side, record = _SIDES.get(data), CATALOG.get(data)
    # The normalisation is a part of the models.
    return Known(module, size=(side, side) if side else None, classes=tuple(record.classes) if record else None)
