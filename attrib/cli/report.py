"""``attrib report``: every answer about a few models on one page that needs nothing else."""

import contextlib
import hashlib
import io
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer

from attrib import thresholds
from attrib.cli import common
from attrib.cli.batches import Stopped
from attrib.cli.explain import How, explain
from attrib.cli.info import card_of
from attrib.cli.subjects import Subject, fingerprint, groups
from attrib.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

FcName = Annotated[
    str | None,
    typer.Option("--fc", metavar="NAME", help="Last layer of a --model by its dotted name (default: the last linear)."),
]
CHECKED = 200
"""At most so many images for the checks, which look at each of them some hundred times."""
BATCH = 50
"""Images at a time, of those to browse."""


def report(
    ckpt: common.Ckpt = None,
    model: common.Model = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    results: Annotated[
        Path | None, typer.Option(help="Folder for the numbers behind it (default: beside the page, NAME-results).")
    ] = None,
    images: Annotated[int, typer.Option(help="How many images to browse: the first ones.")] = 200,
    limit: Annotated[
        int, typer.Option(help=f"How many images for statistics; the checks take {CHECKED} at most.")
    ] = 1000,
    data: common.Data = None,
    map_name: common.MapName = "gradcam",
    threshold: Annotated[str, typer.Option(help=thresholds.HELP)] = "mean",
    target: common.Target = "label",
    attack: Annotated[str, typer.Option(help="The attack beside clean images: fgsm, pgd or cw.")] = "pgd",
    eps: common.Eps = None,
    step_size: common.StepSize = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="The k of PGD-k and CW-k, the longest of them that of every other attack on the page too (default: 10"
            " and 20, or the data set's usual if that is more; else the data set's usual)."
        ),
    ] = None,
    layer: common.Layer = None,
    fc_name: FcName = None,
    arch: common.Arch = None,
    mean: common.Mean = None,
    std: common.Std = None,
    size: common.Size = None,
    data_root: common.DataRoot = None,
    split: common.Split = "test",
    seed: common.Seed = 0,
    device: common.Device = "auto",
    precision: common.PrecisionName = "auto",
) -> None:
    """One self-contained HTML page: every table and figure, and every model's maps of single images to browse.

    The numbers lie beside it and are used again: the same command continues where it was stopped.
    """
    from attrib.data import default_attack
    from attrib.files import atomic, folder
    from attrib.report import render
    from attrib.results import write_json

    common.check_map(map_name, threshold, layer=layer)
    common.check_choice("--target", target, ("label", "prediction"))
    common.check_choice("--attack", attack, ("fgsm", "pgd", "cw"))
    for option, number in (("--images", images), ("--limit", limit)):
        if number < 1:
            raise InputError(f"{option}: expected at least 1, got {number}")
    common.check_given(ckpt, model)
    if out.is_dir():
        raise InputError(f"--out: expected a file for the page, as report.html, got the folder {out}")
    folder(out.absolute().parent)
    place = folder(results or out.with_name(f"{out.stem}-results"))

    models = _options(ckpt=ckpt, model=model, arch=arch, mean=mean, std=std, size=size)
    source = [*models, *_options(data=data, data_root=data_root, split=split)]
    maps = _options(map=map_name, target=target, layer=layer)
    iterated = attack != "fgsm"
    longest = max(_step_counts(steps)) if steps and iterated else None
    strength = _options(attack=attack, eps=eps, step_size=step_size if iterated else None, steps=longest)
    missing: dict[str, str] = {}
    with common.loaded(
        ckpt, model, arch=arch, mean=mean, std=std, size=size, layer=layer, data=data, split=split, root=data_root,
        limit=limit, attack=attack, eps=eps, step_size=step_size, steps=longest, device=device, precision=precision,
    ) as work:  # fmt: skip
        first = work.here.rank == 0
        how = How(map_name, target, work.attack, seed, precision, work.here.device)
        shown, n, few = (min(count, len(work.images)) for count in (images, limit, CHECKED))
        most, some, pictures = (_options(limit=count, seed=seed, precision=precision) for count in (n, few, shown))
        about = _about(work, how, shown=shown, threshold=threshold)
        # What a result depends on beside its options, which hold the models' names.
        known = {
            "data": about["data_fingerprint"], "models": [fingerprint(subject.model) for subject in work.subjects],
            "precision": [how.map_precision(), how.attack_precision()], "versions": common.provenance(),
        }  # fmt: skip
        if first:
            part = Part("images", [*source, *maps, *strength, *pictures], shown, seed)
            missing["images"] = _once(part, place, known, partial(_save_images, work, how, shown, place / "images"))

        usual = default_attack(work.images.name)
        counts = _options(eps=eps, step_size=step_size, steps=steps or f"10,{max(20, usual.steps)}")
        rule, last = _options(threshold=threshold), _options(fc=fc_name)
        for part in (
            Part("span", [*source, *maps, *rule, *strength, *most], n, seed),
            Part("robust", [*source, *counts, *most], n, seed),
            Part("sets", [*source, *strength, *most], n, seed),
            Part("contrib", [*source, *last, *most], n, seed),
            # Only a model from outside has to be run to find its last layer.
            Part("fc", [*(source if model else models), *last], None, None),
            Part("check", [*source, *maps, *rule, *strength, *some], few, seed),
            Part("relate", [*source, *_options(map=map_name, layer=layer), *rule, *strength, *most], n, seed),
        ):
            where = _options(device=device, out=place / part.name)
            line = ["attrib", part.name, *part.options, *where]
            missing[part.name] = _once(part, place, known, partial(_run, line))
    if not first:
        return
    summary = {
        **about, "date": _now(), "command": shlex.join(["attrib", *sys.argv[1:]]), "versions": common.provenance(),
        "missing": {name: why for name, why in missing.items() if why},
    }  # fmt: skip
    write_json(summary, place / "report.json")
    with atomic(out) as temporary:
        temporary.write_text(render(place), encoding="utf-8")
    typer.echo(out)


