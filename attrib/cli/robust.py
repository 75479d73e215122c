"""``attrib robust``: how accurate is each model under attack, and is the difference real?"""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import typer

from attrib.cli import common
from attrib.cli import robust_tables as tables
from attrib.cli.batches import over_batches, read_rows, unfinished
from attrib.cli.robust_summary import How, Radius, doubts, rights_of, summary_of
from attrib.cli.subjects import Subject
from attrib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from attrib.data import Batch, Dataset
    from attrib.parallel import World


CLEAN = -1
"""Instead of the position of a radius, for images that nobody attacked."""


class Work(NamedTuple):
    """Images, and what is done to them."""

    data: "Dataset"
    how: How
    positions: "Tensor | None" = None
    """The images to attack, (M,); None: all."""


def robust(
    ckpt: common.Ckpt = None,
    model: common.Model = None,
    data: common.Data = None,
    eps: Annotated[
        str | None,
        typer.Option(
            help="Radius, as 0.03 or 8/255 (default: the data set's), or a sweep FROM:TO:COUNT, as 0:16/255:9;"
            " the steps of a sweep grow with its radius unless --step-size fixes them."
        ),
    ] = None,
    step_size: common.StepSize = None,
    steps: Annotated[str, typer.Option(help="The k of PGD-k and CW-k, snapshots of one run each.")] = "10,20,40,100",
    worst: Annotated[bool, typer.Option(help="An image that any step breaks, or wrong when clean, is broken.")] = False,
    restarts: Annotated[int, typer.Option(help="Random starts of PGD and CW; the worst counts, image by image.")] = 1,
    autoattack: Annotated[
        bool, typer.Option(help="AutoAttack too (standard version, fp32; its draws depend on --batch-size).")
    ] = False,
    gap: Annotated[
        bool, typer.Option(help="As many images that all models were trained on, and how much better they do.")
    ] = False,
    arch: common.Arch = None,
    mean: common.Mean = None,
    std: common.Std = None,
    size: common.Size = None,
    data_root: common.DataRoot = None,
    split: common.Split = "test",
    limit: common.Limit = None,
    out: common.Out = None,
    json: common.Json = False,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images at a time, and between two savings of unfinished work (default: CPU 100, GPU 500)."),
    ] = None,
    seed: common.Seed = 0,
    device: common.Device = "auto",
    precision: common.PrecisionName = "auto",
) -> None:
    """Accuracy clean and under FGSM, PGD-k, CW-k (and AutoAttack), with intervals, and paired differences."""
    import pandas as pd

    from attrib import inference, results
    from attrib.autoattack import require

    counts = step_counts(steps)
    if restarts < 1:
        raise InputError(f"--restarts: expected at least 1, got {restarts}")
    if gap and split != "test":
        raise InputError("--gap compares the training with the test images; leave out --split")
    if autoattack:
        require()
    common.check_given(ckpt, model, batch_size=batch_size, out=out)

    with common.loaded(
        ckpt, model, arch=arch, mean=mean, std=std, size=size, data=data, split=split, root=data_root, limit=limit,
        device=device, precision=precision,
    ) as loaded, ExitStack() as stack:  # fmt: skip
        here, subjects, images, _ = loaded
        radii = _radii(eps, step_size, data=images.name)
        how = How(radii, counts, restarts, worst, autoattack, seed, inference.precision(precision, here.device))
        batch_size = batch_size or (500 if here.device.type == "cuda" else 100)
        work = [Work(images, how)]
        if gap:
            # A sweep asks for one gap, not for one at each radius.
            train, positions = _training_images(images, subjects, root=data_root, size=size)
            work.append(Work(train, how._replace(radii=radii[-1:]), positions))
        places = [
            stack.enter_context(
                unfinished(
                    out, "robust", loaded._replace(images=part.data), batch_size=batch_size,
                    settings={"size": size, "positions": _listed(part.positions), **part.how._asdict()},
                )
            )
            for part in work
        ]  # fmt: skip
        found = [
            _measure(subjects, part, batch_size=batch_size, here=here, keep=keep)
            for part, keep in zip(work, places, strict=True)
        ]
        if here.rank > 0:  # the first process has the rows of all
            return
        table = pd.concat(found, ignore_index=True)
        rights = rights_of(table, counts)
        summary = summary_of(rights, subjects, images, how)
        summary["warnings"] = doubts(table, rights, subjects, images, how)
        for line in summary["warnings"]:
            common.warn(line)
        written: list[Path] = []
        if out:
            written = [out / "robust.csv", out / "robust.json", out / "robust.tex"]
            results.write_csv(table, written[0])
            results.write_json(summary, written[1])
            results.write_latex(tables.paper_table(summary), written[2], caption=tables.paper_caption(summary))
            written += tables.draw(summary, out)
    if json:
        typer.echo(results.to_json(summary))
        return
    tables.print_all(summary)
    for path in written:
        typer.echo(path)


def step_counts(text: str) -> list[int]:
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise InputError(f"--steps: expected numbers separated by commas, as 10,20, got {text!r}") from None
    if counts[0] < 1:
        raise InputError(f"--steps: expected at least 1, got {counts[0]}")
    return counts


