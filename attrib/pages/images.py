"""The images of the report and every model's maps of them, small enough for one HTML file.

A map has 8 bits per pixel. A threshold is one of 256 levels, so the browser can change it at once.
"""

import base64
import io
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attrib.analyses.examples import display_images
from attrib.analyses.explaining import Explaining
from attrib.analyses.measured import CLEAN, Array, Context, Files, Findings, Measured, Pass
from attrib.analyses.options import Attack, option
from attrib.analyses.table import Table
from attrib.lazy import Lazy
from attrib.search import DISAGREEMENT, SEARCHES

if TYPE_CHECKING:
    import matplotlib as mpl
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

    from attrib.analyses.result import Result
    from attrib.data import Batch, Dataset
    from attrib.models.specs import Model
else:
    mpl, torch = Lazy("matplotlib"), Lazy("torch")

COLUMNS = 20
"""Pictures in a row of a sheet."""
MAP_BYTES = 3_000_000
"""Largest size of all maps, compressed. Their resolution is halved until they fit."""
PICTURE_BYTES = 2_200_000
"""Largest size of all pictures: PNG if that fits, else lossy WebP, else half the resolution."""


@dataclass(frozen=True, kw_only=True)
class Browsed(Explaining):
    """The images to browse, and every model's maps of them; for a model with several seeds, those of the first."""

    name: ClassVar[str] = "images"

    attack: Attack | None = option(Attack("pgd"), "The attack: fgsm, pgd or cw.")
    index: tuple[int, ...] | None = option(None, "Positions of the images (default: all).")

    def usual_batch(self, device: "torch.device") -> int:
        """Images at a time."""
        return 50

    def looked_at(self, models: "Sequence[Model]") -> "Sequence[Model]":
        """The first file of every name."""
        return [model for model in models if model.seed == 0]

    def passes(self, models: "Sequence[Model]", data: "Dataset") -> list[Pass]:
        """The images named."""
        return [Pass(data, None if self.index is None else torch.tensor(self.index))]

    def measure(self, model: "Model", batch: "Batch", context: Context) -> Measured:
        """The maps of every image, clean and attacked, with the attacked image and the predictions."""
        clean, attacked = self.views(model, batch, context).values()
        maps = coded(np.stack([clean.map.cpu().numpy(), attacked.map.cpu().numpy()], 1))
        arrays: dict[str, Tensor] = {
            "label": batch.label.cpu(), "image": pixels(batch.image), "adversarial": pixels(attacked.image),
            "prediction": torch.stack([clean.prediction, attacked.prediction], 1).cpu(),
            **{part: torch.from_numpy(values) for part, values in maps._asdict().items()},
        }  # fmt: skip
        examples = {
            position: {part: values[row] for part, values in arrays.items()}
            for row, position in enumerate(batch.index.tolist())
        }
        return Measured({CLEAN: {"label": batch.label, "prediction": clean.prediction}}, examples=examples)

    def arrays(self, findings: Findings, summary: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
        """The arrays that ``payload`` takes."""
        positions = sorted(findings.examples)
        rows = [[findings.examples[position][name] for position in positions] for name in findings.files]

        def stacked(part: str) -> Array:
            return np.array([[values[part].numpy() for values in row] for row in rows])  # (M,N,...)

        return {"": {
            "index": np.array(positions), "label": stacked("label")[0], "image": stacked("image")[0],
            "adversarial": stacked("adversarial"),
            **{part: stacked(part).swapaxes(1, 2) for part in ("prediction", *Coded._fields)},  # (M,2,N,...)
        }}  # fmt: skip

    def summarise(self, files: Files) -> dict[str, Any]:
        """How many images there are."""
        return {"n": files.n}

    def about(self, findings: Findings, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Map, class explained and attack."""
        return {"map": self.map_name, "target": self.target, "attack": self.attack_entry(findings.context)}

    def objections(self, summary: Mapping[str, Any], findings: Findings) -> Iterable[str]:
        """None: the other analyses raise them."""
        return ()

    def frames(self, findings: Findings, summary: Mapping[str, Any]) -> "dict[str, pd.DataFrame]":
        """None: the other analyses write these numbers."""
        return {}

    def tables(self, result: "Result") -> list[Table]:
        """None: the images are for the page."""
        return []

    def papers(self, result: "Result") -> dict[str, Table]:
        """None."""
        return {}

    def figures(self, result: "Result") -> "dict[str, Figure]":
        """None."""
        return {}


def pixels(image: "Tensor") -> "Tensor":
    """Images (N,C,H,W) in [0,1] as pictures (N,H,W,3) uint8, grey repeated."""
    return (255 * display_images(image)).round().to(torch.uint8)


class Coded(NamedTuple):
    """Maps at 8 bits: value = low + (high - low) * (code / 255)²."""

    code: NDArray[np.uint8]
    """(...,H,W)"""
    low: NDArray[np.float32]
    """(...), the lowest value of the map"""
    high: NDArray[np.float32]
    """(...), the highest value"""


def coded(maps: NDArray[np.floating]) -> Coded:
    """Maps (...,H,W) at 8 bits, each between its own extremes.

    The square root is rounded: maps have few high and many low values, and thresholds are low.

    >>> coded(np.array([[[0.0, 1.0], [4.0, 16.0]]])).code.tolist()
    [[[0, 64], [128, 255]]]
    """
    low, high = maps.min((-2, -1)), maps.max((-2, -1))
    width = np.where(high > low, high - low, 1)[..., None, None]
    code = np.rint(255 * np.sqrt((maps - low[..., None, None]) / width)).astype(np.uint8)
    return Coded(code, low.astype(np.float32), high.astype(np.float32))


def decoded(maps: Coded) -> NDArray[np.float32]:
    """The maps (...,H,W) up to rounding: the inverse of ``coded``."""
    low, high = maps.low[..., None, None], maps.high[..., None, None]
    return np.asarray(low + (high - low) * (maps.code.astype(np.float32) / 255) ** 2, np.float32)


def payload(
    images: Mapping[str, Array], *, models: Sequence[str], classes: Sequence[str], sets: "pd.DataFrame | None"
) -> dict[str, Any]:
    """The data for the page's script, as plain values; binary data in base64.

    images: ``index``, ``label`` (N,), ``image`` uint8 (N,H,W,3), ``adversarial`` uint8 (M,N,H,W,3), and per model and
    kind (clean, attacked) ``code`` uint8 (M,2,N,H,W), ``low``, ``high`` and ``prediction`` (M,2,N). models, classes:
    names. sets: the rows of ``attrib.analyses.sets.Sets``, or None.
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
        "searches": {**SEARCHES, "disagreement": DISAGREEMENT},
        "palette": [mpl.colors.to_hex(colour) for colour in mpl.colormaps["magma"](np.arange(256))],
    }  # fmt: skip


def _sets(
    rows: "pd.DataFrame | None", models: Sequence[str], index: Array, label: Array, prediction: Array
) -> list[list[str]]:
    """The set of every image under every model: that of Sets (first seed), else from the predictions."""
    if rows is not None:
        first = rows[rows["seed"] == 0]
        of_image = dict(zip(zip(first["model"], first["index"], strict=True), first["set"], strict=True))
        return [[of_image[name, position] for position in index.tolist()] for name in models]
    correct = prediction == label
    sets = np.where(correct.all(1), "consistent", np.where(correct[:, 0], "inconsistent", "clean-wrong"))
    return [[str(name) for name in row] for row in sets.tolist()]


def _short(values: Array) -> Any:
    """Round to six digits, which is more than 8 bits need."""
    if values.ndim > 1:
        return [_short(row) for row in values]
    return [float(f"{value:.6g}") for value in values.tolist()]


def _packed(maps: Coded) -> tuple[Coded, str]:
    """The maps, halved until they fit, and their codes, deflated and in base64."""
    while len(packed := zlib.compress(maps.code.tobytes(), 9)) > MAP_BYTES and min(maps.code.shape[-2:]) > 1:
        maps = coded(_halved(decoded(maps)))
    return maps, base64.b64encode(packed).decode()


def _halved(values: Array) -> Array:
    """(...,H,W) to (...,H//2,W//2): means of 2x2; an odd last row or column is dropped."""
    height, width = (length // 2 for length in values.shape[-2:])
    cut = values[..., : 2 * height, : 2 * width]
    halved: Array = cut.reshape(*cut.shape[:-2], height, 2, width, 2).mean((-3, -1))
    return halved


def _sheets(pictures: Sequence[NDArray[np.uint8]]) -> tuple[list[str], tuple[int, int]]:
    """One sheet per stack of pictures (N,H,W,3), as data URIs, and the size (H,W) of a picture on them."""
    size: tuple[int, int] = pictures[0].shape[1:3]
    for factor in range(16):
        smaller = max(1, size[0] >> factor), max(1, size[1] >> factor)
        for kind in ("PNG", "WEBP"):
            sheets = [_sheet(stack, smaller, kind) for stack in pictures]
            if sum(map(len, sheets)) <= PICTURE_BYTES or smaller == (1, 1):
                return [data_uri(sheet, f"image/{kind.lower()}") for sheet in sheets], smaller
    raise AssertionError("a picture of one pixel fits")


def _sheet(stack: NDArray[np.uint8], size: tuple[int, int], kind: str) -> bytes:
    height, width = size
    sheet = Image.new("RGB", (COLUMNS * width, math.ceil(len(stack) / COLUMNS) * height))
    for place, values in enumerate(stack):
        picture = Image.fromarray(values)
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BOX)
        sheet.paste(picture, (place % COLUMNS * width, place // COLUMNS * height))
    written = io.BytesIO()
    sheet.save(written, kind, **({"optimize": True} if kind == "PNG" else {"quality": 85}))
    return written.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """The content as a data URL, which a page uses in place of a file's name."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
