"""``attrib evolve``: accuracy, loss, contributions and maps along the saved epochs of one training run, or two."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from attrib.cli import common, texts
from attrib.cli.batches import added, exact, over_batches, unfinished
from attrib.cli.explain import Examples, How, explain
from attrib.cli.relate import (
    Saved,
    all_epochs,
    fingerprints_of,
    first_of_runs,
    image_rows,
    load_epoch,
)
from attrib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from attrib.data import Batch, Dataset
    from attrib.parallel import World

SHOWN = 6
"""Epochs in the figures of histograms and maps, evenly spaced: more would be too small to see."""
MEANS = {
    "loss": "loss", "loss_adversarial": "loss_adversarial", "accuracy": "correct", "robust_accuracy": "stood",
    "asc": "coverage",
}  # fmt: skip
"""What is a mean over images: its name in the results, and the column of per-image numbers."""
CONCENTRATION = ("participation_ratio", "gini", "participation_ratio_scale_free", "gini_scale_free")
"""Of C, and of C with |p - onehot(y)| divided out."""


class Sums(NamedTuple):
    """Sums over images of two contributions, |dL/dA_fc| as it is and scale-free."""

    all: "Tensor"
    """(2,2,D), in two parts (:func:`attrib.cli.batches.exact`)."""
    resampled: "Tensor"
    """(2,R,D) float64, over the images of each resample; a batch's part is float32, so that hardly a bit is lost."""


class Contributions(NamedTuple):
    """What is left of an epoch's sums."""

    all: "Tensor"
    """(2,D) float64, as in :class:`Sums`."""
    concentration: "Tensor"
    """(4,R): CONCENTRATION in each resample."""