def _radii(eps: str | None, step_size: str | None, *, data: str) -> list[Radius]:
    """The radii, by rising eps, and the step at each: one, or those of a sweep FROM:TO:COUNT."""

    def settings(radius: str | None) -> common.AttackSettings:
        found = common.attack_settings("pgd", data=data, eps=radius, step_size=step_size, steps=None)
        assert found is not None  # None is for commands that may do without an attack
        return found

    if eps is None or ":" not in eps:
        one = settings(eps)
        return [Radius(one.eps, one.step_size)]
    first, _, rest = eps.partition(":")
    last, _, count = rest.partition(":")
    if not count.isdecimal() or int(count) < 2:
        raise InputError(f"--eps: expected a radius or FROM:TO:COUNT with at least 2 radii, as 0:16/255:9, got {eps!r}")
    low, high, usual = settings(first).eps, settings(last).eps, settings(None)
    if low >= high:
        raise InputError(f"--eps: expected a sweep from a smaller to a larger radius, got {eps!r}")
    return [
        Radius(radius, usual.step_size if step_size else usual.step_size * radius / usual.eps)
        for radius in np.linspace(low, high, int(count)).tolist()
    ]


def _listed(positions: "Tensor | None") -> list[int] | None:
    return None if positions is None else positions.tolist()


def _training_images(
    test: "Dataset", subjects: list[Subject], *, root: Path | None, size: int | None
) -> "tuple[Dataset, Tensor]":
    """Training images, and the positions of as many as there are test images that every model was trained on.

    A checkpoint of ``python -m train`` on this data says which images it held out and how many it was limited to. Of
    other models nothing is known, and all training images count.
    """
    import torch

    from attrib.data import WHOLE, dataset, training_split

    if test.split == WHOLE:
        raise InputError(f"--gap needs data that is split into training and test images, which {test.name} is not")
    splits = [split for subject in subjects if (split := _split_of(subject, test.name))]
    # Which images were held out depends on how many there are in all.
    limit = None if splits else len(test)
    of_folder = test.name.startswith("folder:")
    train = dataset(test.name, split="train", root=root, limit=limit, size=size if of_folder else None)
    common_to_all = torch.ones(len(train), dtype=torch.bool)
    for holdout, seed, limit in splits:
        trained_on = torch.zeros_like(common_to_all)
        trained_on[training_split(min(len(train), limit or len(train)), holdout=holdout, seed=seed)[0]] = True
        common_to_all &= trained_on
    positions = common_to_all.nonzero().squeeze(1)[: len(test)]
    if len(positions) < 2:
        raise InputError(
            f"--gap: expected training images that every model was trained on, got {len(positions)}; compare models"
            " with the same training images, or one at a time"
        )
    return train, positions


def _split_of(subject: Subject, data: str) -> tuple[int, int, int | None] | None:
    """How many images a training run on this data held out, its seed, and its limit; None where that is not known."""
    ckpt = subject.checkpoint
    if not ckpt or ckpt.data != data:
        return None
    holdout, seed, limit = (ckpt.hyper.get(key) for key in ("holdout", "seed", "limit"))
    if not isinstance(holdout, int) or not isinstance(seed, int):
        return None
    return holdout, seed, limit if isinstance(limit, int) else None


def _measure(
    subjects: list[Subject], work: Work, *, batch_size: int, here: "World", keep: Path | None
) -> "pd.DataFrame | None":
    """One row per image, model, attack and radius, for the first process; what is finished is kept in ``keep``."""
    import pandas as pd

    from attrib.results import write_csv

    def measure(batch: "Batch") -> "pd.DataFrame":
        parts = [_rows(subject, place, batch, work, keep=keep) for place, subject in enumerate(subjects)]
        return pd.concat(parts, ignore_index=True)

    whole = keep / "all.csv" if keep else None
    if whole and whole.exists():  # the test images were through when --gap's training images were interrupted
        table = read_rows(whole)
    else:
        found = over_batches(
            work.data, measure, batch_size=batch_size, here=here, title="robust", keep=keep, positions=work.positions
        )
        if found is None:
            return None
        table = found
        if whole:
            write_csv(table, whole)
    # A position until now: a CSV does not give a radius back to the last bit.
    table["eps"] = table["eps"].map({CLEAN: 0.0} | dict(enumerate(radius.eps for radius in work.how.radii)))
    return table


def _rows(subject: Subject, place: int, batch: "Batch", work: Work, *, keep: Path | None) -> "pd.DataFrame":
    """The rows of one file and batch; the radius by its position."""
    import pandas as pd

    from attrib import accuracy as library
    from attrib.autoattack import autoattack

    model, how, (image, label, index, _) = subject.model, work.how, batch
    names = [path.name for path in library.attack_paths(model)]
    clean = library.evaluate(model, image, label)
    found = [("clean", CLEAN, clean, ["-"] * len(label))]
    for number, (eps, step_size) in enumerate(how.radii):
        outcomes = library.attacked(
            model, image, label, eps=eps, step_size=step_size, steps=how.steps, seed=how.seed, index=index,
            restarts=how.restarts, worst=how.worst, precision=how.precision,
        )  # fmt: skip
        for attack, outcome in outcomes.items():
            found.append((attack, number, outcome, [names[path] for path in outcome.path.tolist()]))
        if how.autoattack:
            state = keep / f"autoattack-{place}-{number}-{int(index[0])}.pt" if keep else None
            images, via = autoattack(model, image, label, eps=eps, seed=how.seed, state=state)
            found.append(("autoattack", number, library.evaluate(model, images, label), [part or "-" for part in via]))
    gradient = library.gradient_size(model, image, label).cpu().numpy()
    parts = [
        pd.DataFrame(
            {
                "model": subject.group, "seed": subject.seed,
                "split": work.data.split, "index": index.cpu().numpy(), "label": label.cpu().numpy(),
                "attack": attack, "eps": radius, "prediction": outcome.prediction.cpu().numpy(),
                "correct": (outcome.prediction == label).cpu().numpy(),
                # As everywhere in tables: positive where the image is right.
                "margin": -outcome.margin.double().cpu().numpy(), "via": via, "gradient": gradient,
            }
        )
        for attack, radius, outcome, via in found
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)
