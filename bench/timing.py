"""Shared by all benches: alternate the sides, measure wall-clock and processor time, write a table and a JSON file.

The sides alternate within one process, and every other round reverses their order. So other work on the machine slows
both alike. Each number is the median over rounds. Processor time is shown beside wall-clock time, because other work
mostly affects the latter.
"""

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from attrib import inference
from attrib.data import Batch
from attrib.data.glyphs import render
from attrib.models.architectures import build

RESULTS = Path("bench/results")
EPS, STEP_SIZE = 8 / 255, 2 / 255
GPU_BATCHES = 128, 512


class Seconds(NamedTuple):
    """Wall-clock time, and processor time of all threads together."""

    clock: float
    cpu: float


Row = dict[str, str | float]
"""One line of a table."""


def parser(doc: str | None, *, rounds: int = 3) -> argparse.ArgumentParser:
    """The options that every bench has."""
    cli = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--rounds", type=int, default=rounds)
    cli.add_argument("--threads", type=int, default=torch.get_num_threads())
    cli.add_argument("--device", default="auto")
    cli.add_argument("--out", type=Path, default=RESULTS)
    return cli


def add_batch_sizes(cli: argparse.ArgumentParser, *, cpu: int) -> None:
    """Add the option for the number of images per batch; see ``batch_sizes``."""
    gpu = " and ".join(map(str, GPU_BATCHES))
    cli.add_argument(
        "--batch-size",
        type=int,
        nargs="+",
        metavar="N",
        help=f"images per batch, a row each (CPU {cpu}, GPU {gpu})",
    )
    cli.set_defaults(cpu_batch=cpu)


def batch_sizes(options: argparse.Namespace, device: torch.device) -> list[int]:
    """The chosen batch sizes, or the device's defaults."""
    sizes: list[int] = options.batch_size or (list(GPU_BATCHES) if device.type == "cuda" else [options.cpu_batch])
    return sizes


def begin(options: argparse.Namespace) -> torch.device:
    """Set the number of threads. Returns the device to measure."""
    torch.set_num_threads(options.threads)
    return inference.device(options.device)


def example(arch: str, images: int, device: torch.device) -> tuple[nn.Module, Batch]:
    """An untrained network in eval mode and digits, 3x32x32. Time does not depend on the weights."""
    torch.manual_seed(0)
    model = build(arch, num_classes=10, input_shape=(3, 32, 32)).to(device).eval()
    image, label, _ = render(torch.arange(images))
    index = torch.arange(images, device=device)
    return model, Batch(image.to(device) / 255, label.to(device), index, None)


def timed(work: Callable[[], object], device: torch.device) -> Seconds:
    """The time of a call, including the device's work."""
    started = Seconds(time.perf_counter(), time.process_time())
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Seconds(time.perf_counter() - started.clock, time.process_time() - started.cpu)


def in_turn(
    sides: Mapping[str, Callable[[], object]], *, rounds: int, device: torch.device, warm_up: bool = True
) -> dict[str, list[Seconds]]:
    """Run every side once per round. With ``warm_up`` a first round is not counted."""
    times: dict[str, list[Seconds]] = {name: [] for name in sides}
    for number in range(rounds + warm_up):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            seconds = timed(sides[name], device)
            if number >= warm_up:
                times[name].append(seconds)
    return times


def middle(seconds: Sequence[Seconds]) -> Seconds:
    """The medians of both times."""
    return Seconds(*map(median, zip(*seconds, strict=True)))


def versus(what: str, times: Mapping[str, Sequence[Seconds]], *, target: float | None = None) -> Row:
    """A row with attrib's seconds, the peer's, and the speed-up. ``times`` has attrib first.

    Without a peer, which may not be installed, the row has attrib's seconds only.
    """
    if len(times) == 1:
        (own,) = (middle(seconds) for seconds in times.values())
        return {"what": what, "attrib s": own.clock}
    own, peer = (middle(seconds) for seconds in times.values())
    row: Row = {
        "what": what, "attrib s": own.clock, "peer s": peer.clock,
        "x by clock": peer.clock / own.clock, "x by CPU": peer.cpu / own.cpu,
    }  # fmt: skip
    return row | ({} if target is None else {"target": f">= {target:g}"})


def machine(device: torch.device) -> dict[str, Any]:
    """The machine and versions behind the numbers."""
    description = {
        "cpu": _cpu(), "threads": torch.get_num_threads(), "device": str(device), "torch": torch.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
    if device.type == "cuda":
        description["gpu"] = torch.cuda.get_device_name(device)
    return description


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def publish(
    name: str, title: str, rows: Sequence[Row], options: argparse.Namespace, device: torch.device, **more: Any
) -> None:
    """Print the table and write OUT/NAME.json (NAME-cuda.json for a GPU); ``more`` is written beside it."""
    result = {
        "title": title, "command": shlex.join(["python", "-m", f"bench.{name}", *sys.argv[1:]]),
        "machine": machine(device), "rows": list(rows), **more,
    }  # fmt: skip
    print(f"{title}\n\n{markdown(rows)}\n")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{name}{'-cuda' if device.type == 'cuda' else ''}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table. Missing columns stay empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    numbers = [all(not isinstance(row.get(column), str) for row in rows) for column in columns]
    dashes = [f"{'-' * (width - 1)}:" if number else "-" * width for width, number in zip(widths, numbers, strict=True)]
    padded = [
        [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, numbers, strict=True)
        ]
        for line in cells
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], dashes, *padded[1:]])


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 0.1 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
