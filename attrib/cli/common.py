"""What the commands share: their options, how they begin, the attack, tables and warnings."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

from attrib.cli.subjects import Subject, load_subjects, logits_of, looking
from attrib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from attrib.data import Batch, Dataset
    from attrib.inference import Precision
    from attrib.parallel import World

Ckpt = Annotated[
    list[str] | None,
    typer.Option(
        "--ckpt",
        metavar="[NAME=]PATH",
        help="A checkpoint; repeat to compare several. NAME=A.pt,B.pt,...: several seeds of one method.",
    ),
]
Model = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="[NAME=]MODULE:FACTORY",
        help="A model of your own, made by an importable function.",
    ),
]
Arch = Annotated[str | None, typer.Option(help="Architecture of a --ckpt that is a bare state dict.")]
Mean = Annotated[str | None, typer.Option(help="Channel means that a --model expects, as 0.485,0.456,0.406.")]
Std = Annotated[str | None, typer.Option(help="Channel standard deviations that a --model expects.")]
Size = Annotated[int | None, typer.Option(help="Image size that a --model expects; images are resized to it.")]
MapName = Annotated[
    str,
    typer.Option(
        "--map",
        help="gradcam, eq6, gradient, smoothgrad, integrated-gradients, occlusion or guided-gradcam. eq6: AALP's Eq. 6,"
        " pytorch-grad-cam's element-wise CAM of -loss.",
    ),
]
Layer = Annotated[
    str | None,
    typer.Option(help="Layer of Grad-CAM and Eq. 6, by its dotted name (default: the last stage)."),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="glyphs, mnist, svhn, cifar10, cifar100, folder:DIR or npz:FILE (default: the checkpoint's own)."
    ),
]
DataRoot = Annotated[Path | None, typer.Option(help="Where the data lies (else ATTRIB_DATA, then the user cache).")]
Split = Annotated[str, typer.Option(help="test or train, where the data is split.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many images.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
PrecisionName = Annotated[
    str,
    typer.Option("--precision", help="auto, fp32 or bf16; auto: fp32, but bf16 for attacks and SmoothGrad if fast."),
]
BatchSize = Annotated[int, typer.Option(help="Images at a time; no result depends on it.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of noise, attack starts and resampling.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the results: CSV, JSON, LaTeX, PDF and PNG.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Target = Annotated[str, typer.Option(help="The class explained: label (true class) or prediction.")]
AttackName = Annotated[str | None, typer.Option("--attack", help="Explain adversarial images too: fgsm, pgd or cw.")]
Eps = Annotated[str | None, typer.Option(help="Radius of the attack, as 0.03 or 8/255 (default: the data set's).")]
StepSize = Annotated[str | None, typer.Option(help="Step of the attack, as 0.01 or 2/255.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the attack.")]


class AttackSettings(NamedTuple):
    """Which attack, and how strong."""

    name: str
    eps: float
    step_size: float
    steps: int


class Loaded(NamedTuple):
    """What an analysis works on."""

    here: "World"
    subjects: list[Subject]
    images: "Dataset"
    attack: AttackSettings | None


def check_given(
    *given: Sequence[str] | None, batch_size: int | None = None, out: Path | None = None, what: str = "a --model"
) -> None:
    """What every analysis asks before it loads anything: something to look at, and a place to write to.

    given: the options that name models; what: the other ones than --ckpt, for the message. Raises InputError.
    """
    from attrib.files import folder

    if batch_size is not None and batch_size < 1:
        raise InputError(f"--batch-size: expected at least 1, got {batch_size}")
    if not any(given):
        raise InputError(f"nothing to look at: name a checkpoint with --ckpt PATH (or {what})")
    if out:
        folder(out)


@contextmanager
def loaded(
    ckpts: Sequence[str] | None, models: Sequence[str] | None, *,
    arch: str | None, mean: str | None, std: str | None, size: int | None, data: str | None, split: str,
    root: Path | None, limit: int | None, device: str, precision: str, layer: str | None = None,
    attack: str | None = None, eps: str | None = None, step_size: str | None = None, steps: int | None = None,
    others: Sequence[Subject] = (),
) -> Iterator[Loaded]:  # fmt: skip
    """The models, the data and the attack that the options name, among the processes of torchrun.

    others: models that the caller reads by itself, and that have to fit as well (on the CPU). Says before any work,
    and not in the middle of it, which model does not fit the data, and which a gradient-based attack flatters.
    Raises InputError.
    """
    import torch

    from attrib import inference
    from attrib.fast import keep_prepared
    from attrib.objections import warn_short_attack
    from attrib.parallel import world

    with world(device) as here:
        inference.precision(precision, here.device)  # a wrong name is said before anything is loaded
        subjects = load_subjects(
            ckpts, models, arch=arch, mean=mean, std=std, size=size, layer=layer, where=here.device
        )
        asked = [*subjects, *others]
        images = load_data(data, asked, split=split, root=root, limit=limit, size=size)
        settings = attack_settings(attack, data=images.name, eps=eps, step_size=step_size, steps=steps)
        if settings and settings.name != "fgsm":
            for sentence in warn_short_attack(settings.eps, settings.step_size, settings.steps):
                warn(sentence)
        (first,) = images.batches(1, order=torch.tensor([0]), device=here.device)
        _check_models(asked, images, first.image, attacked=settings is not None)
        subjects = [looking(subject, first.image) for subject in subjects]
        with keep_prepared(*(subject.model for subject in subjects)):
            yield Loaded(here, subjects, images, settings)


def load_data(
    name: str | None, subjects: Sequence[Subject], *, split: str, root: Path | None, limit: int | None,
    size: int | None = None,
) -> "Dataset":  # fmt: skip
    """The data set named, or the one that the checkpoints were trained on; checked against every model.

    Raises InputError where no data set is known, or more than one, or it does not fit a model, or has no split to
    choose.
    """
    from attrib.data import WHOLE, dataset
    from attrib.models import checkpoint
    from attrib.models.outside import Normalized

    known = {s.name: s.checkpoint.data for s in subjects if s.checkpoint and s.checkpoint.data != "unknown"}
    if name is None and not known:
        raise InputError("--data is needed: no model given says what it was trained on")
    if name is None and len(set(known.values())) > 1:
        listed = ", ".join(f"{model} on {trained_on}" for model, trained_on in known.items())
        raise InputError(f"the models were trained on different data ({listed}); name the one to look at with --data")
    name = name or next(iter(known.values()))
    if size and not name.startswith("folder:") and all(subject.checkpoint for subject in subjects):
        raise InputError("--size is for a --model, or for the pictures of folder:DIR; a checkpoint knows its own size")
    # The pictures of a folder are cut to the model's size; other data is resized in front of the model.
    data = dataset(name, split=split, root=root, limit=limit, size=size if name.startswith("folder:") else None)
    if split == "train" and data.split == WHOLE:
        raise InputError(f"--split train: {name} is not split into training and test images; leave out --split")
    for subject in subjects:
        if subject.checkpoint:
            try:
                checkpoint.check_data(subject.checkpoint, classes=len(data.classes), shape=data.shape)
            except InputError as error:
                raise InputError(f"{subject.name}: {error}") from None
        elif isinstance(subject.model, Normalized) and subject.model.mean is not None:
            given, channels = subject.model.mean.shape[1], data.shape[0]
            if given != channels:
                raise InputError(
                    f"{subject.name}: --mean, --std: expected one number for each of the {channels} channels of"
                    f" {name}, got {given}"
                )
        if known.get(subject.name, data.name) != data.name:
            warn(f"{subject.name} was trained on {known[subject.name]}, and is looked at on {data.name}")
    return data


def attack_settings(
    name: str | None, *, data: str, eps: str | None, step_size: str | None, steps: int | None
) -> AttackSettings | None:
    """The attack named with the data set's settings, single ones overridden; None where none is asked for.

    Raises InputError for unknown attacks, negative numbers, or settings without an attack or not of this one.
    """
    from attrib.data import default_attack

    if name is None:
        if (eps, step_size, steps) != (None, None, None):
            raise InputError("--eps, --step-size and --steps need --attack fgsm, pgd or cw")
        return None
    if name not in ("fgsm", "pgd", "cw"):
        raise InputError(f"--attack: expected fgsm, pgd or cw, got {name!r}")
    if name == "fgsm" and (step_size, steps) != (None, None):
        raise InputError("--step-size and --steps belong to pgd and cw; fgsm takes one step of --eps")
    usual = default_attack(data)
    if steps is not None and steps < 1:
        raise InputError(f"--steps: expected at least 1, got {steps}")
    return AttackSettings(
        name,
        usual.eps if eps is None else _fraction(eps, "--eps"),
        usual.step_size if step_size is None else _fraction(step_size, "--step-size"),
        usual.steps if steps is None else steps,
    )


def attack_entry(settings: AttackSettings | None, precision: "Precision") -> dict[str, Any] | None:
    """What a result says of its attack, the precision that it ran in included."""
    return settings._asdict() | {"precision": precision} if settings else None


def attacked(
    subject: Subject, batch: "Batch", settings: AttackSettings, *, seed: int, precision: "Precision"
) -> "Tensor":
    """The batch's images after the attack on the subject, (N,C,H,W)."""
    from attrib import attack

    if settings.name == "fgsm":
        return attack.fgsm(subject.model, batch.image, batch.label, eps=settings.eps, precision=precision)
    run = attack.pgd if settings.name == "pgd" else attack.cw
    return run(
        subject.model, batch.image, batch.label, eps=settings.eps, step_size=settings.step_size,
        steps=settings.steps, seed=seed, index=batch.index, precision=precision,
    )  # fmt: skip


