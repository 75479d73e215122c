"""What every analysis is: a frozen dataclass with the steps from a batch to a table. No torch until it runs."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from attrib import stats
from attrib.analyses.options import Attack, check_options, option
from attrib.errors import InputError
from attrib.lazy import Lazy
from attrib.stats import ANYTHING, Values

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

    from attrib import inference, maps, objections
    from attrib.analyses import inputs
    from attrib.analyses import run as running
    from attrib.analyses.result import Result, Table
    from attrib.data import Batch, Dataset
    from attrib.inference import Precision
    from attrib.models.specs import Model
else:
    torch = Lazy("torch")
    inference, maps, objections = Lazy("attrib.inference"), Lazy("attrib.maps"), Lazy("attrib.objections")
    inputs, running = Lazy("attrib.analyses.inputs"), Lazy("attrib.analyses.run")

FEWEST = 50
"""With fewer images an accuracy's interval reaches 14 points and more to either side, too far to blame a model."""
CLEAN = "clean"
"""The kind of images that nobody attacked; the other kind is called after its attack."""
Array = NDArray[Any]


class Measured(NamedTuple):
    """What one model makes of one batch of N images."""

    columns: "Mapping[str, Mapping[str, Tensor | list[str]]]"
    """Kind of images (clean, or the attack's name) to columns (N,)."""
    sums: "Mapping[str, Tensor]" = MappingProxyType({})
    """Added over all batches, exactly in whatever order (float64)."""
    resampled: "Mapping[str, Tensor]" = MappingProxyType({})
    """Added over all batches as they come (float64): sums in resamples, which are too large to add exactly."""
    examples: Mapping[int, Mapping[str, Any]] = MappingProxyType({})
    """Position in the data to arrays and words for a picture."""
    maps: "tuple[Tensor, Tensor] | None" = None
    """Maps (N,H,W) and spans (N,H,W) to write to a file while the analysis runs."""
    keep: Any = None
    """Handed to :meth:`Analysis.across` with those of the other models, then dropped."""


class Pass(NamedTuple):
    """Images that an analysis measures."""

    data: "Dataset"
    positions: "Tensor | None" = None
    """(M,) int64; None: all."""


@dataclass(frozen=True)
class Context:
    """Where and on what an analysis runs."""

    device: "torch.device"
    data: "Dataset | None"
    batch_size: int
    shown: tuple[int, ...] = ()
    """Positions of the images that the pictures show."""
    models: "tuple[Model, ...]" = ()
    """All that are measured."""
    partial: Path | None = None
    """The folder of partial results, if there is one."""

    @property
    def images(self) -> "Dataset":
        """The data of an analysis that cannot do without."""
        assert self.data is not None
        return self.data


@dataclass(frozen=True)
class Files:
    """What was measured of the S files behind a name, all on the same N images of one kind."""

    models: "Sequence[Model]"
    rows: "Sequence[pd.DataFrame]"
    """Of every file, a row per image."""
    sums: Sequence[Mapping[str, Array]]
    """Of every file, by name: what :meth:`Analysis.condense` made of its ``sums`` and ``resampled``."""
    facts: Sequence[Mapping[str, Any]]
    """Of every file, what :meth:`Analysis.describe` returned."""

    def where(self, **equal: object) -> "Files":
        """The rows in which a column has this value."""
        rows = self.rows
        for name, value in equal.items():
            rows = [part[part[name] == value] for part in rows]
        return replace(self, rows=rows)

    def joined(self, other: "Files") -> "Files":
        """These files and those."""
        return Files(
            [*self.models, *other.models], [*self.rows, *other.rows], [*self.sums, *other.sums],
            [*self.facts, *other.facts],
        )  # fmt: skip

    def only(self, number: int) -> "Files":
        """One of the files."""
        return Files([self.models[number]], [self.rows[number]], [self.sums[number]], [self.facts[number]])

    def identity(self) -> dict[str, Any]:
        """What a result says of the files: name, checkpoint and fingerprint, of several as lists."""
        each = [model.identity() for model in self.models]
        if len(each) == 1:
            return each[0]
        lists = {key: [identity[key] for identity in each] for key in ("checkpoint", "fingerprint")}
        return {"name": self.models[0].name, **lists}

    def kinds(self) -> list[str]:
        """The kinds of images that were measured, clean first."""
        return list(self.rows[0]["images"].unique())

    def __len__(self) -> int:
        return len(self.models)

    def __contains__(self, column: str) -> bool:
        return any(column in rows and not rows[column].isna().all() for rows in self.rows)

    def __getitem__(self, column: str) -> Values:
        """A column of every file, (S,N), which :mod:`attrib.stats` takes; NaN where a file has no such column."""
        missing = (np.full(len(rows), np.nan) for rows in self.rows)
        return np.array(
            [
                rows[column].to_numpy(float) if column in rows else nan
                for rows, nan in zip(self.rows, missing, strict=True)
            ]
        )

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.rows[0])

    def mean(self, column: str, *, among: "Array | None" = None) -> float:
        """The mean of a column; among: bool (S,N), only there."""
        values = self[column]
        return stats.mean(values if among is None else np.where(among, values, np.nan))

    def interval(self, column: str, *, seed: int, within: tuple[float, float] = ANYTHING) -> list[float]:
        """The 95 % interval of that mean: over images, of several files over seeds and images (:mod:`attrib.stats`)."""
        return list(stats.interval(self[column], seed=seed, within=within))

    def count(self, column: str) -> int | float:
        """How many images a bool column holds; of several files the mean."""
        counts = self[column].sum(1)
        return int(counts[0]) if len(counts) == 1 else float(counts.mean())

    def sum(self, name: str) -> Array:
        """A sum of every file, (S,...)."""
        return np.array([each[name] for each in self.sums])


