"""Print a result on a terminal."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from attrib.lazy import Lazy

if TYPE_CHECKING:
    from attrib import files, parallel
    from attrib.analyses import result as results
    from attrib.analyses.result import Result
else:
    files, parallel, results = Lazy("attrib.files"), Lazy("attrib.parallel"), Lazy("attrib.analyses.result")


def show(result: "Result", written: list[Path], *, as_json: bool) -> None:
    """Print the tables and the files written, or one JSON object, in the first process only."""
    if not parallel.is_first():
        return
    if as_json:
        typer.echo(files.to_json(result.summary))
        return
    sys.stdout.write(result.to_text(width()))  # typer would print UTF-8 where the terminal asks for ASCII
    for path in written:
        typer.echo(path)


def width() -> int:
    """Characters per line: the terminal's, else COLUMNS of the environment, else 200."""
    console = Console()
    return console.width if console.is_terminal else int(os.environ.get("COLUMNS", 200))