def _step_counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--steps: expected numbers separated by commas, as 10,20, got {text!r}") from None
    if min(counts) < 1:
        raise InputError(f"--steps: expected at least 1, got {min(counts)}")
    return counts


class Part(NamedTuple):
    """Something that the report shows, and what it depends on beside the models and the data (not the device)."""

    name: str
    options: list[str]
    n: int | None
    """How many images it takes; None where it takes none."""
    seed: int | None


def _options(**values: object) -> list[str]:
    """The options of a command line; those that are None are left out, those that are lists repeated."""
    line = []
    for name, value in values.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                line += [f"--{name.replace('_', '-')}", str(one)]
    return line


def _about(work: common.Loaded, how: How, *, shown: int, threshold: str) -> dict[str, Any]:
    """What is looked at, and how: among it the models' cards, and what tells these images from others."""
    assert how.attack is not None
    data = work.images
    digest = hashlib.sha256(data.labels.numpy().tobytes())
    for batch in data.batches(BATCH, order=_first(shown)):
        digest.update(_pixels(batch.image).tobytes())
    return {
        "data": data.name, "split": data.split, "n": len(data), "data_fingerprint": digest.hexdigest()[:12],
        "classes": list(data.classes), "map": how.map, "threshold": threshold, "target": how.target,
        "attack": common.attack_entry(how.attack, how.attack_precision()), "precision": how.map_precision(),
        "models": [
            {"name": name, "cards": [_card(subject) for subject in files]}
            for name, files in groups(work.subjects).items()
        ],
    }  # fmt: skip


def _card(subject: Subject) -> dict[str, Any]:
    from attrib.models.outside import unwrapped

    if subject.checkpoint:
        return card_of(subject.path, subject.model, subject.checkpoint)
    return {
        "path": subject.path, "fingerprint": fingerprint(subject.model),
        "architecture": type(unwrapped(subject.model)).__name__,
        "parameters": sum(parameter.numel() for parameter in subject.model.parameters()),
    }  # fmt: skip


