"""Per-image work over a whole data set: batch by batch, over the processes of torchrun, continuing where it stopped."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrib.cli.common import Loaded, progress
from attrib.cli.subjects import fingerprint
from attrib.errors import Stopped

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from attrib.data import Batch, Dataset
    from attrib.parallel import World

Measure = Callable[["Batch"], "pd.DataFrame"]
"""A batch to rows, one per image and model, with a column ``index``."""


@contextmanager
def stoppable(message: str) -> Iterator[None]:
    """Where the command is stopped inside, the user is told so."""
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(message) from None


@contextmanager
def unfinished(
    out: Path | None, title: str, work: Loaded, *, batch_size: int, settings: Mapping[str, Any]
) -> Iterator[Path | None]:
    """A folder below ``out`` for the finished part of this very work, which goes when the body is through.

    What the rows depend on tells one piece of work from another: models, data and ``settings``. A body that is
    stopped leaves what there is for the same command to continue. None without ``out``.
    """
    from attrib.results import to_json

    if not out:
        yield None
        return
    images = work.images
    described = {
        "models": [(subject.name, subject.path, fingerprint(subject.model)) for subject in work.subjects],
        "data": [images.name, images.split, len(images), images.shape], "batch_size": batch_size,
        "attack": work.attack, **settings,
    }  # fmt: skip
    keep = out / f".{title}-{hashlib.sha256(to_json(described).encode()).hexdigest()[:12]}"
    keep.mkdir(exist_ok=True)
    try:
        yield keep
    except KeyboardInterrupt:
        if any(keep.iterdir()):
            raise Stopped("the same command continues where it stopped") from None
        keep.rmdir()
        raise
    if work.here.rank == 0:
        shutil.rmtree(keep, ignore_errors=True)


def over_batches(
    data: "Dataset", measure: Measure, *, batch_size: int, here: "World", title: str, keep: Path | None = None,
    positions: "Tensor | None" = None,
) -> "pd.DataFrame | None":  # fmt: skip
    """The rows of all batches for the first process, None for the others: by model, seed and image (:func:`ordered`).

    positions: (M,) int64, the images to measure; default: all.
    With ``keep``, the folder of :func:`unfinished`, the rows of every finished batch are kept there, and are not made
    again.
    """
    import pandas as pd
    import torch

    from attrib.parallel import gather
    from attrib.results import write_csv

    parts_of = list((torch.arange(len(data)) if positions is None else positions).split(batch_size))
    mine = range(here.rank, len(parts_of), here.size)
    done = {number: keep / f"{number}.csv" for number in mine if keep and (keep / f"{number}.csv").exists()}
    left = [number for number in mine if number not in done]
    rows = {number: read_rows(path) for number, path in done.items()}
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
    return ordered(pd.concat([joined[number] for number in sorted(joined)], ignore_index=True))


def ordered(table: "pd.DataFrame") -> "pd.DataFrame":
    """Rows by model (in the order they come), seed, epoch and image; of one image as they come.

    Batch by batch, a batch's rows of all models would follow one another: an order that says how large batches were.
    """
    import numpy as np
    import pandas as pd

    models = pd.factorize(table["model"])[0] if "model" in table else np.zeros(len(table))
    keys = [table[name] for name in ("index", "epoch", "seed") if name in table]
    return table.iloc[np.lexsort((*keys, models))].reset_index(drop=True)


def exact(part: "Tensor") -> "Tensor":
    """The beginning of a sum that :func:`added` continues: (...) float64 to (2,...), the sum and what rounding lost."""
    import torch

    return torch.stack([part, torch.zeros_like(part)])


def added(a: "Tensor", b: "Tensor") -> "Tensor":
    """Two sums of :func:`exact` as one (Knuth's two-sum); ``.sum(0)`` of it is the same in whatever order one adds."""
    import torch

    high = a[0] + b[0]
    back = high - a[0]
    return torch.stack([high, a[1] + b[1] + ((a[0] - (high - back)) + (b[0] - back))])


def read_rows(path: Path) -> "pd.DataFrame":
    """Rows as they were written: a model may be called 1 or NA."""
    import pandas as pd

    # To the last bit, which is pandas' default from 3.1 on.
    return pd.read_csv(path, dtype={"model": str}, keep_default_na=False, na_values=[""])
