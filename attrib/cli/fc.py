"""``attrib fc``: valid values of the last layer's weights, counted and drawn."""

from itertools import combinations, zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from attrib.cli import common, texts
from attrib.cli.batches import stoppable
from attrib.cli.subjects import Subject, entry_of, groups, load_subjects
from attrib.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from torch import Tensor, nn

    from attrib.data import Dataset

FcName = Annotated[
    str | None,
    typer.Option("--fc", metavar="NAME", help="Last layer of a --model by its dotted name (default: the last linear)."),
]
PRINTED = 30
"""With more classes than these, the table shows the mean only; the CSV holds all."""
SYMMETRIC = {"mean": 0.5, "class-mean": 0.5, "absolute": None}
"""Share of valid values if weights are distributed symmetrically about their mean; of |W| it depends on the shape."""


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
    from attrib import results
    from attrib.features import RULES, valid_values
    from attrib.parallel import world

    common.check_choice("--rule", rule, RULES)
    common.check_given(ckpt, model, out=out)
    if model and not (fc_name or data):
        raise InputError("the last layer of a --model is found by running one image of --data NAME, or named with --fc")
    with world(device) as here:
        subjects = load_subjects(ckpt, model, arch=arch, mean=mean, std=std, size=size, layer=None, where=here.device)
        layers = last_layers(subjects, fc_name)
        images = common.load_data(data, subjects, split=split, root=data_root, limit=1, size=size) if data else None
        if here.rank > 0:  # one process is enough
            return

    masks: dict[str, NDArray[np.bool_]] = {}
    classes: dict[str, list[str]] = {}
    for subject in subjects:
        weight = _weight(subject, layers[subject.name], images)
        masks[subject.name] = valid_values(weight, rule=rule).cpu().numpy()
        classes[subject.group] = _class_names(subject, images, len(weight))
    seeds = groups(subjects)

    def numbers(files: "Sequence[Subject]") -> dict[str, Any]:
        return _summary_of([masks[file.name] for file in files], classes[files[0].group])

    entries = [entry_of(files, numbers) for files in seeds.values()]
    summary: dict[str, Any] = {
        "rule": rule,
        "expected_symmetric": SYMMETRIC[rule],
        "models": entries,
        "pairs": _pairs(entries),
        "versions": common.provenance(),
    }
    table = _table(entries, symmetric=SYMMETRIC[rule])

    written = []
    if out:
        from attrib.plots import base
        from attrib.plots.fc import valid_picture

        with stoppable("some files are written, and some are not"):
            written = [out / name for name in ("fc.csv", "fc.json", "fc.tex")]
            results.write_csv(_rows(subjects, masks, classes), written[0])
            results.write_json(summary, written[1])
            results.write_latex(table, written[2], caption=_caption(summary))
            title = _rule(rule) + texts.first_seeds(entries)
            figure = valid_picture(
                [masks[files[0].name] for files in seeds.values()], models=list(seeds),
                classes=[classes[name] for name in seeds], title=title,
            )  # fmt: skip
            written += base.save(figure, out / "fc")
    if json:
        typer.echo(results.to_json(summary))
        return
    count = max(len(entry["valid"]) for entry in entries)
    common.print_table(
        table if count <= PRINTED else table.iloc[count:],
        title="Valid values of the last layer", caption=_caption(summary),
    )  # fmt: skip
    for pair in summary["pairs"]:
        typer.echo(
            f"{pair['a']} − {pair['b']}: {_difference(pair)}; "
            f"more in {pair['more']} of {pair['classes']} classes, fewer in {pair['fewer']}"
        )
    for path in written:
        typer.echo(path)


def last_layers(subjects: list[Subject], name: str | None) -> "dict[str, nn.Module | None]":
    """Every subject's last layer, by the subject's name: a checkpoint's is known, ``--fc`` names that of a --model.

    None: it has to be found by running an image. Raises InputError where ``--fc`` names nothing.
    """
    from attrib.models.layers import named

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


def _weight(subject: Subject, layer: "nn.Module | None", images: "Dataset | None") -> "Tensor":
    """The last layer's weight (K,D)."""
    import torch

    from attrib.models.layers import last_linear

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


def _class_names(subject: Subject, images: "Dataset | None", count: int) -> list[str]:
    """The classes of ``--data``, else of what the checkpoint was trained on, else their numbers; no data is loaded."""
    from attrib.data import CATALOG

    known: tuple[str, ...] = ()
    if images:
        known = images.classes
    elif subject.checkpoint and subject.checkpoint.data in CATALOG:
        known = CATALOG[subject.checkpoint.data].classes
    return list(known) if len(known) == count else [str(number) for number in range(count)]


