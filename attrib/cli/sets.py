"""``attrib sets``: which images does an attack turn, how sure is the model of them, and what do they cost?"""

import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer

from attrib.cli import common
from attrib.cli import sets_tables as tables
from attrib.cli.batches import over_batches, unfinished
from attrib.cli.subjects import Subject, column, entry_of, groups, rows_of
from attrib.cli.texts import attack_words, data_words, first_seeds
from attrib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from attrib.consistency import LogitPairs
    from attrib.data import Batch, Dataset
    from attrib.inference import Precision

EXAMPLES = 4
"""Pictures per set in the figure of examples."""
COMPARED = ("consistent", "inconsistent")
"""The paper's two sets; what is in neither is counted, but neither compared nor followed over epochs."""

OTHERS = "a --model, or a --run"
"""What may be looked at beside a --ckpt."""
NO_EPOCH = -1
"""The epoch of a row that belongs to a model of its own and not to the run."""


class How(NamedTuple):
    """What is computed for every image."""

    attack: common.AttackSettings
    seed: int
    precision: "Precision"
    """Of the attack; logits are always evaluated in fp32."""


class Epoch(NamedTuple):
    """A saved epoch of a run."""

    number: int
    path: Path


def sets(
    ckpt: common.Ckpt = None,
    model: common.Model = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            "--run-dir",
            metavar="RUN_DIR",
            help="Follow the ALP loss of the two sets over the saved epochs (epoch-*.pt) of a training run;"
            " without --ckpt its last epoch is the model. Under torchrun, which takes --run for an option of its own,"
            " write --run-dir.",
        ),
    ] = None,
    data: common.Data = None,
    attack: Annotated[str, typer.Option(help="The attack: fgsm, pgd or cw.")] = "pgd",
    eps: common.Eps = None,
    step_size: common.StepSize = None,
    steps: common.Steps = None,
    arch: common.Arch = None,
    mean: common.Mean = None,
    std: common.Std = None,
    size: common.Size = None,
    data_root: common.DataRoot = None,
    split: common.Split = "test",
    limit: common.Limit = None,
    out: common.Out = None,
    json: common.Json = False,
    batch_size: common.BatchSize = 250,
    seed: common.Seed = 0,
    device: common.Device = "auto",
    precision: common.PrecisionName = "auto",
) -> None:
    """Consistent and inconsistent sets of every model: their shares, confidences and losses (AALP, section 2.2)."""
    from attrib import inference, results

    common.check_given(ckpt, model, [str(run)] if run else None, batch_size=batch_size, out=out, what=OTHERS)
    epochs = saved_epochs(run) if run else []
    if run and not (ckpt or model):
        ckpt = [f"{run.resolve().name.replace('=', '-')}={epochs[-1].path}"]

    with common.loaded(
        ckpt, model, arch=arch, mean=mean, std=std, size=size, data=data, split=split, root=data_root, limit=limit,
        attack=attack, eps=eps, step_size=step_size, steps=steps, device=device, precision=precision,
    ) as work:  # fmt: skip
        here, subjects, images, settings = work
        assert settings is not None  # None is for commands that may do without an attack
        how = How(settings, seed, inference.precision(precision, here.device))
        described = {"size": size, "how": how[1:], "epochs": _check_epochs(epochs, images)}
        with unfinished(out, "sets", work, batch_size=batch_size, settings=described) as keep:
            rows = over_batches(
                images, lambda batch: _measure(subjects, epochs, batch, how), batch_size=batch_size, here=here,
                title="sets", keep=keep,
            )  # fmt: skip
            if rows is None:  # the first process has those of all
                return

            seeds = groups(subjects)
            table = _of_models(rows, list(seeds))
            history = _of_epochs(rows, epochs)
            summary: dict[str, Any] = {
                "data": images.name, "split": images.split, "seed": seed,
                "attack": common.attack_entry(settings, how.precision), "precision": how.precision,
                "models": [
                    entry_of(files, lambda files: _summary_of(table, files, seed=seed)) for files in seeds.values()
                ],
                "pairs": _pairs(table, list(seeds)),
                "epochs": _epochs_summary(run, epochs, history, seed=seed) if run else None,
                "versions": common.provenance(),
            }  # fmt: skip
            common.warn_at_chance(subjects, table, images)
            written = []
            if out:
                results.write_csv(table, out / "sets.csv")
                results.write_json(summary, out / "sets.json")
                caption = tables.paper_caption(summary)
                results.write_latex(tables.paper_table(summary), out / "sets.tex", caption=caption)
                results.write_latex(
                    tables.share_table(summary), out / "sets-shares.tex", caption=tables.caption(summary)
                )
                written += [out / name for name in ("sets.csv", "sets.json", "sets.tex", "sets-shares.tex")]
                if run:
                    results.write_csv(history, out / "sets-epochs.csv")
                    written.append(out / "sets-epochs.csv")
                examples = _examples(table, [files[0] for files in seeds.values()], images, how, here.device)
                results.write_examples(out / "sets-examples.npz", examples)
                written += _draw(table, summary, examples, out)
        if json:
            typer.echo(results.to_json(summary))
            return
        tables.print_all(summary)
        for path in written:
            typer.echo(path)


