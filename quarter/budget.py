"""Train and analyse the papers' models within a time budget: ``python -m quarter.budget --budget SECONDS``.

Runs go to runs/DATA-ARCH/NAME in order of value, which figures/models.py lists. A run starts only if it fits. Every
finished model is analysed at once and listed in quarter/ledger.json, so that the next machine takes the next run. The
same command skips finished runs and continues interrupted ones. A failed run does not stop the others.

--pack and --unpack carry results, and as many weights as fit, from one machine to another.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from attrib import inference
from attrib.errors import InputError
from attrib.files import atomic, to_json
from figures import models
from figures.models import Row
from quarter import commands, ledger, pack, rates
from quarter.queue import GRACE_SECONDS, Queue, Report, Settings
from quarter.schedule import cost

PACK_SECONDS, PACK_SHARE = 40.0, 0.1
"""Time for packing, in seconds and at most as a share of the budget."""
REHEARSED_IMAGES = 4
"""Test images of a rehearsal's analyses."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = _Parser(
        prog="python -m quarter.budget", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="tiny runs on glyphs; needs --budget and a --ledger of its own"
    )
    parser.add_argument("--sweeps", action="store_true", help="train the sweeps over alpha too")
    parser.add_argument(
        "--only", nargs="+", choices=models.GROUPS, metavar="GROUP", help="only these groups, of A to E"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="small networks at a time (default: 1)")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="stop within this time, with analyses")
    parser.add_argument("--rates", type=Path, metavar="FILE", help="output of quarter.rates on this device")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--results", type=Path, default=Path("quarter/results"), metavar="DIR",
        help="results of each finished model (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--ledger", type=Path, default=ledger.LEDGER, metavar="FILE", help="default: %(default)s")
    parser.add_argument(
        "--pack", type=Path, metavar="DIR",
        help="write results, states and weights to DIR/pack-I-of-N; without --budget nothing is trained",
    )  # fmt: skip
    parser.add_argument("--unpack", type=Path, metavar="DIR", help="read DIR/pack-I-of-N and do nothing else")
    parser.add_argument("--dry-run", action="store_true", help="only print the training commands")
    return parser.parse_args()


def main() -> int:
    """Run the command line. Returns 0, 1 if a run failed, 2 for wrong input, or 130 if interrupted."""
    try:
        return run(parse())
    except InputError as error:
        print(f"quarter.budget: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("quarter.budget: interrupted; the same command continues", file=sys.stderr)
        return 130


def run(options: argparse.Namespace) -> int:
    """Run the parsed command line. Returns 0, or 1 if a run failed; raises InputError."""
    if options.unpack:
        names = pack.unpack(options.unpack, runs=options.runs, results=options.results, ledger_path=options.ledger)
        print(f"unpacked {len(names)} files to {options.runs} and {options.results}")
        return 0
    if options.budget is None and not (options.pack or options.dry_run):
        raise InputError("expected --budget SECONDS, --pack DIR or --unpack DIR")
    if options.budget is not None and not options.budget > 0:
        raise InputError(f"--budget: expected seconds above 0, got {options.budget:g}")
    if options.jobs < 1:
        raise InputError(f"--jobs: expected at least 1, got {options.jobs}")
    if options.rehearse and (options.budget is None or options.ledger == ledger.LEDGER):
        raise InputError("--rehearse: expected --budget SECONDS and a --ledger of its own with it")
    wanted = chosen_rows(options)
    if options.dry_run:
        for row in wanted:
            print(" ".join(["python", *commands.training(row, device=options.device, runs=options.runs)[1:]]))
        return 0
    report = train(wanted, options) if options.budget else Report()
    if options.pack:
        pack_up(wanted, options, report)
    for title in report.failed:
        print(f"failed: {title}")
    if options.budget:
        print(report.counts())
    return 1 if report.failed else 0


def chosen_rows(options: argparse.Namespace) -> list[Row]:
    """The rows that the command line asks for, in order of value."""
    if options.rehearse:
        return commands.REHEARSAL
    return models.all_rows(sweeps=options.sweeps, groups=options.only or tuple(models.GROUPS))


def train(wanted: Sequence[Row], options: argparse.Namespace) -> Report:
    """Run the queue. Returns the outcome of every run."""
    deadline = time.time() + options.budget - GRACE_SECONDS
    device = inference.device(options.device)
    if options.pack:
        deadline -= min(PACK_SECONDS, PACK_SHARE * options.budget)
    measured = rates.read(options.rates) if options.rates else {}
    measured |= probe(wanted, options, measured)
    settings = Settings(
        device=str(device), gpu=device.type == "cuda", device_name=rates.device_name(device), runs=options.runs,
        results=options.results, jobs=options.jobs, deadline=deadline,
        limit=REHEARSED_IMAGES if options.rehearse else None,
        ledger=options.ledger, rates=measured,
    )  # fmt: skip
    return Queue(wanted, settings).run()


def probe(
    wanted: Sequence[Row], options: argparse.Namespace, measured: Mapping[str, rates.Rate]
) -> dict[str, rates.Rate]:
    """Measure the rates of large networks that neither a file nor an earlier run's log gives.

    Small networks need none: they may start even if they do not fit. Where a short run fails, a long one would too.
    """
    probed: dict[str, rates.Rate] = {}
    first = {row.place: row for row in reversed(wanted)}
    for place, row in first.items():
        if row.small or place in measured or any((options.runs / place).glob("*/log.jsonl")):
            continue
        try:
            entry = rates.measure(row, device=options.device, engine=None)
        except InputError as error:
            print(f"no rate of {error}", flush=True)
            continue
        probed[place] = rates.Rate(entry["seconds"] / cost(row.method), None, entry["start"])
        print(f"{place}: {entry['seconds']:.1f} s per epoch, by a short run of {row.name}", flush=True)
    return probed


def pack_up(wanted: Sequence[Row], options: argparse.Namespace, report: Report) -> None:
    """Write the archive and queue.json: the outcome of every run and the contents of the archive."""
    members = pack.collect(wanted, runs=options.runs, results=options.results, ledger_path=options.ledger)
    left_out = pack.pack(members, options.pack)
    report.packed = [member.path for member in members if member.path not in left_out]
    with atomic(options.pack / "queue.json") as temporary:
        temporary.write_text(to_json(dataclasses.asdict(report) | {"left_out": left_out}) + "\n")
    for path in left_out:
        print(f"left out of the archive: {path}")
    print(f"packed {len(report.packed)} files into {options.pack}")


if __name__ == "__main__":
    sys.exit(main())
