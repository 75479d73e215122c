"""The base of ``relate`` and ``evolve``: margins, losses, spans and contributions before and after an attack."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from attrib.analyses.examples import kept_examples
from attrib.analyses.explaining import View, grid_of
from attrib.analyses.floored import Floored
from attrib.analyses.last_layer import last_layer_of
from attrib.analyses.measured import CLEAN, Context, Files, Findings, Measured
from attrib.analyses.options import Attack, option
from attrib.errors import InputError
from attrib.lazy import Lazy

if TYPE_CHECKING:
    from torch import Tensor

    from attrib import features, inference, loss, spans
    from attrib.analyses import inputs
    from attrib.data import Batch
    from attrib.models.specs import Model
else:
    features, inference, loss = Lazy("attrib.features"), Lazy("attrib.inference"), Lazy("attrib.loss")
    inputs, spans = Lazy("attrib.analyses.inputs"), Lazy("attrib.spans")


@dataclass(frozen=True, kw_only=True)
class Attacked(Floored):
    """An analysis of margins, losses, coverage and contributions, image by image, clean and attacked.

    Saved epochs of training runs are loaded one at a time.
    """

    keys: ClassVar[tuple[str, ...]] = ("model", "seed", "epoch", "index")

    attack: Attack | None = option(Attack("pgd"), "The attack: fgsm, pgd or cw.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attack is None:
            raise InputError("attack: expected fgsm, pgd or cw, got none")

    def named(self, findings: Findings) -> Mapping[str, Files]:
        """The models, or, if there are only saved epochs, the last epoch of every run."""
        return findings.files or {name: epochs[-1] for name, epochs in findings.epochs.items()}

    def measure(self, model: "Model", batch: "Batch", context: Context) -> Measured:
        """Margins z_y - max_{j != y} z_j, losses, spans and the participation ratio of every image."""
        clean, attacked = self.views(model, batch, context).values()
        masks = [spans.span(view.map, threshold=self.threshold) for view in (clean, attacked)]
        # A common factor does not change the ratio, and |dL/dA| itself may underflow where the model is sure.
        ratio = features.participation_ratio(self.last_layer(model, batch).scale_free)
        columns = _answers(model, batch, clean, attacked) | {
            "coverage": spans.coverage(masks[0]), "coverage_adversarial": spans.coverage(masks[1]),
            "empty": spans.empty(clean.map), "participation_ratio": ratio, "span_iou": spans.iou(*masks),
        }  # fmt: skip
        exact = {name: values.double() if values.is_floating_point() else values for name, values in columns.items()}
        examples = kept_examples(model, batch, {CLEAN: clean}, {CLEAN: masks[0]}, context)
        return Measured({CLEAN: {"grid": [grid_of(clean)] * len(batch.label), **exact}}, examples=examples)

    def last_layer(self, model: "Model", batch: "Batch") -> "features.Features":
        """The last layer's features and their contributions on the clean images."""
        with inputs.naming(model):
            fc = last_layer_of(model, getattr(self, "fc", None))
            return features.last_layer(model.opened_module, batch.image, batch.label, fc=fc)

    def settings(self, findings: Findings) -> dict[str, Any]:
        """Map, threshold, class explained and attack, for the summary."""
        context = findings.context
        return {
            "map": self.map_name, "threshold": self.threshold, "target": self.target, "seed": self.seed,
            "attack": self.attack_entry(context), "precision": self.map_precision(context.device),
            **self.about_floor(context.images),
        }  # fmt: skip

    def objections(self, summary: Mapping[str, Any], findings: Findings) -> Iterable[str]:
        """Warn of different grids, models at chance, missing floors and models whose maps are all empty."""
        grids = sorted(findings.rows["grid"].unique())
        if len(grids) > 1:
            yield f"the models' maps lie on different grids ({', '.join(grids)}), which alone changes coverage"
        for files in (*findings.files.values(), *(epoch for epochs in findings.epochs.values() for epoch in epochs)):
            yield from self.without_floor(files)
        yield from super().objections(summary, findings)


def _answers(model: "Model", batch: "Batch", clean: View, attacked: View) -> "dict[str, Tensor]":
    """Predictions, margins and losses (N,) on clean and attacked images."""
    label = batch.label
    z, z_adversarial = (inference.logits(model.opened_module, view.image).double() for view in (clean, attacked))
    return {
        "label": label, "prediction": z.argmax(1), "prediction_adversarial": z_adversarial.argmax(1),
        "correct": z.argmax(1) == label,
        "margin": -loss.margin(z, label), "margin_adversarial": -loss.margin(z_adversarial, label),
        "loss": loss.cross_entropy(z, label), "loss_adversarial": loss.cross_entropy(z_adversarial, label),
    }  # fmt: skip
