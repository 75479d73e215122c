"""Per-image work over a whole data set: batch by batch, over the processes of torchrun, continuing where it stopped."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrib.cli.common import progress

if TYPE_CHECKING:
    import pandas as pd

    from attrib.data import Batch, Dataset
    from attrib.parallel import World

Measure = Callable[["Batch"], "pd.DataFrame"]
"""A batch to rows, one per image and model, with a column ``index``."""


def over_batches(
    data: "Dataset", measure: Measure, *, batch_size: int, here: "World", title: str,
    out: Path | None = None, settings: Mapping[str, Any] | None = None,
) -> "pd.DataFrame | None":  # fmt: skip
    """The rows of all batches, in the order of the data, for the first process; None for the others.

    With ``out`` the rows of every finished batch are kept below it until all are there, so that a command that
    was stopped continues; ``settings`` (everything that the rows depend on, the models' fingerprints among it)
    tells one piece of work from another.
    """
    import pandas as pd
    import torch

    from attrib.parallel import gather
    from attrib.results import to_json, write_csv

    parts_of = list(torch.arange(len(data)).split(batch_size))
    mine = range(here.rank, len(parts_of), here.size)
    keep = None
    if out:
        described = to_json({"batch_size": batch_size, "images": len(data), **(settings or {})})
        keep = out / f".{title}-{hashlib.sha256(described.encode()).hexdigest()[:12]}"
        keep.mkdir(exist_ok=True)
    done = {number: keep / f"{number}.csv" for number in mine if keep and (keep / f"{number}.csv").exists()}
    left = [number for number in mine if number not in done]
    rows = {number: pd.read_csv(path) for number, path in done.items()}
    order = torch.cat([parts_of[number] for number in left]) if left else torch.arange(0)
    # Only a process's last batch may be smaller, so that splitting its order again gives the same batches.
    batches = data.batches(batch_size, order=order, device=here.device)
    shown = progress(batches, total=len(left), title=title) if here.rank == 0 else batches
    for number, batch in zip(left, shown, strict=True):
        rows[number] = measure(batch)
        if keep:
            write_csv(rows[number], keep / f"{number}.csv")
    gathered = gather(rows)
    if gathered is None:
        return None
    joined = {number: part for rank in gathered for number, part in rank.items()}
    if keep:
        shutil.rmtree(keep, ignore_errors=True)
    return pd.concat([joined[number] for number in sorted(joined)], ignore_index=True)