def _summary_of(masks: "Sequence[NDArray[np.bool_]]", classes: list[str]) -> dict[str, Any]:
    """Counts of some files of a model; of several seeds their means, the mean over classes with its interval."""
    from attrib.stats import interval

    counts = np.array([mask.sum(1) for mask in masks])
    several = len(masks) > 1
    found = {
        "features": masks[0].shape[1], "classes": classes, "valid": (counts.mean(0) if several else counts[0]).tolist(),
        "valid_mean": float(counts.mean()), "valid_share": float(counts.mean() / masks[0].shape[1]),
    }  # fmt: skip
    if several:
        found["valid_mean_ci"] = list(interval(_alike(counts.mean(1)), within=(0, masks[0].shape[1])))
    return found


def _alike(values: "Sequence[float] | NDArray[Any]") -> NDArray[Any]:
    """One number per seed as :mod:`attrib.stats` takes it, (S,2): there are no images, so all of them agree."""
    return np.repeat(np.array(values, float)[:, None], 2, 1)


def _pairs(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How every two models with the same number of classes and features differ, a less b; of seeds with interval."""
    from attrib.stats import paired, with_holm

    pairs = []
    for a, b in combinations(entries, 2):
        if (a["features"], len(a["valid"])) != (b["features"], len(b["valid"])):
            continue
        pair: dict[str, Any] = {
            "a": a["name"], "b": b["name"], "difference": a["valid_mean"] - b["valid_mean"],
            "more": sum(x > y for x, y in zip(a["valid"], b["valid"], strict=True)),
            "fewer": sum(x < y for x, y in zip(a["valid"], b["valid"], strict=True)),
            "classes": len(a["valid"]), "p": float("nan"),  # files of one seed each allow no test
        }  # fmt: skip
        if "seeds" in a or "seeds" in b:
            means = ([seed["valid_mean"] for seed in entry.get("seeds", [entry])] for entry in (a, b))
            result = paired(*map(_alike, means))
            pair |= {"ci": [result.low, result.high], "p": result.p}
        pairs.append(pair)
    return with_holm(pairs)


def _difference(pair: dict[str, Any]) -> str:
    """The difference in words, with what seeds say of it."""

    def signed(value: float) -> str:
        return texts.number(value, "+.1f")

    if "ci" not in pair:
        return f"{signed(pair['difference'])} valid values a class"
    said = texts.with_interval(pair["difference"], pair["ci"], signed)
    p = ", ".join(f"{header} {value}" for header, value in texts.p_columns(pair).items())
    return f"{said} valid values a class, {p} (t test over seeds)"


def _rows(
    subjects: list[Subject], masks: dict[str, NDArray[np.bool_]], classes: dict[str, list[str]]
) -> "pd.DataFrame":
    """One row per file of a model and class."""
    import pandas as pd

    tables = [
        pd.DataFrame(
            {
                "model": s.group, "seed": s.seed, "class": classes[s.group], "valid": masks[s.name].sum(1),
                "total": masks[s.name].shape[1],
            }
        )
        for s in subjects
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _table(entries: list[dict[str, Any]], *, symmetric: float | None) -> "pd.DataFrame":
    """Classes in rows and models in columns; below them the mean, its share, and the share of symmetric weights."""
    import pandas as pd

    names = [set(position) - {None} for position in zip_longest(*(entry["classes"] for entry in entries))]
    # Models of different data sets share positions, not names.
    label = [min(found) if len(found) == 1 else str(number) for number, found in enumerate(names)]
    columns = {
        entry["name"]: [
            *(f"{valid:.1f}" if "seeds" in entry else str(valid) for valid in entry["valid"]),
            *["–"] * (len(label) - len(entry["valid"])),
            f"{entry['valid_mean']:.1f} of {entry['features']}", f"{100 * entry['valid_share']:.1f}",
            *([] if symmetric is None else [f"{100 * symmetric:.1f}"]),
            *([_seeds(entry)] if texts.several_seeds(entries) else []),
        ]
        for entry in entries
    }  # fmt: skip
    last = ["mean: seeds, 95 % CI"] if texts.several_seeds(entries) else []
    expected = [] if symmetric is None else ["mean % if W were symmetric"]
    return pd.DataFrame({"class": [*label, "mean", "mean %", *expected, *last], **columns})


def _seeds(entry: dict[str, Any]) -> str:
    if "seeds" not in entry:
        return "1"
    return f"{len(entry['seeds'])}, {texts.interval(entry['valid_mean_ci'], '{:.1f}'.format)}"


def _rule(rule: str) -> str:
    return {
        "mean": "valid: above the mean of W",
        "class-mean": "valid: above the mean of the class's row of W",
        "absolute": "valid: absolute values above their mean",
    }[rule]


def _caption(summary: dict[str, Any]) -> str:
    models = summary["models"]
    said = f"Values of the last layer's weight matrix W per class; {_rule(summary['rule'])}"
    if texts.several_seeds(models):
        return f"{said}; of several seeds: means and t intervals; where a name has one file: of this file only"
    which = "this file" if len(models) == 1 else "these files"
    return f"{said}; of {which} only: another training run can differ"
