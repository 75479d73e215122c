"""The images of the report and every model's maps of them, small enough for one HTML file. No torch, no model.

In the file a map is 8 bits a pixel, in its browser a threshold is one of 256 levels: changing it costs nothing.
"""

import base64
import io
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]

COLUMNS = 20
"""Pictures beside each other on a sheet."""
MAP_BYTES = 3_000_000
"""All maps together, compressed. Larger ones are halved in resolution until they fit."""
PICTURE_BYTES = 2_200_000
"""All pictures together: PNG where that fits, else WebP with losses, else halved in resolution."""


class Coded(NamedTuple):
    """Maps at 8 bits: value = low + (high - low) * (code / 255)²."""

    code: NDArray[np.uint8]
    """(...,H,W)"""
    low: NDArray[np.float32]
    """(...), the map's least value"""
    high: NDArray[np.float32]
    """(...), its highest"""


def coded(maps: NDArray[np.floating]) -> Coded:
    """Maps (...,H,W) at 8 bits, each between its own extremes.

    The square root is what is rounded: maps have a few high values and many low ones, and thresholds lie low.

    >>> coded(np.array([[[0.0, 1.0], [4.0, 16.0]]])).code.tolist()
    [[[0, 64], [128, 255]]]
    """
    low, high = maps.min((-2, -1)), maps.max((-2, -1))
    width = np.where(high > low, high - low, 1)[..., None, None]
    code = np.rint(255 * np.sqrt((maps - low[..., None, None]) / width)).astype(np.uint8)
    return Coded(code, low.astype(np.float32), high.astype(np.float32))


def decoded(maps: Coded) -> NDArray[np.float32]:
    """The maps (...,H,W) up to rounding: the inverse of :func:`coded`."""
    low, high = maps.low[..., None, None], maps.high[..., None, None]
    return np.asarray(low + (high - low) * (maps.code.astype(np.float32) / 255) ** 2, np.float32)


def payload(
    images: Mapping[str, Array], *, models: Sequence[str], classes: Sequence[str], sets: Path | None
) -> dict[str, Any]:
    """What the page's script reads, as plain values; binary ones are base64.

    images: ``index``, ``label`` (N,), ``image`` uint8 (N,H,W,3), ``adversarial`` uint8 (M,N,H,W,3), and per model and
    kind (clean, attacked) ``code`` uint8 (M,2,N,H,W), ``low``, ``high`` and ``prediction`` (M,2,N). models, classes:
    names. sets: the CSV of ``attrib sets``, where there is one.
    """
    index, label, prediction = images["index"], images["label"], images["prediction"]
    sheets, size = _sheets([images["image"], *images["adversarial"]])
    maps, packed = _packed(Coded(images["code"], images["low"], images["high"]))
    return {
        "models": list(models), "classes": list(classes), "index": index.tolist(), "label": label.tolist(),
        "prediction": prediction.tolist(), "sets": _sets(sets, models, index, label, prediction),
        "low": _short(maps.low), "high": _short(maps.high), "size": list(maps.code.shape[-2:]),
        "fullSize": list(images["code"].shape[-2:]), "maps": packed,
        "sheets": sheets, "sheetSize": list(size), "columns": COLUMNS,
        "palette": [mpl.colors.to_hex(colour) for colour in mpl.colormaps["magma"](np.arange(256))],
    }  # fmt: skip


def _sets(path: Path | None, models: Sequence[str], index: Array, label: Array, prediction: Array) -> list[list[str]]:
    """Every model's set of every image, as ``attrib sets`` has them, else (without its file) from the predictions."""
    if path and path.exists():
        # As texts: a model may be called 1 or NA.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if "seed" in table:
            table = table[table["seed"] == "0"]
        at = dict(zip(zip(table["model"], table["index"].astype(int), strict=True), table["set"], strict=True))
        return [[at[name, image] for image in index.tolist()] for name in models]
    right = prediction == label
    kinds = np.where(right.all(1), "consistent", np.where(right[:, 0], "inconsistent", "clean-wrong"))
    return [[str(kind) for kind in row] for row in kinds.tolist()]


def _short(values: Array) -> Any:
    """Six digits of each number: more than 8 bits can use."""
    if values.ndim > 1:
        return [_short(row) for row in values]
    return [float(f"{value:.6g}") for value in values.tolist()]


def _packed(maps: Coded) -> tuple[Coded, str]:
    """The maps, halved until they fit, and their codes deflated, as base64."""
    while len(packed := zlib.compress(maps.code.tobytes(), 9)) > MAP_BYTES and min(maps.code.shape[-2:]) > 1:
        maps = coded(_halved(decoded(maps)))
    return maps, base64.b64encode(packed).decode()


def _halved(values: Array) -> Array:
    """(...,H,W) to (...,H//2,W//2): means of 2x2; of an odd size the last row or column falls away."""
    height, width = (length // 2 for length in values.shape[-2:])
    cut = values[..., : 2 * height, : 2 * width]
    halved: Array = cut.reshape(*cut.shape[:-2], height, 2, width, 2).mean((-3, -1))
    return halved


def _sheets(pictures: Sequence[NDArray[np.uint8]]) -> tuple[list[str], tuple[int, int]]:
    """One sheet per stack of pictures (N,H,W,3), as data URIs, and the size (H,W) of a picture on them."""
    size: tuple[int, int] = pictures[0].shape[1:3]
    for factor in range(16):
        here = max(1, size[0] >> factor), max(1, size[1] >> factor)
        for kind in ("PNG", "WEBP"):
            sheets = [_sheet(stack, here, kind) for stack in pictures]
            if sum(map(len, sheets)) <= PICTURE_BYTES or here == (1, 1):
                return [data_uri(sheet, f"image/{kind.lower()}") for sheet in sheets], here
    raise AssertionError("a picture of one pixel fits")


def _sheet(stack: NDArray[np.uint8], size: tuple[int, int], kind: str) -> bytes:
    height, width = size
    sheet = Image.new("RGB", (COLUMNS * width, math.ceil(len(stack) / COLUMNS) * height))
    for place, pixels in enumerate(stack):
        picture = Image.fromarray(pixels)
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BOX)
        sheet.paste(picture, (place % COLUMNS * width, place // COLUMNS * height))
    written = io.BytesIO()
    sheet.save(written, kind, **({"optimize": True} if kind == "PNG" else {"quality": 85}))
    return written.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """The content as a URL of its own, to be put where a page would name a file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
