"""Accuracy, loss, contributions and maps over the saved epochs of one or two training runs (AALP, Figures 9, 12)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from attrib import formatting as text
from attrib import stats
from attrib.analyses.attacked import Attacked
from attrib.analyses.examples import arrays_of
from attrib.analyses.floored import floor_column, floor_words
from attrib.analyses.measured import Array, Context, Files, Findings, Measured
from attrib.analyses.options import option
from attrib.analyses.table import Table, differences
from attrib.errors import InputError
from attrib.lazy import Lazy

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

    from attrib import features
    from attrib.analyses import partial
    from attrib.analyses.result import Result
    from attrib.data import Batch
    from attrib.models.specs import Model
    from attrib.plots import evolve as plots
    from attrib.plots import maps as map_plots
else:
    features, partial, pd = Lazy("attrib.features"), Lazy("attrib.analyses.partial"), Lazy("pandas")
    map_plots, plots, torch = Lazy("attrib.plots.maps"), Lazy("attrib.plots.evolve"), Lazy("torch")

SHOWN = 6
"""Epochs in the figures of contributions and maps, evenly spaced: more would be too small to see."""
SHARES = ("accuracy", "robust_accuracy")
MEANS = ("loss", "loss_adversarial", *SHARES, "asc")
"""Means over images."""
CONCENTRATION = ("participation_ratio", "gini", "participation_ratio_scale_free", "gini_scale_free")
"""Concentration of the mean contribution C over all images, and of C with |p - onehot(y)| divided out."""


@dataclass(frozen=True, kw_only=True)
class Evolution(Attacked):
    """Loss, accuracy, span and contributions over the saved epochs of one run, or two side by side."""

    name: ClassVar[str] = "evolve"
    takes: ClassVar[tuple[str, ...]] = ("runs",)

    images: int = option(5, "Images in the figure of maps: the first of each class.", low=1)

    def pictured(self) -> int:
        """The number of images in the figure of maps."""
        return self.images

    def looked_at(self, models: "Sequence[Model]") -> "Sequence[Model]":
        """The epochs of one or two runs; raises InputError for anything else, and for a log that cannot be read."""
        for model in models:
            if model.epoch is None:
                raise InputError(f"run: expected the folder of a training run, got the model {model.label}")
        runs = {model.name: model for model in models}
        if len(runs) > 2:
            raise InputError(f"expected one or two run folders, got {len(runs)}")
        for model in runs.values():
            _training_losses(model)
        return models

    def measure(self, model: "Model", batch: "Batch", context: Context) -> Measured:
        """The columns of every image; examples only for the epochs in the figure of maps."""
        measured = super().measure(model, batch, context)
        shown = evenly_spaced([each.epoch for each in context.models if each.name == model.name])
        return measured if model.epoch in shown else measured._replace(examples={})

    def describe(self, model: "Model", context: Context) -> dict[str, Any]:
        """The epoch's mean contributions and how concentrated they are.

        ``contributions``: (2,D), C and its scale-free form; ``resampled``: (4,R), CONCENTRATION in resamples of the
        images, the same for every epoch. The resampled contributions are dropped, or memory would grow with the
        number of epochs. Nothing is saved to disk: contributions need no attack and are quickly computed again.
        """
        total = resampled = None
        for batch in context.images.batches(context.batch_size, device=context.device):
            layer = self.last_layer(model, batch)
            values = torch.stack([layer.contribution, layer.scale_free]).float()
            weights = torch.from_numpy(stats.image_weights(batch.index.cpu().numpy(), seed=self.seed))
            part = partial.exact(values.double().sum(1)).cpu()
            # Within a batch, float32 is precise enough; batches are added in float64.
            resampled_part = (weights.to(values.device).T @ values).double().cpu()
            total = part if total is None else partial.added(total, part)
            resampled = resampled_part if resampled is None else resampled + resampled_part
        assert total is not None
        assert resampled is not None
        return super().describe(model, context) | {
            "contributions": (total.sum(0) / len(context.images)).numpy(),
            "resampled": torch.stack([*_concentration(resampled).values()]).numpy(),
            "train_loss": _training_losses(model).get(model.epoch),
        }

    def summarise(self, files: Files) -> dict[str, Any]:
        """The numbers of a run's last epoch."""
        return {"name": files.models[0].name, **self._epoch(files)}

    def _epoch(self, files: Files) -> dict[str, Any]:
        """The numbers of an epoch, each with its 95 % interval under ``..._ci``."""
        model, fact = files.models[0], files.facts[0]
        entry: dict[str, Any] = {
            "epoch": model.epoch, "checkpoint": model.path, "fingerprint": model.fingerprint, "n": files.n,
            "grid": str(files.rows[0]["grid"].iloc[0]), "features": fact["contributions"].shape[1],
            "asc_correct": files.mean("coverage", among=files["correct"] > 0),
        }  # fmt: skip
        for name in MEANS:
            values = _column(files, name)
            entry[name] = stats.mean(values)
            ends = stats.share_interval(values > 0) if name in SHARES else stats.interval(values, seed=self.seed)
            entry[f"{name}_ci"] = list(ends)
        for name, value, resampled in _concentrations(files):
            entry[name] = value
            # Resamples of one image are all the same.
            entry[f"{name}_ci"] = list(stats.basic_interval(value, resampled)) if files.n > 1 else [float("nan")] * 2
        return entry | {"train_loss": fact["train_loss"]} | self.floor_entry(files)

    def compare(self, a: Files, b: Files, findings: Findings) -> Iterator[dict[str, Any]]:
        """The differences between the last epochs of two runs, paired by image."""
        for name in MEANS:
            columns = [_column(files, name) for files in (a, b)]
            paired = (
                stats.paired_shares(*(column > 0 for column in columns)) if name in SHARES
                else stats.paired(*columns, seed=self.seed)
            )  # fmt: skip
            yield {"quantity": name, "n": a.n, **paired.entry()}
        concentrations = zip(_concentrations(a), _concentrations(b), strict=True)
        for (name, first, resampled_a), (_, second, resampled_b) in concentrations:
            both = (resampled_a, resampled_b) if a.n > 1 else (np.full_like(resampled_a, np.nan),) * 2
            yield {"quantity": name, "n": a.n, **stats.basic_paired(first, second, *both).entry()}

    def about(self, findings: Findings, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Settings, and the numbers of every epoch of every run."""
        runs = [
            {"name": name, "epochs": [self._epoch(epoch) for epoch in epochs]}
            for name, epochs in findings.epochs.items()
        ]
        return {"n": len(findings.context.images), **self.settings(findings), "runs": runs}

    def frames(self, findings: Findings, summary: Mapping[str, Any]) -> "dict[str, pd.DataFrame]":
        """A row per run and epoch, and a row per run, epoch and feature."""
        contributions = [
            pd.DataFrame({"run": name, "epoch": epoch.models[0].epoch, "feature": range(values.shape[1]),
                          "C": values[0], "C_scale_free": values[1]})
            for name, epochs in findings.epochs.items() for epoch in epochs
            for values in [epoch.facts[0]["contributions"]]
        ]  # fmt: skip
        return {"": _epoch_frame(summary), "contrib": pd.concat(contributions, ignore_index=True)}

    def arrays(self, findings: Findings, summary: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
        """The figure of maps: a column for every epoch shown."""
        models = [
            epochs[place].models[0]
            for epochs in findings.epochs.values() for place in evenly_spaced(range(len(epochs)))
        ]  # fmt: skip
        names = np.array([f"{model.name}\nepoch {model.epoch}" for model in models])
        return {"maps": arrays_of(findings, [model.label for model in models]) | {"model": names}}

    def tables(self, result: "Result") -> list[Table]:
        """Epochs, then pairs."""
        summary = result.summary
        title = "Losses, accuracy, coverage and contributions along the epochs"
        table = Table(title, _epoch_rows(summary), _caption(summary))
        test = (
            "permutation test, of accuracies an exact test (McNemar), of PR and Gini the bootstrap (below 0.01 of a"
            " normal distribution); all by image"
        )
        title = "Paired differences of the last epochs"
        return [table, *differences(summary, _pair_rows(summary), test, title=title)]

    def figures(self, result: "Result") -> "dict[str, Figure]":
        """Curves over the epochs, contributions, and maps."""
        summary = result.summary
        images = f"{text.data_words(summary)}, {summary['n']:,} images"
        epochs = [{entry["epoch"] for entry in run["epochs"]} for run in summary["runs"]]
        # Two runs are compared at the epochs that both have, if there are any.
        numbers = sorted(set.intersection(*epochs) or set.union(*epochs))
        skipped = f"; at most {SHOWN} epochs of a run, evenly spaced" if max(map(len, epochs)) > SHOWN else ""
        return {
            "evolve": plots.curves(
                result.rows, title=f"{images}, {text.attack_words(summary['attack'])}", look=result.style
            ),
            "evolve-contrib": plots.contributions(
                result.frames["contrib"], epochs=evenly_spaced(numbers), title=images, look=result.style
            ),
            "evolve-maps": map_plots.map_grid(
                result.arrays["maps"], title=f"{text.map_words(summary)}, {text.data_words(summary)}{skipped}",
                look=result.style,
            ),
        }  # fmt: skip


def _training_losses(model: "Model") -> dict[int | None, float]:
    """The training loss of each epoch in the log.jsonl beside the epoch's file; empty if there is no log.

    Raises InputError for a log that cannot be read.
    """
    log = Path(model.path).parent / "log.jsonl"
    try:
        lines = log.read_text().splitlines() if log.exists() else []
        records = [json.loads(line) for line in lines if line.strip()]
        return {int(record["epoch"]): float(record["loss"]) for record in records}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise InputError(f"{log}: expected one JSON object with epoch and loss per line") from None


def evenly_spaced(epochs: Sequence[Any]) -> list[Any]:
    """At most SHOWN of the epochs, the first and the last among them."""
    if len(epochs) <= SHOWN:
        return list(epochs)
    return [epochs[round(place * (len(epochs) - 1) / (SHOWN - 1))] for place in range(SHOWN)]


def _concentration(values: "Tensor") -> "dict[str, Tensor]":
    """Every measure in CONCENTRATION, (...), of contributions (2,...,D): C and its scale-free form."""
    ratio, inequality = features.participation_ratio(values), features.gini(values)  # scale does not change them
    return dict(zip(CONCENTRATION, (ratio[0], inequality[0], ratio[1], inequality[1]), strict=True))


def _concentrations(files: Files) -> Iterator[tuple[str, float, Array]]:
    """Every measure in CONCENTRATION: name, value, and values in resamples (R,)."""
    fact = files.facts[0]
    values = _concentration(torch.from_numpy(fact["contributions"]))
    for (name, value), resampled in zip(values.items(), fact["resampled"], strict=True):
        yield name, float(value), resampled


def _column(files: Files, name: str) -> Array:
    """The values (N,) of one of MEANS."""
    if name == "robust_accuracy":
        return np.asarray(files["margin_adversarial"][0] > 0, float)
    return np.asarray(files[{"accuracy": "correct", "asc": "coverage"}.get(name, name)][0])


def _epoch_frame(summary: Mapping[str, Any]) -> "pd.DataFrame":
    """One row per run and epoch; an interval's ends are columns of their own."""
    rows = []
    for run in summary["runs"]:
        for entry in run["epochs"]:
            row: dict[str, Any] = {"run": run["name"], "epoch": entry["epoch"], "n": entry["n"]}
            for name in (*MEANS, *CONCENTRATION):
                row[name] = entry[name]
                row[f"{name}_low"], row[f"{name}_high"] = entry[f"{name}_ci"]
            others = ("asc_correct", "features", "train_loss", "checkpoint", "asc_floor")
            rows.append(row | {name: entry[name] for name in others if name in entry})
    return pd.DataFrame(rows).astype({"train_loss": float})


def _epoch_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    def shown(entry: Mapping[str, Any], name: str, form: str, scale: float = 1) -> str:
        ends = entry[f"{name}_ci"]
        return text.with_interval(entry[name], ends, lambda value: text.number(value, form, scale=scale))

    epochs = [entry for run in summary["runs"] for entry in run["epochs"]]
    return [
        {
            "run": run["name"], "epoch": str(entry["epoch"]),
            "loss": shown(entry, "loss", ".3g"), "adv. loss": shown(entry, "loss_adversarial", ".3g"),
            "clean %": shown(entry, "accuracy", ".1f", 100), "robust %": shown(entry, "robust_accuracy", ".1f", 100),
            "ASC %": shown(entry, "asc", ".1f", 100), **floor_column(entry, epochs),
            "PR of C": shown(entry, "participation_ratio", ".1f"),
            "Gini of C": text.number(entry["gini"], ".3f"),
        }
        for run in summary["runs"] for entry in run["epochs"]
    ]  # fmt: skip


QUANTITIES = {
    "loss": ("loss", "+.3g", 1), "loss_adversarial": ("adv. loss", "+.3g", 1), "accuracy": ("clean %", "+.1f", 100),
    "robust_accuracy": ("robust %", "+.1f", 100), "asc": ("ASC %", "+.1f", 100),
    "participation_ratio": ("PR of C", "+.1f", 1), "gini": ("Gini of C", "+.3f", 1),
    "participation_ratio_scale_free": ("PR of C/e", "+.1f", 1), "gini_scale_free": ("Gini of C/e", "+.3f", 1),
}  # fmt: skip
"""The name, number format and scale of each quantity in the table of differences."""


def _pair_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    last = {entry["name"]: entry["epoch"] for entry in summary["models"]}
    rows = []
    for pair in summary["pairs"]:
        words, form, scale = QUANTITIES[pair["quantity"]]

        def shown(value: float, form: str = form, scale: float = scale) -> str:
            return text.number(value, form, scale=scale)

        names = (f"{pair[side]} epoch {last[pair[side]]}" for side in "ab")
        rows.append(
            {"pair": " − ".join(names), "of": words, "difference": shown(pair["difference"]),
             "95 % CI": text.interval(pair["ci"], shown), **text.p_columns(pair)}
        )  # fmt: skip
    return rows


def _caption(summary: Mapping[str, Any]) -> str:
    return (
        f"{text.images_words(summary, summary['n'])}; losses: cross-entropy in nats; robust:"
        f" {text.attack_words(summary['attack'])}; ASC: {text.map_words(summary)}, threshold {summary['threshold']};"
        " PR: participation ratio; 95 % intervals over images (of one training run: another seed is another run)"
        f"{floor_words(summary, summary['models'])}"
    )
