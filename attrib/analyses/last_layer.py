"""Find a model's last layer: known for a checkpoint, else named by the user, else found by running one image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrib.analyses.options import option
from attrib.errors import InputError
from attrib.lazy import Lazy

if TYPE_CHECKING:
    from torch import nn

    from attrib.models import classifier, layers
    from attrib.models.specs import Model
else:
    classifier, layers = Lazy("attrib.models.classifier"), Lazy("attrib.models.layers")


def fc_option() -> Any:
    """The field ``fc`` of an analysis."""
    return option(
        None, "Last layer of a model that is not a checkpoint, by its dotted name (default: the last linear).",
        metavar="NAME",
    )  # fmt: skip


def last_layer_of(model: "Model", name: str | None) -> "nn.Module | None":
    """The last layer of an opened model; None if it must be found by running an image.

    name: the layer's dotted name; it has no effect on a checkpoint. Raises InputError if there is no such layer.
    """
    module = model.opened_module
    if name is not None and model.checkpoint is None:
        try:
            return layers.named(module, name)
        except InputError as error:
            raise InputError(f"fc: {str(error).removeprefix('layer: ')}") from None
    return module.fc if isinstance(module, classifier.Classifier) else None


def check_last_layers(models: "Sequence[Model]", name: str | None) -> None:
    """Raise InputError for saved epochs and map files, and if ``fc`` names no layer or all models are checkpoints."""
    for model in models:
        if model.module is None:
            raise InputError(f"{model.name}: expected a model, got saved epochs or maps; name one file of the run")
    if name is None:
        return
    outside = [model for model in models if model.checkpoint is None]
    if not outside:
        raise InputError("fc: expected a model that is not a checkpoint; the last layer of a checkpoint is known")
    for model in outside:
        last_layer_of(model, name)
