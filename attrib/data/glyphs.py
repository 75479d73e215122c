"""The embedded data set: printed digits over textured backgrounds, each with the true mask of its glyph.

Nothing is downloaded: the fonts come with matplotlib. An image is a pure function of (seed, split, index); its bits do
not depend on batch, order or number of threads. Therefore only single, correctly rounded operations are used. Sines and
fused operations would differ in the last bit between the vectorised body and the scalar tail of a torch loop, and sums
over an axis between batch sizes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from math import radians, tan
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from attrib.errors import InputError
from attrib.noise import uniform

CLASSES = tuple("0123456789")
COUNTS = {"train": 20_000, "test": 10_000}
SIZE = 32

FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
)

# Far from the streams of attacks and SmoothGrad, whose noise must be independent of the images.
_STREAMS = {"train": 0x676C79, "test": 0x676C7A}
_NUMBERS = 128  # uniform numbers per image for its parameters; more than are used
_CHUNK = 128  # images at a time, so that they fit the cache
_TEMPLATE = 64  # pixels
_INK = 0.8  # the glyph's share of the template's height; the rest is a zero margin for the sampler
_TILT = tan(radians(20) / 2)  # the largest rotation, as the tangent of half the angle
_SHIFT = 5.0  # pixels from the centre, at most
_STROKES = 3

Draw = Callable[[float, float], Tensor]  # one number per image between two bounds: (N,1,1)


def render(index: Tensor, *, seed: int = 0, split: str = "test") -> tuple[Tensor, Tensor, Tensor]:
    """Draw the images at these positions; an image does not depend on the others.

    index: (N,) int64, any non-negative numbers. Returns image (N,3,32,32) uint8, label (N,) int64 in 0..9, and mask
    (N,32,32) bool, the pixels of which the glyph covers 40 % or more. Train and test are independent samples of one
    distribution. Raises InputError for another split.
    """
    if split not in _STREAMS:
        raise InputError(f"split: expected train or test, got {split!r}")
    image = torch.empty(len(index), 3, SIZE, SIZE, dtype=torch.uint8, device=index.device)
    label = torch.empty(len(index), dtype=torch.int64, device=index.device)
    mask = torch.empty(len(index), SIZE, SIZE, dtype=torch.bool, device=index.device)
    with _one_thread():
        for start in range(0, len(index), _CHUNK):
            part = slice(start, start + _CHUNK)
            numbers = uniform(index[part], (_NUMBERS + 2 * SIZE,), seed=seed, stream=_STREAMS[split])
            image[part], label[part], mask[part] = _draw(numbers)
    return image, label, mask


@contextmanager
def _one_thread() -> Iterator[None]:
    """Inside, torch uses one thread: for such small operations more gain little, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _draw(numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and masks from each image's uniform ``numbers`` (N, _NUMBERS + 2 * SIZE)."""
    supply = iter(numbers[:, :_NUMBERS].T[:, :, None, None].contiguous())

    def draw(low: float, high: float) -> Tensor:
        """One number per image, uniform between low and high: (N,1,1)."""
        number: Tensor = next(supply)
        return low + number * (high - low)

    def colour(level: Tensor, tint: float) -> Tensor:
        """A random colour near a grey level: (N,3,1,1)."""
        return torch.stack([level + draw(-tint, tint) for _ in range(3)], 1)

    label = draw(0, len(CLASSES)).long().flatten()
    font = draw(0, len(FONTS)).long().flatten()

    contrast = draw(0.22, 0.8)
    dark = draw(0.0, 1.0) * (1.0 - contrast)
    bright = draw(0.0, 1.0) < 0.5  # is the glyph brighter than its background?
    ink = torch.where(bright, dark + contrast, dark)
    paper = torch.where(bright, dark, dark + contrast)

    texture = _texture(draw)[:, None] * (draw(0.1, 0.4) * contrast)[:, None]
    image = colour(paper, 0.1) + texture * colour(torch.ones_like(paper), 0.5)
    for _ in range(_STROKES):  # behind the glyph, so that the mask stays true
        level = paper + (ink - paper) * draw(0.2, 1.0)
        image = _over(image, colour(level, 0.15), _stroke(draw))
    coverage = _glyph(draw, font, label)
    image = _over(image, colour(ink, 0.1), coverage)
    image = image + 0.06 * _grain(numbers[:, _NUMBERS:])[:, None]
    return (image.clamp(0, 1) * 255).round().to(torch.uint8), label, coverage >= 0.4


def _over(image: Tensor, colour: Tensor, coverage: Tensor) -> Tensor:
    """Paint ``colour`` (N,3,1,1) over the image with opacity ``coverage`` (N,H,W)."""
    return image + (colour - image) * coverage[:, None]


def _axes(per_pixel: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x (1,1,W) and y (1,H,1) of the sample points, in pixels from the image's centre."""
    points = (torch.arange(SIZE * per_pixel, device=device) + 0.5) * (1 / per_pixel) - SIZE / 2
    return points[None, None, :], points[None, :, None]


def _direction(half_tangent: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of an angle from the tangent of its half, without trigonometric functions."""
    scale = 1 / (1 + half_tangent * half_tangent)
    return (1 - half_tangent * half_tangent) * scale, 2 * half_tangent * scale


def _wave(turns: Tensor) -> Tensor:
    """A sine made of two parabolas: period 1, between -1 and 1."""
    phase = 2 * (turns - turns.floor()) - 1
    return 4 * phase * (1 - phase.abs())


def _texture(draw: Draw) -> Tensor:
    """Two gratings and a patchwork of blobs in a random mix, about -1..1: (N,H,W)."""
    start = draw(0.0, 1.0)
    x, y = _axes(1, start.device)
    texture = torch.zeros(len(start), SIZE, SIZE, device=start.device)
    for _ in range(2):
        cos, sin = _direction(draw(-1.0, 1.0))
        frequency = draw(0.03, 0.25)  # periods per pixel
        texture = texture + draw(0.0, 0.7) * _wave((x * cos + y * sin) * frequency + draw(0.0, 1.0))
    blobs = torch.cat([draw(-1.0, 1.0) for _ in range(25)], 1).view(-1, 5, 5)
    blobs = _stretched(_stretched(blobs).transpose(1, 2)).transpose(1, 2)
    return texture + draw(0.0, 1.0) * blobs


def _stretched(lattice: Tensor) -> Tensor:
    """(N,K,M) to (N,H,M) by linear interpolation."""
    steps = lattice.shape[1] - 1
    knot = torch.arange(SIZE, device=lattice.device) * (steps / (SIZE - 1))
    before = knot.long().clamp(max=steps - 1)
    low, high = lattice[:, before], lattice[:, before + 1]
    return low + (high - low) * (knot - before)[:, None]


def _stroke(draw: Draw) -> Tensor:
    """The coverage of one thick line between two random points: (N,H,W)."""
    x0, y0, dx, dy = draw(-18, 18), draw(-18, 18), draw(-18, 18), draw(-18, 18)
    x, y = _axes(1, x0.device)
    along = ((x - x0) * dx + (y - y0) * dy) * (1 / (dx * dx + dy * dy + 1e-3))
    along = along.clamp(0, 1)
    off_x, off_y = x - x0 - along * dx, y - y0 - along * dy
    return (draw(0.8, 1.6) - (off_x * off_x + off_y * off_y).sqrt()).clamp(0, 1)


def _glyph(draw: Draw, font: Tensor, label: Tensor) -> Tensor:
    """The coverage (N,H,W) of each image's digit, ``label`` (N,) in ``font`` (N,), at a random place.

    The template is sampled at 2x2 points per pixel, since one point would miss thin strokes.
    """
    templates, aspects = (table.to(label.device) for table in _templates())
    template, aspect = templates[font, label], aspects[font, label][:, None, None]
    half_height = draw(8.0, 13.0)  # pixels
    stretch, shear = draw(0.85, 1.15), draw(-0.2, 0.2)
    cos, sin = _direction(draw(-_TILT, _TILT))

    # The glyph's bounding box after shear and rotation limits how far it may move inside the image.
    half_width = half_height * (aspect * stretch + shear.abs())
    room_x = (SIZE / 2 - (cos * half_width + sin.abs() * half_height)).clamp(0, _SHIFT)
    room_y = (SIZE / 2 - (sin.abs() * half_width + cos * half_height)).clamp(0, _SHIFT)

    x, y = _axes(2, label.device)
    x, y = x - room_x * draw(-1, 1), y - room_y * draw(-1, 1)
    x, y = x * cos + y * sin, y * cos - x * sin
    scale = _INK / half_height
    grid = torch.stack([(x - shear * y) * scale / stretch, y * scale], 3)
    fine = F.grid_sample(template[:, None], grid, mode="bilinear", align_corners=False)[:, 0]
    rows = fine[:, 0::2] + fine[:, 1::2]
    return (rows[:, :, 0::2] + rows[:, :, 1::2]) * 0.25


def _grain(numbers: Tensor) -> Tensor:
    """Fine noise between -1 and 1, (N,H,W), from products of numbers: cheaper than one hash per pixel."""
    rows, columns = numbers[:, :SIZE, None], numbers[:, None, SIZE:]
    mixed = rows * columns * 4096
    return 2 * (mixed - mixed.floor()) - 1


@cache
def _templates() -> tuple[Tensor, Tensor]:
    """Every digit in every font: coverage (fonts,10,64,64) in [0,1], and width over height (fonts,10)."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    coverage = torch.zeros(len(FONTS), len(CLASSES), _TEMPLATE, _TEMPLATE)
    aspect = torch.zeros(len(FONTS), len(CLASSES))
    height = round(_INK * _TEMPLATE)
    for row, name in enumerate(FONTS):
        path = folder / f"{name}.ttf"
        if not path.exists():
            raise InputError(f"glyphs: matplotlib {matplotlib.__version__} has no font {name}; matplotlib 3.11 has it")
        font = ImageFont.truetype(str(path), 256)
        for column, digit in enumerate(CLASSES):
            left, top, right, bottom = font.getbbox(digit)
            large = Image.new("L", (int(right - left), int(bottom - top)))
            ImageDraw.Draw(large).text((-left, -top), digit, fill=255, font=font)
            width = round(large.width * height / large.height)
            canvas = Image.new("L", (_TEMPLATE, _TEMPLATE))
            corner = ((_TEMPLATE - width) // 2, (_TEMPLATE - height) // 2)
            canvas.paste(large.resize((width, height), Image.Resampling.BOX), corner)
            coverage[row, column] = torch.from_numpy(np.asarray(canvas, dtype=np.float32)) / 255
            aspect[row, column] = width / height
    return coverage, aspect
