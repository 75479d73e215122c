"""``attrib span``: how much of the image does each model use, and is the difference real?"""

from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from attrib.cli import common
from attrib.cli.explain import Examples, Explained, How, explain
from attrib.cli.span_tables import caption, model_table, pair_table
from attrib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from attrib.data import Batch, Dataset
    from attrib.parallel import World

    Array = NDArray[Any]

LEVELS = np.linspace(0, 1, 41)


def span(
    ckpt: common.Ckpt = None,
    model: common.Model = None,
    maps_file: Annotated[
        list[str] | None,
        typer.Option("--maps", metavar="[NAME=]FILE.npz", help="Measure maps made elsewhere (arrays map, index)."),
    ] = None,
    data: common.Data = None,
    map_name: Annotated[
        str,
        typer.Option(
            "--map",
            help="gradcam, eq6, gradient, smoothgrad, integrated-gradients, occlusion, guided-gradcam.",
        ),
    ] = "gradcam",
    threshold: Annotated[str, typer.Option(help="mean, max:t, otsu or mass:q.")] = "mean",
    target: common.Target = "label",
    attack: common.AttackName = None,
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
    save_maps: Annotated[bool, typer.Option(help="Write every map and span to OUT/span-NAME.npz.")] = False,
    batch_size: common.BatchSize = 250,
    seed: common.Seed = 0,
    device: common.Device = "auto",
    precision: common.PrecisionName = "auto",
) -> None:
    """Attribution span coverage (ASC) of every model, with intervals, and the paired differences."""
    from attrib import results
    from attrib.files import folder
    from attrib.maps import MAPS
    from attrib.parallel import world
    from attrib.spans import parse_threshold

    parse_threshold(threshold)
    common.check_choice("--map", map_name, MAPS)
    common.check_choice("--target", target, ("label", "prediction"))
    if batch_size < 1:
        raise InputError(f"--batch-size: expected at least 1, got {batch_size}")
    if save_maps and not out:
        raise InputError("--save-maps needs --out DIR, the folder to write to")
    if maps_file and (attack or save_maps):
        raise InputError("--attack and --save-maps need models; --maps only measures maps that exist")
    if not (ckpt or model or maps_file):
        raise InputError("nothing to look at: name a checkpoint with --ckpt PATH (or a --model, or --maps)")
    if out:
        folder(out)

    with world(device) as here:
        subjects = common.load_subjects(
            ckpt, model, arch=arch, mean=mean, std=std, size=size, layer=layer, device=here.device
        )
        images = common.load_data(data, subjects, split=split, root=data_root, limit=limit, size=size)
        settings = common.attack_settings(attack, data=images.name, eps=eps, step_size=step_size, steps=steps)
        how = How(map_name, target, settings, seed, precision, here.device)
        how.attack_precision()
        outside = _maps_from_files(maps_file or [], images)
        names = [subject.name for subject in subjects] + list(outside)
        if len(set(names)) < len(names):
            raise InputError(f"two models are called the same: {', '.join(names)}; use NAME=PATH")

        found = _measure(
            subjects, outside, images, how, threshold=threshold, batch_size=batch_size,
            here=here, save_to=out if save_maps else None,
        )  # fmt: skip
    if found is None:  # not the first process of torchrun
        return
    summary = {
        "data": images.name, "split": split,
        "map": map_name if subjects else "from files", "threshold": threshold, "target": target, "seed": seed,
        "attack": settings._asdict() if settings else None,
        "models": [
            named | _summary_of(found, named["name"], settings, seed=seed)
            for named in [*map(common.identity, subjects), *({"name": name, "checkpoint": name} for name in outside)]
        ],
        "pairs": _pairs(found, names, seed=seed),
        "versions": common.provenance(),
    }  # fmt: skip
    if len(set(found.grids.values())) > 1:
        listed = ", ".join(f"{name} {grid}" for name, grid in found.grids.items())
        common.warn(f"the models' maps lie on different grids ({listed}), which alone changes coverage")

    if out:
        results.write_csv(found.table, out / "span.csv")
        results.write_json(summary, out / "span.json")
        results.write_latex(model_table(summary, plain=True), out / "span.tex", caption=caption(summary))
        results.write_examples(out / "span-examples.npz", found.examples)
        written = _draw(found, names, out, summary)
    if json:
        typer.echo(results.to_json(summary))
        return
    common.print_table(model_table(summary), title="Attribution span coverage (ASC)", caption=caption(summary))
    if summary["pairs"]:
        common.print_table(
            pair_table(summary), title="Paired differences",
            caption="p: two-sided permutation test, paired by image. It compares two files, not two methods.",
        )  # fmt: skip
    if out:
        for path in (out / "span.csv", out / "span.json", out / "span.tex", *written):
            typer.echo(path)