def _check_models(subjects: Sequence[Subject], data: "Dataset", image: "Tensor", *, attacked: bool) -> None:
    """Run every model on one image (1,C,H,W) of the data."""
    from attrib.models.gated import GatedClassifier

    count = len(data.classes)
    advice = {
        "folder": ": make a folder for every class of the model, empty where it has no pictures",
        "npz": ": name every class of the model in an array 'classes'",
    }.get(data.name.partition(":")[0], "")
    for subject in subjects:
        moved = subject._replace(model=subject.model.to(image.device))
        of = f"{data.name} ({count} class{'es' * (count > 1)}{advice})"
        logits = logits_of(moved, image, classes=count, data=of).float()
        if count > 1 and logits.min() >= 0 and abs(float(logits.sum()) - 1) < 1e-4:
            warn(
                f"{subject.name} returns probabilities, as it seems, where logits are expected: losses, attacks and"
                " contributions then belong to another function; leave out its softmax"
            )
        if attacked and isinstance(subject.model, GatedClassifier):
            warn(
                f"{subject.name} is gated, and its gates hide part of the gradient: an attack on the final logits"
                " alone flatters it; see attrib robust for the worst of its attacks"
            )


FEWEST = 50
"""With fewer images an accuracy's interval reaches 14 points and more to either side, too far to blame a model."""


