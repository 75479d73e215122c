"""What the commands share: their options, the models they name, the data, tables and files."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

from attrib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor, nn

    from attrib.checkpoint import Checkpoint
    from attrib.data import Batch, Dataset
    from attrib.inference import Precision

Ckpt = Annotated[
    list[str] | None,
    typer.Option("--ckpt", metavar="[NAME=]PATH", help="A checkpoint; repeat to compare several."),
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
Split = Annotated[str, typer.Option(help="test or train.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many images.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
PrecisionName = Annotated[
    str,
    typer.Option("--precision", help="auto, fp32 or bf16; auto is bf16 for attacks where it is fast, fp32 for maps."),
]
BatchSize = Annotated[int, typer.Option(help="Images at a time; no result depends on it.")]
Seed = Annotated[int, typer.Option(help="Seed of noise, attack starts and resampling.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the results: CSV, JSON, LaTeX, PDF and PNG.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Target = Annotated[str, typer.Option(help="The class explained: label (true class) or prediction.")]
AttackName = Annotated[str | None, typer.Option("--attack", help="Explain adversarial images too: fgsm, pgd or cw.")]
Eps = Annotated[str | None, typer.Option(help="Radius of the attack, as 0.03 or 8/255 (default: the data set's).")]
StepSize = Annotated[str | None, typer.Option(help="Step of the attack, as 0.01 or 2/255.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the attack.")]


class Subject(NamedTuple):
    """A model under analysis."""

    name: str
    path: str
    """The checkpoint's path, or the factory's name."""
    model: "nn.Module"
    layer: "nn.Module | None"
    """Where Grad-CAM and Eq. 6 look; None: found by :func:`attrib.locate`."""
    checkpoint: "Checkpoint | None"


class AttackSettings(NamedTuple):
    """Which attack, and how strong."""

    name: str
    eps: float
    step_size: float
    steps: int


def load_subjects(
    ckpts: Sequence[str] | None, models: Sequence[str] | None, *,
    arch: str | None, mean: str | None, std: str | None, size: int | None, layer: str | None,
    device: "torch.device",
) -> list[Subject]:  # fmt: skip
    """The models that ``--ckpt`` and ``--model`` name, on the device, in eval mode.

    Raises InputError for files and factories that give no model, and for names given twice.
    """
    from attrib import checkpoint
    from attrib.layers import Normalized, load_factory, named

    subjects = []
    for name, path in named_pairs(ckpts or (), _name_of_path):
        model, ckpt = checkpoint.load(path, arch=arch, device=device)
        subjects.append(Subject(name, path, model, named(model, layer) if layer else None, ckpt))
    for name, factory in named_pairs(models or (), lambda text: text.rpartition(":")[2]):
        inner = load_factory(factory)
        found = named(inner, layer) if layer else None
        outside = inner
        if (mean, std, size) != (None, None, None):
            means, stds = _floats(mean, "--mean"), _floats(std, "--std")
            outside = Normalized(inner, means or [0.0] * len(stds or "RGB"), stds or [1.0] * len(means or "RGB"), size)
        subjects.append(Subject(name, factory, outside.to(device).eval(), found, None))
    names = [subject.name for subject in subjects]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two models are called {name!r}; give each its own with --ckpt NAME=PATH")
    return subjects


def load_data(
    name: str | None, subjects: Sequence[Subject], *, split: str, root: Path | None, limit: int | None,
    size: int | None = None,
) -> "Dataset":  # fmt: skip
    """The data set named, or the one that the first checkpoint was trained on; checked against every checkpoint.

    Raises InputError where no data set is known, or one does not fit a model.
    """
    from attrib import checkpoint
    from attrib.data import dataset

    known = {s.name: s.checkpoint.data for s in subjects if s.checkpoint and s.checkpoint.data != "unknown"}
    if name is None and not known:
        raise InputError("--data is needed: no model given says what it was trained on")
    name = name or next(iter(known.values()))
    if size and not name.startswith("folder:") and all(subject.checkpoint for subject in subjects):
        raise InputError("--size is for a --model, or for the pictures of folder:DIR; a checkpoint knows its own size")
    # The pictures of a folder are cut to the model's size; other data is resized in front of the model.
    data = dataset(name, split=split, root=root, limit=limit, size=size if name.startswith("folder:") else None)
    for subject in subjects:
        if subject.checkpoint:
            try:
                checkpoint.check_data(subject.checkpoint, classes=len(data.classes), shape=data.shape)
            except InputError as error:
                raise InputError(f"{subject.name}: {error}") from None
        if known.get(subject.name, data.name) != data.name:
            warn(f"{subject.name} was trained on {known[subject.name]}, and is looked at on {data.name}")
    return data


def attack_settings(
    name: str | None, *, data: str, eps: str | None, step_size: str | None, steps: int | None
) -> AttackSettings | None:
    """The attack named with the data set's settings, single ones overridden; None where none is asked for.

    Raises InputError for unknown attacks, negative numbers, or settings without an attack.
    """
    from attrib.data import ATTACK, DEFAULT_ATTACK

    if name is None:
        if (eps, step_size, steps) != (None, None, None):
            raise InputError("--eps, --step-size and --steps need --attack fgsm, pgd or cw")
        return None
    if name not in ("fgsm", "pgd", "cw"):
        raise InputError(f"--attack: expected fgsm, pgd or cw, got {name!r}")
    usual = ATTACK.get(data, DEFAULT_ATTACK)
    if steps is not None and steps < 1:
        raise InputError(f"--steps: expected at least 1, got {steps}")
    return AttackSettings(
        name,
        usual.eps if eps is None else _fraction(eps, "--eps"),
        usual.step_size if step_size is None else _fraction(step_size, "--step-size"),
        usual.steps if steps is None else steps,
    )


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


def predictions(subject: Subject, image: "Tensor", *, classes: int) -> "Tensor":
    """The predicted class of every image, (N,); raises InputError where the model does not return (N,K) logits."""
    import torch

    from attrib.inference import frozen

    with frozen(subject.model), torch.no_grad():
        try:
            logits = subject.model(image)
        except RuntimeError as error:
            shape = "x".join(map(str, image.shape[1:]))
            reason = str(error).splitlines()[0]
            raise InputError(f"{subject.name}: the model does not take {shape} images ({reason}); see --size") from None
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[1] != classes:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"{subject.name}: expected logits of shape (N,{classes}), one per class of the data, got {found}"
        )
    return logits.argmax(1)


Item = TypeVar("Item")


def progress(items: Iterable[Item], *, total: int, title: str) -> Iterator[Item]:
    """The items, with a bar on stderr where that is a terminal."""
    from tqdm import tqdm

    yield from tqdm(items, total=total, desc=title, unit="batch", leave=False, disable=not sys.stderr.isatty())


def print_table(table: "pd.DataFrame", *, title: str, caption: str) -> None:
    """A table of texts for people, on stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=title, caption=caption, box=SIMPLE_HEAD, title_justify="left", caption_justify="left")
    for column, name in enumerate(table.columns):
        drawn.add_column(name, justify="left" if column == 0 else "right", overflow="fold")
    for row in table.itertuples(index=False):
        drawn.add_row(*map(str, row))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=200)
    console.print(drawn)


