"""Modules that are imported when they are first used, so that help and plots never wait for torch or scipy."""

from importlib import import_module
from typing import Any


class Lazy:
    """Stands for a module and imports it when one of its names is first used.

    Type checkers see the real module, by an import under ``TYPE_CHECKING`` beside it.

    >>> Lazy("math").sqrt(9)
    3.0
    """

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._module), name)
