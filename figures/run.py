"""Make the data of all figures for a folder of checkpoints, then draw: ``python -m figures.run --ckpts DIR``.

DIR holds a folder per model with ``model.pt`` in it and, for the figures about training, ``epoch-*.pt``
(``python -m train --save-every 1``). The names are those of the recipes in train/recipes (raw or standard, madry,
pgd-at, alp, trades, aalp-gd, aalp-sw, aalp, again, again-logit, again-no-hff, ...); other names are further models.
NAME-seed1, NAME-seed2 are further seeds of NAME; aalp-alpha-0.5 and the like make the sweeps over alpha.

Analyses that are done for the same weights and options are skipped; interrupted ones continue. Results of weights that
are no longer in DIR are removed.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import attrib
from attrib.data import Dataset
from attrib.errors import InputError, Stopped
from attrib.files import folder, to_json
from attrib.models import checkpoint
from figures import manifest, names, shared, trim
from figures.__main__ import draw
from figures.manifest import Entry, Trained

IGNORED = (".", "_")
KEPT = ("epochs", "limit", "batch_size", "lr", "weight_decay", "eps", "step_size", "steps", "eps_warmup", "ema", "seed")
"""Options of a model's training that models.json keeps."""


def main(arguments: list[str] | None = None) -> int:
    """Run the analyses that are not done yet; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m figures.run", description=__doc__)
    parser.add_argument("--ckpts", type=Path, required=True, metavar="DIR", help="folder of DIR/NAME/model.pt")
    parser.add_argument("--data", help="data set (default: the checkpoints' own)")
    parser.add_argument("--limit", type=int, metavar="N", help="test images (default: all)")
    parser.add_argument(
        "--attacked", type=int, metavar="N",
        help="test images for long attacks: robust, and all analyses over epochs (default: as --limit)",
    )  # fmt: skip
    parser.add_argument("--autoattack", type=int, metavar="N", help="test images for AutoAttack (default: without)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="results go to DIR/DATA-ARCH, figures to DIR/rendered (default: figures/data and figures/rendered)",
    )  # fmt: skip
    parser.add_argument(
        "--work", type=Path, default=Path("out/figures"), help="folder for unfinished results (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--no-draw", action="store_true", help="only the data")
    options = vars(parser.parse_args(arguments))
    out, no_draw = options["out"], options.pop("no_draw")
    try:
        make(options.pop("ckpts"), **options)
        return 0 if no_draw else draw(out or shared.DATA, out / "rendered" if out else shared.RENDERED)
    except InputError as error:
        print(f"figures.run: error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Stopped):
        print("figures.run: interrupted; the same command continues", file=sys.stderr)
        return 130


def make(
    ckpts: Path, *, data: str | None = None, limit: int | None = None, attacked: int | None = None,
    autoattack: int | None = None, out: Path | None = None, work: Path = Path("out/figures"), device: str = "auto",
) -> Path:  # fmt: skip
    """Run the analyses that are not done; returns the folder of results. Arguments as on the command line.

    Raises InputError for a folder without checkpoints, or with those of several data sets or architectures.
    """
    models = models_of(ckpts)
    kinds = {(read.data, read.arch) for model in models for read in map(checkpoint.read, model.files)}
    if len(kinds) > 1:
        listed = ", ".join(" ".join(kind) for kind in sorted(kinds))
        raise InputError(
            f"--ckpts: expected one data set and architecture in {ckpts}, found {listed}; use a folder each"
        )
    ((own, arch),) = kinds
    name = data or own
    images = cache(lambda limit: attrib.dataset(name, limit=limit))
    count = len(images(limit))
    words = re.sub(r"[^\w.]+", "-", name)  # folder:pictures is no name of a folder
    place = folder((out or shared.DATA) / f"{words}-{arch}")
    _write({model.name: [_card(path) for path in model.files] for model in models}, place / "models.json")
    entries = manifest.entries(models, name, count=count, attacked=min(attacked or count, count), autoattack=autoattack)
    _remove_stale(place, models, planned=[entry.name for entry in entries])
    for entry in entries:
        record, chosen = entry.record(name), images(entry.limit) if entry.images else None
        if _is_done(entry, record, place, chosen):
            print(f"{entry.name}: done already")
            continue
        print(f"{entry.name}: {entry.analysis.name} of {', '.join(entry.models)}")
        room = folder(work / place.name / entry.name)
        result = entry.analysis.run(entry.models, chosen, out=room, device=device)
        record |= _precisions(result.summary) | {"files": [path.name for path in entry.keep(result, place, entry.name)]}
        _write(shared.manifest(place) | {entry.name: record}, place / shared.MANIFEST)
        shutil.rmtree(room)
    return place


def models_of(ckpts: Path) -> list[Trained]:
    """The models in a folder, in the order of the papers; raises InputError if there is none."""
    paths: dict[str, list[Path]] = {}
    for path in sorted(ckpts.glob("*/model.pt"), key=lambda path: names.order(path.parent.name)):
        name = path.parent.name
        if not name.startswith(IGNORED):
            seed = names.SEED.fullmatch(name)
            paths.setdefault(seed[1] if seed else name, []).append(path)
    if not paths:
        raise InputError(f"--ckpts: expected a folder of NAME/model.pt, found none in {ckpts}")
    return [
        Trained(name, _fingerprints(paths[name]), _fingerprints(_epochs(paths[name][0].parent)))
        for name in sorted(paths, key=names.order)
    ]


def _epochs(run: Path) -> list[Path]:
    numbered = {int(path.stem[6:]): path for path in run.glob("epoch-*.pt") if path.stem[6:].isdecimal()}
    return [numbered[number] for number in sorted(numbered)]


def _fingerprints(paths: list[Path]) -> dict[Path, str]:
    return {path: checkpoint.read(path).fingerprint for path in paths}


def _card(path: Path) -> dict[str, Any]:
    """How a checkpoint was trained, for the page."""
    ckpt = checkpoint.read(path)
    card = {"fingerprint": ckpt.fingerprint, "method": ckpt.method, "best epoch": ckpt.epoch}
    return card | {key.replace("_", " "): ckpt.hyper.get(key) for key in KEPT}


def _is_done(entry: Entry, record: dict[str, Any], place: Path, data: Dataset | None) -> bool:
    """Whether this analysis was made with these weights, from any folder."""
    old = shared.manifest(place).get(entry.name)
    if not old or any(old[key] != record[key] for key in ("models", "images")):
        return False
    if not all((place / file).exists() for file in old["files"]):
        return False
    options = {"analysis": entry.analysis.name, **entry.analysis.resolved(data).options()}
    return bool(shared.read_json(place / f"{entry.name}.json").get("options") == trim.rounded(options))


def _remove_stale(place: Path, models: Sequence[Trained], *, planned: Sequence[str]) -> None:
    """Remove results of weights that are gone, which would stand beside those of the new ones."""
    known = {fingerprint for model in models for fingerprint in (*model.files.values(), *model.epochs.values())}
    done = shared.manifest(place)
    stale = {
        name: record for name, record in done.items()
        if name not in planned and not known.issuperset(chain.from_iterable(record["models"].values()))
    }  # fmt: skip
    if stale:
        _write({name: record for name, record in done.items() if name not in stale}, place / shared.MANIFEST)
    for name, record in stale.items():
        print(f"{name}: removed, its models are no longer there")
        for file in record["files"]:
            (place / file).unlink(missing_ok=True)


def _precisions(summary: dict[str, Any]) -> dict[str, str]:
    """The precision of a result's numbers, and that of its attack; ``fc`` computes nothing and has neither."""
    attack = summary.get("attack") or {}
    precisions = {"precision": summary.get("precision"), "attack_precision": attack.get("precision")}
    return {name: precision for name, precision in precisions.items() if precision is not None}


def _write(content: dict[str, Any], path: Path) -> None:
    trim.write(path, lambda temporary: temporary.write_text(to_json(content) + "\n"))


if __name__ == "__main__":
    sys.exit(main())