class Measured(NamedTuple):
    """What one pass over the data leaves."""

    table: "pd.DataFrame"
    """One row per model, kind of images (clean, or the attack's name) and image."""
    iou: dict[tuple[str, str, str], "Array"]
    """Kind and two models' names to the IoU of their spans of every image, (N,)."""
    curves: dict[tuple[str, str], "Array"]
    """Model and kind to the mean coverage at every level, (T,)."""
    grids: dict[str, str]
    """Model to the size of the grid its maps come from."""
    examples: dict[str, "Array"]
    """What the picture shows; see :func:`attrib.plot.map_grid`."""


def _measure(
    subjects: list[common.Subject], outside: "dict[str, dict[int, Array]]", data: "Dataset", how: How,
    *, threshold: str, batch_size: int, here: "World", save_to: Path | None,
) -> Measured | None:  # fmt: skip
    """Batch by batch over all models, so that memory does not grow with the number of images; None but for rank 0."""
    import pandas as pd
    import torch

    from attrib import results
    from attrib.parallel import gather
    from attrib.spans import coverage_curve, iou, span

    names = [subject.name for subject in subjects] + list(outside)
    examples = Examples(data, count=min(6, len(data)), models=names)
    if save_to and here.size > 1:
        raise InputError("--save-maps writes from one process; run it without torchrun")
    batches_of = torch.arange(len(data)).split(batch_size)
    mine = range(here.rank, len(batches_of), here.size)
    order = torch.cat([batches_of[number] for number in mine]) if mine else torch.arange(0)
    rows: dict[int, list[pd.DataFrame]] = {}
    shared: dict[int, dict[tuple[str, str, str], Any]] = {}
    curves: dict[tuple[str, str], Any] = {}
    grids: dict[str, str] = {}
    with ExitStack() as stack:
        writers = {}
        if save_to:
            for name in names:
                writer = results.MapWriter(save_to / f"span-{name}.npz", images=len(data), size=data.shape[1:])
                writers[name] = stack.enter_context(writer)
        batches = data.batches(batch_size, device=how.device, order=order)
        for number, batch in zip(mine, common.progress(batches, total=len(mine), title="span"), strict=True):
            rows[number], shared[number] = [], {}
            views = {s.name: explain(s, batch, how, classes=len(data.classes)) for s in subjects}
            views |= {name: {"clean": _looked_up(batch, found)} for name, found in outside.items()}
            spans: dict[str, dict[str, Tensor]] = {}
            for position, (name, kinds) in enumerate(views.items()):
                spans[name] = {kind: span(view.map, threshold=threshold) for kind, view in kinds.items()}
                for kind, view in kinds.items():
                    rows[number].append(_rows(name, kind, batch, view, spans[name], threshold=threshold))
                    curve = coverage_curve(view.map, LEVELS.tolist()).sum(0).cpu().numpy() / len(data)
                    curves[name, kind] = curves.get((name, kind), 0) + curve
                    if view.grid is not None:
                        grids[name] = "x".join(map(str, view.grid.shape[1:]))
                examples.add(position, batch, kinds["clean"], spans[name]["clean"])
                if name in writers:
                    arrays = batch.index, kinds["clean"].map, spans[name]["clean"]
                    writers[name].add(*(array.cpu().numpy() for array in arrays))
            for a, b in combinations(names, 2):
                for kind in spans[a].keys() & spans[b].keys():
                    shared[number][kind, a, b] = iou(spans[a][kind], spans[b][kind]).double().cpu().numpy()
    gathered = gather((rows, shared, curves, grids, examples.pictures))
    return None if gathered is None else _joined(gathered, examples)


def _joined(parts: list[Any], examples: Examples) -> Measured:
    """The processes' parts put together, the batches in the order of the data."""
    import pandas as pd

    rows, shared = ({number: found for part in parts for number, found in part[k].items()} for k in (0, 1))
    curves: dict[tuple[str, str], Any] = {}
    grids: dict[str, str] = {}
    for _, _, summed, found, pictures in parts:
        for key, curve in summed.items():
            curves[key] = curves.get(key, 0) + curve
        grids |= found
        examples.pictures |= pictures
    table = pd.concat([frame for number in sorted(rows) for frame in rows[number]], ignore_index=True)
    iou = {key: np.concatenate([shared[number][key] for number in sorted(shared)]) for key in shared[0]}
    return Measured(table, iou, curves, grids, examples.arrays())


