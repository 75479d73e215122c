"""Record the results of every command: ``PYTHONPATH=tests python -m golden.record [CASE...]`` writes CASE.json.

On another machine than that of machine.json, record all cases, not only some.

A record has the exit status and, for each file, the values that must not change: keys and numbers of JSON, columns of
CSV (count of rows, keys in order, mean, extremes and a few values of numbers), arrays of NPZ. It leaves out words, and
values that differ between machines.
"""

import contextlib
import io
import json
import lzma
import os
import shlex
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from attrib import cli
from golden.cases import CASES

HERE = Path(__file__).parent
RECORDS = HERE / "records"
MACHINE = HERE / "machine.json"
LEFT_OUT = {"versions", "date", "command", "seconds"}
KEYS = ("model", "a", "b", "run", "seed", "epoch", "index", "images", "attack", "eps", "split", "label")
"""Columns of a CSV that say what a row is about: they are the same in every row, in the same order."""
WORDS = "words"
"""What stands for any text of several words."""


def machine() -> dict[str, str]:
    """What the last digits of float32 depend on, beside the code."""
    return {"torch": torch.__version__, "instructions": torch.backends.cpu.get_cpu_capability()}


def workplace(folder: Path) -> None:
    """Make a folder with what the cases use: the models as .pt files, a model of one's own, and maps."""
    shutil.copytree(HERE / "models", folder, dirs_exist_ok=True)
    for packed in folder.rglob("*.pt.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
    shutil.copy(HERE / "golden_own.py", folder)
    values = np.random.default_rng(0).random((30, 32, 32), dtype=np.float32)
    np.savez(folder / "maps.npz", map=values, index=np.arange(30))


def run(command: str, *, place: Path, out: Path, data: Path | None) -> dict[str, Any]:
    """Run a case's command in this process, in the folder ``place``, and describe what it gave."""
    argv = ["attrib", *(word.replace("OUT", str(out)).replace("DATA", str(data)) for word in shlex.split(command))]
    printed = io.StringIO()
    with (
        contextlib.chdir(place),
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(sys, "path", [*sys.path]),
        mock.patch("matplotlib.figure.Figure.savefig", no_picture),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code
    found: dict[str, Any] = {"status": status}
    if "--json" in argv:
        found["stdout"] = of_json(json.loads(printed.getvalue()))
    return found | {str(path.relative_to(out)): of_file(path) for path in visible(out)}


def no_picture(_: Figure, file: Any, *, format: str, **__: Any) -> None:
    """Instead of ``Figure.savefig``, which takes most of the time: one pixel, or nothing."""
    if format == "png":
        Image.new("RGB", (1, 1)).save(file, format="png")


def visible(folder: Path) -> Iterator[Path]:
    """The files below a folder in order, without those of hidden folders."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def of_file(path: Path) -> Any:
    """What is recorded of a file; of figures, LaTeX and pages only that they are there."""
    if path.name == "made.json":  # what a report keeps for continuing, in a form of its own
        return "there"
    if path.suffix == ".json":
        return of_json(json.loads(path.read_text()))
    if path.suffix == ".csv":
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
        return {"rows": len(table), "columns": {name: of_column(str(name), table[name]) for name in table}}
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: of_array(arrays[name]) for name in sorted(arrays)}
    return "there"


def of_json(value: Any) -> Any:
    """JSON without words, absolute paths and versions; of a long list of numbers the digest."""
    if isinstance(value, dict):
        return {
            key: WORDS if key == "warnings" else of_json(item) for key, item in value.items() if key not in LEFT_OUT
        }
    if isinstance(value, list):
        if len(value) > 12 and all(isinstance(item, float | int) for item in value):
            return digest(np.array(value, dtype=float))
        return [of_json(item) for item in value]
    if isinstance(value, str) and (" " in value or value.startswith("/")):
        return WORDS
    return value


def of_column(name: str, column: "pd.Series[Any]") -> Any:
    """A checksum of all rows in order where it is a key or a text, else the digest."""
    if name in KEYS or not pd.api.types.is_numeric_dtype(column):
        rows = " ".join(f"{row:.6g}" if isinstance(row, float) else str(row) for row in column)
        return f"crc {zlib.crc32(rows.encode()):08x}"
    return digest(column.to_numpy(dtype=float))


def of_array(values: NDArray[Any]) -> dict[str, Any]:
    """Type, shape and, of numbers, the digest."""
    found = {"dtype": str(values.dtype), "shape": list(values.shape)}
    return found if values.dtype.kind == "U" else found | {"digest": digest(values.astype(float).ravel())}


def digest(values: NDArray[Any]) -> list[float]:
    """How many are no number, and of the others mean, minimum, maximum and the first three."""
    there = values[np.isfinite(values)]
    some = [there.mean(), there.min(), there.max(), *there[:3]] if len(there) else []
    return [len(values) - len(there), *map(float, some)]


def rounded(value: Any) -> Any:
    """Numbers to 8 digits, which is more than is compared."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def main() -> None:
    """Record the cases named on the command line, or all of them."""
    data = Path(os.environ.get("ATTRIB_DATA") or HERE.parents[2] / "shared" / "data")
    MACHINE.write_text(json.dumps(machine()) + "\n")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary, "place")
        workplace(place)
        for name in sys.argv[1:] or CASES:
            out = Path(temporary, name)
            out.mkdir()
            found = rounded(run(CASES[name], place=place, out=out, data=data))
            lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
            (RECORDS / f"{name}.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
