"""Train the papers' models and make every figure: ``python -m figures.reproduce [--short] [--sweeps]``.

Runs go to runs/DATA-ARCH/NAME in the order of their value; figures/rows.py lists them. What is finished is skipped and
what was interrupted goes on, so the same command may be given again. A failed run does not stop the others.

--short is for two CPU cores: one seed of MNIST and CIFAR-10 with short recipes, hours instead of a night on a GPU.

--budget is for a GPU that is there for a limited time: runs start only if they fit, every finished model is analysed at
once, and figures/ledger.json lists it, so that the next machine takes the next run. --pack and --unpack carry the
results and what fits of the weights from one machine to another.
"""

import argparse
import dataclasses
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from attrib import inference
from attrib.errors import InputError
from attrib.results import write_json
from figures import ledger, pack, rates, rows
from figures.queue import GRACE_SECONDS, Queue, Report, Settings
from figures.rows import MNIST, RESNET18, RESNET32, Row
from figures.schedule import cost

PACK_SECONDS, PACK_SHARE = 40.0, 0.1
"""Time for packing, and at most this share of the budget."""
REHEARSED_IMAGES = 4
"""Test images of a rehearsal's analyses."""
LONG_LIMITS = {RESNET18: ["--autoattack", "1000"], RESNET32: [], MNIST: []}
SHORT_LIMITS = {MNIST: ["--attacked", "1000"], RESNET32: ["--limit", "1000", "--attacked", "500"]}
"""Options of figures.run: how many test images."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = _Parser(
        prog="python -m figures.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="what two CPU cores can do")
    parser.add_argument(
        "--rehearse", action="store_true", help="tiny runs on glyphs; needs --budget and a --ledger of its own"
    )
    parser.add_argument("--sweeps", action="store_true", help="those over alpha too")
    parser.add_argument("--only", nargs="+", choices=rows.GROUPS, metavar="GROUP", help="only these groups, of A to E")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="small networks side by side (default: 1)")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="stop in time, and analyse what is finished")
    parser.add_argument("--rates", type=Path, metavar="FILE", help="what figures.rates measured on this device")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--results", type=Path, default=Path("figures/results"), metavar="DIR",
        help="results of each finished model, with --budget (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--ledger", type=Path, default=ledger.LEDGER, metavar="FILE", help="default: %(default)s")
    parser.add_argument(
        "--pack", type=Path, metavar="DIR",
        help="write results, states and weights to DIR/pack-I-of-N; without --budget nothing is trained",
    )  # fmt: skip
    parser.add_argument("--unpack", type=Path, metavar="DIR", help="read DIR/pack-I-of-N and do nothing else")
    parser.add_argument("--dry-run", action="store_true", help="only print the commands")
    return parser.parse_args()


def main() -> int:
    """Run what the command line asks for; 1 where a run failed, 2 for wrong input, 130 where it is interrupted."""
    try:
        options = parse()
        return run(options)
    except InputError as error:
        print(f"figures.reproduce: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("figures.reproduce: interrupted; the same command continues", file=sys.stderr)
        return 130


def run(options: argparse.Namespace) -> int:
    """As :func:`main`; raises InputError."""
    if options.unpack:
        names = pack.unpack(options.unpack, runs=options.runs, results=options.results, ledger_path=options.ledger)
        print(f"unpacked {len(names)} files to {options.runs} and {options.results}")
        return 0
    if options.pack and options.unpack:
        raise InputError("--pack, --unpack: expected one of them")
    if options.budget is not None and not options.budget > 0:
        raise InputError(f"--budget: expected seconds above 0, got {options.budget:g}")
    if options.jobs < 1:
        raise InputError(f"--jobs: expected at least 1, got {options.jobs}")
    if options.rehearse and (options.budget is None or options.ledger == ledger.LEDGER):
        raise InputError("--rehearse: expected --budget SECONDS and a --ledger of its own with it")
    wanted = chosen_rows(options)
    after = [] if options.budget else figures_commands(options)
    if options.dry_run:
        for command in [*(rows.training(row, device=options.device, runs=options.runs) for row in wanted), *after]:
            print_command(command)
        return 0
    if options.pack and not options.budget:
        pack_up(wanted, options, Report())
        return 0
    report = train(wanted, options)
    for command in after:
        print_command(command)
        if subprocess.run(command, check=False).returncode:
            report.failed.append(" ".join(command[2:]))
    if options.pack:
        pack_up(wanted, options, report)
    print_report(report)
    return 1 if report.failed else 0


def chosen_rows(options: argparse.Namespace) -> list[Row]:
    """The rows that the command line asks for, in order of value."""
    if options.rehearse:
        return rows.REHEARSAL
    if options.short:
        return [*rows.SHORT, *(rows.SHORT_SWEEPS if options.sweeps else [])]
    return rows.all_rows(sweeps=options.sweeps, groups=options.only or tuple(rows.GROUPS))


def figures_commands(options: argparse.Namespace) -> list[list[str]]:
    """The commands that make the figures of all models."""
    made = [
        [sys.executable, "-m", "figures.run", "--ckpts", str(options.runs / place), *limits, "--device",
         options.device, "--no-draw"]
        for place, limits in (SHORT_LIMITS if options.short else LONG_LIMITS).items()
    ]  # fmt: skip
    return [*made, [sys.executable, "-m", "figures"]]


def train(wanted: Sequence[Row], options: argparse.Namespace) -> Report:
    """Run the queue; returns what became of the runs."""
    began = time.time()
    device = inference.device(options.device)
    deadline = None
    measured = rates.read(options.rates) if options.rates else {}
    if options.budget:
        deadline = began + options.budget - GRACE_SECONDS
        if options.pack:
            deadline -= min(PACK_SECONDS, PACK_SHARE * options.budget)
        measured = measured | probed(wanted, options, measured)
    settings = Settings(
        device=str(device), gpu=device.type == "cuda", device_name=rates.device_name(device), runs=options.runs,
        results=options.results, jobs=options.jobs, deadline=deadline,
        limit=REHEARSED_IMAGES if options.rehearse else None,
        ledger=options.ledger if options.budget and not options.short else None, rates=measured,
    )  # fmt: skip
    return Queue(wanted, settings).run()


def probed(
    wanted: Sequence[Row], options: argparse.Namespace, measured: Mapping[str, rates.Rate]
) -> dict[str, rates.Rate]:
    """Rates of the large networks that neither a file nor an earlier run's log gives.

    Small networks need none: they may start without fitting. Where a short run fails, so will the long one.
    """
    found: dict[str, rates.Rate] = {}
    first = {row.place: row for row in reversed(wanted)}
    for place, row in first.items():
        if row.small or place in measured or any((options.runs / place).glob("*/log.jsonl")):
            continue
        try:
            entry = rates.measure(row, device=options.device, engine=None)
        except InputError as error:
            print(f"no rate of {error}", flush=True)
            continue
        found[place] = rates.Rate(entry["seconds"] / cost(row.method), None, entry["start"])
        print(f"{place}: {entry['seconds']:.1f} s per epoch, by a short run of {row.name}", flush=True)
    return found


def pack_up(wanted: Sequence[Row], options: argparse.Namespace, report: Report) -> None:
    """Write the archive, and beside it queue.json: what became of the runs, and what is in the archive."""
    members = pack.collect(
        wanted, runs=options.runs, results=options.results, ledger_path=None if options.short else options.ledger
    )
    left_out = pack.pack(members, options.pack)
    report.packed = [member.path for member in members if member.path not in left_out]
    write_json(dataclasses.asdict(report) | {"left_out": left_out}, options.pack / "queue.json")
    for path in left_out:
        print(f"left out of the archive: {path}")
    print(f"packed {len(report.packed)} files into {options.pack}")


def print_command(command: Sequence[str]) -> None:
    """The command as one would type it."""
    print(" ".join(["python", *command[1:]]), flush=True)


def print_report(report: Report) -> None:
    """What failed, one line each, and the counts."""
    for title in report.failed:
        print(f"failed: {title}")
    print(report.counts())


if __name__ == "__main__":
    sys.exit(main())
