"""``attrib check``: do the maps say something about the model, and does the model use what they show?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer

from attrib import thresholds
from attrib.cli import common, texts
from attrib.cli.batches import over_batches, unfinished
from attrib.cli.explain import Explained, How, explain, map_of
from attrib.cli.subjects import Subject, column, entry_of, groups, rows_of
from attrib.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from torch import Tensor

    from attrib.data import Batch, Dataset
    from attrib.stats import Values

CURVES = ("insertion", "deletion", "insertion_random", "deletion_random")
EDGES = "edge detector"


class Check(NamedTuple):
    """A line of the table: two columns of the per-image rows, the check's value and its control's."""

    key: str
    says: str
    better: str
    value: str
    control: str
    control_is: str


CHECKS = (
    Check("similarity", "similarity, all randomised", "lower", "similarity", "similarity_edges", EDGES),
    Check("floor", "similarity, all randomised", "lower", "similarity", "similarity_floor", "architecture alone"),
    Check("ssim", "SSIM, all randomised", "lower", "ssim", "ssim_edges", EDGES),
    Check("insertion", "insertion area", "higher", "insertion", "insertion_random", "random order"),
    Check("deletion", "deletion area", "lower", "deletion", "deletion_random", "random order"),
    Check("span_vs_random", "drop without the span", "higher", "drop", "drop_random", "random pixels"),
    Check("span_vs_moved", "drop without the span", "higher", "drop", "drop_moved", "the span elsewhere"),
    Check("inside", "span on the object", "higher", "inside", "object_share", "object's share"),
    Check("pointing", "pointing game", "higher", "pointing", "object_share", "object's share"),
    Check("stability", "span IoU under attack", "higher", "iou", "iou_chance", "independent spans"),
)
CONTROLS = {
    "similarity": "similarity_edges",
    "ssim": "ssim_edges",
    "inside": "inside_edges",
    "pointing": "pointing_edges",
}
"""Where the edge detector has a value of its own: the others need a model."""


class Settings(NamedTuple):
    """What is computed for every image, beside :class:`How`."""

    threshold: str
    steps: int
    stages: int
    baseline: str


def check(
    ckpt: common.Ckpt = None,
    model: common.Model = None,
    data: common.Data = None,
    map_name: common.MapName = "gradcam",
    threshold: Annotated[str, typer.Option(help=thresholds.HELP)] = "mean",
    target: common.Target = "label",
    attack: Annotated[str, typer.Option(help="Attack of the stability check: fgsm, pgd, cw or none.")] = "pgd",
    eps: common.Eps = None,
    step_size: common.StepSize = None,
    steps: common.Steps = None,
    curve_steps: Annotated[int, typer.Option(help="Steps of the insertion and deletion curves.")] = 20,
    stages: Annotated[int, typer.Option(help="Where the cascade of re-initialised layers is looked at.")] = 8,
    baseline: Annotated[
        str, typer.Option(help="What a removed pixel shows: mean (the image's colour) or black.")
    ] = "mean",
    layer: common.Layer = None,
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
    """Sanity and faithfulness of the maps: a line per check and model, beside a control that knows nothing."""
    import pandas as pd

    from attrib import faithfulness, results

    common.check_map(map_name, threshold, layer=layer)
    common.check_choice("--target", target, ("label", "prediction"))
    common.check_choice("--attack", attack, ("fgsm", "pgd", "cw", "none"))
    common.check_choice("--baseline", baseline, faithfulness.BASELINES)
    for option, number in (("--curve-steps", curve_steps), ("--stages", stages)):
        if number < 1:
            raise InputError(f"{option}: expected at least 1, got {number}")
    common.check_given(ckpt, model, batch_size=batch_size, out=out)

    with common.loaded(
        ckpt, model, arch=arch, mean=mean, std=std, size=size, layer=layer, data=data, split=split, root=data_root,
        limit=limit, attack=None if attack == "none" else attack, eps=eps, step_size=step_size, steps=steps,
        device=device, precision=precision,
    ) as work:  # fmt: skip
        here, subjects, images, strength = work
        how = How(map_name, target, strength, seed, precision, here.device)
        asked = Settings(threshold, curve_steps, stages, baseline)
        cascades = _cascades(subjects, images, how, asked)
        described = {"size": size, "layer": layer, "how": how.key(), "asked": asked}
        with unfinished(out, "check", work, batch_size=batch_size, settings=described) as keep:
            rows = over_batches(
                images, lambda batch: _measure(subjects, batch, how, asked, classes=len(images.classes)),
                batch_size=batch_size, here=here, title="check", keep=keep,
            )  # fmt: skip
            if rows is None:  # the first process has those of all
                return

            def numbers(files: "Sequence[Subject]") -> dict[str, Any]:
                parts = [rows_of(rows, file.group)[file.seed] for file in files]
                return _summary_of(parts, cascades[files[0].name], asked, seed=seed)

            seeds = groups(subjects)
            summary: dict[str, Any] = {
                "data": images.name, "split": images.split, "map": map_name, "threshold": threshold, "target": target,
                "baseline": baseline, "seed": seed,
                "attack": common.attack_entry(strength, how.attack_precision()), "precision": how.map_precision(),
                "fractions": faithfulness.fractions(images.shape[1] * images.shape[2], curve_steps),
                "models": [entry_of(files, numbers) for files in seeds.values()],
                "control": {"name": EDGES, "checks": _control_lines(rows_of(rows, subjects[0].group)[0], seed=seed)},
                "versions": common.provenance(),
            }  # fmt: skip
            common.warn_at_chance(subjects, rows, images)
            written = []
            if out:
                written = [out / name for name in ("check.csv", "check.json", "check.tex")]
                by_file = [part.dropna(axis=1, how="all") for name in seeds for part in rows_of(rows, name)]
                results.write_csv(pd.concat(by_file, ignore_index=True), written[0])
                results.write_json(summary, written[1])
                results.write_latex(_table(summary, plain=True), written[2], caption=_caption(summary))
                written += _draw(summary, out)
        if json:
            typer.echo(results.to_json(summary))
            return
        common.print_table(_table(summary), title="Do the maps mean anything?", caption=_caption(summary))
        for path in written:
            typer.echo(path)


def _cascades(subjects: list[Subject], data: "Dataset", how: How, asked: Settings) -> dict[str, list[tuple[int, str]]]:
    """How many layers each stage re-initialises and the lowest of them, per model; says now what has none."""
    import torch

    from attrib import faithfulness, randomisation

    faithfulness.fractions(data.shape[1] * data.shape[2], asked.steps)
    found = {}
    for batch in data.batches(1, order=torch.tensor([0]), device=how.device):
        for subject in subjects:
            layers = randomisation.parameter_layers(subject.model, batch.image)
            counts = randomisation.stage_counts(len(layers), asked.stages)
            found[subject.name] = [(count, layers[count - 1]) for count in counts]
    return found


def _measure(subjects: list[Subject], batch: "Batch", how: How, asked: Settings, *, classes: int) -> "pd.DataFrame":
    """One row per image and model."""
    import pandas as pd

    parts = []
    for subject in subjects:
        views = explain(subject, batch, how, classes=classes)
        # The class explained is the trained model's, also where the randomised one would predict another.
        explained = batch._replace(label=batch.label if how.target == "label" else views["clean"].prediction)
        columns = {
            "label": batch.label,
            "prediction": views["clean"].prediction,
            **_of_randomisation(subject, explained, views["clean"].map, how, asked),
            **_of_curves(subject, explained, views["clean"].map, how, asked),
            **_of_spans(subject, explained, views, how, asked),
        }
        # A hundred columns an image: single precision is more than their meaning and half of their memory.
        arrays = {
            key: (value.float() if value.is_floating_point() else value).cpu().numpy() for key, value in columns.items()
        }
        index = batch.index.cpu().numpy()
        parts.append(pd.DataFrame({"model": subject.group, "seed": subject.seed, "index": index, **arrays}))
    return pd.concat(parts, ignore_index=True)


def _of_randomisation(
    subject: Subject, batch: "Batch", maps: "Tensor", how: How, asked: Settings
) -> dict[str, "Tensor"]:
    """Similarity to the trained model's map after every stage, and that of the edge detector's map."""
    from attrib import randomisation

    columns = {}
    for stage in randomisation.cascade(
        subject.model, batch.image, layer=subject.layer, stages=asked.stages, seed=how.seed
    ):
        copied = subject._replace(model=stage.model, layer=stage.layer)
        other, _ = map_of(copied, batch.image, batch.label, batch.index, how)
        columns["similarity"] = columns[f"similarity_{stage.layers}"] = randomisation.spearman(maps, other)
        columns["ssim"] = columns[f"ssim_{stage.layers}"] = randomisation.ssim(maps, other)
    # The last copy is random altogether; on noise it knows of the image as little as of the training.
    empty = randomisation.noise_images(batch.image, batch.index, seed=how.seed)
    random, _ = map_of(copied, empty, batch.label, batch.index, how)
    columns["similarity_floor"] = randomisation.spearman(maps, random)
    # Computed from the image again, as for any map: this one just doesn't ask the model.
    before, after = randomisation.edges(batch.image), randomisation.edges(batch.image)
    return columns | {
        "similarity_edges": randomisation.spearman(before, after),
        "ssim_edges": randomisation.ssim(before, after),
    }


def _of_curves(subject: Subject, batch: "Batch", maps: "Tensor", how: How, asked: Settings) -> dict[str, "Tensor"]:
    """Insertion and deletion in the map's order and in a random one: areas and all points."""
    from attrib import faithfulness

    height, width = batch.image.shape[2:]
    random = faithfulness.random_maps(batch.index, (height, width), seed=how.seed)
    columns = {}
    for name in CURVES:
        run = faithfulness.insertion if name.startswith("insertion") else faithfulness.deletion
        order = random if name.endswith("random") else maps
        curve = run(subject.model, batch.image, batch.label, order, steps=asked.steps, baseline=asked.baseline)
        columns[name] = faithfulness.area(curve, height * width)
        columns |= {f"{name}_{step}": points for step, points in enumerate(curve.unbind(1))}
    return columns


