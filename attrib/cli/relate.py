"""``attrib relate``: does what a model looks at go with its robustness, image by image and model by model?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from attrib.cli import common, texts
from attrib.cli.batches import over_batches, unfinished
from attrib.cli.explain import Explained, How, explain
from attrib.cli.sets import OTHERS, saved_epochs
from attrib.cli.subjects import Subject, groups, identity, named_pairs
from attrib.errors import InputError
from attrib.relate import MODEL, Point, image_relations, model_relations

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from attrib.data import Batch, Dataset

MEASURES = {
    "coverage": "coverage",
    "participation_ratio": "participation ratio",
    "span_iou": "span IoU, clean/adversarial",
}
"""What is set against robustness: the CSV's column, and how tables and axes call it."""


class Saved(NamedTuple):
    """A saved epoch of a run."""

    run: str
    number: int
    path: Path


def relate(
    ckpt: common.Ckpt = None,
    model: common.Model = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            "--run-dir",
            metavar="[NAME=]RUN_DIR",
            help="The saved epochs (epoch-*.pt) of a training run as further points across models; without --ckpt the"
            " last epoch of each run is looked at image by image. Under torchrun write --run-dir.",
        ),
    ] = None,
    data: common.Data = None,
    map_name: Annotated[str, typer.Option("--map", help="The map whose span is measured, as for attrib span.")] = (
        "gradcam"
    ),
    threshold: Annotated[str, typer.Option(help="mean, max:t, otsu or mass:q.")] = "mean",
    attack: Annotated[str, typer.Option(help="The attack: fgsm, pgd or cw.")] = "pgd",
    eps: common.Eps = None,
    step_size: common.StepSize = None,
    steps: common.Steps = None,
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
    """Whether coverage, participation ratio and span IoU go with robustness, over images and across models."""
    import pandas as pd

    from attrib import results

    common.check_map(map_name, threshold, layer=layer)
    common.check_given(ckpt, model, run, batch_size=batch_size, out=out, what=OTHERS)
    epochs = all_epochs(run or [])
    with common.loaded(
        ckpt, model, arch=arch, mean=mean, std=std, size=size, layer=layer, data=data, split=split, root=data_root,
        limit=limit, attack=attack, eps=eps, step_size=step_size, steps=steps, device=device, precision=precision,
        others=first_of_runs(epochs),
    ) as work:  # fmt: skip
        here, subjects, images, settings = work
        assert settings is not None  # None is for commands that may do without an attack
        how = How(map_name, "label", settings, seed, precision, here.device)

        def measure(batch: "Batch") -> "pd.DataFrame":
            parts = [image_rows(s, batch, how, threshold, images, epoch=MODEL) for s in subjects]
            for epoch in epochs:
                subject = load_epoch(epoch, here.device)
                parts.append(image_rows(subject, batch, how, threshold, images, epoch=epoch.number))
            return pd.concat(parts, ignore_index=True)

        described = {
            "size": size, "threshold": threshold, "layer": layer, "how": how.key(),
            "epochs": (prints := fingerprints_of(epochs, images)),
        }  # fmt: skip
        with unfinished(out, "relate", work, batch_size=batch_size, settings=described) as keep:
            table = over_batches(images, measure, batch_size=batch_size, here=here, title="relate", keep=keep)
            if table is None:  # the first process has the rows of all
                return

            points = [
                Point(name, MODEL, files[0].path if len(files) == 1 else [file.path for file in files])
                for name, files in groups(subjects).items()
            ]
            lasts = {epoch.run: epoch.number for epoch in epochs}
            of_runs = [Point(epoch.run, epoch.number, str(epoch.path)) for epoch in epochs]
            chosen = points or [point for point in of_runs if lasts[point.name] == point.epoch]
            summary: dict[str, Any] = {
                "data": images.name, "split": images.split, "map": map_name, "threshold": threshold, "seed": seed,
                "attack": common.attack_entry(settings, how.attack_precision()), "precision": how.map_precision(),
                "models": _identified(
                    image_relations(table, chosen, tuple(MEASURES), seed=seed),
                    {subject.path: identity(subject) for subject in subjects}
                    | {
                        str(epoch.path): {"fingerprint": said.split()[-1]}
                        for epoch, said in zip(epochs, prints, strict=True)
                    },
                ),
                "across": model_relations(table, [*points, *of_runs], tuple(MEASURES), seed=seed),
                "versions": common.provenance(),
            }  # fmt: skip
            written: list[Path] = []
            if out:
                written = [out / "relate.csv", out / "relate.json", out / "relate.tex"]
                by_epoch = table["epoch"].where(table["epoch"] != MODEL).astype("Int64")
                results.write_csv(table.assign(epoch=by_epoch), written[0])
                results.write_json(summary, written[1])
                results.write_latex(_model_table(summary), written[2], caption=_caption(summary))
                written += _draw(table, summary, out)
    grids = sorted(set(table["grid"]))
    if len(grids) > 1:
        common.warn(f"the models' maps lie on different grids ({', '.join(grids)}), which alone changes coverage")
    if json:
        typer.echo(results.to_json(summary))
        return
    _print(summary)
    for path in written:
        typer.echo(path)


