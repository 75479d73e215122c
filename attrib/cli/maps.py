"""``attrib maps``: heat maps, images by models, clean or attacked."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrib.cli import common
from attrib.cli.batches import stoppable
from attrib.cli.explain import Examples, How, explain
from attrib.cli.subjects import Subject, entry_of, file_name, groups
from attrib.cli.texts import data_words, first_seeds, number
from attrib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def maps(
    ckpt: common.Ckpt = None,
    model: common.Model = None,
    data: common.Data = None,
    map_name: common.MapName = "gradcam",
    threshold: Annotated[str, typer.Option(help="Rule of the spans saved beside the maps.")] = "mean",
    images: Annotated[int, typer.Option(help="How many images to show: the first of each class.")] = 8,
    index: Annotated[str | None, typer.Option(help="Show these images instead, as 3,17,42.")] = None,
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
    seed: common.Seed = 0,
    device: common.Device = "auto",
    precision: common.PrecisionName = "auto",
) -> None:
    """Heat maps of a few images under every model; with --attack those of the adversarial images."""
    import pandas as pd
    import torch

    from attrib import results
    from attrib.parallel import gather, shard
    from attrib.plots import base
    from attrib.plots.maps import map_grid
    from attrib.spans import span

    common.check_map(map_name, threshold, layer=layer)
    common.check_choice("--target", target, ("label", "prediction"))
    if images < 1:
        raise InputError(f"--images: expected at least 1, got {images}")
    common.check_given(ckpt, model, out=out)
    with common.loaded(
        ckpt, model, arch=arch, mean=mean, std=std, size=size, layer=layer, data=data, split=split, root=data_root,
        limit=limit, attack=attack, eps=eps, step_size=step_size, steps=steps, device=device, precision=precision,
    ) as work:  # fmt: skip
        here, subjects, pool, settings = work
        how = How(map_name, target, settings, seed, precision, here.device)
        seeds = groups(subjects)
        shown = Examples(pool, count=min(images, len(pool)), models=list(seeds), index=_positions(index, len(pool)))
        kind = settings.name if settings else "clean"
        rows: list[pd.DataFrame] = []
        arrays: dict[str, list[Any]] = {subject.name: [] for subject in subjects}
        order = shard(torch.tensor(shown.index), here)
        for batch in pool.batches(max(1, len(order)), order=order, device=here.device):
            for subject in subjects:
                view = explain(subject, batch, how, classes=len(pool.classes))[kind]
                spans = span(view.map, threshold=threshold)
                if subject.seed == 0:
                    shown.add(list(seeds).index(subject.group), batch, {kind: view}, {kind: spans})
                arrays[subject.name].append([part.cpu().numpy() for part in (batch.index, view.map, spans)])
                rows.append(_rows(subject, batch.index, batch.label, view.prediction, view.map, pool.classes))
        parts = gather((rows, arrays, shown.pictures))
    if parts is None:  # not the first process of torchrun
        return
    for _, _, pictures in parts:
        shown.pictures |= pictures
    table = _in_order(pd.concat([frame for found, _, _ in parts for frame in found]), subjects)
    summary: dict[str, Any] = {
        "data": pool.name, "split": pool.split, "map": map_name, "target": target, "seed": seed,
        "attack": common.attack_entry(settings, how.attack_precision()), "precision": how.map_precision(),
        "models": [entry_of(files, lambda _: {}) for files in seeds.values()],
        "images": table.to_dict("records"), "versions": common.provenance(),
    }  # fmt: skip
    said = f"{map_name}, {data_words(summary)}, {f'{settings.name} images' if settings else 'clean images'}"
    written = []
    if out:
        with stoppable("some files are written, and some are not"):
            written = [out / "maps.csv", out / "maps.json"]
            results.write_csv(table, written[0])
            results.write_json(summary, written[1])
            for subject in subjects:
                path = out / f"maps-{file_name(subject)}.npz"
                _write(path, [of_batch for _, found, _ in parts for of_batch in found[subject.name]], pool.shape[1:])
            examples = shown.arrays()
            results.write_examples(out / "maps-examples.npz", examples)
            picture = map_grid(examples, title=said + first_seeds(summary["models"]))
            written += base.save(picture, out / "maps")
    if json:
        typer.echo(results.to_json(summary))
        return
    printed = table.assign(**{name: [number(value, ".3g") for value in table[name]] for name in ("highest", "mean")})
    if max(table["seed"]) == 0:
        printed = printed.drop(columns="seed")
    common.print_table(printed, title="Attribution maps", caption=f"{said}; in the units of the score explained")
    for path in written:
        typer.echo(path)


def _in_order(table: "pd.DataFrame", subjects: list[Subject]) -> "pd.DataFrame":
    """Model by model and file by file, the images in the order of the data, whichever process they come from."""
    import pandas as pd

    by_file = {key: rows.sort_values("index") for key, rows in table.groupby(["model", "seed"], sort=False)}
    return pd.concat([by_file[subject.group, subject.seed] for subject in subjects], ignore_index=True)


def _write(path: Path, parts: list[Any], size: tuple[int, int]) -> None:
    """The maps and spans of one file, from batches (index, map, span) in whatever order."""
    import numpy as np

    from attrib.results import MapWriter

    index, maps, spans = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(index)
    with MapWriter(path, images=len(order), size=size) as writer:
        writer.add(index[order], maps[order], spans[order])


def _rows(
    subject: Subject, index: Any, label: Any, prediction: Any, maps: Any, classes: tuple[str, ...]
) -> "pd.DataFrame":
    import pandas as pd

    flat = maps.flatten(1).cpu()
    return pd.DataFrame(
        {
            "model": subject.group, "seed": subject.seed, "index": index.cpu().numpy(),
            "label": [classes[k] for k in label.tolist()], "prediction": [classes[k] for k in prediction.tolist()],
            "highest": flat.amax(1).double().numpy(), "mean": flat.mean(1).double().numpy(),
        }
    )  # fmt: skip


def _positions(text: str | None, count: int) -> list[int] | None:
    if text is None:
        return None
    try:
        chosen = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise InputError(f"--index: expected positions separated by commas, got {text!r}") from None
    if chosen[0] < 0 or chosen[-1] >= count:
        raise InputError(f"--index: expected positions in 0..{count - 1}, got {text}")
    return chosen