def saved_epochs(run: Path) -> list[Epoch]:
    """The files epoch-K.pt of a training run, by number; raises InputError where there are none."""
    if not run.is_dir():
        found = "a file" if run.exists() else "nothing"
        raise InputError(f"--run: expected the folder of a training run, found {found} at {run}")
    numbered = [(re.fullmatch(r"epoch-(\d+)\.pt", path.name), path) for path in run.iterdir()]
    epochs = sorted(Epoch(int(match[1]), path) for match, path in numbered if match)
    if not epochs:
        raise InputError(f"--run: no epoch-*.pt in {run}; train with --save-every 1 to keep the epochs")
    return epochs


def _check_epochs(epochs: list[Epoch], data: "Dataset") -> list[str]:
    """The fingerprints of the epochs; raises InputError for a file that is no checkpoint or does not fit the data."""
    from attrib.models import checkpoint

    fingerprints = []
    for epoch in epochs:
        ckpt = checkpoint.read(epoch.path)
        try:
            checkpoint.check_data(ckpt, classes=len(data.classes), shape=data.shape)
        except InputError as error:
            raise InputError(f"{epoch.path}: {error}") from None
        fingerprints.append(f"{epoch.number} {ckpt.fingerprint}")
    return fingerprints


def _attacked(subject: Subject, batch: "Batch", how: How) -> "tuple[torch.Tensor, LogitPairs, torch.Tensor]":
    """The adversarial images (N,C,H,W), what the two sets of logits say, and the logits themselves, (2,N,K)."""
    import torch

    from attrib import inference
    from attrib.consistency import logit_pairs

    adversarial = common.attacked(subject, batch, how.attack, seed=how.seed, precision=how.precision)
    logits = torch.stack([inference.logits(subject.model, image) for image in (batch.image, adversarial)])
    return adversarial, logit_pairs(logits[0], logits[1], batch.label), logits


def _measure(subjects: list[Subject], epochs: list[Epoch], batch: "Batch", how: How) -> "pd.DataFrame":
    """One row per image and model, and per image and saved epoch; models have NO_EPOCH.

    The epochs are read anew for every batch, which costs little beside the attack and keeps one in memory.
    """
    import pandas as pd

    from attrib.models import checkpoint

    parts = [_rows(subject, batch, how, epoch=NO_EPOCH) for subject in subjects]
    for epoch in epochs:
        model, ckpt = checkpoint.load(epoch.path, device=batch.image.device)
        subject = Subject(epoch.path.stem, epoch.path.stem, 0, str(epoch.path), model, None, ckpt)
        parts.append(_rows(subject, batch, how, epoch=epoch.number))
    return pd.concat(parts, ignore_index=True)


