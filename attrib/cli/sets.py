"""``attrib sets``: which images does an attack turn, how sure is the model of them, and what do they cost?"""

import re
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer

from attrib.cli import common
from attrib.cli import sets_tables as tables
from attrib.cli.batches import over_batches
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
    from attrib.files import folder
    from attrib.parallel import world

    if batch_size < 1:
        raise InputError(f"--batch-size: expected at least 1, got {batch_size}")
    if attack == "fgsm" and (step_size, steps) != (None, None):
        raise InputError("--step-size and --steps belong to pgd and cw; fgsm takes one step of --eps")
    if not (ckpt or model or run):
        raise InputError("nothing to look at: name a checkpoint with --ckpt PATH (or a --model, or a --run)")
    epochs = saved_epochs(run) if run else []
    if run and not (ckpt or model):
        ckpt = [f"{run.resolve().name.replace('=', '-')}={epochs[-1].path}"]
    if out:
        folder(out)

    with world(device) as here:
        subjects = common.load_subjects(
            ckpt, model, arch=arch, mean=mean, std=std, size=size, layer=None, device=here.device
        )
        images = common.load_data(data, subjects, split=split, root=data_root, limit=limit, size=size)
        settings = common.attack_settings(attack, data=images.name, eps=eps, step_size=step_size, steps=steps)
        assert settings is not None  # None is for commands that may do without an attack
        how = How(settings, seed, inference.precision(precision, here.device))
        _check(subjects, images, here.device)
        fingerprints = _check_epochs(epochs, images)
        rows = over_batches(
            images, lambda batch: _measure(subjects, epochs, batch, how), batch_size=batch_size, here=here,
            title="sets", out=out,
            settings={
                "data": images.name, "split": split, "size": size, "how": [settings, *how[1:]], "epochs": fingerprints,
                "models": [(subject.name, subject.path, common.fingerprint(subject.model)) for subject in subjects],
            },
        )  # fmt: skip
        if rows is None:  # the first process has those of all
            return

        table = _of_models(rows, [subject.name for subject in subjects])
        history = _of_epochs(rows, epochs)
        summary: dict[str, Any] = {
            "data": images.name, "split": split, "attack": settings._asdict(), "seed": seed,
            "precision": how.precision,
            "models": [_summary_of(table, subject, seed=seed) for subject in subjects],
            "pairs": _pairs(table, [subject.name for subject in subjects], seed=seed),
            "epochs": _epochs_summary(run, epochs, history, seed=seed) if run else None,
            "versions": common.provenance(),
        }  # fmt: skip
        written = []
        if out:
            results.write_csv(table, out / "sets.csv")
            results.write_json(summary, out / "sets.json")
            results.write_latex(tables.paper_table(summary), out / "sets.tex", caption=tables.paper_caption(summary))
            results.write_latex(tables.share_table(summary), out / "sets-shares.tex", caption=tables.caption(summary))
            written += [out / name for name in ("sets.csv", "sets.json", "sets.tex", "sets-shares.tex")]
            if run:
                results.write_csv(history, out / "sets-epochs.csv")
                written.append(out / "sets-epochs.csv")
            examples = _examples(table, subjects, images, how, here.device)
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


def _check(subjects: list[common.Subject], data: "Dataset", device: "torch.device") -> None:
    """Say now, and not in the middle of the attack, what does not fit; and what to make of a gated model."""
    import torch

    from attrib.gated import GatedClassifier

    for batch in data.batches(1, order=torch.tensor([0]), device=device):
        for subject in subjects:
            common.predictions(subject, batch.image, classes=len(data.classes))
    for subject in subjects:
        if isinstance(subject.model, GatedClassifier):
            common.warn(
                f"{subject.name} is gated, and its gates hide part of the gradient: the attack on the final logits"
                " alone finds too few inconsistent images; see attrib robust for the worst of its attacks"
            )


def _check_epochs(epochs: list[Epoch], data: "Dataset") -> list[str]:
    """The fingerprints of the epochs; raises InputError for a file that is no checkpoint or does not fit the data."""
    from attrib import checkpoint

    fingerprints = []
    for epoch in epochs:
        ckpt = checkpoint.read(epoch.path)
        try:
            checkpoint.check_data(ckpt, classes=len(data.classes), shape=data.shape)
        except InputError as error:
            raise InputError(f"{epoch.path}: {error}") from None
        fingerprints.append(f"{epoch.number} {ckpt.fingerprint}")
    return fingerprints


def _attacked(subject: common.Subject, batch: "Batch", how: How) -> "tuple[torch.Tensor, LogitPairs, torch.Tensor]":
    """The adversarial images (N,C,H,W), what the two sets of logits say, and the logits themselves, (2,N,K)."""
    import torch

    from attrib.consistency import logit_pairs
    from attrib.inference import frozen

    adversarial = common.attacked(subject, batch, how.attack, seed=how.seed, precision=how.precision)
    with frozen(subject.model), torch.no_grad():
        logits = torch.stack([subject.model(image) for image in (batch.image, adversarial)])
    return adversarial, logit_pairs(logits[0], logits[1], batch.label), logits


def _measure(subjects: list[common.Subject], epochs: list[Epoch], batch: "Batch", how: How) -> "pd.DataFrame":
    """One row per image and model, and per image and saved epoch; models have NO_EPOCH.

    The epochs are read anew for every batch, which costs little beside the attack and keeps one in memory.
    """
    import pandas as pd

    from attrib import checkpoint

    parts = [_rows(subject, batch, how, epoch=NO_EPOCH) for subject in subjects]
    for epoch in epochs:
        model, ckpt = checkpoint.load(epoch.path, device=batch.image.device)
        subject = common.Subject(epoch.path.stem, str(epoch.path), model, None, ckpt)
        parts.append(_rows(subject, batch, how, epoch=epoch.number))
    return pd.concat(parts, ignore_index=True)


