"""``attrib fc``: valid values of the last layer's weights, counted and drawn."""

from itertools import combinations, zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrib.cli import common
from attrib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from attrib.data import Dataset

FcName = Annotated[
    str | None,
    typer.Option("--fc", metavar="NAME", help="Last layer of a --model by its dotted name (default: the last linear)."),
]
PRINTED = 30
"""With more classes than these, the table shows the mean only; the CSV holds all."""


def fc(
    ckpt: common.Ckpt = None,
    model: common.Model = None,
    rule: Annotated[
        str,
        typer.Option(help="Valid: above W's mean (mean), the mean of the class's row (class-mean), or |W| (absolute)."),
    ] = "mean",
    fc_name: FcName = None,
    data: Annotated[
        str | None,
        typer.Option(help="A data set, one image of which finds the last layer of a --model; it names the classes."),
    ] = None,
    arch: common.Arch = None,
    mean: common.Mean = None,
    std: common.Std = None,
    size: common.Size = None,
    data_root: common.DataRoot = None,
    split: common.Split = "test",
    out: common.Out = None,
    json: common.Json = False,
    device: common.Device = "auto",
) -> None:
    """Valid values of the last layer's weights, per class and on average, and their picture in red and white."""
    from attrib import inference, results
    from attrib.features import RULES, valid_values
    from attrib.files import folder

    common.check_choice("--rule", rule, RULES)
    if not (ckpt or model):
        raise InputError("nothing to look at: name a checkpoint with --ckpt PATH (or a --model)")
    if model and not (fc_name or data):
        raise InputError("the last layer of a --model is found by running one image of --data NAME, or named with --fc")
    if out:
        folder(out)
    where = inference.device(device)
    subjects = common.load_subjects(ckpt, model, arch=arch, mean=mean, std=std, size=size, layer=None, device=where)
    layers = last_layers(subjects, fc_name)
    images = common.load_data(data, subjects, split=split, root=data_root, limit=1, size=size) if data else None

    entries: list[dict[str, Any]] = []
    masks = []
    for subject in subjects:
        weight = _weight(subject, layers[subject.name], images)
        masks.append(valid_values(weight, rule=rule).cpu().numpy())
        entries.append(
            {
                "name": subject.name, "checkpoint": subject.path, "features": weight.shape[1],
                "classes": _class_names(subject, images, len(weight)), "valid": masks[-1].sum(1).tolist(),
                "valid_mean": float(masks[-1].sum(1).mean()), "valid_share": float(masks[-1].mean()),
            }
        )  # fmt: skip
    summary: dict[str, Any] = {
        "rule": rule,
        "models": entries,
        "pairs": _pairs(entries),
        "versions": common.provenance(),
    }
    table = _table(entries)

    written = []
    if out:
        from attrib import plot
        from attrib.plot_features import valid_picture

        written = [out / name for name in ("fc.csv", "fc.json", "fc.tex")]
        results.write_csv(_rows(entries), written[0])
        results.write_json(summary, written[1])
        results.write_latex(table, written[2], caption=_caption(summary))
        names, classes = [entry["name"] for entry in entries], [entry["classes"] for entry in entries]
        figure = valid_picture(masks, models=names, classes=classes, title=_rule(rule))
        written += plot.save(figure, out / "fc")
    if json:
        typer.echo(results.to_json(summary))
        return
    common.print_table(
        table if len(table) <= PRINTED + 2 else table.tail(2),
        title="Valid values of the last layer", caption=_caption(summary),
    )  # fmt: skip
    for pair in summary["pairs"]:
        typer.echo(
            f"{pair['a']} − {pair['b']}: {pair['difference']:+.1f} valid values a class; "
            f"more in {pair['more']} of {pair['classes']} classes, fewer in {pair['fewer']}"
        )
    for path in written:
        typer.echo(path)


