"""The key of a result, and the saved result of the same call."""

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
    """The versions of the software that computed a result."""
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
        # The precisions that "auto" stands for: rows in bf16 and in fp32 must not be joined.
        "precision": [analysis.attack_precision(context.device), analysis.exact_precision(context.device)],
    }  # fmt: skip
    return hashlib.sha256(to_json(described).encode()).hexdigest()[:12]


def saved_result(analysis: Analysis, place: Path, key: str, group: World) -> Result | None:
    """The result with this key in the folder; None if there is none, or if it must be computed anew."""
    return broadcast(Result.saved(analysis, place, key) if group.rank == 0 and not why_anew(analysis) else None)


def why_anew(analysis: Analysis, models: Sequence[Model] = ()) -> str:
    """Why a saved result with the same key is not read; "" if it is. models: those whose code may have changed.

    Weights and outputs are no proof that a user's code is as before: its gradients, and so its maps, may differ.
    """
    code = {each.name: None for each in fields(analysis) if callable(getattr(analysis, each.name))}
    code |= {model.name: None for model in models if not model.checkpoint and model.maps is None}
    if code:
        return f"the code of {', '.join(code)} may have changed"
    return "saved maps are not read" if getattr(analysis, "save_maps", False) else ""


def anew_words(analysis: Analysis, place: Path, key: str, reason: str) -> str:
    """The warning that a saved result is computed anew; "" if there is none with this key."""
    if not reason or Result.saved(analysis, place, key) is None:
        return ""
    file = place / f"{analysis.name}.json"
    return (
        f"{file} holds this result already: it is computed again, since {reason}; attrib.Result.load reads it as it is"
    )


def read_words(analysis: Analysis, place: Path) -> str:
    """The warning that a saved result was read."""
    file = place / f"{analysis.name}.json"
    return f"{file} holds this result already: it was read, not computed again; delete the file to compute it anew"