class Findings(NamedTuple):
    """All that was measured, for one process."""

    context: Context
    files: dict[str, Files]
    """By the models' names."""
    epochs: dict[str, list[Files]]
    """The saved epochs of every run, a single file each."""
    rows: "pd.DataFrame"
    """Every row: by model, seed, epoch and image."""
    across: "pd.DataFrame"
    """Rows about pairs of files: a, b, images, index and the columns of :meth:`Analysis.across`; may be empty."""
    examples: Mapping[int, Mapping[str, Mapping[str, Any]]]
    """Position in the data to model (:attr:`Model.shown_as`) to what the picture shows of it."""


@dataclass(frozen=True, kw_only=True)
class Analysis(ABC):
    """One question asked of several models; its fields are its options: of command, notebook and JSON.

    The steps of an analysis, in the order in which they run: :meth:`describe` each model, :meth:`measure` each batch
    with each model, look :meth:`across` the models, :meth:`condense` each file's sums, :meth:`summarise` each name,
    :meth:`compare` each two names.
    """

    name: ClassVar[str]
    """Of the command and of the files it writes."""
    question: ClassVar[str]
    keys: ClassVar[tuple[str, ...]] = ("model", "seed", "images", "index")
    """Which of split, model, seed, epoch, images and index begin a row of the table of images."""
    images_table: ClassVar[str] = ""
    """The table (:meth:`frames`) that holds a row per image and model."""
    needs_data: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ("models",)
    """What may be looked at beside or instead of models: "runs" (folders of saved epochs), "map files"."""
    """None: as on a CPU."""

    seed: int = option(0, "Seed of noise, attack starts and resampling.", low=0)
    precision: str = option(
        "auto", "auto, fp32 or bf16; auto: fp32, but bf16 for attacks and SmoothGrad if fast.",
        choices=("auto", "fp32", "bf16"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_options(self)

    # What an analysis may define.

    def looked_at(self, models: "Sequence[Model]") -> "Sequence[Model]":
        """The models to measure, from those given."""
        return models

    def resolved(self, data: "Dataset | None") -> Self:
        """The analysis with what it leaves to the data, as the strength of its attack."""
        attack = getattr(self, "attack", None)
        return replace(self, attack=attack.resolved(data.name)) if attack and data else self  # type: ignore[call-arg]

    def passes(self, models: "Sequence[Model]", data: "Dataset") -> list[Pass]:
        """The images to measure."""
        return [Pass(data)]

    def usual_batch(self, device: "torch.device") -> int:
        """Images at a time, unless the user names another number."""
        return 250

    def pictured(self) -> int:
        """How many images the picture of examples shows."""
        return 0

    def shown(self, data: "Dataset") -> tuple[int, ...]:
        """Positions of the images that the picture of examples shows: the first of each class, then the next."""
        count, labels = self.pictured(), data.labels.tolist()
        firsts = sorted(labels.index(label) for label in set(labels)) if count else []
        rest = [position for position in range(len(data)) if position not in set(firsts)][:count]
        return tuple(sorted((firsts + rest)[:count]))

    def describe(self, model: "Model", context: Context) -> dict[str, Any]:
        """What is known of a model beside its batches."""
        return {}

    def measure(self, model: "Model", batch: "Batch", context: Context) -> Measured:
        """Columns (N,) for each kind of images. The only step that runs a model on all images."""
        raise NotImplementedError

    def across(self, a: Any, b: Any) -> "Mapping[str, Mapping[str, Tensor]]":
        """Kind of images to columns (N,) about two files, from what :meth:`measure` kept of each."""
        return {}

    def condense(self, sums: Mapping[str, Array]) -> Mapping[str, Array]:
        """From a file's sums what the later steps need of them: computed once, and the sums are dropped."""
        return sums

    def named(self, found: Findings) -> Mapping[str, Files]:
        """The files that the summary has an entry for, by name; any two of them are compared."""
        return found.files

    @abstractmethod
    def summarise(self, files: Files) -> dict[str, Any]:
        """The numbers of a name, from its files."""

    def entry(self, files: Files) -> dict[str, Any]:
        """What the summary says of a name: the numbers of all its files; of several also, under ``seeds``, of each."""
        entry = files.identity() | self.summarise(files)
        if len(files) == 1:
            return entry
        each = [files.only(place) for place in range(len(files))]
        return entry | {"seeds": [file.identity() | self.summarise(file) for file in each]}

    def completed(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The entries with what takes all of them, as Holm's correction of tests within models."""
        return entries

    def row(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """The numbers of a name as the table of models has them; intervals end in ``_ci``."""
        return entry

    def compare(self, a: Files, b: Files, found: Findings) -> Iterable[dict[str, Any]]:
        """The differences a - b, each with ``quantity``, ``difference``, ``ci`` and ``p``; Holm's follows over all."""
        return ()

    @abstractmethod
    def about(self, found: Findings, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the summary says beside its models and pairs: settings, and results about all models."""

    def objections(self, summary: Mapping[str, Any], found: Findings) -> Iterable[str]:
        """What a careful reader of the numbers should know, a sentence each."""
        return self.at_chance(found)

    def frames(self, found: Findings, summary: Mapping[str, Any]) -> "dict[str, pd.DataFrame]":
        """The tables of numbers, by what follows NAME in the file's name; "" is NAME.csv."""
        return {"": found.rows}

    def arrays(self, found: Findings, summary: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
        """Arrays by what follows NAME in the file's name, NAME-examples.npz."""
        return {}

    @abstractmethod
    def tables(self, result: "Result") -> "list[Table]":
        """The tables for people: models first, then pairs."""

    def papers(self, result: "Result") -> "dict[str, Table]":
        """The tables for a paper, by what follows NAME in the file's name."""
        return {"": self.tables(result)[0]}

    @abstractmethod
    def figures(self, result: "Result") -> "dict[str, Figure]":
        """The figures by name, which begins with the analysis's."""

    def corrected(self, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The differences with ``p_holm``, Holm's correction over all of them."""
        return stats.with_holm(pairs)

    # What every analysis has.

    def run(
        self, models: Any, data: Any = None, *, out: str | Path | None = None, batch_size: int | None = None,
        device: str = "auto",
    ) -> "Result":  # fmt: skip
        """Run the analysis.

        models: a path, spec, ``nn.Module`` or :func:`attrib.model`; a list of them; or a mapping of names to them,
        where a list is several seeds of one method. data: a name, an :func:`attrib.dataset`, or images and labels
        (default: what the checkpoints were trained on). out: a folder, where finished batches are kept so that the
        same call continues, and where the result is saved. batch_size: images at a time, on which no result depends.

        Raises InputError for whatever is wrong with models, data or settings, before any work where it can.
        """
        return running.execute(self, models, data, out=out, batch_size=batch_size, device=device)[0]

    def at_chance(self, found: Findings) -> Iterator[str]:
        """A sentence for every file whose clean accuracy is no better than chance, where enough images say so."""
        for files in found.files.values():
            clean = files.where(images=CLEAN) if "images" in self.keys else files
            for model, rows in zip(clean.models, clean.rows, strict=True):
                if len(rows) < FEWEST or (rows["prediction"] < 0).any():  # maps made elsewhere predict nothing
                    continue
                label = rows["label"].to_numpy(int)
                right = (rows["prediction"] == label).to_numpy(bool)
                for sentence in objections.warn_chance_accuracy(
                    right, label, classes=len(found.context.images.classes)
                ):
                    yield f"{model.label}: {sentence}"

    def options(self) -> dict[str, Any]:
        """The fields as plain values: a function by its qualified name."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    def predictions(self, model: "Model", image: "Tensor", context: Context) -> "Tensor":
        """The predicted class of every image, (N,); raises InputError for answers that are no logits."""
        data = context.images
        return inputs.logits_of(model, image, classes=len(data.classes), data=data.name).argmax(1)

    def attack_precision(self, device: "torch.device") -> "Precision":
        """An attack only has to be as strong: ``auto`` takes the fast precision."""
        return inference.precision(self.precision, device)

    def attack_entry(self, context: Context) -> dict[str, Any] | None:
        """What a result says of its attack, the precision that it ran in included; None without an attack."""
        attack: Attack | None = getattr(self, "attack", None)
        return attack.entry(self.attack_precision(context.device)) if attack else None

    def exact_precision(self, device: "torch.device") -> "Precision":
        """What is measured and not only attacked: ``auto`` is fp32."""
        return inference.precision("fp32" if self.precision == "auto" else self.precision, device)


def _plain(value: Any) -> Any:
    if isinstance(value, Attack):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _check_map(name: str) -> None:
    if name not in maps.MAPS:
        raise InputError(f"map: expected one of {', '.join(maps.MAPS)}, got {name!r}")


class View(NamedTuple):
    """A model's map of a batch, with what it says of the images."""

    image: "Tensor"
    """(N,C,H,W): the batch's, or what the attack made of them."""
    prediction: "Tensor"
    """(N,)"""
    map: "Tensor"
    """(N,H,W)"""
    grid: "Tensor | None"
    """(N,h,w) where the map was brought up from a layer's grid."""


def attacked_option(default: Attack | None, help: str) -> Any:
    """The field ``attack`` of an analysis."""
    return field(default=default, metadata={"help": help, "choices": None, "low": None, "check": None})


@dataclass(frozen=True, kw_only=True)
class Explaining(Analysis):
    """An analysis of maps: which map, of which class, on clean and on attacked images."""

    map: Any = option(
        "gradcam", "gradcam, eq6, gradient, smoothgrad, integrated-gradients, occlusion or guided-gradcam. eq6: AALP's"
        " Eq. 6, pytorch-grad-cam's element-wise CAM of -loss.", check=lambda name: _check_map(name),
    )  # fmt: skip
    layer: str | None = option(None, "Layer of Grad-CAM and Eq. 6, by its dotted name (default: the last stage).")
    target: str = option(
        "label", "The class explained: label (true class) or prediction.", choices=("label", "prediction")
    )
    attack: Attack | None = attacked_option(None, "Explain adversarial images too: fgsm, pgd or cw.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer is not None and self.map not in maps.LAYER_MAPS:
            raise InputError(f"layer belongs to the maps {', '.join(maps.LAYER_MAPS)}; {self.map} looks at no layer")

    @property
    def map_name(self) -> str:
        """The map's name; of a function its qualified name."""
        return str(self.options()["map"])

    def map_precision(self, device: "torch.device") -> "Precision":
        """Maps are thresholded, so ``auto`` keeps them in fp32; over SmoothGrad's many passes rounding evens out."""
        return self.attack_precision(device) if self.map == "smoothgrad" else self.exact_precision(device)

    def views(self, model: "Model", batch: "Batch", context: Context) -> dict[str, View]:
        """The model's maps of the batch, under clean and, where an attack is set, under its name."""
        images = {CLEAN: batch.image}
        if self.attack:
            images[self.attack.name] = self.attack.images(
                model.opened_module, batch, seed=self.seed, precision=self.attack_precision(context.device)
            )
        return {kind: self.view(model, batch, image, context) for kind, image in images.items()}

    def view(self, model: "Model", batch: "Batch", image: "Tensor", context: Context) -> View:
        """The model's map of the batch's images, or of what an attack made of them."""
        prediction = self.predictions(model, image, context)
        target = batch.label if self.target == "label" else prediction
        return View(image, prediction, *self.map_of(model, image, target, batch.index, context))

    def map_of(
        self, model: "Model", image: "Tensor", target: "Tensor", index: "Tensor", context: Context
    ) -> "tuple[Tensor, Tensor | None]":
        """The map of the target classes (N,), (N,H,W), and on its own grid where it has one."""
        with inputs.naming(model):
            return maps.attribution(
                self.map, model.opened_module, image, target, layer=model.layer, seed=self.seed, index=index,
                precision=self.map_precision(context.device),
            )  # fmt: skip


def grid_of(view: View) -> str:
    """The size of the grid that the map was made on, as 8x8."""
    return "x".join(map(str, (view.map if view.grid is None else view.grid).shape[1:]))


def map_file_view(model: "Model", batch: "Batch") -> View:
    """The maps of the batch's images that were made elsewhere; what was predicted is not known (-1)."""
    assert model.maps is not None
    rows = [model.maps[position] for position in batch.index.tolist()]
    unknown = torch.full_like(batch.label, -1)
    return View(batch.image, unknown, torch.from_numpy(np.stack(rows)).to(batch.image.device), None)
