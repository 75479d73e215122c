"""Analyses that report ASC beside its floor, the ASC of the same network with random weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attrib import formatting as text
from attrib import map_table, stats, thresholds
from attrib.analyses.explaining import Explaining
from attrib.analyses.measured import Array, Context, Files
from attrib.analyses.options import option
from attrib.lazy import Lazy

if TYPE_CHECKING:
    from attrib import floor as floors
    from attrib.data import Dataset
    from attrib.models.specs import Model
else:
    floors = Lazy("attrib.floor")


@dataclass(frozen=True, kw_only=True)
class Floored(Explaining):
    """An analysis of spans, with the floor of their coverage (``attrib.floor``)."""

    threshold: str = option("mean", thresholds.HELP, check=thresholds.parse_threshold)
    floor: int = option(200, "Images for the floor (ASC of the same network with random weights); 0: no floor.", low=0)

    def describe(self, model: "Model", context: Context) -> dict[str, Any]:
        """Coverage of re-initialised copies of the model, (R,N), or why it cannot be measured."""
        if not self.floor or model.maps is not None:
            return {}
        try:
            return {"floor": np.array([self._floor(model, context, seed) for seed in range(floors.SEEDS)])}
        except ValueError as error:  # InputError
            return {"no_floor": str(error)}

    def _floor(self, model: "Model", context: Context, seed: int) -> Array:
        coverage = floors.random_coverage(
            model.opened_module, context.images, map=self.map, threshold=self.threshold, target=self.target,
            layer=model.layer if self.map in map_table.LAYER_MAPS else None, reshape=model.reshape, images=self.floor,
            seed=self.seed + seed, precision=self.map_precision(context.device), batch_size=context.batch_size,
            map_options=self.map_options,
        )  # fmt: skip
        return np.asarray(coverage.double().numpy())

    def floor_entry(self, files: Files) -> dict[str, Any]:
        """The floor: mean, t interval over re-initialisations and images, range, and how many maps are empty."""
        if not self.floor:
            return {}
        if not all("floor" in fact for fact in files.facts):
            return dict.fromkeys(("asc_floor", "asc_floor_ci", "asc_floor_range", "asc_floor_empty"))
        coverage = np.array([fact["floor"] for fact in files.facts])
        values = coverage.mean(0)
        networks = values.mean(1)
        return {
            "asc_floor": float(networks.mean()),
            "asc_floor_ci": list(stats.interval(values, seed=self.seed, within=(0, 1))),
            "asc_floor_range": [float(networks.min()), float(networks.max())],
            "asc_floor_empty": float((coverage == 0).mean()),  # only an empty map covers nothing
        }

    def about_floor(self, data: "Dataset") -> dict[str, Any]:
        """The numbers of images and networks behind the floors, for the summary."""
        return {"floor": {"images": min(self.floor, len(data)), "networks": floors.SEEDS} if self.floor else None}

    def without_floor(self, files: Files) -> Iterator[str]:
        """Warn of every file whose floor cannot be measured."""
        for model, fact in zip(files.models, files.facts, strict=True):
            if "no_floor" in fact:
                yield f"{model.label}: no floor of ASC can be measured: {fact['no_floor']}"


def floor_column(entry: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The column "floor %", if any model has a floor."""
    if all(other.get("asc_floor") is None for other in models):
        return {}
    if entry["asc_floor"] is None:
        return {"floor %": text.percent(None)}
    return {"floor %": text.with_interval(entry["asc_floor"], entry["asc_floor_range"], text.percent)}


def floor_words(summary: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> str:
    """The caption of the column "floor %"; empty if there is none."""
    if all(entry.get("asc_floor") is None for entry in models):
        return ""
    return (
        f"; floor: ASC of the same network with random weights, mean (range) of"
        f" {summary['floor']['networks']} re-initialisations, first {summary['floor']['images']:,} clean images"
    )
