"""What a result depends on, and whether a folder holds the result of the same call already."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import captum
import torch

import attrib
from attrib.analyses.base import Analysis
from attrib.analyses.measured import Context, Pass
from attrib.analyses.result import Result
from attrib.files import to_json
from attrib.models.specs import Model
from attrib.parallel import World, broadcast


def provenance() -> dict[str, str]:
    """The versions that made a result."""
    return {
        "attrib": attrib.__version__, "torch": torch.__version__, "captum": captum.__version__,
        "python": platform.python_version(),
    }  # fmt: skip


def key_of(analysis: Analysis, models: Sequence[Model], passes: Sequence[Pass], context: Context) -> str:
    """A hash of all that the result depends on: settings, models, data, versions; not the device."""
    options = {name: value for name, value in analysis.options().items() if name != "precision"}
    described = {
        "analysis": analysis.name, **options, "models": [model.key() for model in models],
        "data": [[*each.data.key, None if each.positions is None else each.positions.tolist()] for each in passes],
        "batch_size": context.batch_size, "versions": provenance(),
        # What "auto" stands for: rows in bfloat16 and in float32 must not be joined.
        "precision": [analysis.attack_precision(context.device), analysis.exact_precision(context.device)],
    }  # fmt: skip
    return hashlib.sha256(to_json(described).encode()).hexdigest()[:12]


def saved_result(analysis: Analysis, place: Path, key: str, group: World) -> Result | None:
    """The result with this key in the folder; None where a function is a setting: its code may have changed.

    None also where maps are saved: they are no part of what is read.
    """
    by_name = not any(callable(getattr(analysis, each.name)) for each in fields(analysis))
    by_name = by_name and not getattr(analysis, "save_maps", False)
    return broadcast(Result.saved(analysis, place, key) if by_name and group.rank == 0 else None)


def read_words(analysis: Analysis, place: Path) -> str:
    """What is said of a result that was read."""
    file = place / f"{analysis.name}.json"
    return f"{file} holds this result already: it was read, not computed again; delete the file to compute it anew"
