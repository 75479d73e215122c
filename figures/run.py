"""Make the data of all figures for a folder of checkpoints, then draw: ``python -m figures.run --ckpts DIR``.

DIR holds a folder per model with ``model.pt`` in it and, for the figures about training, ``epoch-*.pt``
(``python -m train --save-every 1``). The names are those of the recipes in train/recipes (raw or standard, madry,
pgd-at, alp, trades, aalp-gd, aalp-sw, aalp, again, again-logit, again-no-hff, ...); others are simply more models.
NAME-seed1, NAME-seed2 are further seeds of NAME; aalp-alpha-0.5 and the like make the sweeps over alpha.

What is done already for the same weights and options is skipped, what was interrupted goes on.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from attrib.errors import InputError, Stopped
from attrib.files import folder
from attrib.results import write_json
from figures import names, shared, tasks

IGNORED = (".", "_")


def main(arguments: list[str] | None = None) -> int:
    """Run the commands that are not done yet; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m figures.run", description=__doc__)
    parser.add_argument("--ckpts", type=Path, required=True, metavar="DIR", help="folder of DIR/NAME/model.pt")
    parser.add_argument("--data", help="data set (default: the checkpoints' own)")
    parser.add_argument("--limit", type=int, metavar="N", help="test images (default: all)")
    parser.add_argument(
        "--attacked", type=int, metavar="N",
        help="test images for long attacks: robust, and whatever runs over epochs (default: as --limit)",
    )  # fmt: skip
    parser.add_argument("--autoattack", type=int, metavar="N", help="test images for AutoAttack (default: without)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="results go to DIR/DATA-ARCH, figures to DIR/rendered (default: figures/data and figures/rendered)",
    )  # fmt: skip
    parser.add_argument("--work", type=Path, default=Path("out/figures"), help="unfinished work (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--no-draw", action="store_true", help="only the data")
    options = parser.parse_args(arguments)
    try:
        make(
            options.ckpts, data=options.data, limit=options.limit, attacked=options.attacked,
            autoattack=options.autoattack, out=options.out, work=options.work, device=options.device,
        )  # fmt: skip
    except InputError as error:
        print(f"figures.run: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("figures.run: interrupted; the same command continues", file=sys.stderr)
        return 130
    if options.no_draw:
        return 0
    drawn = ["--data", str(options.out), "--out", str(options.out / "rendered")] if options.out else []
    return subprocess.run([sys.executable, "-m", "figures", *drawn], check=False).returncode


def make(
    ckpts: Path, *, data: str | None, limit: int | None, attacked: int | None, autoattack: int | None,
    out: Path | None, work: Path, device: str,
) -> Path:  # fmt: skip
    """Run what is not done; returns the folder of results. Arguments as on the command line.

    Raises InputError for a folder without checkpoints, or with those of several data sets or architectures.
    """
    import attrib
    from attrib.models import checkpoint

    models = models_of(ckpts)
    kinds = {(read.data, read.arch) for model in models for path in model.paths for read in [checkpoint.read(path)]}
    if len(kinds) > 1:
        listed = ", ".join(" ".join(kind) for kind in sorted(kinds))
        raise InputError(
            f"--ckpts: expected one data set and architecture in {ckpts}, found {listed}; use a folder each"
        )
    ((own, arch),) = kinds
    data = data or own
    count = len(attrib.dataset(data, limit=limit))
    words = re.sub(r"[^\w.]+", "-", data)  # folder:pictures is no name of a folder
    place = folder((out or shared.DATA) / f"{words}-{arch}")
    write_json({model.name: [_card(path) for path in model.paths] for model in models}, place / "models.json")
    planned = tasks.plan(models, data, count=count, attacked=min(attacked or count, count), autoattack=autoattack)
    done = shared.manifest(place)
    for task in planned:
        record = _record(task)
        if _same(done.get(task.name), record) and all((place / file).exists() for file in done[task.name]["files"]):
            print(f"{task.name}: done already")
            continue
        print(f"{task.name}: attrib {' '.join(task.command[:1])}, {', '.join(model.name for model in task.models)}")
        room = folder(work / place.name / task.name)
        _attrib([*task.command, "--out", str(room), *(["--device", device] if device != "auto" else [])])
        record |= _precisions(shared.read_json(room / f"{task.command[0]}.json"))
        record["files"] = [path.name for path in task.keep(room, place, task.name)]
        done = shared.manifest(place) | {task.name: record}
        write_json(done, place / shared.MANIFEST)
        shutil.rmtree(room)
    return place


def models_of(ckpts: Path) -> list[tasks.Model]:
    """The models in a folder, in the order of the papers; raises InputError where there is none."""
    found: dict[str, list[Path]] = {}
    for path in sorted(ckpts.glob("*/model.pt"), key=lambda path: names.order(path.parent.name)):
        name = path.parent.name
        if not name.startswith(IGNORED):
            seed = names.SEED.fullmatch(name)
            found.setdefault(seed[1] if seed else name, []).append(path)
    if not found:
        raise InputError(f"--ckpts: expected a folder of NAME/model.pt, found none in {ckpts}")
    return [
        tasks.Model(name, paths, [tasks.fingerprint(path) for path in paths], _epochs(paths[0].parent))
        for name, paths in sorted(found.items(), key=lambda item: names.order(item[0]))
    ]


def _epochs(run: Path) -> dict[int, Path]:
    numbered = {path: path.stem.removeprefix("epoch-") for path in run.glob("epoch-*.pt")}
    return {int(n): path for path, n in sorted(numbered.items(), key=lambda item: item[1].zfill(9)) if n.isdecimal()}


def _card(path: Path) -> dict[str, Any]:
    """What a checkpoint says of its training, for the page."""
    from attrib.models import checkpoint

    ckpt = checkpoint.read(path)
    told = (
        "epochs", "limit", "batch_size", "lr", "weight_decay", "eps", "step_size", "steps", "eps_warmup", "ema", "seed",
    )  # fmt: skip
    card = {"fingerprint": ckpt.fingerprint, "method": ckpt.method, "best epoch": ckpt.epoch}
    return card | {key.replace("_", " "): ckpt.hyper.get(key) for key in told}


def _record(task: tasks.Task) -> dict[str, Any]:
    return {
        "command": shlex.join(["attrib", *task.command]),
        "models": {model.name: model.fingerprints for model in task.models},
        "images": task.images,
    }


def _precisions(summary: dict[str, Any]) -> dict[str, str]:
    """The precision of a command's numbers, and that of its attack; ``fc`` computes nothing and has neither."""
    attack = summary.get("attack") or {}
    found = {"precision": summary.get("precision"), "attack_precision": attack.get("precision")}
    return {name: precision for name, precision in found.items() if precision is not None}


def _same(old: dict[str, Any] | None, new: dict[str, Any]) -> bool:
    """Whether this very task was done, wherever the checkpoints lay at that time."""
    if old is None or old["models"] != new["models"]:
        return False
    ways = [[part for part in shlex.split(record["command"]) if os.sep not in part] for record in (old, new)]
    return ways[0] == ways[1]


def _attrib(arguments: list[str]) -> None:
    """Run a command of attrib here, its tables unprinted; raises InputError as the command does."""
    from attrib import cli

    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        try:
            status = cli.app(arguments, standalone_mode=False)
        except InputError as error:
            raise InputError(f"attrib {arguments[0]}: {error}") from None
        except Stopped:
            status = cli.INTERRUPTED
    if status == cli.INTERRUPTED:  # typer makes a status of it; the tasks after this one must not start
        raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