def _rows(subject: Subject, batch: "Batch", how: How, *, epoch: int) -> "pd.DataFrame":
    """One row per image."""
    import pandas as pd

    from attrib.consistency import SETS

    _, pairs, _ = _attacked(subject, batch, how)
    columns = {name: values.cpu().numpy() for name, values in pairs._asdict().items()}
    kind = np.array(SETS)[columns.pop("membership")]
    index, label = batch.index.cpu().numpy(), batch.label.cpu().numpy()
    return pd.DataFrame(
        {
            "epoch": epoch, "model": subject.group, "seed": subject.seed, "index": index, "label": label, "set": kind,
            **columns,
        }
    )  # fmt: skip


def _of_models(rows: "pd.DataFrame", names: list[str]) -> "pd.DataFrame":
    """The models' rows, model by model and file by file, whatever batches they came in."""
    import pandas as pd

    models = rows[rows["epoch"] == NO_EPOCH].drop(columns="epoch")
    return pd.concat([rows for name in names for rows in rows_of(models, name)], ignore_index=True)


def _of_epochs(rows: "pd.DataFrame", epochs: list[Epoch]) -> "pd.DataFrame":
    """The epochs' rows, epoch by epoch, with every image in the set that it is in at the last (AALP, Figure 4)."""
    history = rows.loc[rows["epoch"] != NO_EPOCH, ["epoch", "index", "label", "set", "alp"]]
    if not epochs:
        return history
    last = history[history["epoch"] == epochs[-1].number].set_index("index")["set"]
    return history.assign(set=history["index"].map(last)).sort_values("epoch", kind="stable", ignore_index=True)


def _summary_of(table: "pd.DataFrame", files: Sequence[Subject], *, seed: int) -> dict[str, Any]:
    """Counts, shares and means of the sets of one model, over some of its files."""
    import torch

    from attrib.consistency import SETS, LogitPairs
    from attrib.consistency import summary as summary_of

    of_name = rows_of(table, files[0].group)
    rows = [of_name[file.seed] for file in files]
    pairs = []
    for of_file in rows:
        columns = {name: torch.tensor(of_file[name].to_numpy()) for name in LogitPairs._fields if name != "membership"}
        columns["membership"] = torch.tensor([SETS.index(name) for name in of_file["set"]])
        pairs.append(LogitPairs(**columns))
    label = column(rows, "label")
    return {
        "n": label.shape[1],
        "accuracy": float((column(rows, "prediction") == label).mean()),
        "adversarial_accuracy": float((column(rows, "prediction_adversarial") == label).mean()),
        "sets": summary_of(*pairs, seed=seed),
    }


def _pairs(table: "pd.DataFrame", names: list[str]) -> list[dict[str, Any]]:
    """Every two models' difference in a set's share, a less b, paired by image."""
    from attrib.stats import paired_shares, with_holm

    found = []
    for a, b in combinations(names, 2):
        for kind in COMPARED:
            in_a, in_b = (column(rows_of(table.assign(held=table["set"] == kind), name), "held") for name in (a, b))
            result = paired_shares(in_a > 0, in_b > 0)
            found.append(
                {
                    "a": a, "b": b, "set": kind, "n": in_a.shape[1], "difference": result.difference,
                    "ci": [result.low, result.high], "p": result.p,
                }
            )  # fmt: skip
    return with_holm(found)


def _epochs_summary(run: Path, epochs: list[Epoch], history: "pd.DataFrame", *, seed: int) -> dict[str, Any]:
    """The mean ALP loss of either set at every epoch."""
    from attrib import stats

    entries = []
    for epoch in epochs:
        at = history[history["epoch"] == epoch.number]
        found = {}
        for kind in COMPARED:
            alp = at.loc[at["set"] == kind, "alp"].to_numpy(float)
            found[kind] = {"n": len(alp), "alp": stats.mean(alp), "alp_ci": list(stats.interval(alp, seed=seed))}
        entries.append({"epoch": epoch.number, "checkpoint": str(epoch.path), "sets": found})
    return {"run": str(run), "fixed_at": epochs[-1].number, "epochs": entries}


