"""The models that a command looks at: files and factories to subjects, and the seeds behind one name."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from attrib.errors import InputError, one_line

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor, nn

    from attrib.models.checkpoint import Checkpoint
    from attrib.stats import Values


class Subject(NamedTuple):
    """A model under analysis: one file, or one of the seeds behind a name."""

    name: str
    """Its own: the name given, or, of several seeds, NAME/0, NAME/1, ..."""
    group: str
    """The name given, which several seeds share."""
    seed: int
    """Its position among the files of the name: 0 where there is one."""
    path: str
    """The checkpoint's path, or the factory's name."""
    model: "nn.Module"
    layer: "nn.Module | None"
    """Where Grad-CAM and Eq. 6 look; None: found by :func:`attrib.locate`."""
    checkpoint: "Checkpoint | None"


def load_subjects(
    ckpts: Sequence[str] | None, models: Sequence[str] | None, *,
    arch: str | None, mean: str | None, std: str | None, size: int | None, layer: str | None,
    where: "torch.device",
) -> list[Subject]:  # fmt: skip
    """The models that ``--ckpt`` and ``--model`` name, on the device, in eval mode; every seed is one of its own.

    Raises InputError for files and factories that give no model, names given twice, seeds that are none, and one of
    ``--mean`` and ``--std`` without the other.
    """
    from attrib.models import checkpoint
    from attrib.models.layers import named
    from attrib.models.outside import Normalized, load_factory

    if (mean is None) != (std is None):
        raise InputError(f"--mean and --std go together: {'--mean' if mean is None else '--std'} is missing")
    subjects = []
    for name, text in named_pairs(ckpts or (), _name_of_path):
        paths = files_of(text)
        for seed, path in enumerate(paths):
            model, ckpt = checkpoint.load(path, arch=arch, device=where)
            own = name if len(paths) == 1 else f"{name}/{seed}"
            subjects.append(Subject(own, name, seed, path, model, named(model, layer) if layer else None, ckpt))
        _check_seeds(name, subjects[len(subjects) - len(paths) :])
    for name, factory in named_pairs(models or (), lambda text: text.rpartition(":")[2]):
        inner = load_factory(factory)
        found = named(inner, layer) if layer else None
        outside = inner
        if (mean, std, size) != (None, None, None):
            means = _floats(mean, "--mean")
            if means and max(means) > 1:
                raise InputError(
                    f"--mean: expected means of pixels in [0,1], got {mean}; divide --mean and --std by 255"
                )
            outside = Normalized(inner, means, _floats(std, "--std"), size)
        subjects.append(Subject(name, name, 0, factory, outside.to(where).eval(), found, None))
    names = [subject.group for subject in subjects if subject.seed == 0]
    for name in names:
        if names.count(name) > 1:
            same = [subject for subject in subjects if subject.group == name]
            ways = {"--ckpt NAME=PATH" if subject.checkpoint else "--model NAME=MODULE:FACTORY" for subject in same}
            raise InputError(f"two models are called {name!r}; give each its own with {' or '.join(sorted(ways))}")
    return subjects


def _check_seeds(name: str, seeds: Sequence[Subject]) -> None:
    """Raise InputError where the files behind a name are not several seeds of one method."""
    twice = {os.path.realpath(subject.path) for subject in seeds}
    if len(twice) < len(seeds):
        raise InputError(f"{name}: the same file is given twice; name every seed once")
    for what in ("arch", "data"):
        found: dict[str, str] = {}
        for subject in seeds:
            found.setdefault(getattr(subject.checkpoint, what), subject.path)
        if len(found) > 1:
            listed = ", ".join(f"{value} ({path})" for value, path in found.items())
            words = {"arch": "one architecture", "data": "models trained on one data set"}[what]
            raise InputError(f"{name}: expected seeds of {words}, got {listed}; give each its own name")


def files_of(text: str) -> list[str]:
    """The files behind a name, separated by commas; one whose own name holds commas is known by its being there.

    Raises InputError for an empty one.
    """
    found, parts = [], text.split(",")
    while parts:
        counts = (count for count in range(len(parts), 0, -1) if Path(",".join(parts[:count])).exists())
        count = next(counts, 1)
        found.append(",".join(parts[:count]))
        del parts[:count]
    if not all(found):
        raise InputError(f"expected files separated by single commas, got {text!r}")
    return found


def groups(subjects: Iterable[Subject]) -> dict[str, list[Subject]]:
    """The files behind every name, in the order given."""
    found: dict[str, list[Subject]] = {}
    for subject in subjects:
        found.setdefault(subject.group, []).append(subject)
    return found


def file_name(subject: Subject) -> str:
    """What a file of one subject's own is called after: NAME, or, of several seeds, NAME-seed0, NAME-seed1, ..."""
    return subject.name.replace("/", "-seed")


def rows_of(table: "pd.DataFrame", name: str) -> "list[pd.DataFrame]":
    """The rows of every file behind a name, in the order of the files, from columns ``model`` and ``seed``."""
    return [rows for _, rows in table[table["model"] == name].groupby("seed")]


