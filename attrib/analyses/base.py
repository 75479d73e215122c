"""What every analysis is: a frozen dataclass with the steps from a batch to a table. No torch until it runs."""

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

FEWEST = 50
"""With fewer images an accuracy's interval reaches 14 points and more to either side, too far to blame a model."""


@dataclass(frozen=True, kw_only=True)
class Analysis(ABC):
    """One question asked of several models; its fields are its options: of command, notebook and JSON.

    The steps of an analysis, in the order in which they run: ``describe`` each model, ``measure`` each batch
    with each model, look ``across`` the models, ``condense`` each file's sums, ``summarise`` each name,
    ``compare`` each two names.
    """

    name: ClassVar[str]
    """Of the command and of the files it writes."""
    keys: ClassVar[tuple[str, ...]] = ("model", "seed", "images", "index")
    """Which of split, model, seed, epoch, images and index begin a row of the table of images."""
    images_table: ClassVar[str] = ""
    """The table (``frames``) that holds a row per image and model."""
    needs_data: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    """Whether unlabelled data is refused; else the model's prediction stands in the label's place."""
    attacks: ClassVar[bool] = False
    """Whether it measures accuracy under attack, on which a randomised model needs advice."""
    takes: ClassVar[tuple[str, ...]] = ("models",)
    """What may be looked at beside or instead of models: "runs" (folders of saved epochs), "map files"."""

    seed: int = option(0, "Seed of noise, attack starts and resampling.", low=0)
    precision: str = option(
        "auto", "auto, fp32 or bf16; auto: fp32, but bf16 for attacks and SmoothGrad if fast.",
        choices=("auto", "fp32", "bf16"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Take the name of an attack for the attack, and check every option."""
        if isinstance(attack := getattr(self, "attack", None), str):
            object.__setattr__(self, "attack", Attack(attack))
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
        count, labels = self.pictured(), data.labels.tolist() if data.labelled else []
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
        """Kind of images to columns (N,) about two files, from what ``measure`` kept of each."""
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

        models: a path, spec, ``nn.Module``, what makes one, or ``attrib.model``; a list of them; or a mapping of
        names to them, where a list is several seeds of one method. data: a name, an ``attrib.dataset``, or images
        and labels (default: what the checkpoints were trained on). out: a folder, where finished batches are kept so
        that the same call continues, and where the result is saved; the same call then reads it (of checkpoints, and
        where no setting is a function). batch_size: images at a time, on which no result depends.

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
                classes, causes = len(found.context.classes_of(model)), objections.causes(model, found.context.images)
                for sentence in objections.warn_chance_accuracy(right, label, classes=classes, causes=causes):
                    yield f"{model.label}: {sentence}"

    def options(self) -> dict[str, Any]:
        """The fields as plain values: a function by its qualified name."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    def predictions(self, model: "Model", image: "Tensor", context: Context) -> "Tensor":
        """The predicted class of every image, (N,); raises InputError for answers that are no logits."""
        return self.answers(model, image, context).argmax(1)

    def answers(self, model: "Model", image: "Tensor", context: Context) -> "Tensor":
        """The logits of every image, (N,K); raises InputError for answers that are none."""
        data = context.images
        return inputs.logits_of(model, image, classes=len(context.classes_of(model)), data=data.name)

    def known_labels(self, batch: "Batch", context: Context) -> "Tensor":
        """The labels (N,), -1 where the data is unlabelled and the prediction stands in their place."""
        label: Tensor = batch.label
        return label if context.images.labelled else label.new_full(label.shape, -1)

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
        return qualified_name(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