def _examples(
    table: "pd.DataFrame", subjects: list[Subject], data: "Dataset", how: How, device: "torch.device"
) -> dict[str, Any]:
    """What :func:`attrib.plots.sets.confidence_bars` takes: of each model and set the first images of each class.

    The attack is run again for these few, since keeping the adversarial images of all would fill the memory.
    """
    import torch

    shape = len(subjects), len(COMPARED), EXAMPLES
    height, width = data.shape[1:]
    found = {
        "model": np.array([subject.group for subject in subjects]), "set": np.array(COMPARED),
        "index": np.full(shape, -1), "image": np.zeros((*shape, 2, height, width, 3), np.float32),
        "classes": np.full((*shape, 2), "", "U64"), "probability": np.zeros((*shape, 2, 2)),
    }  # fmt: skip
    for m, subject in enumerate(subjects):
        for s, kind in enumerate(COMPARED):
            rows = rows_of(table, subject.group)[0]
            rows = rows[rows["set"] == kind]
            order = _first_of_each_class(rows, EXAMPLES)
            for batch in data.batches(EXAMPLES, order=torch.tensor(order, dtype=torch.int64), device=device):
                adversarial, _, logits = _attacked(subject, batch, how)
                wrong = logits[1].scatter(1, batch.label[:, None], -torch.inf).argmax(1)
                two = torch.stack([batch.label, wrong], 1)
                probability = logits.double().softmax(-1).gather(2, two.expand(2, -1, -1)).transpose(0, 1)
                here = m, s, slice(len(order))
                found["index"][here] = order
                for view, image in enumerate((batch.image, adversarial)):
                    found["image"][(*here, view)] = common.display_images(image)
                found["classes"][here] = np.array(data.classes)[two.cpu().numpy()]
                found["probability"][here] = probability.cpu().numpy()
    return found


def _first_of_each_class(rows: "pd.DataFrame", count: int) -> list[int]:
    """Positions of the first image of each class, then of the next ones, until there are ``count``, sorted."""
    firsts, rest = rows[~rows["label"].duplicated()], rows[rows["label"].duplicated()]
    return sorted([*firsts["index"].tolist(), *rest["index"].tolist()][:count])


def _draw(table: "pd.DataFrame", summary: dict[str, Any], examples: dict[str, Any], out: Path) -> list[Path]:
    import pandas as pd

    from attrib.plots import base
    from attrib.plots.sets import confidence_bars, confidence_scatter, loss_over_epochs

    said = f"{data_words(summary)}, {attack_words(summary['attack'])}"
    seeds = first_seeds(summary["models"])
    names = [entry["name"] for entry in summary["models"]]
    count = summary["models"][0]["n"]
    # Several seeds' points would lie on top of one another.
    scatter = confidence_scatter(table[table["seed"] == 0], models=names, title=f"{said}, {count:,} images{seeds}")
    written = [*base.save(scatter, out / "sets")]
    written += base.save(
        confidence_bars(examples, title=f"{said}; examples chosen by position alone{seeds}"),
        out / "sets-examples",
    )
    if summary["epochs"]:
        rows = [
            {"epoch": entry["epoch"], "set": kind, "n": found["n"], "alp": found["alp"],
             "low": found["alp_ci"][0], "high": found["alp_ci"][1]}
            for entry in summary["epochs"]["epochs"] for kind, found in entry["sets"].items()
        ]  # fmt: skip
        name = Path(summary["epochs"]["run"]).resolve().name
        curves = loss_over_epochs(pd.DataFrame(rows), title=f"{name}: {said}")
        written += base.save(curves, out / "sets-epochs")
    return written