def warn_at_chance(subjects: Iterable[Subject], table: "pd.DataFrame", data: "Dataset") -> None:
    """Warn of every file whose clean accuracy is no better than chance, where there are images enough to say so.

    table: a row per file and clean image, with columns model, seed, label and prediction.
    """
    from attrib.objections import warn_chance_accuracy

    for subject in subjects:
        rows = table[(table["model"] == subject.group) & (table["seed"] == subject.seed)]
        label = rows["label"].to_numpy(int)
        if len(rows) < FEWEST:
            continue
        correct = (rows["prediction"] == label).to_numpy(bool)
        for sentence in warn_chance_accuracy(correct, label, classes=len(data.classes)):
            warn(f"{subject.name}: {sentence}")


Item = TypeVar("Item")


def progress(items: Iterable[Item], *, total: int, title: str) -> Iterator[Item]:
    """The items, with a bar on stderr where that is a terminal."""
    from tqdm import tqdm

    yield from tqdm(items, total=total, desc=title, unit="batch", leave=False, disable=not sys.stderr.isatty())


class Printed(NamedTuple):
    """A table for people."""

    table: "pd.DataFrame"
    title: str
    caption: str


class Said(NamedTuple):
    """What a command has to say to people."""

    tables: list[Printed]
    warnings: list[str]


_collected: ContextVar[Said | None] = ContextVar("collected", default=None)


@contextmanager
def collected() -> Iterator[Said]:
    """Inside, tables and warnings are collected instead of printed."""
    said = Said([], [])
    token = _collected.set(said)
    try:
        yield said
    finally:
        _collected.reset(token)


def print_table(table: "pd.DataFrame", *, title: str, caption: str) -> None:
    """A table of texts for people, on stdout."""
    if said := _collected.get():
        said.tables.append(Printed(table, title, caption))
        return
    from rich.console import Console
    from rich.text import Text

    from attrib.layout import draw

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 200
    console.print(Text(title, style="table.title"))
    for drawn in draw(table, width=console.width):
        console.print(drawn)
    if caption:
        console.print(Text(caption, style="table.caption"))


def warn(message: str) -> None:
    """One line on stderr that the reader of a number should know."""
    if said := _collected.get():
        said.warnings.append(message)
        return
    if is_first():
        print(f"attrib: warning: {message}", file=sys.stderr)


def is_first() -> bool:
    """Whether this is the process that speaks and writes: the only one, or the first of torchrun's."""
    return os.environ.get("RANK", "0") == "0"


def check_choice(option: str, value: str, choices: Iterable[str]) -> str:
    """The value, if it is one of the choices; else InputError."""
    choices = list(choices)
    if value not in choices:
        raise InputError(f"{option}: expected one of {', '.join(choices)}, got {value!r}")
    return value


def check_map(name: str, threshold: str, *, layer: str | None = None) -> None:
    """Raise InputError for a map or a threshold that there is not, or a --layer with a map that looks at none."""
    from attrib.maps import LAYER_MAPS, MAPS
    from attrib.spans import parse_threshold

    parse_threshold(threshold)
    check_choice("--map", name, MAPS)
    if layer and name not in LAYER_MAPS:
        raise InputError(f"--layer belongs to --map {', '.join(LAYER_MAPS)}; {name} looks at no layer")


def provenance() -> dict[str, str]:
    """The versions that made a result."""
    import platform

    import captum
    import torch

    import attrib

    return {
        "attrib": attrib.__version__, "torch": torch.__version__, "captum": captum.__version__,
        "python": platform.python_version(),
    }  # fmt: skip


def display_images(image: "Tensor") -> Any:
    """Images (N,C,H,W) as a picture shows them: (N,H,W,3) floats, grey repeated."""
    rgb = image if image.shape[1] == 3 else image[:, :1].expand(-1, 3, -1, -1)
    return rgb.permute(0, 2, 3, 1).cpu().numpy()


def _fraction(text: str, option: str) -> float:
    above, slash, below = text.partition("/")
    try:
        value = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{option}: expected a number like 0.03 or 8/255, got {text!r}") from None
    if not 0 <= value <= 1:
        raise InputError(f"{option}: expected a number in [0,1] (pixels are in [0,1]), got {text}")
    return value
