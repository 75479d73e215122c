"""Read picture files batch by batch in worker processes, upright and cropped to one size."""

import os
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader

from attrib.errors import InputError, one_line
from attrib.files import found_at

DEFAULT_SIZE = 224
"""The side of pictures that share no size, or a size of more than ``MOST_PIXELS``."""
MOST_PIXELS = 2**21
"""The most pixels that a picture keeps by default: they need 4 GB of activations in a ResNet-50."""
_ORIENTATION = 0x0112
"""The EXIF tag."""
TRANSPARENT = (
    "some pixels are transparent: transparency is dropped, and the models see the colours that the file stores under"
    " it; put the pictures on a background first if that is not meant"
)
_LARGE = 2**24
"""A JPEG with more pixels is decoded at a fraction of its size."""
_WORKERS = 4
_WITH_ALPHA = frozenset((".png", ".webp", ".gif", ".tif", ".tiff"))
"""The suffixes of formats with transparent pixels."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """Picture files; each is resized until it covers ``size`` (H,W) and cropped to its centre."""

    paths: tuple[Path, ...]
    size: tuple[int, int]
    channels: int = 3
    """3, or 1 for grey."""
    by_default: bool = False
    """The size is ``DEFAULT_SIZE``, neither given nor the pictures' own."""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, positions: Sequence[int]) -> Pixels | InputError:
        """The pictures at these positions, (N,C,H,W) uint8, or the error at one of them.

        The error is returned, since the loader would wrap a raised one in a worker's traceback. Pictures are arrays,
        which go through a pipe; tensors would need shared memory, of which containers have little.
        """
        try:
            return np.stack([self._read(self.paths[at]) for at in positions])
        except InputError as error:
            return error

    def batches(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """The pictures at the positions (B,) of every part, (B,C,H,W) uint8, decoded ahead of their use."""
        workers = min(_WORKERS, os.cpu_count() or 1, len(parts))
        loader: DataLoader[Pixels | InputError] = DataLoader(
            self,  # type: ignore[arg-type]  # no Dataset, but it has all methods that the loader calls
            batch_size=None,
            sampler=[part.tolist() for part in parts],
            num_workers=workers if workers > 1 else 0,
            collate_fn=_as_it_is,
            worker_init_fn=_end_with_parent,
            generator=torch.Generator(),  # else the loader draws from the global one
        )
        for pixels in loader:
            if isinstance(pixels, InputError):
                raise pixels
            yield torch.from_numpy(pixels)

    def _read(self, path: Path) -> Pixels:
        with _opened(path) as file:
            if file.width * file.height > _LARGE:
                # Decode a JPEG at the smallest scale that still covers the size; other formats ignore this.
                file.draft(None, (4 * max(self.size), 4 * max(self.size)))
            return pixels_of(file, self.size, self.channels)


def pixels_of(picture: Image.Image, size: tuple[int, int], channels: int) -> Pixels:
    """The picture upright, resized until it covers ``size`` (H,W) and cropped to its centre: (C,H,W) uint8."""
    height, width = size
    picture = _eight_bits(ImageOps.exif_transpose(picture)).convert("L" if channels == 1 else "RGB")
    scale = max(height / picture.height, width / picture.width)
    across, down = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    left, top = (across - width) // 2, (down - height) // 2
    # Resize and crop in one step, since a long and narrow picture would be huge in between.
    x, y = picture.width / across, picture.height / down
    box = left * x, top * y, min((left + width) * x, picture.width), min((top + height) * y, picture.height)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 bits scaled to 8, where Pillow would clip it; raises ValueError for floats."""
    if picture.mode == "F":
        raise ValueError("its pixels are floats of unknown range")
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"expected at most 16 bits a pixel, got {values.min()} to {values.max()}")
    return Image.fromarray((values / 257).round().astype(np.uint8))


def is_transparent(picture: Image.Image) -> bool:
    """Whether a pixel is not opaque; such pixels are read with the colour that the file stores for them."""
    has_alpha = picture.mode in ("RGBA", "LA", "PA") or (
        "transparency" in picture.info and picture.mode in ("1", "L", "P", "RGB")
    )
    if not has_alpha:
        return False
    return int(np.asarray(picture.convert("RGBA").getchannel("A")).min()) < 255


def first_transparent(paths: Sequence[Path]) -> Path | None:
    """The first picture with a pixel that is not opaque; None if there is none. JPEGs and the like are not opened."""
    for path in paths:
        if path.suffix.lower() in _WITH_ALPHA:
            with _opened(path) as picture:
                if is_transparent(picture):
                    return path
    return None


def _end_with_parent(_: int) -> None:
    """End this worker when its parent has died; torch's own watchdog hangs if the pipe to the parent is full."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _as_it_is(batch: object) -> object:
    return batch


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The opened picture; raises InputError with the file's name if opening or decoding fails."""
    if (actual := found_at(path)) != "a file":  # opening a pipe would wait for ever
        raise InputError(f"{path}: expected a picture, found {actual}")
    try:
        with warnings.catch_warnings():  # Pillow warns above 89 megapixels, and refuses above twice as many
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened as picture:
            yield picture
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, ... depending on the format
        reason = one_line(error).removesuffix(f" {str(path)!r}")
        raise InputError(f"{path}: not a picture that can be read ({reason}); mend or remove it") from None


def common_size(paths: Sequence[Path]) -> tuple[int, int] | None:
    """The (H,W) that all pictures share; None if sizes differ or are large. Only headers are read."""
    sizes = set()
    for path in paths:
        with _opened(path) as picture:
            sizes.add(upright_size(picture))
        if len(sizes) > 1 or picture.width * picture.height > MOST_PIXELS:
            return None
    return sizes.pop()


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """(H,W) of a picture in its EXIF orientation; only its header is read."""
    # Pillow gives the upright size of a TIFF, and would read a whole PNG to look for EXIF data after the header.
    is_upright = picture.format == "TIFF" or (picture.format == "PNG" and "exif" not in picture.info)
    if not is_upright and picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8):  # rotated by 90 degrees
        return picture.width, picture.height
    return picture.height, picture.width
