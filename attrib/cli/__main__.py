"""``python -m attrib.cli``: the command, for starters such as torchrun that want a module."""

import attrib.__main__  # noqa: F401