def _rows(subject: common.Subject, batch: "Batch", how: How, *, epoch: int) -> "pd.DataFrame":
    """One row per image."""
    import pandas as pd

    from attrib.consistency import SETS

    _, pairs, _ = _attacked(subject, batch, how)
    columns = {name: values.cpu().numpy() for name, values in pairs._asdict().items()}
    kind = np.array(SETS)[columns.pop("membership")]
    index, label = batch.index.cpu().numpy(), batch.label.cpu().numpy()
    return pd.DataFrame({"epoch": epoch, "model": subject.name, "index": index, "label": label, "set": kind, **columns})


def _of_models(rows: "pd.DataFrame", names: list[str]) -> "pd.DataFrame":
    """The models' rows, model by model, whatever batches they came in."""
    import pandas as pd

    models = rows[rows["epoch"] == NO_EPOCH].drop(columns="epoch")
    return pd.concat([models[models["model"] == name] for name in names], ignore_index=True)


def _of_epochs(rows: "pd.DataFrame", epochs: list[Epoch]) -> "pd.DataFrame":
    """The epochs' rows, epoch by epoch, with every image in the set that it is in at the last (AALP, Figure 4)."""
    history = rows.loc[rows["epoch"] != NO_EPOCH, ["epoch", "index", "label", "set", "alp"]]
    if not epochs:
        return history
    last = history[history["epoch"] == epochs[-1].number].set_index("index")["set"]
    return history.assign(set=history["index"].map(last)).sort_values("epoch", kind="stable", ignore_index=True)


def _summary_of(table: "pd.DataFrame", subject: common.Subject, *, seed: int) -> dict[str, Any]:
    """Counts, shares and means of one model's sets."""
    import torch

    from attrib.consistency import SETS, LogitPairs
    from attrib.consistency import summary as summary_of

    mine = table[table["model"] == subject.name]
    columns = {name: torch.tensor(mine[name].to_numpy()) for name in LogitPairs._fields if name != "membership"}
    columns["membership"] = torch.tensor([SETS.index(name) for name in mine["set"]])
    return {
        **common.identity(subject),
        "n": len(mine),
        "accuracy": float((mine["prediction"] == mine["label"]).mean()),
        "adversarial_accuracy": float((mine["prediction_adversarial"] == mine["label"]).mean()),
        "sets": summary_of(LogitPairs(**columns), seed=seed),
    }


def _pairs(table: "pd.DataFrame", names: list[str], *, seed: int) -> list[dict[str, Any]]:
    """Every two models' difference in a set's share, a less b, paired by image."""
    from attrib.stats import paired

    found = []
    for a, b in combinations(names, 2):
        for kind in COMPARED:
            in_a, in_b = (
                (table.loc[table["model"] == name, "set"] == kind).astype(float).to_numpy() for name in (a, b)
            )
            result = paired(in_a, in_b, seed=seed)
            found.append(
                {
                    "a": a, "b": b, "set": kind, "n": len(in_a), "difference": result.difference,
                    "ci": [result.low, result.high], "p": result.p,
                }
            )  # fmt: skip
    return found


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
    table: "pd.DataFrame", subjects: list[common.Subject], data: "Dataset", how: How, device: "torch.device"
) -> dict[str, Any]:
    """What :func:`attrib.plot_sets.confidence_bars` takes: of each model and set the first images of each class.

    The attack is run again for these few, since keeping the adversarial images of all would fill the memory.
    """
    import torch

    shape = len(subjects), len(COMPARED), EXAMPLES
    height, width = data.shape[1:]
    found = {
        "model": np.array([subject.name for subject in subjects]), "set": np.array(COMPARED),
        "index": np.full(shape, -1), "image": np.zeros((*shape, 2, height, width, 3), np.float32),
        "classes": np.full((*shape, 2), "", "U64"), "probability": np.zeros((*shape, 2, 2)),
    }  # fmt: skip
    for m, subject in enumerate(subjects):
        for s, kind in enumerate(COMPARED):
            rows = table[(table["model"] == subject.name) & (table["set"] == kind)]
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

    from attrib import plot, plot_sets

    said = f"{summary['data']} {summary['split']}, {tables.attack_words(summary)}"
    names = [entry["name"] for entry in summary["models"]]
    count = summary["models"][0]["n"]
    scatter = plot_sets.confidence_scatter(table, models=names, title=f"{said}, {count:,} images")
    written = [*plot.save(scatter, out / "sets")]
    written += plot.save(
        plot_sets.confidence_bars(examples, title=f"{said}; examples chosen by position alone"), out / "sets-examples"
    )
    if summary["epochs"]:
        rows = [
            {"epoch": entry["epoch"], "set": kind, "n": found["n"], "alp": found["alp"],
             "low": found["alp_ci"][0], "high": found["alp_ci"][1]}
            for entry in summary["epochs"]["epochs"] for kind, found in entry["sets"].items()
        ]  # fmt: skip
        name = Path(summary["epochs"]["run"]).resolve().name
        curves = plot_sets.loss_over_epochs(pd.DataFrame(rows), title=f"{name}: {said}")
        written += plot.save(curves, out / "sets-epochs")
    return written