def _of_spans(
    subject: Subject, batch: "Batch", views: dict[str, Explained], how: How, asked: Settings
) -> dict[str, "Tensor"]:
    """What the span is worth, where it lies, and whether it stays there under the attack."""
    from attrib import faithfulness, randomisation, spans

    maps = views["clean"].map
    mask = spans.span(maps, threshold=asked.threshold)
    dropped = faithfulness.span_deletion(
        subject.model, batch.image, batch.label, mask, index=batch.index, seed=how.seed, baseline=asked.baseline
    )
    columns = {
        "coverage": spans.coverage(mask),
        "drop": dropped.span, "drop_random": dropped.random, "drop_moved": dropped.moved,
    }  # fmt: skip
    if batch.mask is not None:
        edges = randomisation.edges(batch.image)
        columns |= {
            "inside": spans.inside(mask, batch.mask),
            "pointing": spans.pointing(maps, batch.mask),
            "object_share": spans.coverage(batch.mask),
            "inside_edges": spans.inside(spans.span(edges, threshold=asked.threshold), batch.mask),
            "pointing_edges": spans.pointing(edges, batch.mask),
        }
    if how.attack:
        attacked = spans.span(views[how.attack.name].map, threshold=asked.threshold)
        columns |= {"iou": spans.iou(mask, attacked), "iou_chance": faithfulness.chance_iou(mask, attacked)}
    return columns


