"""``attrib report``: the options of ``attrib.pages.compute.Report``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from attrib.analyses.options import option, same_option
from attrib.cli.options import Where, derived
from attrib.lazy import Lazy
from attrib.pages.compute import Report

if TYPE_CHECKING:
    from attrib import parallel
    from attrib.data import Dataset
    from attrib.models.specs import Model
else:
    parallel = Lazy("attrib.parallel")


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where to compute, and where to write."""

    out: Path = option(Path("report.html"), "The page to write.", metavar="FILE")
    results: Path | None = option(
        None, "Folder for the numbers of the page (default: NAME-results beside the page).", metavar="DIR"
    )  # fmt: skip
    device: str = same_option(Where, "device")


def _write(settings: Report, models: "Sequence[Model]", data: "Dataset | None", places: Places) -> None:
    page = settings.run(models, data, out=places.out, results=places.results, device=places.device)
    if parallel.is_first():
        typer.echo(page)


report = derived(Report, Places, _write)