def last_layers(subjects: list[common.Subject], name: str | None) -> "dict[str, nn.Module | None]":
    """Every subject's last layer, by the subject's name: a checkpoint's is known, ``--fc`` names that of a --model.

    None: it has to be found by running an image. Raises InputError where ``--fc`` names nothing.
    """
    from attrib.layers import named

    outside = [subject for subject in subjects if not subject.checkpoint]
    if name is not None and not outside:
        raise InputError("--fc names the last layer of a --model; a checkpoint's is known")
    found: dict[str, nn.Module | None] = {s.name: s.model.get_submodule("fc") for s in subjects if s.checkpoint}
    for subject in outside:
        try:
            found[subject.name] = None if name is None else named(subject.model, name)
        except InputError as error:
            raise InputError(f"--fc: {str(error).removeprefix('layer: ')}") from None
    return found


def _weight(subject: common.Subject, layer: "nn.Module | None", images: "Dataset | None") -> "Tensor":
    """The last layer's weight (K,D)."""
    import torch

    from attrib.layers import last_linear

    if layer is None:
        assert images is not None
        device = next((parameter.device for parameter in subject.model.parameters()), torch.device("cpu"))
        try:
            layer = last_linear(subject.model, next(images.batches(1, device=device)).image)
        except InputError as error:
            raise InputError(f"{subject.name}: {error} (--fc)") from None
    weight = getattr(layer, "weight", None)
    # A 1x1 convolution holds such a matrix too.
    if not isinstance(weight, torch.Tensor) or weight.ndim < 2 or weight.shape[2:].numel() != 1:
        raise InputError(
            f"{subject.name}: expected a last layer with a weight of shape (K,D), got {type(layer).__name__}; see --fc"
        )
    return weight.detach().flatten(1)


def _class_names(subject: common.Subject, images: "Dataset | None", count: int) -> list[str]:
    """The classes of ``--data``, else of what the checkpoint was trained on, else their numbers; no data is loaded."""
    from attrib import data, glyphs

    known: tuple[str, ...] = ()
    if images:
        known = images.classes
    elif subject.checkpoint:
        known = {**data.CLASSES, "glyphs": glyphs.CLASSES}.get(subject.checkpoint.data, ())
    return list(known) if len(known) == count else [str(number) for number in range(count)]


def _pairs(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How every two models with the same number of classes and features differ, a less b."""
    return [
        {
            "a": a["name"], "b": b["name"], "difference": a["valid_mean"] - b["valid_mean"],
            "more": sum(x > y for x, y in zip(a["valid"], b["valid"], strict=True)),
            "fewer": sum(x < y for x, y in zip(a["valid"], b["valid"], strict=True)),
            "classes": len(a["valid"]),
        }
        for a, b in combinations(entries, 2)
        if (a["features"], len(a["valid"])) == (b["features"], len(b["valid"]))
    ]  # fmt: skip


def _rows(entries: list[dict[str, Any]]) -> "pd.DataFrame":
    """One row per model and class."""
    import pandas as pd

    tables = [
        pd.DataFrame(
            {"model": e["name"], "class": e["classes"], "valid": e["valid"], "total": e["features"]},
        )
        for e in entries
    ]
    return pd.concat(tables, ignore_index=True)


def _table(entries: list[dict[str, Any]]) -> "pd.DataFrame":
    """Classes in rows and models in columns; the mean over classes and its share of all values below."""
    import pandas as pd

    names = [set(position) - {None} for position in zip_longest(*(entry["classes"] for entry in entries))]
    # Models of different data sets share positions, not names.
    label = [min(found) if len(found) == 1 else str(number) for number, found in enumerate(names)]
    columns = {
        entry["name"]: [
            *map(str, entry["valid"]), *["–"] * (len(label) - len(entry["valid"])),
            f"{entry['valid_mean']:.1f} of {entry['features']}", f"{100 * entry['valid_share']:.1f}",
        ]
        for entry in entries
    }  # fmt: skip
    return pd.DataFrame({"class": [*label, "mean", "mean %"], **columns})


def _rule(rule: str) -> str:
    return {
        "mean": "valid: above the mean of W",
        "class-mean": "valid: above the mean of the class's row of W",
        "absolute": "valid: absolute values above their mean",
    }[rule]


def _caption(summary: dict[str, Any]) -> str:
    return f"Values of the last layer's weight matrix W per class; {_rule(summary['rule'])}"
