"""The class that a map explains: label, prediction, or one class by its name or number. No torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrib.class_names import folded, meanings
from attrib.errors import InputError, meant

if TYPE_CHECKING:
    from torch import Tensor

TARGETS = ("label", "prediction")


def check_target(target: Any) -> None:
    """Raise InputError unless the target is a text or a class number."""
    if isinstance(target, bool) or not isinstance(target, str | int) or target == "":
        raise InputError(f"target: expected label, prediction, or a class by its name or number, got {target!r}")
    if isinstance(target, int) and target < 0:
        raise InputError(f"target: expected a class from 0 up, got {target}")


def target_class(target: str | int, classes: Sequence[str]) -> str | int:
    """The target as ``label``, ``prediction``, or a class number.

    A text is matched to the class names without regard to case, spaces and underscores, else read as a number. Raises
    InputError for a class that the data does not have.

    >>> target_class("Tabby cat", ["dog", "tabby_cat"]), target_class("0", ["dog", "cat"])
    (1, 0)
    """
    if target in TARGETS or not classes:
        return target
    number = target
    if isinstance(target, str):
        as_number = int(target) if target.isascii() and target.isdigit() else target
        number = meanings(classes).get(folded(target), as_number)
        if isinstance(number, str):
            expected = f"target: expected label, prediction, or a class by its name or number, got {target!r}"
            raise InputError(expected + meant(target, [*TARGETS, *classes]))
    if isinstance(number, int) and number >= len(classes):
        raise InputError(f"target: expected a class in 0..{len(classes) - 1}, got {number}")
    return number


def explained(target: str | int, label: "Tensor", prediction: "Tensor") -> "Tensor":
    """The class of every image that its map explains, (N,), from labels and predictions (N,)."""
    if isinstance(target, int):
        return prediction.new_full(prediction.shape, target)
    return label if target == "label" else prediction