def _once(part: Part, place: Path, known: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> str:
    """Make a part of the report, unless it was made with the same settings; returns why it cannot be, or nothing.

    What ``make`` returns is kept beside the part's results, in ``made.json``.
    """
    from attrib.files import folder
    from attrib.results import to_json, write_json

    record = folder(place / part.name) / "made.json"
    settings = json.loads(to_json({**known, "options": part.options}))
    if _settings_of(record) == settings:
        _say(f"{part.name}: as computed before")
        return ""
    if common.is_first():
        record.unlink(missing_ok=True)  # or a stop halfway would leave it beside files that are not its own
    started = time.monotonic()
    try:
        found = make()
    except InputError as error:
        _say(f"{part.name}: left out ({error})")
        return str(error)
    except (KeyboardInterrupt, Stopped):
        raise Stopped("the same command continues where it stopped") from None
    seconds = time.monotonic() - started
    if common.is_first():
        made = {"date": _now(), "seconds": seconds, "n": part.n, "seed": part.seed, "settings": settings}
        write_json({**found, **made}, record)
    _say(f"{part.name}: {seconds:.0f} s")
    return ""


def _settings_of(record: Path) -> Any:
    """What a part was made with; None where there is none, or it cannot be read."""
    try:
        return json.loads(record.read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _run(line: list[str]) -> dict[str, Any]:
    """Run a command of ours; returns what it has to say to people."""
    from attrib.cli import INTERRUPTED, app

    with common.collected() as said, contextlib.redirect_stdout(io.StringIO()):
        status = app(line[1:], standalone_mode=False)
    if status == INTERRUPTED:  # typer turns the exception into a status
        raise KeyboardInterrupt
    tables = [
        {
            "title": printed.title, "caption": printed.caption, "columns": list(map(str, printed.table.columns)),
            "rows": printed.table.astype(str).to_numpy().tolist(),
        }
        for printed in said.tables
    ]  # fmt: skip
    return {"command": shlex.join(line), "tables": tables, "warnings": said.warnings}


def _save_images(work: common.Loaded, how: How, count: int, place: Path) -> dict[str, Any]:
    """Write the first images and every model's maps, as :func:`attrib.report_images.payload` takes them.

    Of several seeds behind a name the first stands for it. Returns nothing that people have to be told.
    """
    from attrib.report_images import coded
    from attrib.results import write_examples

    assert how.attack is not None
    kinds = ["clean", how.attack.name]
    subjects = [files[0] for files in groups(work.subjects).values()]
    parts: dict[str, list[NDArray[Any]]] = {}
    for batch in work.images.batches(BATCH, order=_first(count), device=how.device):
        views = [explain(subject, batch, how, classes=len(work.images.classes)) for subject in subjects]
        maps = coded(np.array([[_array(view[kind].map) for kind in kinds] for view in views]))
        found = {
            "index": _array(batch.index), "label": _array(batch.label),
            "image": _pixels(batch.image),
            "adversarial": np.array([_pixels(view[how.attack.name].image) for view in views]),
            "prediction": np.array([[_array(view[kind].prediction) for kind in kinds] for view in views]),
            **maps._asdict(),
        }  # fmt: skip
        for name, values in found.items():
            parts.setdefault(name, []).append(values)
    axes = {"index": 0, "label": 0, "image": 0, "adversarial": 1, "prediction": 2, "code": 2, "low": 2, "high": 2}
    arrays = {name: np.concatenate(values, axes[name]) for name, values in parts.items()}
    write_examples(place / "images.npz", arrays)
    return {}


def _first(count: int) -> "Tensor":
    import torch

    return torch.arange(count)


def _array(values: "Tensor") -> "NDArray[Any]":
    array: NDArray[Any] = values.cpu().numpy()
    return array


def _pixels(image: "Tensor") -> "NDArray[np.uint8]":
    """Images (N,C,H,W) in [0,1] as pictures (N,H,W,3), grey repeated."""
    return np.asarray(np.rint(255 * common.display_images(image)), np.uint8)


def _now() -> str:
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z")


def _say(line: str) -> None:
    if common.is_first():
        typer.echo(line)