def _identified(entries: list[dict[str, Any]], by_path: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries with what tells their files from others: fingerprints, and of a model of one's own its input."""
    for entry in entries:
        files = entry["checkpoint"]
        if isinstance(files, str):
            entry |= by_path[files] | {"name": entry["name"]}
        else:
            entry["fingerprint"] = [by_path[path]["fingerprint"] for path in files]
        _identified(entry.get("seeds", []), by_path)
    return entries


def all_epochs(runs: list[str]) -> list[Saved]:
    """The saved epochs of every [NAME=]RUN_DIR; raises InputError where one has none, or two are called the same."""
    named = list(named_pairs(runs, lambda text: Path(text).resolve().name.replace("=", "-")))
    names = [name for name, _ in named]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two runs are called {name!r}; give each its own name with NAME=RUN_DIR")
    return [Saved(name, *epoch) for name, path in named for epoch in saved_epochs(Path(path))]


def load_epoch(epoch: Saved, device: "torch.device | str") -> Subject:
    """The model of a saved epoch. Epochs are read anew when they are needed: one in memory at a time."""
    from attrib.models import checkpoint

    model, ckpt = checkpoint.load(epoch.path, device=device)
    return Subject(f"{epoch.run} epoch {epoch.number}", epoch.run, 0, str(epoch.path), model, None, ckpt)


def first_of_runs(epochs: list[Saved]) -> list[Subject]:
    """The first epoch of every run: where it fits the data, the others do."""
    firsts = {epoch.run: epoch for epoch in reversed(epochs)}
    return [load_epoch(epoch, "cpu") for epoch in reversed(firsts.values())]


def fingerprints_of(epochs: list[Saved], data: "Dataset") -> list[str]:
    """The fingerprints of the epochs' weights; raises InputError where one does not fit the data."""
    from attrib.models import checkpoint

    found = []
    for epoch in epochs:
        ckpt = checkpoint.read(epoch.path)
        try:
            checkpoint.check_data(ckpt, classes=len(data.classes), shape=data.shape)
        except InputError as error:
            raise InputError(f"{epoch.path}: {error}") from None
        found.append(f"{epoch.run} {epoch.number} {ckpt.fingerprint}")
    return found


def image_rows(
    subject: Subject, batch: "Batch", how: How, threshold: str, data: "Dataset", *, epoch: int
) -> "pd.DataFrame":
    """One row per image of what the model makes of it, clean and attacked; margins are z_y - max_{j != y} z_j."""
    import pandas as pd

    from attrib import inference
    from attrib.features import last_layer, participation_ratio
    from attrib.loss import cross_entropy, margin
    from attrib.spans import coverage, iou, span

    assert how.attack is not None
    views = explain(subject, batch, how, classes=len(data.classes))
    clean, attacked = views["clean"], views[how.attack.name]
    z, z_adversarial = (inference.logits(subject.model, view.image).double() for view in (clean, attacked))
    spans, spans_adversarial = (span(view.map, threshold=threshold) for view in (clean, attacked))
    try:
        last = last_layer(subject.model, batch.image, batch.label)
    except InputError as error:
        raise InputError(f"{subject.name}: {error}") from None
    columns = {
        "index": batch.index, "label": batch.label,
        "prediction": z.argmax(1), "prediction_adversarial": z_adversarial.argmax(1),
        "correct": z.argmax(1) == batch.label,
        "margin": -margin(z, batch.label), "margin_adversarial": -margin(z_adversarial, batch.label),
        "loss": cross_entropy(z, batch.label),
        "loss_adversarial": cross_entropy(z_adversarial, batch.label),
        "coverage": coverage(spans), "coverage_adversarial": coverage(spans_adversarial),
        # A common factor does not change it, and |dL/dA| itself may underflow where the model is sure.
        "participation_ratio": participation_ratio(last.scale_free), "span_iou": iou(spans, spans_adversarial),
    }  # fmt: skip
    # In float64, which a CSV gives back exactly when a stopped command continues.
    columns = {name: values.double() if values.is_floating_point() else values for name, values in columns.items()}
    arrays = {name: values.cpu().numpy() for name, values in columns.items()}
    return pd.DataFrame({"model": subject.group, "seed": subject.seed, "epoch": epoch, "grid": _grid(clean), **arrays})


def _grid(view: Explained) -> str:
    """The size of the grid that the map was made on."""
    return "x".join(map(str, (view.map if view.grid is None else view.grid).shape[1:]))


def _model_table(summary: dict[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    for entry in summary["models"]:
        for measure, words in MEASURES.items():
            broken, margin, partial = (entry[measure][name] for name in ("broken", "margin", "partial"))
            rows.append(
                {
                    "model": _name(entry), **texts.seeds_column(entry, summary["models"]), "of": words,
                    "broken": _number(broken["mean_broken"], measure), "stood": _number(broken["mean_stood"], measure),
                    "difference": _with_interval(broken, "difference", measure), **texts.p_columns(broken),
                    "ρ with margin": _with_interval(margin, "rho"),
                    # Other headers, since a row has both tests.
                    **{f"{header} of ρ": p for header, p in texts.p_columns(margin).items()},
                    "ρ given clean": _with_interval(partial, "rho"),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _across_table(summary: dict[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    for entry in summary["across"]["points"]:
        row = {"model": _name(entry), "robust accuracy %": f"{100 * entry['robust_accuracy']:.2f}"}
        rows.append(row | {words: _number(entry[measure], measure) for measure, words in MEASURES.items()})
    found = {words: summary["across"]["correlations"][measure] for measure, words in MEASURES.items()}
    lines: dict[str, dict[str, str]] = {}
    for words, each in found.items():
        cells = {
            f"ρ with robust accuracy, {each['n']:g} models": _number(each["rho"], signed=True),
            "95 % CI over images": texts.interval(each["ci_images"], _signed),
            "95 % CI over models": texts.interval(each["ci"], _signed),
            **texts.p_columns(each),
        }
        for header, cell in cells.items():
            lines.setdefault(header, {})[words] = cell
    rows += [{"model": header, "robust accuracy %": "", **cells} for header, cells in lines.items()]
    return pd.DataFrame(rows).fillna("–")


def _signed(value: float) -> str:
    return _number(value, signed=True)


def _across_caption(summary: dict[str, Any]) -> str:
    said = (
        "ρ: Spearman's rank correlation. Interval over images: the order of these very models; over models: what other"
        " models may give (Fisher's z); p: permutation test over models"
    )
    note = summary["across"]["note"]
    return f"{said}; {note}" if note else said


def _name(entry: dict[str, Any]) -> str:
    return str(entry["name"]) if entry["epoch"] is None else f"{entry['name']} epoch {entry['epoch']}"


def _number(value: float, measure: str | None = None, *, signed: bool = False) -> str:
    """Coverage and IoU in percent; a participation ratio as it is; rank correlations with two decimals."""
    scale, digits = {"participation_ratio": (1, 1), None: (1, 2)}.get(measure, (100, 1))
    return texts.number(value, f"{'+' if signed else ''}.{digits}f", scale=scale)


def _with_interval(found: dict[str, Any], key: str, measure: str | None = None) -> str:
    return texts.with_interval(found[key], found["ci"], lambda value: _number(value, measure, signed=True))


def _caption(summary: dict[str, Any]) -> str:
    attack, several = summary["attack"], texts.several_seeds(summary["models"])
    said = (
        f"{texts.images_words(summary, summary['models'][0]['n'])}; {summary['map']}, threshold"
        f" {summary['threshold']}; {texts.attack_words(attack)}. Means and differences of coverage and IoU in percent,"
        " among the images that are right when clean: those the attack broke less those that stood. ρ: Spearman's rank"
        " correlation with the adversarial margin over all images; given clean: with the clean margin held fixed."
        f" {texts.interval_words(summary['models'])}; p: permutation test"
        f"{', of several seeds t test over seeds and images' if several else ''},"
        " p (Holm): corrected for all comparisons of the table."
        " Span IoU is measured on the attacked image, so it is no cause of what it goes with. –, or no interval: too"
        " few images, or too many with the same value"
    )
    notes = [f"{_name(entry)}: {entry['note']}" for entry in summary["models"] if entry["note"]]
    return "; ".join([said, *notes])


def _print(summary: dict[str, Any]) -> None:
    common.print_table(_model_table(summary), title="Image by image", caption=_caption(summary))
    if len(summary["across"]["points"]) > 1:
        common.print_table(_across_table(summary), title="Across models", caption=_across_caption(summary))


def _draw(table: "pd.DataFrame", summary: dict[str, Any], out: Path) -> list[Path]:
    from attrib.plots import base
    from attrib.plots.relate import relations

    said = f"{texts.data_words(summary)}, {summary['models'][0]['n']:,} images, {texts.attack_words(summary['attack'])}"
    return base.save(relations(table, summary, measures=MEASURES, title=said), out / "relate")