def _summary_of(
    files: "Sequence[pd.DataFrame]", cascade: list[tuple[int, str]], asked: Settings, *, seed: int
) -> dict[str, Any]:
    """One model's checks over some of its files, its cascade stage by stage, and its mean curves."""
    from attrib import stats

    right = column(files, "prediction") == column(files, "label")
    stages = []
    for count, name in cascade:
        stage: dict[str, Any] = {"layers": count, "of": cascade[-1][0], "lowest": name}
        for kind in ("similarity", "ssim"):
            values = column(files, f"{kind}_{count}")
            stage |= {kind: stats.mean(values), f"{kind}_ci": _ends(values, seed=seed)}
        stages.append(stage)
    lines = []
    for line in CHECKS:
        value, control = column(files, line.value), column(files, line.control)
        if np.isnan(control).all():  # no masks, or no attack
            continue
        margin = value - control
        n = float((value == value).sum(1).mean())
        lines.append(
            {
                "check": line.key, "says": line.says, "better": line.better,
                "n": int(n) if len(files) == 1 else n, "value": stats.mean(value),
                "ci": _ends(value, seed=seed), "value_correct": stats.mean(np.where(right, value, np.nan)),
                "control": stats.mean(control), "control_is": line.control_is,
                "margin": stats.mean(margin), "margin_ci": list(stats.interval(margin, seed=seed)),
            }
        )  # fmt: skip
    return {
        "n": right.shape[1], "accuracy": float(right.mean()), "checks": lines, "cascade": stages,
        "curves": {
            name: [stats.mean(column(files, f"{name}_{step}")) for step in range(asked.steps + 1)] for name in CURVES
        },
    }  # fmt: skip


