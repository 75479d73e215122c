"""``attrib contrib``: how contributions are distributed over the features of the last layer, and how concentrated."""

from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from attrib.cli import common, texts
from attrib.cli.batches import added, exact, over_batches, stoppable
from attrib.cli.contrib_tables import QUANTITIES, STATISTICS, caption, model_table, pair_table
from attrib.cli.fc import FcName, last_layers
from attrib.cli.subjects import Subject, entry_of, groups
from attrib.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from torch import Tensor

    from attrib.data import Batch
    from attrib.features import LastLayer
    from attrib.inference import Precision

    Array = NDArray[Any]
    Kind = tuple[str, int, str]
    """A model's name, the position of the file among its seeds, and the images: clean, or the attack's name."""


def contrib(
    ckpt: common.Ckpt = None,
    model: common.Model = None,
    data: common.Data = None,
    multiple: Annotated[float, typer.Option(help="A high contribution exceeds so many times the median.")] = 2.0,
    fc_name: FcName = None,
    attack: common.AttackName = None,
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
    """Contributions of the last layer's features (C, R), how concentrated they are, and the paired differences."""
    import pandas as pd

    from attrib import inference, results

    if not multiple > 0:
        raise InputError(f"--multiple: expected a number above 0, got {multiple:g}")
    common.check_given(ckpt, model, batch_size=batch_size, out=out)
    with common.loaded(
        ckpt, model, arch=arch, mean=mean, std=std, size=size, data=data, split=split, root=data_root, limit=limit,
        attack=attack, eps=eps, step_size=step_size, steps=steps, device=device, precision=precision,
    ) as work:  # fmt: skip
        here, subjects, images, settings = work
        layers = last_layers(subjects, fc_name)
        # An attack only has to be as strong: auto takes the fast precision for it, and fp32 for what is measured.
        fast = inference.precision(precision, here.device)
        exact = "fp32" if precision == "auto" else fast
        sums: dict[Kind, Sums] = {}

        def measure(batch: "Batch") -> "pd.DataFrame":
            views = _views(subjects, layers, batch, settings, seed=seed, attack_precision=fast, precision=exact)
            _add(sums, views, batch, seed=seed)
            return _image_rows(views, batch)

        # Nothing is kept for a second start: the sums, unlike rows, are not on disk.
        table = over_batches(images, measure, batch_size=batch_size, here=here, title="contrib")
        total = _joined(sums)
    if table is None or total is None:
        return  # not the first process

    found = {kind: _measured(table, total[kind], kind, multiple=multiple) for kind in total}
    seeds = groups(subjects)
    summary: dict[str, Any] = {
        "data": images.name, "split": images.split, "multiple": multiple, "seed": seed,
        "attack": common.attack_entry(settings, fast), "precision": exact,
        "models": [entry_of(files, lambda files: _summary_of(found, files)) for files in seeds.values()],
        "pairs": _pairs(found, seeds),
        "versions": common.provenance(),
    }  # fmt: skip
    widths = {entry["name"]: entry["features"] for entry in summary["models"]}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{name} {width}" for name, width in widths.items())
        common.warn(f"the models have different numbers of features ({listed}), which alone changes the counts")

    common.warn_at_chance(subjects, table[table["images"] == "clean"], images)

    written = []
    if out:
        features = pd.concat([each.features for each in found.values()], ignore_index=True)
        with stoppable("some files are written, and some are not"):
            results.write_csv(features, out / "contrib.csv")
            results.write_csv(table, out / "contrib-images.csv")
            results.write_json(summary, out / "contrib.json")
            results.write_latex(model_table(summary), out / "contrib.tex", caption=caption(summary))
            written = [out / name for name in ("contrib.csv", "contrib-images.csv", "contrib.json", "contrib.tex")]
            written += _draw(features, out, summary)
    if json:
        typer.echo(results.to_json(summary))
        return
    common.print_table(model_table(summary), title="Feature contributions", caption=caption(summary))
    if summary["pairs"]:
        said = texts.p_words(summary["models"], "two-sided, from the bootstrap, paired by image")
        common.print_table(pair_table(summary), title="Paired differences", caption=said)
    for path in written:
        typer.echo(path)


class Sums(NamedTuple):
    """Sums over images of the three quantities: memory does not grow with the number of images."""

    all: "Tensor"
    """(2,3,D), in two parts (:func:`attrib.cli.batches.exact`)."""
    correct: "Tensor"
    """(2,3,D), over the correctly classified images."""
    resampled: "Tensor"
    """(3,R,D) float64, over the images of each resample; a batch's part is float32, so that hardly a bit is lost."""
    drawn: "Tensor"
    """(R,): how many images each resample has."""


class Measured(NamedTuple):
    """One file of a model on one kind of images."""

    features: "pd.DataFrame"
    """One row per feature."""
    images: "pd.DataFrame"
    """One row per image: the quantities' means over features."""
    value: "dict[str, dict[str, Array]]"
    """Quantity to statistic to its value,"""
    correct: "dict[str, dict[str, Array]]"
    """to its value over the correctly classified images,"""
    resampled: "dict[str, dict[str, Array]]"
    """and to its values in the resamples, (R,)."""


def _views(
    subjects: list[Subject], layers: dict[str, Any], batch: "Batch", settings: common.AttackSettings | None,
    *, seed: int, attack_precision: "Precision", precision: "Precision",
) -> "dict[Kind, LastLayer]":  # fmt: skip
    """Every model's last layer on the batch, clean and, where an attack is set, attacked."""
    from attrib import inference
    from attrib.features import last_layer

    found = {}
    for subject in subjects:
        kinds = {"clean": batch.image}
        if settings:
            kinds[settings.name] = common.attacked(subject, batch, settings, seed=seed, precision=attack_precision)
        for kind, image in kinds.items():
            try:
                layer = layers[subject.name]
                view = last_layer(subject.model, image, batch.label, fc=layer, precision=precision)
            except InputError as error:
                raise InputError(f"{subject.name}: {error}") from None
            if precision != "fp32":  # predictions are those of the deployed model, as in every command
                view = view._replace(prediction=inference.logits(subject.model, image).argmax(1))
            found[subject.group, subject.seed, kind] = view
    return found


def _add(sums: "dict[Kind, Sums]", views: "dict[Kind, LastLayer]", batch: "Batch", *, seed: int) -> None:
    """Add a batch to the sums; every model and kind of images meets the same resamples."""
    import torch

    from attrib.stats import image_weights

    weights = torch.from_numpy(image_weights(batch.index.cpu().numpy(), seed=seed)).to(batch.image.device)
    for key, view in views.items():
        values = torch.stack([getattr(view, of) for of in QUANTITIES]).float()
        right = (view.prediction == batch.label)[None, :, None]
        wide = values.double()
        part = Sums(exact(wide.sum(1)), exact((wide * right).sum(1)), (weights.T @ values).double(), weights.sum(0))
        sums[key] = _together(sums[key], part) if key in sums else part


def _together(a: Sums, b: Sums) -> Sums:
    return Sums(added(a.all, b.all), added(a.correct, b.correct), a.resampled + b.resampled, a.drawn + b.drawn)


def _joined(sums: "dict[Kind, Sums]") -> "dict[Kind, Sums] | None":
    """The sums over all processes, for the first one, (3,D) and (3,R,D); None for the others."""
    from attrib.parallel import gather

    # Gathered and not reduced: a process without images does not know how many features there are.
    parts = gather({key: Sums(*(tensor.cpu() for tensor in held)) for key, held in sums.items()})
    if parts is None:
        return None
    first, *rest = [part for part in parts if part]
    for part in rest:
        first = {key: _together(first[key], part[key]) for key in first}
    return {key: sums._replace(all=sums.all.sum(0), correct=sums.correct.sum(0)) for key, sums in first.items()}


def _image_rows(views: "dict[Kind, LastLayer]", batch: "Batch") -> "pd.DataFrame":
    """One row per model, kind of images and image; the quantities are means over features."""
    import pandas as pd

    def column(values: "Tensor") -> "Array":
        array: Array = values.cpu().numpy()
        return array

    tables = [
        pd.DataFrame(
            {
                "model": name, "seed": position, "images": kind, "index": column(batch.index),
                "label": column(batch.label),
                "prediction": column(view.prediction), "correct": column(view.prediction == batch.label),
                **{short: column(getattr(view, of).double().mean(1)) for of, short in QUANTITIES.items()},
            }
        )
        for (name, position, kind), view in views.items()
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _measured(table: "pd.DataFrame", sums: Sums, key: "Kind", *, multiple: float) -> Measured:
    """The statistics of one file on one kind of images, from its sums."""
    import pandas as pd

    name, position, kind = key
    mine = table[(table["model"] == name) & (table["seed"] == position) & (table["images"] == kind)]
    over = {"": (sums.all / len(mine)).numpy(), "_correct": (sums.correct / mine["correct"].sum()).numpy()}
    columns = {
        short + suffix: means[row] for suffix, means in over.items() for row, short in enumerate(QUANTITIES.values())
    }
    features = pd.DataFrame(
        {"model": name, "seed": position, "images": kind, "feature": np.arange(sums.all.shape[1]), **columns}
    )
    counts = len(mine), mine["correct"].sum(), sums.drawn.numpy()
    value, correct, resampled = (
        {of: _statistics(values, count, multiple) for of, values in zip(QUANTITIES, each, strict=True)}
        for each, count in zip(sums[:3], counts, strict=True)
    )
    if len(mine) < 2:  # one image drawn again and again varies in nothing
        resampled = {of: {name: np.full_like(values, np.nan) for name, values in resampled[of].items()} for of in value}
    return Measured(features, mine, value, correct, resampled)


def _statistics(sums: "Tensor", images: Any, multiple: float) -> "dict[str, Array]":
    """Sums of contributions (...,D) over so many images (...) to each statistic (...); NaN over none."""
    from attrib.features import gini, high_contribution, participation_ratio

    with np.errstate(invalid="ignore"):
        mean = sums.double().mean(-1).numpy() / images
    # The others don't change under a common factor, so sums stand for means.
    high = high_contribution(sums, multiple=multiple).double().numpy()
    return {
        "mean": mean,
        "gini": gini(sums).numpy(),
        "participation_ratio": participation_ratio(sums).numpy(),
        "high": np.where(np.isnan(mean), np.nan, high),
    }


def _of(found: "dict[Kind, Measured]", files: "Sequence[Subject]", kind: str) -> list[Measured]:
    return [found[file.group, file.seed, kind] for file in files]


def _values(files: "Sequence[Measured]", quantity: str, statistic: str) -> "tuple[Array, Array]":
    """A statistic of every file, (S,), and in the resamples, (S,R)."""
    value, resampled = ([getattr(file, part)[quantity][statistic] for file in files] for part in ("value", "resampled"))
    return np.array(value, float), np.array(resampled, float)


def _summary_of(found: "dict[Kind, Measured]", files: "Sequence[Subject]") -> dict[str, Any]:
    """The numbers of one model, on clean images and, under ``attacked``, on adversarial ones."""
    from attrib.stats import basic_interval

    clean = _of(found, files, "clean")
    features = len(clean[0].features)
    most = {"mean": np.inf, "gini": 1.0}  # the others count features

    def of(measured: list[Measured]) -> dict[str, Any]:
        right = np.array([file.images["correct"] for file in measured])
        entry: dict[str, Any] = {"n": right.shape[1], "accuracy": float(right.mean())}
        for quantity in QUANTITIES:
            numbers: dict[str, Any] = {}
            for statistic in STATISTICS:
                value, resampled = _values(measured, quantity, statistic)
                numbers[statistic] = float(value.mean())
                # Of few images or seeds an interval may lie beyond what the statistic can be.
                within = (0, most.get(statistic, features))
                numbers[f"{statistic}_ci"] = list(basic_interval(value, resampled, within=within))
                correct = [float(file.correct[quantity][statistic]) for file in measured]
                numbers[f"{statistic}_correct"] = float(np.mean(correct))
            entry[quantity] = numbers
        return entry

    summary = {"features": features, **of(clean)}
    for kind in dict.fromkeys(kind for _, _, kind in found if kind != "clean"):
        summary["attacked"] = of(_of(found, files, kind))
    return summary


def _pairs(found: "dict[Kind, Measured]", seeds: dict[str, list[Subject]]) -> list[dict[str, Any]]:
    """Every pair's differences, a less b, paired by image, on each kind of images."""
    from attrib.stats import basic_paired, with_holm

    pairs = []
    kinds = dict.fromkeys(kind for _, _, kind in found)
    for kind, quantity, statistic in product(kinds, QUANTITIES, STATISTICS):
        for first, second in combinations(seeds, 2):
            a, b = (_of(found, seeds[name], kind) for name in (first, second))
            values = [_values(side, quantity, statistic) for side in (a, b)]
            result = basic_paired(values[0][0], values[1][0], values[0][1], values[1][1])
            pairs.append(
                {
                    "a": first, "b": second, "images": kind, "of": quantity, "statistic": statistic,
                    "n": len(a[0].images),
                    "difference": result.difference, "ci": [result.low, result.high], "p": result.p,
                }
            )  # fmt: skip
    return with_holm(pairs)


def _draw(features: "pd.DataFrame", out: Path, summary: dict[str, Any]) -> list[Path]:
    from attrib.plots import base
    from attrib.plots.contrib import contribution_histograms

    title = f"{texts.data_words(summary)}, {summary['models'][0]['n']:,} images"
    title += texts.first_seeds(summary["models"])
    figure = contribution_histograms(features[features["seed"] == 0], multiple=summary["multiple"], title=title)
    return base.save(figure, out / "contrib")
