"""``python -m attrib``: the command, where another program is called ``attrib``, as on Windows."""

from attrib.cli import main

main()
