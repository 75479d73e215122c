"""The explorer of a notebook: ``attrib.explore``."""

from attrib.explorer.widget import explore

__all__ = ["explore"]
