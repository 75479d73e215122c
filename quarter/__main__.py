"""Prepare three calls on a borrowed GPU that is available for a quarter of an hour: ``make quarter``.

The machine has torch and most packages, but no network and no data. Call K carries the tree and the folder load/K, with
a part of the data. Call 1 also installs wheels, runs the GPU tests and measures rates. Call 3 also runs quarter.budget.
Files that quarter/call.sh unpacks stay on the machine from one call to the next.

``make quarter REHEARSE=1`` runs the three calls here, with tiny networks on glyphs, and unpacks their results.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import attrib
from attrib.data import download, glyphs, readers
from attrib.errors import InputError
from attrib.files import folder
from figures import models
from quarter import commands, ledger, mosaics, pack
from quarter.mosaics import Part
from quarter.queue import Queue, Settings

LOAD = Path("load")
LIMIT = 62 * 2**20
"""Bytes that may travel with a call: the tree and its load."""
WHEELS = ("captum", "platformdirs", "pooch", "typer")
"""Packages that the machine lacks or may have too old, and their requirements; constraints.txt has the versions."""
CALLS = {
    1: [Part("cifar10", "train", 0), Part("cifar10", "train", 1), Part("mnist", "train", 0)],
    2: [Part("cifar10", "train", 2), Part("cifar10", "train", 3), Part("mnist", "train", 1)],
    3: [Part("cifar10", "train", 4), Part("cifar10", "test", 0), Part("mnist", "train", 2), Part("mnist", "test", 0)],
}
"""Mosaics of each call."""
SECONDS = {1: 150, 2: 60, 3: 540}
"""Time limit of each call. The scripts stop themselves earlier."""
REHEARSED_COUNT = 200
"""Images of a mosaic in a rehearsal."""

Source = Callable[[Part], tuple[Tensor, Tensor]]
"""Takes a part, gives its images (N,C,H,W) uint8 and labels (N,)."""


def main() -> int:
    """Build the loads and print the calls, or rehearse. Returns 0, 1 if the rehearsal fails, or 2 for wrong input."""
    parser = argparse.ArgumentParser(prog="python -m quarter", description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="run the calls here, with tiny networks")
    parser.add_argument("--unpack", type=Path, metavar="DIR", help="on the machine: unpack DIR/load to DIR/data")
    options = parser.parse_args()
    try:
        if options.unpack:
            mosaics.unpack(options.unpack / "load", options.unpack / "data")
            return 0
        if options.rehearse:
            with tempfile.TemporaryDirectory() as place:
                return rehearse(Path(place))
        build(LOAD, public_data)
        download_wheels(LOAD / "1" / "wheels")
        tree = tree_bytes()
        carry_states(Path("runs"), LOAD, tree)
        check_sizes(LOAD, tree)
        print_calls(LOAD, tree)
    except InputError as error:
        print(f"quarter: error: {error}", file=sys.stderr)
        return 2
    return 0


def build(load: Path, source: Source) -> None:
    """Write the mosaics of every call to ``load``/K. Existing mosaics stay."""
    for call, parts in CALLS.items():
        place = folder(load / str(call))
        for part in parts:
            if not (place / f"{part.name}.labels").exists():
                mosaics.write(*source(part), place / part.name)


def public_data(part: Part) -> tuple[Tensor, Tensor]:
    """A part of CIFAR-10 or MNIST; raises InputError if its files are missing."""
    images, labels = download.read(part.data, split=part.split, root=None)
    size = len(images) // mosaics.PARTS[part.data, part.split]
    rows = slice(part.number * size, (part.number + 1) * size)
    return images[rows], labels[rows]


def digits(part: Part) -> tuple[Tensor, Tensor]:
    """Glyphs in the shape of a part, for a rehearsal."""
    first = REHEARSED_COUNT * part.number
    images, labels, _ = glyphs.render(torch.arange(first, first + REHEARSED_COUNT), split=part.split)
    return (images if part.data == "cifar10" else images[:, :1, 2:30, 2:30].contiguous()), labels


def download_wheels(place: Path) -> None:
    """Download the missing wheels. Raises InputError if pip fails."""
    missing = [name for name in WHEELS if not any(place.glob(f"{name}-*.whl"))]
    if not missing:
        return
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--only-binary=:all:", "-c", "constraints.txt", "-d", str(folder(place)), *missing]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = commands.last_line(done.stderr)
        raise InputError(f"wheels: pip download {' '.join(missing)} failed ({reason}); try again with a network")


def tree_bytes() -> int:
    """Bytes of the files that git does not ignore; raises InputError outside a checkout."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError("expected the root of a git checkout, whose files travel with a call; run make quarter there")
    return sum(path.lstat().st_size for name in done.stdout.split("\0") if name and (path := Path(name)).exists())


