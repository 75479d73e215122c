"""The explorer of a notebook: :func:`attrib.explore`."""

from attrib.explorer.widget import explore

__all__ = ["explore"]
