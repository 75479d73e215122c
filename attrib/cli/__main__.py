"""``python -m attrib.cli``: the command, for launchers such as torchrun that need a module."""

import attrib.__main__  # noqa: F401
