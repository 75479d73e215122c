"""A small folder of results as ``attrib report`` leaves it, made without a model: 24 images and their smooth maps."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from attrib.report_images import coded

IMAGES, SIZE, CLASSES = 24, 16, ("nought", "one", "two")


def write_results(place: Path, *, names: Sequence[str] = ("plain", "robust")) -> NDArray[np.float32]:
    """Write the folder; returns the maps (M,2,N,H,W) that it holds at 8 bits, clean and attacked."""
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
    for part in ("images", "span", "robust", "sets"):
        (place / part).mkdir(parents=True)
    np.savez(
        place / "images" / "images.npz", index=np.arange(IMAGES), label=label, image=pixels[0], adversarial=pixels[1:],
        prediction=prediction, **coded(maps)._asdict(),
    )  # fmt: skip
    _write_tables(place, names, maps, label, prediction)
    _write_summaries(place, names, maps)
    return maps


def coverage_of(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """The share of pixels above the mean, map by map, in a loop; 0 for a constant map."""
    flat = maps.reshape(-1, SIZE * SIZE)
    found = [0.0 if row.max() == row.min() else float(np.mean(row > row.mean(dtype=float))) for row in flat]
    return np.array(found).reshape(maps.shape[:-2])


def _write_tables(
    place: Path, names: Sequence[str], maps: NDArray[np.float32], label: NDArray[Any], prediction: NDArray[Any]
) -> None:
    """The rows of ``span`` and ``sets`` for every image."""
    spans, sets = [], []
    coverage = coverage_of(maps)
    for m, name in enumerate(names):
        for k, kind in enumerate(("clean", "pgd")):
            spans.append(
                pd.DataFrame({"model": name, "images": kind, "index": range(IMAGES), "coverage": coverage[m, k]})
            )
        right = prediction[m] == label
        kinds = np.where(right.all(0), "consistent", np.where(right[0], "inconsistent", "clean-wrong"))
        sets.append(pd.DataFrame({"model": name, "index": range(IMAGES), "label": label, "set": kinds}))
    pd.concat(spans).to_csv(place / "span" / "span.csv", index=False)
    pd.concat(sets).to_csv(place / "sets" / "sets.csv", index=False)


def _write_summaries(place: Path, names: Sequence[str], maps: NDArray[np.float32]) -> None:
    """What the commands say of the models, what ``report`` says of the commands, and one figure."""
    asc = coverage_of(maps)[:, 0].mean(1)
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
            {"name": name, "accuracies": {"clean": 0.9, "pgd-10": 0.5, "pgd-40": 0.1 + 0.7 * m},
             "intervals": {"clean": [0.8, 1], "pgd-10": [0.4, 0.6], "pgd-40": [0.0 + 0.7 * m, 0.2 + 0.7 * m]}}
            for m, name in enumerate(names)
        ],
        "pairs": [
            {"a": names[0], "b": name, "attack": "pgd-40", "difference": -0.7, "ci": [-0.8, -0.6], "p": 1e-4,
             "p_holm": 1e-4}
            for name in names[1:]
        ],
    }  # fmt: skip
    made = {"command": "attrib span", "date": "2024-01-02 03:04 +0000", "seconds": 3.2, "n": IMAGES, "seed": 0}
    table = {
        "title": "Coverage", "caption": f"{IMAGES} images", "columns": ["model", "ASC %", "note"],
        "rows": [[name, "31.25", "as text"] for name in names],
    }  # fmt: skip
    for part, summary in {"span": span, "robust": robust, "sets": {}}.items():
        (place / part / f"{part}.json").write_text(json.dumps(summary))
        said = {"tables": [table], "warnings": [f"{names[0]}: a doubt about {part}"]}
        (place / part / "made.json").write_text(json.dumps(made | said))
    Image.new("RGB", (40, 20), "white").save(place / "span" / "span.png")
    card = {"path": "runs/plain/model.pt", "fingerprint": "0123456789ab", "configuration": {"lr": 0.1, "mixed": False},
            "versions": {"torch": "2"}}  # fmt: skip
    about = {
        "date": "2024-01-02 03:04 +0000", "command": "attrib report --ckpt a.pt", "data": "glyphs", "split": "test",
        "n": IMAGES, "data_fingerprint": "ba9876543210", "classes": CLASSES, "map": "gradcam", "threshold": "mean",
        "target": "label", "attack": {"name": "pgd", "eps": 0.3, "step_size": 0.01, "steps": 40},
        "versions": {"torch": "2"},
        "models": [{"name": name, "cards": [card]} for name in names], "missing": {"check": "no layer was found"},
    }  # fmt: skip
    (place / "report.json").write_text(json.dumps(about))
