"""The training core: run from a checkout, as ``python -m train METHOD`` or by :func:`train`; not part of the wheel."""

from train.config import Config, read_recipes
from train.loop import Run, train

__all__ = ["Config", "Run", "read_recipes", "train"]