def warn(message: str) -> None:
    """One line on stderr that the reader of a number should know."""
    if os.environ.get("RANK", "0") == "0":  # once, not once per process of torchrun
        print(f"attrib: warning: {message}", file=sys.stderr)


def check_choice(option: str, value: str, choices: Iterable[str]) -> str:
    """The value, if it is one of the choices; else InputError."""
    choices = list(choices)
    if value not in choices:
        raise InputError(f"{option}: expected one of {', '.join(choices)}, got {value!r}")
    return value


def identity(subject: Subject) -> dict[str, Any]:
    """What a result says of its model: its name, its file, and the fingerprint of its weights where it has one."""
    fingerprint = subject.checkpoint.fingerprint if subject.checkpoint else None
    return {"name": subject.name, "checkpoint": subject.path, "fingerprint": fingerprint}


def fingerprint(model: "nn.Module") -> str:
    """What tells one model from another in unfinished work: its weights and buffers, --mean and --std among them."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().data)
    return digest.hexdigest()[:12]


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
    path = Path(text)
    generic = path.stem in ("model", "last", "best", "checkpoint") and path.parent.name
    return path.parent.name if generic else path.stem


def _floats(text: str | None, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise InputError(f"{option}: expected numbers separated by commas, got {text!r}") from None


def _fraction(text: str, option: str) -> float:
    above, slash, below = text.partition("/")
    try:
        value = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{option}: expected a number like 0.03 or 8/255, got {text!r}") from None
    if not 0 <= value <= 1:
        raise InputError(f"{option}: expected a number in [0,1] (pixels are in [0,1]), got {text}")
    return value
