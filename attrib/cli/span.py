"""``attrib span``: how much of the image does each model use, and is the difference real?"""

from contextlib import ExitStack
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from attrib import thresholds
from attrib.cli import common
from attrib.cli.batches import ordered, stoppable
from attrib.cli.explain import Examples, Explained, How, explain
from attrib.cli.floor import floor_entry, random_coverages
from attrib.cli.span_tables import caption, model_table, pair_caption, pair_table, resting_on_empty
from attrib.cli.subjects import column, entry_of, file_name, groups, named_pairs, rows_of
from attrib.cli.texts import attack_words, data_words, first_seeds
from attrib.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from torch import Tensor

    from attrib.cli.subjects import Subject
    from attrib.data import Batch, Dataset
    from attrib.stats import Paired

    Array = NDArray[Any]
    File = tuple[str, int]
    """A model's name, and the position of the file among its seeds."""

LEVELS = np.linspace(0, 1, 41)


def span(
    ckpt: common.Ckpt = None,
    model: common.Model = None,
    maps_file: Annotated[
        list[str] | None,
        typer.Option("--maps", metavar="[NAME=]FILE.npz", help="Measure maps made elsewhere (arrays map, index)."),
    ] = None,
    data: common.Data = None,
    map_name: common.MapName = "gradcam",
    threshold: Annotated[str, typer.Option(help=thresholds.HELP)] = "mean",
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
    floor: Annotated[
        int, typer.Option(help="Images for the floor, the ASC of the same network with random weights; 0: none.")
    ] = 200,
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
    from attrib.floor import SEEDS

    common.check_map(map_name, threshold, layer=layer)
    common.check_choice("--target", target, ("label", "prediction"))
    if save_maps and not out:
        raise InputError("--save-maps needs --out DIR, the folder to write to")
    if floor < 0:
        raise InputError(f"--floor: expected a number of images, or 0 for no floor, got {floor}")
    if maps_file and (attack or save_maps):
        raise InputError("--attack and --save-maps need models; --maps only measures maps that exist")
    common.check_given(ckpt, model, maps_file, batch_size=batch_size, out=out, what="a --model, or --maps")

    with common.loaded(
        ckpt, model, arch=arch, mean=mean, std=std, size=size, layer=layer, data=data, split=split, root=data_root,
        limit=limit, attack=attack, eps=eps, step_size=step_size, steps=steps, device=device, precision=precision,
    ) as work:  # fmt: skip
        images, settings = work.images, work.attack
        outside = _maps_from_files(maps_file or [], images)
        seeds = groups(work.subjects)
        names = [*seeds, *outside]
        if len(seeds) + len(outside) > len(set(names)):
            raise InputError(f"two models are called the same: {', '.join(names)}; use NAME=PATH")
        how = How(map_name, target, settings, seed, precision, work.here.device)
        found = _measure(
            work, outside, how, threshold=threshold, batch_size=batch_size, save_to=out if save_maps else None
        )
        floors = random_coverages(work, how, threshold=threshold, images=floor, batch_size=batch_size)
    if found is None or floors is None:  # not the first process of torchrun
        return

    def numbers(files: "Sequence[Subject]") -> dict[str, Any]:
        measured = _summary_of(found, [(file.group, file.seed) for file in files], settings, seed=seed)
        return measured | (floor_entry([file.name for file in files], floors, seed=seed) if floor else {})

    pairs = _pairs(found, names, seed=seed)
    summary = {
        "data": images.name, "split": images.split,
        "map": map_name if seeds else "from files", "threshold": threshold, "target": target, "seed": seed,
        "attack": common.attack_entry(settings, how.attack_precision()),
        "precision": how.map_precision() if seeds else None,
        "floor": {"images": min(floor, len(images)), "networks": SEEDS} if floor else None,
        "models": [
            *(entry_of(files, numbers) for files in seeds.values()),
            *(
                {"name": name, "checkpoint": name}
                | _summary_of(found, [(name, 0)], settings, seed=seed)
                | (floor_entry([name], {}, seed=seed) if floor else {})
                for name in outside
            ),
        ],
        "pairs": pairs,
        "versions": common.provenance(),
    }  # fmt: skip
    grids = {name: grid for (name, _), grid in found.grids.items()}
    if len(set(grids.values())) > 1:
        listed = ", ".join(f"{name} {grid}" for name, grid in grids.items())
        common.warn(f"the models' maps lie on different grids ({listed}), which alone changes coverage")

    common.warn_at_chance(work.subjects, found.table[found.table["images"] == "clean"], images)
    for said in filter(None, map(resting_on_empty, pairs)):
        common.warn(said)

    written = []
    if out:
        with stoppable("some files are written, and some are not"):
            written = [out / name for name in ("span.csv", "span.json", "span.tex")]
            results.write_csv(found.table, written[0])
            results.write_json(summary, written[1])
            results.write_latex(model_table(summary, plain=True), written[2], caption=caption(summary))
            results.write_examples(out / "span-examples.npz", found.examples)
            written += _draw(found, names, out, summary)
    if json:
        typer.echo(results.to_json(summary))
        return
    common.print_table(model_table(summary), title="Attribution span coverage (ASC)", caption=caption(summary))
    if summary["pairs"]:
        common.print_table(pair_table(summary), title="Paired differences", caption=pair_caption(summary))
    for path in written:
        typer.echo(path)


class Measured(NamedTuple):
    """What one pass over the data leaves."""

    table: "pd.DataFrame"
    """One row per file of a model, kind of images (clean, or the attack's name) and image."""
    iou: dict[tuple[str, str, str], "Array"]
    """Kind and two models' names to the IoU of their spans of every image, (N,); the mean over their seeds' pairs."""
    curves: dict[tuple["File", str], "Array"]
    """File and kind to the mean coverage at every level, (T,)."""
    grids: dict["File", str]
    """File to the size of the grid its maps come from."""
    examples: dict[str, "Array"]
    """What the picture shows; see :func:`attrib.plots.maps.map_grid`."""


def _measure(
    work: common.Loaded, outside: "dict[str, dict[int, Array]]", how: How,
    *, threshold: str, batch_size: int, save_to: Path | None,
) -> Measured | None:  # fmt: skip
    """Batch by batch over all models, so that memory does not grow with the number of images; None but for rank 0."""
    import pandas as pd
    import torch

    from attrib import results
    from attrib.parallel import gather
    from attrib.spans import coverage_curve, iou, span

    here, subjects, data, _ = work
    names = [*groups(subjects), *outside]
    examples = Examples(data, count=min(4 if how.attack else 6, len(data)), models=names)
    if save_to and here.size > 1:
        raise InputError("--save-maps writes from one process; run it without torchrun")
    batches_of = torch.arange(len(data)).split(batch_size)
    mine = range(here.rank, len(batches_of), here.size)
    order = torch.cat([batches_of[number] for number in mine]) if mine else torch.arange(0)
    rows: dict[int, list[pd.DataFrame]] = {}
    shared: dict[int, dict[tuple[str, str, str], Any]] = {}
    curves: dict[tuple[File, str], Any] = {}
    grids: dict[File, str] = {}
    with ExitStack() as stack:
        writers = {}
        for subject in subjects if save_to else ():
            assert save_to is not None
            path = save_to / f"span-{file_name(subject)}.npz"
            writer = results.MapWriter(path, images=len(data), size=data.shape[1:])
            writers[subject.group, subject.seed] = stack.enter_context(writer)
        batches = data.batches(batch_size, device=how.device, order=order)
        for number, batch in zip(mine, common.progress(batches, total=len(mine), title="span"), strict=True):
            rows[number], shared[number] = [], {}
            views = {(s.group, s.seed): explain(s, batch, how, classes=len(data.classes)) for s in subjects}
            views |= {(name, 0): {"clean": _looked_up(batch, found)} for name, found in outside.items()}
            spans: dict[File, dict[str, Tensor]] = {}
            for file, kinds in views.items():
                spans[file] = {kind: span(view.map, threshold=threshold) for kind, view in kinds.items()}
                for kind, view in kinds.items():
                    rows[number].append(_rows(file, kind, batch, view, spans[file], threshold=threshold))
                    # Whole pixels, whose sum is exact in whatever order batches come.
                    pixels = view.map.shape[1] * view.map.shape[2]
                    shares = coverage_curve(view.map, LEVELS.tolist()).double()
                    curve = (shares * pixels).round().sum(0).cpu().numpy()
                    curves[file, kind] = curves.get((file, kind), 0) + curve
                    if view.grid is not None:
                        grids[file] = "x".join(map(str, view.grid.shape[1:]))
                if file[1] == 0:
                    examples.add(names.index(file[0]), batch, kinds, spans[file])
                if file in writers:
                    arrays = batch.index, kinds["clean"].map, spans[file]["clean"]
                    writers[file].add(*(array.cpu().numpy() for array in arrays))
            for a, b in combinations(names, 2):
                files = list(product(*([file for file in spans if file[0] == name] for name in (a, b))))
                for kind in spans[a, 0].keys() & spans[b, 0].keys():
                    found = [iou(spans[one][kind], spans[other][kind]).double() for one, other in files]
                    shared[number][kind, a, b] = torch.stack(found).mean(0).cpu().numpy()
    gathered = gather((rows, shared, curves, grids, examples.pictures))
    height, width = data.shape[1:]
    return None if gathered is None else _joined(gathered, examples, pixels=len(data) * height * width)


def _joined(parts: list[Any], examples: Examples, *, pixels: int) -> Measured:
    """The processes' parts put together; pixels: how many all images have."""
    import pandas as pd

    rows, shared = ({number: found for part in parts for number, found in part[k].items()} for k in (0, 1))
    curves: dict[tuple[File, str], Any] = {}
    grids: dict[File, str] = {}
    for _, _, summed, found, pictures in parts:
        for key, curve in summed.items():
            curves[key] = curves.get(key, 0) + curve
        grids |= found
        examples.pictures |= pictures
    table = ordered(pd.concat([frame for number in sorted(rows) for frame in rows[number]], ignore_index=True))
    iou = {key: np.concatenate([shared[number][key] for number in sorted(shared)]) for key in shared[0]}
    shares = {key: curve / pixels for key, curve in curves.items()}
    return Measured(table, iou, shares, grids, examples.arrays())


def _rows(
    file: "File", kind: str, batch: "Batch", view: Explained, spans: "dict[str, Tensor]", *, threshold: str
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
    name, seed = file
    return pd.DataFrame(
        {"model": name, "seed": seed, "images": kind, "index": batch.index.cpu().numpy(), **arrays}
    )  # fmt: skip


def _summary_of(
    found: Measured, files: "Sequence[File]", settings: common.AttackSettings | None, *, seed: int
) -> dict[str, Any]:
    """The means over some files of a model, on clean images and, under ``attacked``, on adversarial ones."""
    from attrib.stats import interval, mean

    def of(kind: str) -> dict[str, Any]:
        of_kind = found.table[found.table["images"] == kind]
        rows = [rows_of(of_kind, name)[position] for name, position in files]
        values, right = column(rows, "coverage"), column(rows, "correct")
        known = bool((column(rows, "prediction") >= 0).all())
        empty = float(column(rows, "empty").sum(1).mean())
        means: dict[str, Any] = {
            "n": values.shape[1],
            "accuracy": mean(right) if known else None,
            "asc": mean(values),
            "asc_ci": list(interval(values, seed=seed, within=(0, 1))),
            "asc_correct": mean(np.where(right > 0, values, np.nan)) if known else None,
            "curve_area": mean(column(rows, "curve_area")),
            "empty": int(empty) if len(files) == 1 else empty,
        }
        for name in ("coverage_on_grid", "iou_with_clean", "inside", "object_covered", "pointing"):
            measured = column(rows, name)
            if not np.isnan(measured).all():
                means[name] = mean(measured)
        means["curve"] = np.mean([found.curves[file, kind] for file in files], 0).tolist()
        return means

    summary = {"grid": found.grids.get(files[0]), **of("clean")}
    if settings:
        summary["attacked"] = of(settings.name)
    return summary


def _pairs(found: Measured, names: list[str], *, seed: int) -> list[dict[str, Any]]:
    """Every pair's difference in coverage, a less b, paired by image, on each kind of images."""
    from attrib.stats import mean, paired, with_holm

    pairs: list[dict[str, Any]] = []
    for kind, of_kind in found.table.groupby("images", sort=False):
        coverage = {name: column(rows_of(of_kind, name), "coverage") for name in of_kind["model"].unique()}
        for a, b in combinations(names, 2):
            if (kind, a, b) not in found.iou:
                continue
            # An empty map is the only one that covers nothing.
            seen = (np.concatenate([coverage[a], coverage[b]]) > 0).all(0)
            both = paired(coverage[a], coverage[b], seed=seed)
            rest = both if seen.all() else paired(coverage[a][:, seen], coverage[b][:, seen], seed=seed)
            pairs.append(
                {
                    "a": a, "b": b, "images": kind, "n": coverage[a].shape[1],
                    **_compared(both), "without_empty": {"n": int(seen.sum()), **_compared(rest)},
                    "iou": mean(found.iou[str(kind), a, b]),
                }
            )  # fmt: skip
    without_empty = with_holm(pair["without_empty"] for pair in pairs)
    return [pair | {"without_empty": rest} for pair, rest in zip(with_holm(pairs), without_empty, strict=True)]


def _compared(result: "Paired") -> dict[str, Any]:
    return {"difference": result.difference, "ci": [result.low, result.high], "p": result.p}


def _draw(found: Measured, names: list[str], out: Path, summary: dict[str, Any]) -> list[Path]:
    from attrib.plots import base
    from attrib.plots.maps import map_grid
    from attrib.plots.span import coverage_distribution

    rule = f"{summary['map']}, threshold {summary['threshold']}, {data_words(summary)}"
    attack = summary["attack"]
    pictured = rule + (f"; attacked by {attack_words(attack)}" if attack else "") + first_seeds(summary["models"])
    picture = map_grid(found.examples, title=pictured, spans=True)
    distribution = coverage_distribution(
        found.table[found.table["images"] == "clean"], models=names, levels=LEVELS,
        curves=np.array([entry["curve"] for entry in summary["models"]]),
        floors={
            entry["name"]: entry["asc_floor"] for entry in summary["models"] if entry.get("asc_floor") is not None
        },
        title=f"{rule}, {summary['models'][0]['n']:,} {'clean ' if attack else ''}images",
    )  # fmt: skip
    return [*base.save(picture, out / "span"), *base.save(distribution, out / "span-coverage")]


def _maps_from_files(files: list[str], data: "Dataset") -> "dict[str, dict[int, Any]]":
    """Name to {index: map} of every file, checked to hold a map of the right size for every image."""
    from attrib.results import read_maps

    found = {}
    for name, path in named_pairs(files, lambda text: Path(text).stem):
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