def column(files: "Sequence[pd.DataFrame]", name: str) -> "Values":
    """A column of every file's rows as (S,N), which :mod:`attrib.stats` takes; NaN where a file has no such column."""
    import numpy as np

    return np.array([rows[name].to_numpy(float) if name in rows else np.full(len(rows), np.nan) for rows in files])


def entry_of(files: Sequence[Subject], numbers: Callable[[Sequence[Subject]], Mapping[str, Any]]) -> dict[str, Any]:
    """What a summary says of a name: ``numbers`` of all its files; of several also, under ``seeds``, of each."""
    if len(files) == 1:
        return {**identity(files[0]), **numbers(files)}
    each = [identity(subject) for subject in files]
    paths, prints = ([entry[key] for entry in each] for key in ("checkpoint", "fingerprint"))
    seeds = [{**entry, **numbers([subject])} for entry, subject in zip(each, files, strict=True)]
    return {"name": files[0].group, "checkpoint": paths, "fingerprint": prints, **numbers(files), "seeds": seeds}


def looking(subject: Subject, example: "Tensor") -> Subject:
    """A model of one's own with the layer where Grad-CAM and Eq. 6 look, found by running the example (N,C,H,W).

    Every map would find the same one again; known beforehand, results can name it. A model without one stays as it
    is: only a map that needs the layer complains.
    """
    from attrib.models.layers import feature_layer

    if subject.checkpoint or subject.layer is not None:
        return subject
    try:
        return subject._replace(layer=feature_layer(subject.model, example))
    except InputError:
        return subject


def predictions(subject: Subject, image: "Tensor", *, classes: int) -> "Tensor":
    """The predicted class of every image, (N,); raises InputError as :func:`logits_of` does."""
    return logits_of(subject, image, classes=classes).argmax(1)


def logits_of(subject: Subject, image: "Tensor", *, classes: int, data: str = "the data") -> "Tensor":
    """The model's answer to every image, in exact float32; raises InputError where that is not (N,K) finite logits.

    data: what the error calls the data that has so many classes.
    """
    import torch

    from attrib import inference

    try:
        logits = inference.logits(subject.model, image)
    except RuntimeError as error:
        shape = "x".join(map(str, image.shape[1:]))
        raise InputError(
            f"{subject.name}: the model does not take {shape} images ({one_line(error)}); see --size"
        ) from None
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[1] != classes:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"{subject.name}: expected logits of shape (N,{classes}), one per class of {data}, got {found}"
        )
    if not logits.isfinite().all():
        raise InputError(
            f"{subject.name}: expected finite logits, got NaN or infinity; are its weights broken, or what it expects"
            " of its input (--mean, --std)?"
        )
    return logits


def identity(subject: Subject) -> dict[str, Any]:
    """What a result says of its model: its name, its file, and the fingerprint of its weights.

    Of a model of one's own, which no file describes, also what was put in front of it, ``input``, and ``layer``, where
    Grad-CAM and Eq. 6 look.
    """
    found: dict[str, Any] = {"name": subject.name, "checkpoint": subject.path}
    if subject.checkpoint:
        return found | {"fingerprint": subject.checkpoint.fingerprint}
    from attrib.models.outside import Normalized, unwrapped

    front = subject.model if isinstance(subject.model, Normalized) else None
    modules = unwrapped(subject.model).named_modules()
    return found | {
        "fingerprint": fingerprint(subject.model),
        "input": {
            "mean": _digits(front.mean) if front else None, "std": _digits(front.std) if front else None,
            "size": front.size if front else None,
        },
        "layer": next((name for name, module in modules if module is subject.layer), None),
    }  # fmt: skip


def _digits(values: "Tensor | None") -> list[float] | None:
    """Numbers as they were given: 0.485, where float64 sees 0.48500001430511475 in float32's."""
    return None if values is None else [float(str(value)) for value in values.flatten().cpu().numpy()]


def fingerprint(model: "nn.Module") -> str:
    """What tells one model from another where no file does: its weights and buffers, --mean and --std among them."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().data)
    return digest.hexdigest()[:12]


def named_pairs(given: Iterable[str], default: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Split every NAME=PATH; where no name is given, ``default`` makes one of the path."""
    for text in given:
        name, separator, value = text.partition("=")
        # A path may itself hold an equals sign; a name holds no slash.
        if not separator or "/" in name:
            name, value = default(text), text
        if not name or not value:
            raise InputError(f"expected NAME=PATH with both, got {text!r}")
        yield name, value


def _name_of_path(text: str) -> str:
    """runs/pgd-at/model.pt is called pgd-at, since every run's file has the same name."""
    if len(files_of(text)) > 1:
        raise InputError(f"several seeds need a name of their own: --ckpt NAME={text}")
    path = Path(text.removeprefix("zoo:"))
    generic = path.stem in ("model", "last", "best", "checkpoint") and path.parent.name
    return path.parent.name if generic else path.stem


def _floats(text: str | None, option: str) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option}: expected numbers separated by commas, got {text!r}") from None
