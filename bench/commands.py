"""Time and memory of whole processes, as a user starts them: ``python -m bench.commands``.

Time: ``attrib --help``, and ``attrib span`` on 10,000 images with a LeNet and Grad-CAM (``--ckpt``; by default the
model of ``make demo`` on its own data). Memory: the largest resident size of ``attrib span`` and ``attrib robust`` on
1,000 and on 50,000 random images of 1x16x16 in an npz file, minus the bytes of the images.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from attrib.models.architectures import build
from attrib.models.checkpoint import Checkpoint, save
from bench.timing import Row, Seconds, begin, middle, parser, publish

SIZE = (1, 16, 16)
MIB = 2**20


def main() -> None:
    """Print the tables and write them as JSON."""
    cli = parser(__doc__, rounds=3)
    cli.add_argument("--ckpt", default="runs/demo/pgd-at/model.pt")
    cli.add_argument("--data", default=None)
    cli.add_argument("--images", type=int, nargs=2, default=(1000, 50_000))
    options = cli.parse_args()
    device = begin(options)
    span = ["span", "--ckpt", options.ckpt, "--limit", "10000", "--device", str(device), "--json"]
    if options.data:
        span += ["--data", options.data]
    rows: list[Row] = []
    for what, arguments, target in (("attrib --help", ["--help"], 0.5), ("attrib span, 10,000 images", span, 15)):
        times = middle([attrib(arguments, threads=options.threads)[0] for _ in range(options.rounds)])
        rows.append({"what": what, "clock s": times.clock, "CPU s": times.cpu, "target": f"< {target:g} s"})
    with tempfile.TemporaryDirectory() as folder:
        memory = [grown(command, options.images, Path(folder), options.threads) for command in ("span", "robust")]
    publish(
        "commands", f"Whole processes, {options.ckpt}, {torch.get_num_threads()} threads; median of {options.rounds}",
        rows + memory, options, device,
    )  # fmt: skip


def attrib(arguments: list[str], *, threads: int) -> tuple[Seconds, int]:
    """Run a command. Returns its seconds and the largest resident size of its process in bytes."""
    started = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        [sys.executable, "-m", "attrib.cli", *arguments], stdout=subprocess.DEVNULL, env=environment
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"attrib {' '.join(arguments)} ended with status {status}")
    seconds = Seconds(time.perf_counter() - started, usage.ru_utime + usage.ru_stime)
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def grown(command: str, counts: tuple[int, int], folder: Path, threads: int) -> Row:
    """The largest resident size with few and with many images, minus the images themselves."""
    model = random_lenet(folder)
    sizes = []
    for count in counts:
        data, out = random_images(folder, count), folder / f"{command}-{count}"
        arguments = [command, "--ckpt", str(model), "--data", f"npz:{data}", "--out", str(out), "--json"]
        arguments += ["--steps", "1"] if command == "robust" else []
        sizes.append((attrib(arguments, threads=threads)[1] - count * int(np.prod(SIZE))) / MIB)
    few, many = counts
    return {
        "what": f"attrib {command}, memory", f"MiB, {few:,} images": sizes[0], f"MiB, {many:,} images": sizes[1],
        "growth %": 100 * (sizes[1] / sizes[0] - 1), "target": "< 5 %",
    }  # fmt: skip


def random_lenet(folder: Path) -> Path:
    """A checkpoint of an untrained LeNet."""
    path = folder / "lenet.pt"
    if not path.exists():
        torch.manual_seed(0)
        model = build("lenet", num_classes=10, input_shape=SIZE)
        save(
            Checkpoint(
                arch="lenet", arch_kwargs={}, num_classes=10, input_shape=SIZE, data="unknown", method="none",
                hyper={}, epoch=0, metrics={}, weights=model.state_dict(),
            ),
            path,
        )  # fmt: skip
    return path


def random_images(folder: Path, count: int) -> Path:
    """An npz file of ``count`` random images."""
    path = folder / f"{count}.npz"
    if not path.exists():
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (count, *SIZE[1:]), dtype=np.uint8)
        np.savez(path, images=images, labels=np.arange(count) % 10)
    return path


if __name__ == "__main__":
    main()
