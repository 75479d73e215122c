"""The list of finished runs in quarter/ledger.json, and the progress of a run by its folder."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrib.errors import InputError
from attrib.files import atomic, folder
from figures.models import Row

LEDGER = Path("quarter/ledger.json")
Entry = dict[str, Any]
"""recipe (``place/method``), seed, fingerprint, device, precision, seconds, accuracies."""
KEYS = {"recipe", "seed", "fingerprint", "device", "precision", "seconds", "accuracies"}


def read(path: Path) -> list[Entry]:
    """Read the entries; none if the file is missing. Raises InputError for a file that is no ledger."""
    if not path.exists():
        return []
    return parse(path.read_text(), path)


def parse(text: str, path: Path) -> list[Entry]:
    """Parse the text of a ledger. ``path`` names it in errors. Raises InputError for any other text."""
    try:
        entries = json.loads(text)
    except ValueError:
        entries = None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and entry.keys() >= KEYS for entry in entries):
        raise InputError(f"{path}: expected a list of runs with {', '.join(sorted(KEYS))}; restore it with git")
    return entries


def merge(path: Path, entries: Iterable[Entry]) -> None:
    """Add entries to the ledger. A new entry replaces an old one of the same recipe and seed."""
    merged = {_key(entry): entry for entry in [*read(path), *entries]}
    text = json.dumps(list(merged.values()), indent=1) + "\n"
    folder(path.parent)
    with atomic(path) as temporary:
        temporary.write_text(text)


def has(entries: Iterable[Entry], row: Row) -> bool:
    """Whether the row's run is among the entries."""
    return any(_key(entry) == (row.recipe, row.seed) for entry in entries)


def _key(entry: Entry) -> tuple[str, int]:
    return entry["recipe"], entry["seed"]


def history(run: Path) -> list[dict[str, float]]:
    """The records of a run's finished epochs, in order; none if it has not begun."""
    log = run / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def describe(row: Row, run: Path, accuracies: dict[str, float], *, device: str, precision: str) -> Entry:
    """The entry of a finished run."""
    from attrib.models import checkpoint

    seconds = sum(record["seconds"] for record in history(run))
    return {
        "recipe": row.recipe, "seed": row.seed, "fingerprint": checkpoint.read(run / "model.pt").fingerprint,
        "device": device, "precision": precision, "seconds": round(seconds, 1), "accuracies": accuracies,
    }  # fmt: skip
