"""Seconds per epoch of adversarial training on this device: ``python -m quarter.rates --out FILE``.

Each measurement runs two short epochs on glyphs, which need no files, and scales the second to the whole data set. On a
GPU it compares the engines with resnet18; the small networks use the fastest one. The file is written after every
measurement, so an interrupted command leaves results too.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attrib import inference
from attrib.data import CATALOG
from attrib.errors import InputError
from attrib.files import atomic
from figures import models
from figures.models import MNIST, RESNET18, RESNET32, Row
from quarter import commands, ledger

ENGINES = ("graph", "eager", "compiled")
BATCHES = (128, 512)
"""Batch sizes for resnet18; the first is its recipe's."""
IMAGES = 4096
"""Images in a short epoch."""


class Rate(NamedTuple):
    """The duration of an epoch of PGD-AT."""

    seconds: float
    """Including the evaluation."""
    engine: str | None
    """As ``--engine`` takes it; None on a CPU."""
    start: float
    """Seconds that a run takes in addition to its epochs: imports, data, compilation."""


def read(path: Path) -> dict[str, Rate]:
    """The fastest rate of each place at its recipe's batch size; none if the file is missing."""
    if not path.exists():
        return {}
    fastest: dict[str, Rate] = {}
    for entry in json.loads(path.read_text())["rates"]:
        rate = Rate(entry["seconds"], entry["engine"], entry["start"])
        known = fastest.get(entry["place"])
        if entry["recipe_batch"] and (known is None or rate.seconds < known.seconds):
            fastest[entry["place"]] = rate
    return fastest


def measure(row: Row, *, device: str, engine: str | None, batch_size: int | None = None) -> dict[str, Any]:
    """Train a row for two short epochs. Returns one entry of the file.

    batch_size: None for the recipe's. Raises InputError with the last line of the output if training fails.
    """
    config = models.config(row)
    with tempfile.TemporaryDirectory() as folder:
        command = commands.training(row, device=device, runs=Path(folder), engine=engine)
        limit = min(_images(config.data, config.limit), config.holdout + IMAGES)
        # Later options override earlier ones.
        command += ["--data", "glyphs", "--epochs", "2", "--limit", str(limit), "--no-last"]
        command += ["--batch-size", str(batch_size or config.batch_size)]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        total = time.perf_counter() - started
        if done.returncode:
            raise InputError(f"{row.key}: {commands.last_line(done.stderr)}")
        last = ledger.history(Path(folder) / row.key)[-1]
    evaluation = last["seconds"] - (limit - config.holdout) / last["images_per_s"]
    seconds = evaluation + (_images(config.data, config.limit) - config.holdout) / last["images_per_s"]
    return {
        "place": row.place, "batch_size": batch_size or config.batch_size, "engine": engine,
        "recipe_batch": batch_size in (None, config.batch_size), "seconds": seconds,
        "images_per_s": last["images_per_s"], "start": max(0.0, total - 2 * last["seconds"]),
    }  # fmt: skip


def _images(data: str, limit: int | None) -> int:
    """The number of training images, including held-out ones."""
    count = CATALOG[data].counts["train"]
    return min(count, limit or count)


def device_name(device: torch.device) -> str:
    """The card's name, or ``cpu`` with the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu {names[0] if names else platform.processor()}"


def main() -> int:
    """Measure all rates. Report failures and go on. Returns 0, or 1 if a measurement failed."""
    parser = argparse.ArgumentParser(prog="python -m quarter.rates", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--rehearse", action="store_true", help="tiny networks")
    options = parser.parse_args()
    gpu = inference.device(options.device).type == "cuda"
    engines: tuple[str | None, ...] = ENGINES if gpu else (None,)
    adversarial = {row.place: row for row in models.all_rows(sweeps=False) if row.method == "pgd-at"}
    large, small = adversarial[RESNET18], [adversarial[RESNET32], adversarial[MNIST]]
    batches: tuple[int | None, ...] = BATCHES
    if options.rehearse:
        large, small, batches = commands.REHEARSAL[0], [commands.CUT], (None,)
    entries: list[dict[str, Any]] = []
    failed = False

    def add(row: Row, engine: str | None, batch_size: int | None = None) -> None:
        nonlocal failed
        try:
            entries.append(entry := measure(row, device=options.device, engine=engine, batch_size=batch_size))
        except InputError as error:
            failed = True
            print(f"quarter.rates: error: {error}", file=sys.stderr)
            return
        with atomic(options.out) as temporary:
            described = {"device": device_name(inference.device(options.device)), "time": time.time(), "rates": entries}
            temporary.write_text(json.dumps(described, indent=1) + "\n")
        print(
            f"{entry['place']}, batch {entry['batch_size']}, {engine or 'cpu'}: {entry['seconds']:.2f} s per epoch,"
            f" {entry['images_per_s']:,.0f} images/s",
            flush=True,
        )

    for engine in engines[:2]:
        add(large, engine, batches[0])
    best = read(options.out).get(large.place)
    for row in small:
        add(row, best.engine if best else None)
    for engine in engines[2:]:
        add(large, engine, batches[0])
    for batch_size in batches[1:]:
        for engine in engines:
            add(large, engine, batch_size)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