def _rows(
    name: str, kind: str, batch: "Batch", view: Explained, spans: "dict[str, Tensor]", *, threshold: str
) -> "pd.DataFrame":
    """One row per image: what the picture of the span is in numbers."""
    import pandas as pd

    from attrib import spans as measure

    mask = spans[kind]
    columns: dict[str, Any] = {
        "label": batch.label, "prediction": view.prediction, "correct": view.prediction == batch.label,
        "coverage": measure.coverage(mask), "curve_area": measure.curve_area(view.map),
        "empty": measure.empty(view.map),
    }  # fmt: skip
    if view.grid is not None:
        columns["coverage_on_grid"] = measure.coverage(measure.span(view.grid, threshold=threshold))
    if kind != "clean":
        columns["iou_with_clean"] = measure.iou(mask, spans["clean"])
    if batch.mask is not None:
        columns["inside"] = measure.inside(mask, batch.mask)
        columns["object_covered"] = measure.object_covered(mask, batch.mask)
        columns["pointing"] = measure.pointing(view.map, batch.mask)
    arrays = {key: value.cpu().numpy() for key, value in columns.items()}
    return pd.DataFrame({"model": name, "images": kind, "index": batch.index.cpu().numpy(), **arrays})


def _summary_of(found: Measured, name: str, settings: common.AttackSettings | None, *, seed: int) -> dict[str, Any]:
    """The means of one model, on clean images and, under ``attacked``, on adversarial ones."""
    from attrib.stats import interval
    from attrib.stats import mean as mean_of

    def of(kind: str) -> dict[str, Any]:
        mine = found.table[(found.table["model"] == name) & (found.table["images"] == kind)]
        values = mine["coverage"].to_numpy(float)
        right = mine["correct"].to_numpy(bool)
        known = bool((mine["prediction"] >= 0).all())
        means: dict[str, Any] = {
            "n": len(mine),
            "accuracy": float(right.mean()) if known else None,
            "asc": mean_of(values),
            "asc_ci": list(interval(values, seed=seed)),
            "asc_correct": mean_of(values[right]) if known else None,
            "curve_area": mean_of(mine["curve_area"].to_numpy(float)),
            "empty": int(mine["empty"].sum()),
        }
        for column in ("coverage_on_grid", "iou_with_clean", "inside", "object_covered", "pointing"):
            if column in mine and mine[column].notna().any():
                means[column] = mean_of(mine[column].to_numpy(float))
        means["curve"] = found.curves[name, kind].tolist()
        return means

    summary = {"grid": found.grids.get(name), **of("clean")}
    if settings:
        summary["attacked"] = of(settings.name)
    return summary


def _pairs(found: Measured, names: list[str], *, seed: int) -> list[dict[str, Any]]:
    """Every pair's difference in coverage, a less b, paired by image, on each kind of images."""
    from attrib.stats import mean, paired

    coverage = {key: part["coverage"].to_numpy(float) for key, part in found.table.groupby(["model", "images"])}
    pairs = []
    for kind in found.table["images"].unique():
        for a, b in combinations(names, 2):
            if (kind, a, b) not in found.iou:
                continue
            result = paired(coverage[a, kind], coverage[b, kind], seed=seed)
            pairs.append(
                {
                    "a": a, "b": b, "images": kind, "n": len(coverage[a, kind]),
                    "difference": result.difference, "ci": [result.low, result.high], "p": result.p,
                    "iou": mean(found.iou[kind, a, b]),
                }
            )  # fmt: skip
    return pairs


def _draw(found: Measured, names: list[str], out: Path, summary: dict[str, Any]) -> list[Path]:
    from attrib import plot

    rule = f"{summary['map']}, threshold {summary['threshold']}, {summary['data']} {summary['split']}"
    picture = plot.map_grid(found.examples, title=rule, spans=True)
    clean = found.table[found.table["images"] == "clean"]
    distribution = plot.coverage_distribution(
        clean, models=names, levels=LEVELS, curves=np.array([found.curves[name, "clean"] for name in names]),
        title=f"{rule}, {summary['models'][0]['n']:,} images",
    )  # fmt: skip
    return [*plot.save(picture, out / "span"), *plot.save(distribution, out / "span-coverage")]


def _maps_from_files(files: list[str], data: "Dataset") -> "dict[str, dict[int, Any]]":
    """Name to {index: map} of every file, checked to hold a map of the right size for every image."""
    from attrib.results import read_maps

    found = {}
    for name, path in common.named_pairs(files, lambda text: Path(text).stem):
        index, maps = read_maps(Path(path))
        if maps.shape[1:] != tuple(data.shape[1:]):
            came, wanted = ("x".join(map(str, shape)) for shape in (maps.shape[1:], data.shape[1:]))
            raise InputError(f"{path}: expected maps of the images' size {wanted}, got {came}")
        by_index = dict(zip(index.tolist(), maps, strict=True))
        missing = [position for position in range(len(data)) if position not in by_index]
        if missing:
            raise InputError(
                f"{path}: no map for {len(missing)} of the {len(data)} images, the first is {missing[0]}; see --limit"
            )
        found[name] = by_index
    return found


def _looked_up(batch: "Batch", found: "dict[int, Any]") -> Explained:
    import torch

    maps = torch.from_numpy(np.stack([found[position] for position in batch.index.tolist()])).to(batch.image.device)
    unknown = torch.full_like(batch.label, -1)
    return Explained(batch.image, unknown, maps, None)
