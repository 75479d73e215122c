"""The class that a map explains: the label, the prediction, or one class by its name or number. No torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrib.class_names import folded, meanings
from attrib.errors import InputError, meant

if TYPE_CHECKING:
    from torch import Tensor

TARGETS = ("label", "prediction")


def check_target(target: Any) -> None:
    """Raise InputError for what is neither text nor a class."""
    if isinstance(target, bool) or not isinstance(target, str | int) or target == "":
        raise InputError(f"target: expected label, prediction, or a class by its name or number, got {target!r}")
    if isinstance(target, int) and target < 0:
        raise InputError(f"target: expected a class from 0 up, got {target}")


def target_class(target: str | int, classes: Sequence[str]) -> str | int:
    """label, prediction, or the class by its number.

    A text is the name of a class, however its case, spaces and underscores are, else a number. Raises InputError for
    a class that the data does not have.

    >>> target_class("Tabby cat", ["dog", "tabby_cat"]), target_class("0", ["dog", "cat"])
    (1, 0)
    """
    if target in TARGETS or not classes:
        return target
    number = target
    if isinstance(target, str):
        known = meanings(classes)
        number = known.get(folded(target), int(target) if target.isascii() and target.isdigit() else target)
        if isinstance(number, str):
            expected = f"target: expected label, prediction, or a class by its name or number, got {target!r}"
            raise InputError(expected + meant(target, [*TARGETS, *classes]))
    if isinstance(number, int) and number >= len(classes):
        raise InputError(f"target: expected a class in 0..{len(classes) - 1}, got {number}")
    return number


def explained(target: str | int, label: "Tensor", prediction: "Tensor") -> "Tensor":
    """The class of every image whose map is made, (N,), from labels and predictions (N,)."""
    if isinstance(target, int):
        return prediction.new_full(prediction.shape, target)
    return label if target == "label" else prediction
