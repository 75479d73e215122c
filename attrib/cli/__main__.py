"""``python -m attrib.cli``: the command, for starters such as torchrun that want a module."""

from attrib.cli import main

main()
