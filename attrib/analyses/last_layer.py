"""Where the last layer of a model is: known of a checkpoint, named by the user, or found by running one image."""

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
        None, "Last layer of a model that is no checkpoint, by its dotted name (default: the last linear).",
        metavar="NAME",
    )  # fmt: skip


def last_layer_of(model: "Model", name: str | None) -> "nn.Module | None":
    """The last layer of an opened model; None: it has to be found by running an image.

    name: that of a model that is no checkpoint, by its dotted name. Raises InputError where there is no such layer.
    """
    module = model.opened_module
    if name is not None and model.checkpoint is None:
        try:
            return layers.named(module, name)
        except InputError as error:
            raise InputError(f"fc: {str(error).removeprefix('layer: ')}") from None
    return module.fc if isinstance(module, classifier.Classifier) else None


def check_last_layers(models: "Sequence[Model]", name: str | None) -> None:
    """Raise InputError for saved epochs and map files, and where ``fc`` names no layer, or all are checkpoints."""
    for model in models:
        if model.module is None:
            raise InputError(f"{model.name}: expected a model, got saved epochs or maps; name one file of the run")
    if name is None:
        return
    outside = [model for model in models if model.checkpoint is None]
    if not outside:
        raise InputError("fc: names the last layer of a model that is no checkpoint; that of a checkpoint is known")
    for model in outside:
        last_layer_of(model, name)
