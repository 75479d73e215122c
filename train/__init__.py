"""The training core: run from a checkout as ``python -m train METHOD ...``; not part of the wheel."""
