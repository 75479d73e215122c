"""Draw figures and tables from the results: ``python -m figures [NAME ...]``.

Without names it draws all of them, and writes the pages that show them.
"""

import argparse
import sys
from pathlib import Path

from attrib.errors import InputError
from attrib.styles import Style
from figures import readme, shared
from figures.drawings import DRAWINGS, PRINT
from figures.shared import Missing


def main(arguments: list[str] | None = None) -> int:
    """Draw the figures named, or all; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m figures", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="again_figure1, ... (default: all, and the pages)")
    parser.add_argument("--data", type=Path, default=shared.DATA, help="folder of results (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=shared.RENDERED, help="folder of figures (default: %(default)s)")
    parser.add_argument(
        "--style", type=Path, metavar="FILE.toml",
        help="style of the figures: width, font_size and title (default: no titles, since the pages have captions)",
    )  # fmt: skip
    parser.add_argument(
        "--page", type=Path, help="the overview (default: figures/README.md; with --data or --out, README.md in --out)"
    )
    options = parser.parse_args(arguments)
    try:
        look = Style.read(options.style) if options.style else PRINT
        if look.names or look.images:
            raise InputError("--style: names and images are the papers'; expected width, font_size or title")
        if not options.names:
            return draw(options.data, options.out, options.page, look)
        known = {drawing.name: drawing for drawing in DRAWINGS}
        for name in options.names:
            if name not in known:
                raise InputError(f"NAME: expected one of {', '.join(known)}, got {name}")
        for name in options.names:
            for path in known[name].write(options.data, options.out, look):
                print(path)
    except InputError as error:
        print(f"figures: error: {error}", file=sys.stderr)
        return 2
    return 0


def draw(data: Path = shared.DATA, out: Path = shared.RENDERED, page: Path | None = None, look: Style = PRINT) -> int:
    """Draw everything and write the pages; figures without results are skipped, and listed at the end.

    Files of figures that no longer have results are removed.

    Raises InputError if there are no results at all.
    """
    if not shared.places(data):
        raise InputError(f"--data: no results in {data}; python -m figures.run --ckpts DIR makes them")
    own = (data, out) == (shared.DATA, shared.RENDERED)
    page = page or (shared.HERE if own else out) / "README.md"
    drawn: dict[str, list[Path] | Missing] = {}
    for drawing in DRAWINGS:
        try:
            drawn[drawing.name] = drawing.write(data, out, look)
        except Missing as error:
            drawn[drawing.name] = error
        files = drawn[drawing.name]
        for path in set(drawing.files(out)).difference(files if isinstance(files, list) else []):
            path.unlink()
    readme.write(data, page, drawn)
    missing = {name: reason for name, reason in drawn.items() if isinstance(reason, Missing)}
    print(f"{len(drawn) - len(missing)} figures and tables in {out}, and {page}")
    for name, reason in missing.items():
        print(f"skipped {name}: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
