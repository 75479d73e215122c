"""``attrib maps``: heat maps, images by models, clean or attacked."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrib.cli import common
from attrib.cli.explain import Examples, How, explain
from attrib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def maps(
    ckpt: common.Ckpt = None,
    model: common.Model = None,
    data: common.Data = None,
    map_name: Annotated[
        str,
        typer.Option(
            "--map",
            help="gradcam, eq6, gradient, smoothgrad, integrated-gradients, occlusion, guided-gradcam.",
        ),
    ] = "smoothgrad",
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

    from attrib import inference, plot, results
    from attrib.files import folder
    from attrib.maps import MAPS
    from attrib.spans import span

    common.check_choice("--map", map_name, MAPS)
    common.check_choice("--target", target, ("label", "prediction"))
    if images < 1:
        raise InputError(f"--images: expected at least 1, got {images}")
    if not (ckpt or model):
        raise InputError("nothing to look at: name a checkpoint with --ckpt PATH (or a --model)")
    if out:
        folder(out)
    where = inference.device(device)
    subjects = common.load_subjects(ckpt, model, arch=arch, mean=mean, std=std, size=size, layer=layer, device=where)
    pool = common.load_data(data, subjects, split=split, root=data_root, limit=limit, size=size)
    settings = common.attack_settings(attack, data=pool.name, eps=eps, step_size=step_size, steps=steps)
    how = How(map_name, target, settings, seed, precision, where)
    names = [subject.name for subject in subjects]
    shown = Examples(pool, count=min(images, len(pool)), models=names, index=_positions(index, len(pool)))

    rows: list[pd.DataFrame] = []
    order = torch.tensor(shown.index)
    for batch in pool.batches(len(order), order=order, device=where):
        for position, subject in enumerate(subjects):
            view = explain(subject, batch, how, classes=len(pool.classes))[settings.name if settings else "clean"]
            spans = span(view.map, threshold=threshold)
            shown.add(position, batch, view, spans)
            if out:
                with results.MapWriter(
                    out / f"maps-{subject.name}.npz", images=len(order), size=pool.shape[1:]
                ) as writer:
                    writer.add(batch.index.cpu().numpy(), view.map.cpu().numpy(), spans.cpu().numpy())
            rows.append(_rows(subject.name, batch.index, batch.label, view.prediction, view.map, pool.classes))
    table = pd.concat(rows, ignore_index=True)
    summary: dict[str, Any] = {
        "data": pool.name, "split": split, "map": map_name, "target": target, "seed": seed,
        "attack": settings._asdict() if settings else None,
        "models": [common.identity(subject) for subject in subjects],
        "images": table.to_dict("records"), "versions": common.provenance(),
    }  # fmt: skip
    said = f"{map_name}, {pool.name} {split}, {f'{settings.name} images' if settings else 'clean images'}"
    written = []
    if out:
        results.write_csv(table, out / "maps.csv")
        results.write_json(summary, out / "maps.json")
        examples = shown.arrays()
        results.write_examples(out / "maps-examples.npz", examples)
        written = plot.save(plot.map_grid(examples, title=said), out / "maps")
    if json:
        typer.echo(results.to_json(summary))
        return
    printed = table.assign(highest=table["highest"].map("{:.3g}".format), mean=table["mean"].map("{:.3g}".format))
    common.print_table(printed, title="Attribution maps", caption=f"{said}; in the units of the score explained")
    if out:
        for path in (out / "maps.csv", out / "maps.json", *written):
            typer.echo(path)


def _rows(name: str, index: Any, label: Any, prediction: Any, maps: Any, classes: tuple[str, ...]) -> "pd.DataFrame":
    import pandas as pd

    flat = maps.flatten(1).cpu()
    return pd.DataFrame(
        {
            "model": name, "index": index.cpu().numpy(),
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