def folder_bytes(place: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def carry_states(runs: Path, load: Path, tree: int) -> None:
    """Copy unfinished small runs to ``load``/K/runs in order of value, if there is room. Print those left behind."""
    for call in CALLS:
        shutil.rmtree(load / str(call) / "runs", ignore_errors=True)
    for row in models.all_rows(sweeps=True):
        run = runs / row.key
        if not row.small or not continues(row, run):
            continue
        files = [path for path in run.iterdir() if path.suffix in (".pt", ".jsonl")]
        size = sum(path.stat().st_size for path in files)
        room = {call: LIMIT - tree - folder_bytes(load / str(call)) for call in CALLS}
        call = max(room, key=lambda number: room[number])
        if size > room[call]:
            print(f"{run} stays here: no call has room for its {size / 2**20:.1f} MiB")
            continue
        target = folder(load / str(call) / "runs" / row.key)
        for path in files:
            shutil.copy2(path, target)


def continues(row: models.Row, run: Path) -> bool:
    """Whether the folder holds an unfinished run of this row with the same options."""
    if not (run / "last.pt").exists() or not (run / "model.pt").exists() or pack.is_finished(run):
        return False
    saved = torch.load(run / "last.pt", map_location="cpu", weights_only=True)
    return bool(saved["config"] == models.config(row).as_dict())


def check_sizes(load: Path, tree: int) -> None:
    """Raise InputError if a call would carry too much."""
    for call in CALLS:
        size = folder_bytes(load / str(call))
        if tree + size > LIMIT:
            raise InputError(
                f"call {call}: expected at most {LIMIT / 2**20:.0f} MiB, got {tree / 2**20:.1f} MiB of tracked and"
                f" untracked files and {size / 2**20:.1f} MiB in {load / str(call)}; remove or ignore files"
            )


def print_calls(load: Path, tree: int) -> None:
    """Print what to do, in order."""
    print("Make these calls one after another, each within 30 s of the end of the one before:\n")
    for call, seconds in SECONDS.items():
        place = load / str(call)
        size = (tree + folder_bytes(place)) / 2**20
        print(f"  {call}. carry {place} ({size:.1f} MiB with the tree), time limit {seconds} s:")
        print(f"     bash quarter/call.sh {call}")
    print("\nThe scripts write to the folder in the variable OUT. Copy the files of call 3 to DIR, then run:")
    print("     .venv/bin/python -m quarter.budget --unpack DIR")


def rehearse(place: Path) -> int:
    """Run the calls below ``place`` and unpack their results. Returns 0 if all of it worked, else 1."""
    build(place / "load", digits)
    machine, home = place / "machine", place / "home"
    environment = {
        **os.environ, "REHEARSE": "1", "PYTHON": sys.executable, "LOAD": str(place / "load"), "STAY": str(machine),
        "BUDGET": os.environ.get("BUDGET", "180"), "JOBS": "3", "LEDGER": str(machine / "ledger.json"),
    }  # fmt: skip
    failed = 0
    for call in CALLS:
        out = folder(place / f"out-{call}")
        command = ["bash", "quarter/call.sh", str(call)]
        failed += subprocess.run(command, env=environment | {"OUT": str(out)}, check=False).returncode != 0
        check_out(out)
    check_data(machine / "data")
    pack.unpack(out, runs=home / "runs", results=home / "results", ledger_path=home / "ledger.json")
    report = json.loads((out / "queue.json").read_text())
    loaded = [attrib.load(home / path)[1].fingerprint for path in report["packed"] if path.endswith("model.pt")]
    before, after = continue_cut(home)
    print(
        f"rehearsal: {len(report['finished'])} runs finished, {len(report['failed'])} failed, {len(loaded)} packed and"
        f" loaded; the interrupted run continued from epoch {before} to {after}"
    )
    complete = report["finished"] and len(loaded) > len(report["finished"]) and 0 < before < after
    return 0 if complete and not failed else 1


def continue_cut(home: Path) -> tuple[int, int]:
    """Continue the run that the budget has stopped. Returns its epochs before and after."""
    run = home / "runs" / commands.CUT.key
    before = len(ledger.history(run))
    settings = Settings(
        device="cpu", gpu=False, device_name="cpu", runs=home / "runs", results=home / "results", jobs=1,
        deadline=time.time() + 25, limit=None, ledger=home / "ledger.json", rates={},
    )  # fmt: skip
    Queue([commands.CUT], settings).run()
    return before, len(ledger.history(run))


def check_out(out: Path) -> None:
    """Raise InputError if the files to bring back are too many or too large."""
    files = [path for path in out.rglob("*") if path.is_file()]
    if len(files) > pack.PARTS or any(path.stat().st_size > pack.PART for path in files):
        names = ", ".join(path.name for path in files)
        raise InputError(f"{out}: expected at most {pack.PARTS} files of {pack.PART / 2**20:.0f} MiB, got {names}")


def check_data(place: Path) -> None:
    """Raise InputError unless a rehearsal unpacks the data that it packed."""
    train = [place / "cifar-10-batches-bin" / f"data_batch_{number}.bin" for number in range(1, 6)]
    grey = [place / "mnist" / f"train-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
    read = {"cifar10": readers.cifar_binary(train, classes=10), "mnist": readers.mnist(grey)}
    for data, unpacked in read.items():
        parts = [digits(part) for part in mosaics.ALL if (part.data, part.split) == (data, "train")]
        for tensor, packed in zip(unpacked, zip(*parts, strict=True), strict=True):
            if not torch.equal(tensor, torch.cat(packed)):
                raise InputError(f"{place}: {data} is not what was packed")


if __name__ == "__main__":
    sys.exit(main())
