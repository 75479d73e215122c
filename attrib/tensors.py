"""Check the tensors that a user passes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attrib.errors import InputError

KINDS: dict[str, Callable[[Tensor], bool]] = {
    "floats": torch.is_floating_point,
    "bool": lambda tensor: tensor.dtype == torch.bool,
    "integers": lambda tensor: not tensor.is_floating_point() and not tensor.is_complex(),
}
"""The kinds of a tensor's values."""


def check_tensors(**given: tuple[Any, str]) -> None:
    """Raise InputError unless every tensor has the kind and shape given with it, under its argument's name.

    They are one of KINDS and the dimensions, as "floats N,H,W". A letter is the same size everywhere; only N may be 0.

    >>> maps, label = torch.zeros(2, 8, 8), torch.tensor([0, 1])
    >>> check_tensors(maps=(maps, "floats N,H,W"), label=(label, "integers N"))
    >>> check_tensors(maps=(maps, "floats N,H,W"), label=(label[:1], "integers N"))
    Traceback (most recent call last):
    attrib.errors.InputError: label: expected integers of shape (2,), got torch.int64 (1,)
    """
    sizes: dict[str, int] = {}
    for name, (tensor, expected) in given.items():
        if not isinstance(tensor, Tensor):
            raise InputError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        kind, _, dimensions = expected.partition(" ")
        letters = dimensions.split(",")
        shape = [str(sizes.get(letter, letter)) for letter in letters]
        fits = KINDS[kind](tensor) and tensor.ndim == len(letters)
        for letter, size in zip(letters, tensor.shape, strict=False):
            fits = fits and size == sizes.setdefault(letter, size) and (size > 0 or letter == "N")
        if not fits:
            hint = ", as span(maps) gives it" if kind == "bool" else ""
            advice = "; divide by 255" if kind == "floats" and tensor.dtype == torch.uint8 else ""
            shown = f"({shape[0]},)" if len(shape) == 1 else f"({','.join(shape)})"
            got = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise InputError(f"{name}: expected {kind} of shape {shown}{hint}, got {got}{advice}")
