"""The base of every analysis: a frozen dataclass with the steps from a batch to a table. No torch until it runs."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from attrib import stats
from attrib.analyses.measured import CLEAN, Array, Context, Files, Findings, Measured, Pass
from attrib.analyses.options import Attack, check_options, option
from attrib.formatting import qualified_name
from attrib.lazy import Lazy

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

    from attrib import inference, objections
    from attrib.analyses import inputs
    from attrib.analyses import run as running
    from attrib.analyses.result import Result, Table
    from attrib.data import Batch, Dataset
    from attrib.inference import Precision
    from attrib.models.specs import Model
else:
    inference, objections = Lazy("attrib.inference"), Lazy("attrib.objections")
    inputs, running = Lazy("attrib.analyses.inputs"), Lazy("attrib.analyses.run")

FEWEST_IMAGES = 50
"""With fewer images, the interval of an accuracy is at least 14 points to either side: too wide to warn of chance."""


@dataclass(frozen=True, kw_only=True)
class Analysis(ABC):
    """One question about several models. Its fields are the options of the command, the Python call and the JSON.

    The steps run in this order: ``describe`` each model, ``measure`` each batch with each model and compare it
    ``across`` models, ``condense`` each file's sums, ``summarise`` each name, ``compare`` every two names.
    """

    name: ClassVar[str]
    """The name of the command and of the files it writes."""
    keys: ClassVar[tuple[str, ...]] = ("model", "seed", "images", "index")
    """The first columns of the table of images: some of split, model, seed, epoch, images and index."""
    images_table: ClassVar[str] = ""
    """The table (``frames``) that holds a row per image and model."""
    needs_data: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    """Whether unlabelled data is refused. If not, the model's prediction replaces the label."""
    attacks: ClassVar[bool] = False
    """Whether it measures accuracy under attack. If so, a randomised model gets a warning."""
    takes: ClassVar[tuple[str, ...]] = ("models",)
    """The input that it accepts: "models", "runs" (folders of saved epochs), "map files"."""

    seed: int = option(0, "Seed of noise, attack starts and resampling.", low=0)
    precision: str = option(
        "auto", "auto, fp32 or bf16; auto: fp32, but bf16 for attacks and SmoothGrad where it is fast.",
        choices=("auto", "fp32", "bf16"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Turn an attack's name into an ``Attack``, and check every option."""
        if isinstance(attack := getattr(self, "attack", None), str):
            object.__setattr__(self, "attack", Attack(attack))
        check_options(self)

    # Hooks: an analysis overrides those it needs.

    def looked_at(self, models: "Sequence[Model]") -> "Sequence[Model]":
        """Select the models to measure from those given."""
        return models

    def resolved(self, data: "Dataset | None") -> Self:
        """The analysis with the data's defaults filled in, such as the strength of its attack."""
        attack = getattr(self, "attack", None)
        return replace(self, attack=attack.resolved(data.name)) if attack and data else self  # type: ignore[call-arg]

    def passes(self, models: "Sequence[Model]", data: "Dataset") -> list[Pass]:
        """The images to measure."""
        return [Pass(data)]

    def usual_batch(self, device: "torch.device") -> int:
        """The default batch size."""
        return 250

    def pictured(self) -> int:
        """The number of images in the figure of examples."""
        return 0

    def shown(self, data: "Dataset") -> tuple[int, ...]:
        """Positions of the images in the figure of examples: the first of each class, then the next ones."""
        count, labels = self.pictured(), data.labels.tolist() if data.labelled else []
        firsts = sorted(labels.index(label) for label in set(labels)) if count else []
        rest = [position for position in range(len(data)) if position not in set(firsts)][:count]
        return tuple(sorted((firsts + rest)[:count]))

    def describe(self, model: "Model", context: Context) -> dict[str, Any]:
        """Facts about a model as a whole, not about single images."""
        return {}

    def measure(self, model: "Model", batch: "Batch", context: Context) -> Measured:
        """Run a model on a batch: columns (N,) for each kind of images."""
        raise NotImplementedError

    def across(self, a: Any, b: Any) -> "Mapping[str, Mapping[str, Tensor]]":
        """Compare two files on a batch, from their ``Measured.keep``: kind of images to columns (N,)."""
        return {}

    def condense(self, sums: Mapping[str, Array]) -> Mapping[str, Array]:
        """Reduce a file's sums to what the later steps need. The sums themselves are dropped."""
        return sums

    def named(self, findings: Findings) -> Mapping[str, Files]:
        """The files by name. Each name gets an entry in the summary; every two names are compared."""
        return findings.files

    @abstractmethod
    def summarise(self, files: Files) -> dict[str, Any]:
        """The numbers of one name, from its files."""

    def entry(self, files: Files) -> dict[str, Any]:
        """A name's entry in the summary: its numbers and, if it has several files, those of each under ``seeds``."""
        entry = files.identity() | self.summarise(files)
        if len(files) == 1:
            return entry
        singles = [files.only(place) for place in range(len(files))]
        return entry | {"seeds": [file.identity() | self.summarise(file) for file in singles]}

    def completed(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add to the entries what depends on all of them, such as Holm's correction."""
        return entries

    def row(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """A name's row in the table of models; keys of intervals end in ``_ci``."""
        return entry

    def compare(self, a: Files, b: Files, findings: Findings) -> Iterable[dict[str, Any]]:
        """The differences a - b, each with ``quantity``, ``difference``, ``ci`` and ``p`` (uncorrected)."""
        return ()

    @abstractmethod
    def about(self, findings: Findings, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The rest of the summary: settings, and results about all models together."""

    def objections(self, summary: Mapping[str, Any], findings: Findings) -> Iterable[str]:
        """Warnings about the numbers, a sentence each."""
        return self.at_chance(findings)

    def frames(self, findings: Findings, summary: Mapping[str, Any]) -> "dict[str, pd.DataFrame]":
        """The tables of numbers by the suffix of their file: "" is NAME.csv, "x" is NAME-x.csv."""
        return {"": findings.rows}

    def arrays(self, findings: Findings, summary: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
        """Arrays by the suffix of their file: "examples" is NAME-examples.npz."""
        return {}

    @abstractmethod
    def tables(self, result: "Result") -> "list[Table]":
        """The tables for people: models first, then pairs."""

    def papers(self, result: "Result") -> "dict[str, Table]":
        """The tables for a paper by the suffix of their file."""
        return {"": self.tables(result)[0]}

    @abstractmethod
    def figures(self, result: "Result") -> "dict[str, Figure]":
        """The figures by name; each name begins with that of the analysis."""

    def corrected(self, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add ``p_holm``, Holm's correction over all differences."""
        return stats.with_holm(pairs)

    # Methods that all analyses share.

    def run(
        self, models: Any, data: Any = None, *, out: str | Path | None = None, batch_size: int | None = None,
        device: str = "auto",
    ) -> "Result":  # fmt: skip
        """Run the analysis.

        models: a path, a spec, an ``nn.Module``, a function that returns one, or an ``attrib.model``; a list of these;
        or a mapping of names to these, in which a list means several seeds of one method. data: a name, an
        ``attrib.dataset``, or images and labels (default: the checkpoints' training data). out: a folder for the result
        and for finished batches. If the call is interrupted, the same call continues. If it is finished, the same call
        reads the result (only for checkpoints, and if no setting is a function). batch_size: images at a time; no
        result depends on it.

        Raises InputError for bad models, data or settings, before any work if possible.
        """
        return running.execute(self, models, data, out=out, batch_size=batch_size, device=device)[0]

    def at_chance(self, findings: Findings) -> Iterator[str]:
        """Warn of every file whose clean accuracy is no better than chance, if there are enough images to tell."""
        for files in findings.files.values():
            clean = files.where(images=CLEAN) if "images" in self.keys else files
            for model, rows in zip(clean.models, clean.rows, strict=True):
                if len(rows) < FEWEST_IMAGES or (rows["prediction"] < 0).any():  # map files have no predictions
                    continue
                label = rows["label"].to_numpy(int)
                correct = (rows["prediction"] == label).to_numpy(bool)
                classes = len(findings.context.classes_of(model))
                causes = objections.causes(model, findings.context.images)
                for sentence in objections.warn_chance_accuracy(correct, label, classes=classes, causes=causes):
                    yield f"{model.label}: {sentence}"

    def options(self) -> dict[str, Any]:
        """The fields as plain values; a function becomes its qualified name."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def predictions(self, model: "Model", image: "Tensor", context: Context) -> "Tensor":
        """The predicted class of every image, (N,); raises InputError if the model returns no logits."""
        return self.answers(model, image, context).argmax(1)

    def answers(self, model: "Model", image: "Tensor", context: Context) -> "Tensor":
        """The logits of every image, (N,K); raises InputError for any other output."""
        data = context.images
        return inputs.logits_of(model, image, classes=len(context.classes_of(model)), data=data.name)

    def known_labels(self, batch: "Batch", context: Context) -> "Tensor":
        """The true labels (N,); -1 if the data is unlabelled, when ``batch.label`` holds predictions."""
        label: Tensor = batch.label
        return label if context.images.labelled else label.new_full(label.shape, -1)

    def attack_precision(self, device: "torch.device") -> "Precision":
        """The precision of attacks: ``auto`` is the fast one, in which attacks are as strong."""
        return inference.precision(self.precision, device)

    def attack_entry(self, context: Context) -> dict[str, Any] | None:
        """The attack and its precision, for the summary; None without an attack."""
        attack: Attack | None = getattr(self, "attack", None)
        return attack.entry(self.attack_precision(context.device)) if attack else None

    def exact_precision(self, device: "torch.device") -> "Precision":
        """The precision of measurements: ``auto`` is fp32."""
        return inference.precision("fp32" if self.precision == "auto" else self.precision, device)


def _plain(value: Any) -> Any:
    if isinstance(value, Attack):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if callable(value):
        return qualified_name(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
