"""``python -m attrib``: the command line, also where another program is called ``attrib``, as on Windows."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the current folder: a torch.py or queue.py in it must not hide the module that others import

from attrib.cli import main

main()