def evolve(
    run: Annotated[list[str], typer.Argument(metavar="[NAME=]RUN_DIR...", help="One or two folders with epoch-*.pt.")],
    data: common.Data = None,
    map_name: Annotated[str, typer.Option("--map", help="The map of ASC and of the pictures, as for attrib span.")] = (
        "gradcam"
    ),
    threshold: Annotated[str, typer.Option(help="mean, max:t, otsu or mass:q.")] = "mean",
    images: Annotated[int, typer.Option(help="How many images to show maps of: the first of each class.")] = 5,
    attack: Annotated[str, typer.Option(help="The attack: fgsm, pgd or cw.")] = "pgd",
    eps: common.Eps = None,
    step_size: common.StepSize = None,
    steps: common.Steps = None,
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
    """Loss, accuracy, span and contributions over the saved epochs of one run, or two side by side."""
    import pandas as pd

    from attrib import results

    common.check_map(map_name, threshold)
    if len(run) > 2:
        raise InputError(f"expected one or two run folders, got {len(run)}")
    if images < 1:
        raise InputError(f"--images: expected at least 1, got {images}")
    epochs = _epochs(run)
    training = _training_losses(epochs)
    common.check_given(run, batch_size=batch_size, out=out)
    with common.loaded(
        (), (), arch=None, mean=None, std=None, size=None, data=data, split=split, root=data_root, limit=limit,
        attack=attack, eps=eps, step_size=step_size, steps=steps, device=device, precision=precision,
        others=first_of_runs(epochs),
    ) as work:  # fmt: skip
        here, _, pool, settings = work
        assert settings is not None  # None is for commands that may do without an attack
        prints = fingerprints_of(epochs, pool)
        how = How(map_name, "label", settings, seed, precision, here.device)

        def measure(batch: "Batch") -> "pd.DataFrame":
            rows = [
                image_rows(load_epoch(epoch, here.device), batch, how, threshold, pool, epoch=epoch.number)
                for epoch in epochs
            ]
            return pd.concat(rows, ignore_index=True)

        described = {"threshold": threshold, "how": how.key(), "epochs": prints}
        with unfinished(out, "evolve", work, batch_size=batch_size, settings=described) as keep:
            table = over_batches(pool, measure, batch_size=batch_size, here=here, title="evolve", keep=keep)
            # Sums can't be kept on disk like rows; but they need no attack, and are quickly made again.
            sums = {epoch: _sums(epoch, pool, here, batch_size=batch_size, seed=seed) for epoch in epochs}
            if table is None:  # the first process has the rows of all
                return
            examples = _examples(epochs, pool, how, threshold, count=images) if out else {}

            table["stood"] = table["margin_adversarial"] > 0
            entries = {
                epoch: _entry(table, epoch, sums[epoch], fingerprint, len(pool), seed=seed)
                | {"train_loss": training[epoch.run].get(epoch.number)}
                for epoch, fingerprint in zip(epochs, prints, strict=True)
            }
            summary: dict[str, Any] = {
                "data": pool.name, "split": pool.split, "n": len(pool), "map": map_name, "threshold": threshold,
                "seed": seed, "attack": common.attack_entry(settings, how.attack_precision()),
                "precision": how.map_precision(),
                "runs": [
                    {"name": name, "epochs": [entry for epoch, entry in entries.items() if epoch.run == name]}
                    for name in training
                ],
                "versions": common.provenance(),
            }  # fmt: skip
            written: list[Path] = []
            if out:
                features = _features(sums, len(pool))
                written = [out / f"evolve{name}" for name in (".csv", ".json", ".tex", "-contrib.csv", "-maps.npz")]
                results.write_csv(_flat(summary), written[0])
                results.write_json(summary, written[1])
                results.write_latex(_table(summary), written[2], caption=_caption(summary))
                results.write_csv(features, written[3])
                results.write_examples(written[4], examples)
                written += _draw(summary, features, examples, epochs, out)
    if json:
        typer.echo(results.to_json(summary))
        return
    common.print_table(_table(summary), title="Along the epochs", caption=_caption(summary))
    for path in written:
        typer.echo(path)


def _epochs(runs: list[str]) -> list[Saved]:
    try:
        return all_epochs(runs)
    except InputError as error:  # which speaks of the option that other commands have for it
        raise InputError(str(error).replace("--run:", "RUN_DIR:")) from None


def _training_losses(epochs: list[Saved]) -> dict[str, dict[int, float]]:
    """Run to epoch to the training loss in its log.jsonl, where there is one; raises InputError for a broken one."""
    import json

    found: dict[str, dict[int, float]] = {}
    for name, place in {epoch.run: epoch.path.parent / "log.jsonl" for epoch in epochs}.items():
        try:
            lines = place.read_text().splitlines() if place.exists() else []
            records = [json.loads(line) for line in lines if line.strip()]
            found[name] = {int(record["epoch"]): float(record["loss"]) for record in records}
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{place}: expected one JSON object with epoch and loss per line") from None
    return found


def _sums(epoch: Saved, data: "Dataset", here: "World", *, batch_size: int, seed: int) -> "Contributions | None":
    """The contributions of one epoch, for the first process; every epoch meets the same resamples of images."""
    import pandas as pd
    import torch

    from attrib.features import last_layer
    from attrib.parallel import gather
    from attrib.stats import image_weights

    subject = load_epoch(epoch, here.device)
    parts: list[Sums] = []

    def measure(batch: "Batch") -> "pd.DataFrame":
        view = last_layer(subject.model, batch.image, batch.label)
        values = torch.stack([view.contribution, view.scale_free]).float()
        weights = torch.from_numpy(image_weights(batch.index.cpu().numpy(), seed=seed)).to(values.device)
        part = Sums(exact(values.double().sum(1)).cpu(), (weights.T @ values).double().cpu())
        parts[:] = [_together(parts[0], part) if parts else part]
        return pd.DataFrame({"index": batch.index.cpu().numpy()})

    over_batches(data, measure, batch_size=batch_size, here=here, title=f"{subject.name}, contributions")
    gathered = gather(parts)
    if gathered is None:
        return None
    first, *rest = [part for of_rank in gathered for part in of_rank]
    for part in rest:
        first = _together(first, part)
    # Of the resamples only these numbers stay, or memory would grow with the number of epochs.
    return Contributions(first.all.sum(0), torch.stack([*_concentration(first.resampled).values()]))


def _together(a: Sums, b: Sums) -> Sums:
    return Sums(added(a.all, b.all), a.resampled + b.resampled)


def _concentration(values: "Tensor") -> dict[str, "Tensor"]:
    """Contributions (2,...,D), C and scale-free, to every one of CONCENTRATION, (...)."""
    from attrib.features import gini, participation_ratio

    ratio, inequality = participation_ratio(values), gini(values)  # neither changes under a common factor
    return dict(zip(CONCENTRATION, (ratio[0], inequality[0], ratio[1], inequality[1]), strict=True))


def _entry(
    table: "pd.DataFrame", epoch: Saved, sums: "Contributions | None", fingerprint: str, count: int, *, seed: int
) -> dict[str, Any]:
    """The numbers of one epoch, each with its 95 % interval under ``..._ci``."""
    from attrib import stats

    assert sums is not None
    mine = table[(table["model"] == epoch.run) & (table["epoch"] == epoch.number)]
    entry: dict[str, Any] = {
        "epoch": epoch.number, "checkpoint": str(epoch.path), "fingerprint": fingerprint.split()[-1], "n": len(mine),
        "grid": str(mine["grid"].iloc[0]), "features": sums.all.shape[1],
        "asc_correct": stats.mean(mine.loc[mine["correct"], "coverage"].to_numpy(float)),
    }  # fmt: skip
    for name, column in MEANS.items():
        values = mine[column].to_numpy(float)
        shares = name.endswith("accuracy")
        entry[name] = stats.mean(values)
        entry[f"{name}_ci"] = list(stats.share_interval(values > 0) if shares else stats.interval(values, seed=seed))
    resampled = dict(zip(CONCENTRATION, sums.concentration, strict=True))
    for name, value in _concentration(sums.all).items():
        entry[name] = float(value)
        # One image drawn again and again varies in nothing.
        ends = stats.basic_interval(float(value), resampled[name].numpy()) if count > 1 else (float("nan"),) * 2
        entry[f"{name}_ci"] = list(ends)
    return entry


def _features(sums: "dict[Saved, Contributions | None]", count: int) -> "pd.DataFrame":
    """C of every feature of every epoch, the numbers behind the histograms."""
    import pandas as pd

    parts = [
        pd.DataFrame({"run": epoch.run, "epoch": epoch.number, "feature": range(held.all.shape[1]),
                      "C": held.all[0].numpy() / count, "C_scale_free": held.all[1].numpy() / count})
        for epoch, held in sums.items() if held is not None
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def _shown(numbers: list[int]) -> list[int]:
    """At most SHOWN of the epochs, the first and the last among them."""
    if len(numbers) <= SHOWN:
        return numbers
    return [numbers[round(place * (len(numbers) - 1) / (SHOWN - 1))] for place in range(SHOWN)]


def _examples(epochs: list[Saved], data: "Dataset", how: How, threshold: str, *, count: int) -> dict[str, Any]:
    """What :func:`attrib.plots.maps.map_grid` takes, with a column of maps for every epoch shown."""
    import torch

    from attrib.spans import span

    shown = [
        epoch for name in dict.fromkeys(epoch.run for epoch in epochs)
        for number in _shown([e.number for e in epochs if e.run == name])
        for epoch in epochs if (epoch.run, epoch.number) == (name, number)
    ]  # fmt: skip
    names = [f"{epoch.run}\nepoch {epoch.number}" for epoch in shown]
    examples = Examples(data, count=min(count, len(data)), models=names)
    order = torch.tensor(examples.index)
    for batch in data.batches(len(order), order=order, device=how.device):
        for place, epoch in enumerate(shown):
            subject = load_epoch(epoch, how.device)
            views = explain(subject, batch, how._replace(attack=None), classes=len(data.classes))
            spans = {kind: span(view.map, threshold=threshold) for kind, view in views.items()}
            examples.add(place, batch, views, spans)
    return examples.arrays()


def _flat(summary: dict[str, Any]) -> "pd.DataFrame":
    """One row per run and epoch; an interval's ends are columns of their own."""
    import pandas as pd

    rows = []
    for run in summary["runs"]:
        for entry in run["epochs"]:
            row: dict[str, Any] = {"run": run["name"], "epoch": entry["epoch"], "n": entry["n"]}
            for name in (*MEANS, *CONCENTRATION):
                row[name] = entry[name]
                row[f"{name}_low"], row[f"{name}_high"] = entry[f"{name}_ci"]
            rows.append(row | {name: entry[name] for name in ("asc_correct", "features", "train_loss", "checkpoint")})
    return pd.DataFrame(rows).astype({"train_loss": float})


def _table(summary: dict[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    def shown(entry: dict[str, Any], name: str, form: str, scale: float = 1) -> str:
        return texts.with_interval(
            entry[name], entry[f"{name}_ci"], lambda value: texts.number(value, form, scale=scale)
        )

    rows = [
        {
            "run": run["name"], "epoch": str(entry["epoch"]),
            "loss": shown(entry, "loss", ".3g"), "adv. loss": shown(entry, "loss_adversarial", ".3g"),
            "clean %": shown(entry, "accuracy", ".1f", 100), "robust %": shown(entry, "robust_accuracy", ".1f", 100),
            "ASC %": shown(entry, "asc", ".1f", 100), "PR of C": shown(entry, "participation_ratio", ".1f"),
            "Gini of C": f"{entry['gini']:.3f}",
        }
        for run in summary["runs"] for entry in run["epochs"]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _caption(summary: dict[str, Any]) -> str:
    return (
        f"{texts.images_words(summary, summary['n'])}; losses: cross-entropy in nats; robust:"
        f" {texts.attack_words(summary['attack'])}; ASC: {summary['map']}, threshold {summary['threshold']}; PR:"
        " participation ratio; 95 % intervals over images (of one training run: another seed is another run)"
    )


def _draw(
    summary: dict[str, Any], features: "pd.DataFrame", examples: dict[str, Any], epochs: list[Saved], out: Path
) -> list[Path]:
    from attrib.plots import base
    from attrib.plots.evolve import contributions, curves
    from attrib.plots.maps import map_grid

    said = f"{texts.data_words(summary)}, {summary['n']:,} images"
    over_epochs = curves(_flat(summary), title=f"{said}, {texts.attack_words(summary['attack'])}")
    written = base.save(over_epochs, out / "evolve")
    of_runs = [{epoch.number for epoch in epochs if epoch.run == run["name"]} for run in summary["runs"]]
    # Two runs are seen beside each other at the epochs that both have, if there are such.
    numbers = sorted(set.intersection(*of_runs) or set.union(*of_runs))
    histograms = contributions(features, epochs=_shown(numbers), title=said)
    written += base.save(histograms, out / "evolve-contrib")
    maps = map_grid(examples, title=f"{summary['map']}, {texts.data_words(summary)}")
    return written + base.save(maps, out / "evolve-maps")
