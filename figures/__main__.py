"""Draw every figure and table from the results that are there, and write the page: ``python -m figures``."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from attrib.errors import InputError
from figures import readme, shared

SCRIPTS = (
    *(f"again_figure{number}" for number in (1, 2, 3, 4)), "again_table1", "again_table2",
    *(f"aalp_figure{number}" for number in range(1, 13)), *(f"aalp_table{number}" for number in range(1, 5)),
    "asc_rules", "crossing",
)  # fmt: skip
"""One per figure or table of the papers, and two tables of our own."""


def main() -> int:
    """Run the scripts one by one; a figure without results is listed at the end, and is no failure."""
    parser = argparse.ArgumentParser(prog="python -m figures", description=__doc__)
    shared.add_folders(parser)
    parser.add_argument("--page", type=Path, help="default: README.md beside the data's own figures, else in --out")
    options = parser.parse_args()
    own = (options.data, options.out) == (shared.DATA, shared.RENDERED)
    page = options.page or (shared.HERE if own else options.out) / "README.md"
    drawn: dict[str, list[Path] | shared.Missing] = {}
    try:
        if not any(shared.manifest(place) for place in options.data.glob("*/")):
            raise InputError(f"--data: no results in {options.data}; python -m figures.run --ckpts DIR makes them")
        for name in SCRIPTS:
            try:
                drawn[name] = import_module(f"figures.{name}").draw(options.data, options.out)
            except shared.Missing as error:
                drawn[name] = error
        readme.write(options.data, page, drawn)
    except InputError as error:
        print(f"figures: error: {error}", file=sys.stderr)
        return 2
    missing = {name: found for name, found in drawn.items() if isinstance(found, shared.Missing)}
    print(f"{len(drawn) - len(missing)} figures and tables in {options.out}, and {page}")
    for name, reason in missing.items():
        print(f"skipped {name}: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
