"""Adversarial training over 1 and 2 processes, and their share of communication: ``python -m bench.scaling``.

torchrun starts the processes. Each has one thread (or one GPU) and its own part of the batch; CPUs use gloo, GPUs NCCL.
The share of communication is the time saved by the same steps under DistributedDataParallel's no_sync.
"""

import argparse
import json
import subprocess
import sys
from contextlib import nullcontext
from statistics import median

import torch
import torch.distributed as dist

from attrib import inference
from attrib.models.classifier import Classifier
from attrib.parallel import total, world
from bench.timing import EPS, STEP_SIZE, Row, begin, example, in_turn, parser, publish
from train.attack import pgd_attack
from train.epoch import LossModule
from train.methods import pgd_at
from train.parallel import synchronised


def main() -> None:
    """Print the table and write it as JSON. With ``--worker``, train as one of torchrun's processes."""
    cli = parser(__doc__, rounds=3)
    cli.add_argument("--arch", default="resnet18")
    cli.add_argument("--batch-size", type=int, default=16, help="of each process")
    cli.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    cli.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = cli.parse_args()
    if options.worker:
        worker(options)
        return
    device = begin(options)
    rows: list[Row] = []
    for count in options.processes:
        synced, alone = started(count, options)
        rate = count * options.batch_size / synced
        first = rows[0] if rows else {"processes": count, "images/s": rate}
        ideal = float(first["images/s"]) * count / float(first["processes"])
        rows.append(
            {
                "processes": count, "s per step": synced, "images/s": rate,
                "efficiency %": 100 * rate / ideal,
                "communication %": 100 * (1 - alone / synced),
            }
        )  # fmt: skip
    publish(
        "scaling",
        f"PGD-10 adversarial training, {options.arch}, batch {options.batch_size} a process, one thread each, {device};"
        f" median of {options.rounds} rounds",
        rows, options, device,
    )  # fmt: skip


def started(count: int, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds per step of ``count`` processes, with communication and without."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command += ["-m", "bench.scaling", "--worker", "--threads", "1", "--device", options.device, "--arch", options.arch]
    command += ["--batch-size", str(options.batch_size), "--rounds", str(options.rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    synced, alone = json.loads(done.stdout.splitlines()[-1])
    return synced, alone


def worker(options: argparse.Namespace) -> None:
    """Train for some steps; the first process prints both medians."""
    torch.set_num_threads(1)
    with world(options.device) as group:
        model, batch = example(options.arch, options.batch_size, group.device)
        assert isinstance(model, Classifier)
        model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        module = synchronised(LossModule(model), group)
        precision = inference.precision("auto", group.device)
        attack = pgd_attack(eps=EPS, step_size=STEP_SIZE, steps=10, seed=0, epoch=1, precision=precision)

        def step(*, quiet: bool) -> None:
            with module.no_sync() if quiet and group.size > 1 else nullcontext():  # type: ignore[operator]
                with inference.autocast(group.device, precision):
                    loss = module(pgd_at.loss, batch, attack)
                loss.backward()
            model.zero_grad()
            if group.size > 1:
                dist.barrier()

        sides = {"synced": lambda: step(quiet=False), "alone": lambda: step(quiet=True)}
        times = in_turn(sides, rounds=options.rounds, device=group.device)
        clocks = torch.tensor([median(s.clock for s in seconds) for seconds in times.values()], device=group.device)
        mean = (total(clocks) / group.size).tolist()
        if group.rank == 0:
            print(json.dumps(mean))


if __name__ == "__main__":
    main()
