"""The training core: ``python -m train METHOD`` or the function ``train``. The wheel does not contain it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.config import Config, read_recipes
    from train.loop import Run, train

__all__ = ["Config", "Run", "read_recipes", "train"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that ``python -m train`` can catch Ctrl-C while torch is imported."""
    if name not in __all__:
        raise AttributeError(f"module 'train' has no attribute {name!r}")
    return getattr(import_module("train.config" if name in ("Config", "read_recipes") else "train.loop"), name)