def _control_lines(table: "pd.DataFrame", *, seed: int) -> list[dict[str, Any]]:
    """The edge detector's own lines: the same for every model, since it asks none."""
    from attrib import stats

    lines = []
    for line in CHECKS:
        values = column([table], CONTROLS.get(line.key, ""))
        if not np.isnan(values).all():
            lines.append(
                {
                    "check": line.key, "says": line.says, "better": line.better, "n": int((values == values).sum()),
                    "value": stats.mean(values), "ci": _ends(values, seed=seed),
                }
            )  # fmt: skip
    return lines


def _ends(values: "Values", *, seed: int) -> list[float]:
    """The interval of a check's mean: shares, correlations and drops of probabilities all lie in [-1,1]."""
    from attrib import stats

    return list(stats.interval(values, seed=seed, within=(-1, 1)))


def _table(summary: dict[str, Any], *, plain: bool = False) -> "pd.DataFrame":
    """A line per check and model; ``plain`` leaves out what a paper's column has no room for."""
    import pandas as pd

    def number(value: float) -> str:
        return texts.number(value, ".3f")

    rows = []
    for check in CHECKS:
        for entry in (*summary["models"], summary["control"]):
            for line in entry["checks"]:
                if line["check"] != check.key:
                    continue
                arrow = "" if plain else "↑ " if check.better == "higher" else "↓ "
                row = {
                    "check": check.says, "model": entry["name"], **texts.seeds_column(entry, summary["models"]),
                    "better": arrow + check.better,
                    "value, 95 % CI": texts.with_interval(line["value"], line["ci"], number),
                }  # fmt: skip
                if "margin" in line:
                    row |= {
                        "correct": number(line["value_correct"]),
                        "control": f"{number(line['control'])} {line['control_is']}",
                        "value − control, 95 % CI": texts.with_interval(line["margin"], line["margin_ci"], number),
                        "n": texts.count(line["n"]),
                    }
                rows.append(row)
    table = pd.DataFrame(rows).fillna("–")
    return table.drop(columns=["correct", "n"]) if plain else table


def _caption(summary: dict[str, Any]) -> str:
    said = (
        f"{summary['map']}, threshold {summary['threshold']},"
        f" {texts.images_words(summary, summary['models'][0]['n'])}, class explained: {summary['target']}; a removed"
        f" pixel is {'the mean colour of its image' if summary['baseline'] == 'mean' else 'black'};"
        f" similarity: Spearman; all layers randomised, one draw of weights (seed {summary['seed']});"
        f" {texts.interval_words(summary['models'])}"
    )
    return f"{said}; {texts.attack_words(summary['attack'])}" if summary["attack"] else said


def _draw(summary: dict[str, Any], out: Path) -> list[Path]:
    from attrib.plots import base
    from attrib.plots.check import cascade_and_curves

    figure = cascade_and_curves(
        summary, title=f"{summary['map']}, {texts.data_words(summary)}, {summary['models'][0]['n']:,} images"
    )
    return base.save(figure, out / "check")
