"""A small report made without a model: 24 images and their smooth maps, and the numbers of two models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from attrib.analyses.base import Analysis
from attrib.analyses.measured import Files, Findings
from attrib.analyses.result import Result
from attrib.analyses.table import Table
from attrib.pages.images import coded
from attrib.pages.render import Computed, render

IMAGES, SIZE, CLASSES = 24, 16, ("nought", "one", "two")


@dataclass(frozen=True, kw_only=True)
class InSummary(Analysis):
    """An analysis whose table is in its summary."""

    def summarise(self, files: Files) -> dict[str, Any]:
        raise NotImplementedError

    def about(self, found: Findings, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        raise NotImplementedError

    def figures(self, result: Result) -> dict[str, Any]:
        raise NotImplementedError

    def tables(self, result: Result) -> list[Table]:
        return [Table(**result.summary["table"])]


class ByHand(NamedTuple):
    """What a page is made of."""

    about: dict[str, Any]
    parts: dict[str, Computed]

    def page(self) -> str:
        """The page as HTML."""
        return render(self.about, self.parts)

    def rows(self, name: str) -> pd.DataFrame:
        """The rows of ``span`` or ``sets``."""
        return self.parts[name].result.rows

    def images(self) -> dict[str, NDArray[Any]]:
        """The images to browse, and their maps at 8 bits (M,2,N,H,W)."""
        return self.parts["images"].result.arrays[""]


def by_hand(place: Path, *, names: Sequence[str] = ("plain", "robust")) -> ByHand:
    """The report; place: a folder for its one figure."""
    generator = np.random.default_rng(0)
    maps = np.stack(
        [
            [
                [np.maximum(gaussian_filter(generator.normal(size=(SIZE, SIZE)), 1 + m), 0) for _ in range(IMAGES)]
                for _ in ("clean", "pgd")
            ]
            for m in range(len(names))
        ]
    ).astype(np.float32)
    maps[0, 0, 3] = 0.3  # constant: empty
    label = generator.integers(0, len(CLASSES), IMAGES)
    prediction = generator.integers(0, len(CLASSES), (len(names), 2, IMAGES))
    prediction[:, :, ::2] = label[::2]
    pixels = generator.integers(0, 256, (1 + len(names), IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    images = {
        "index": np.arange(IMAGES), "label": label, "image": pixels[0], "adversarial": pixels[1:],
        "prediction": prediction, **coded(maps)._asdict(),
    }  # fmt: skip
    spans, sets = _rows(names, maps, label, prediction)
    span, robust = _summaries(names, coverage_of(maps)[:, 0].mean(1))
    table = {
        "title": "Coverage", "caption": f"{IMAGES} images",
        "rows": [{"model": name, "ASC %": "31.25", "note": "as text"} for name in names],
    }  # fmt: skip
    parts = {}
    for name, summary, frame, arrays in (
        ("images", {}, None, {"": images}), ("span", span, spans, {}), ("robust", robust, None, {}),
        ("sets", _shares(sets), sets, {}),
    ):  # fmt: skip
        summary |= {"table": table, "warnings": [f"{names[0]}: a doubt about {name}"]}
        result = Result(InSummary(), summary, {} if frame is None else {"": frame}, arrays)
        parts[name] = Computed(result, place / name, "attrib span", "2024-01-02 03:04 +0000", 3.2, IMAGES, 0)
    (place / "span").mkdir()
    Image.new("RGB", (40, 20), "white").save(place / "span" / "span.png")
    return ByHand(_about(names), parts)


def coverage_of(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """The share of pixels above the mean, map by map, in a loop; 0 for a constant map."""
    flat = maps.reshape(-1, SIZE * SIZE)
    found = [0.0 if row.max() == row.min() else float(np.mean(row > row.mean(dtype=float))) for row in flat]
    return np.array(found).reshape(maps.shape[:-2])


def _rows(
    names: Sequence[str], maps: NDArray[np.float32], label: NDArray[Any], prediction: NDArray[Any]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of ``span`` and ``sets`` for every image."""
    spans, sets = [], []
    coverage = coverage_of(maps)
    for m, name in enumerate(names):
        for k, kind in enumerate(("clean", "pgd")):
            spans.append(
                pd.DataFrame({"model": name, "images": kind, "index": range(IMAGES), "coverage": coverage[m, k]})
            )
        correct = prediction[m] == label
        kinds = np.where(correct.all(0), "consistent", np.where(correct[0], "inconsistent", "clean-wrong"))
        sets.append(pd.DataFrame({"model": name, "seed": 0, "index": range(IMAGES), "label": label, "set": kinds}))
    return pd.concat(spans), pd.concat(sets)


def _summaries(names: Sequence[str], asc: NDArray[np.float64]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``span`` and ``robust`` say of the models."""
    span = {
        "models": [
            {"name": name, "n": IMAGES, "accuracy": 0.75, "asc": value, "asc_ci": [value - 0.02, value + 0.02],
             "empty": int(m == 0), "grid": "4x4"}
            for m, (name, value) in enumerate(zip(names, asc.tolist(), strict=True))
        ],
        "pairs": [
            {"a": names[0], "b": name, "images": "clean", "difference": float(asc[0] - value), "ci": [-0.01, 0.2],
             "p": 0.2, "p_holm": 0.2}
            for name, value in zip(names[1:], asc[1:], strict=True)
        ],
    }  # fmt: skip
    robust = {
        "eps": 0.3, "steps": [10, 40],
        "models": [
            {"name": name, "accuracies": {"clean": 0.9, "pgd-10": 0.5, "pgd-40": 0.2 + 0.7 * m, "worst": 0.1 + 0.7 * m},
             "intervals": {"clean": [0.8, 1], "pgd-10": [0.4, 0.6], "worst": [0.0 + 0.7 * m, 0.2 + 0.7 * m]}}
            for m, name in enumerate(names)
        ],
        "pairs": [
            {"a": names[0], "b": name, "attack": "worst", "difference": -0.7, "ci": [-0.8, -0.6], "p": 1e-4,
             "p_holm": 1e-4}
            for name in names[1:]
        ],
    }  # fmt: skip
    return span, robust


def _shares(sets: pd.DataFrame) -> dict[str, Any]:
    """What ``sets`` says of the models."""
    shares = (sets["set"] == "inconsistent").groupby(sets["model"]).mean()
    models = [{"name": name, "sets": {"inconsistent": {"share": share}}} for name, share in shares.items()]
    return {"models": models}


def _about(names: Sequence[str]) -> dict[str, Any]:
    """What report.json says."""
    card = {"path": "runs/plain/model.pt", "fingerprint": "0123456789ab", "configuration": {"lr": 0.1, "mixed": False},
            "versions": {"torch": "2"}}  # fmt: skip
    return {
        "date": "2024-01-02 03:04 +0000", "command": "attrib report --ckpt a.pt", "data": "glyphs", "split": "test",
        "n": IMAGES, "data_fingerprint": "ba9876543210", "classes": CLASSES, "map": "gradcam", "threshold": "mean",
        "target": "label", "attack": {"name": "pgd", "eps": 0.3, "step_size": 0.01, "steps": 40},
        "versions": {"torch": "2"},
        "models": [{"name": name, "cards": [card]} for name in names], "missing": {"check": "no layer was found"},
    }  # fmt: skip
