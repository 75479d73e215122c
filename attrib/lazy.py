"""Import modules on first use, so that help and plots never wait for torch or scipy."""

from importlib import import_module
from typing import Any


class Lazy:
    """A stand-in for a module, which imports the module when one of its names is first used.

    >>> Lazy("math").sqrt(9)
    3.0
    """

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._module), name)
