"""The embedded data set is reproducible to the bit, balanced and legible, and its masks are right."""

import itertools

import matplotlib.font_manager
import pytest
import scipy.stats
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from attrib.data import CATALOG, glyphs
from attrib.errors import InputError

Rendered = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def train() -> Rendered:
    return glyphs.render(torch.arange(3000), split="train")


@pytest.fixture(scope="module")
def test() -> Rendered:
    return glyphs.render(torch.arange(600), split="test")


def test_shapes_and_types(test: Rendered) -> None:
    image, label, mask = test
    assert (image.shape, image.dtype) == ((600, 3, 32, 32), torch.uint8)
    assert (label.shape, label.dtype) == ((600,), torch.int64)
    assert (mask.shape, mask.dtype) == ((600, 32, 32), torch.bool)
    empty = glyphs.render(torch.arange(0))
    assert [len(part) for part in empty] == [0, 0, 0]
    with pytest.raises(InputError, match=r"expected train or test, got 'val'"):
        glyphs.render(torch.arange(1), split="val")


@pytest.mark.parametrize(("chunk", "threads"), [(1, 1), (7, 1), (64, 3), (1000, 2)])
def test_an_image_is_the_same_to_the_bit_however_it_is_drawn(
    monkeypatch: pytest.MonkeyPatch, test: Rendered, chunk: int, threads: int
) -> None:
    order = torch.randperm(200, generator=torch.Generator().manual_seed(chunk))
    monkeypatch.setattr(glyphs, "_CHUNK", chunk)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        again = glyphs.render(order, split="test")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for drawn, expected in zip(again, test, strict=True):
        assert torch.equal(drawn, expected[order])


def test_other_seeds_and_splits_are_other_images(test: Rendered) -> None:
    index = torch.arange(600)
    for image, label, _ in (
        glyphs.render(index, seed=1, split="test"),
        glyphs.render(index, split="train"),
    ):
        assert (image != test[0]).flatten(1).any(1).all()
        assert 0.05 < (label == test[1]).float().mean() < 0.15  # one in ten by chance


def test_labels_are_balanced_and_statistics_as_stated(train: Rendered) -> None:
    image, label, _ = train
    assert scipy.stats.chisquare(torch.bincount(label, minlength=10).numpy()).pvalue > 1e-3
    pixels = image.float() / 255
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor(CATALOG["glyphs"].mean), rtol=0, atol=0.02)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.tensor(CATALOG["glyphs"].std), rtol=0, atol=0.02)


def test_glyphs_stand_out_by_more_than_an_attack_can_take_most_of_the_time(train: Rendered) -> None:
    image, _, mask = train
    grey = image.float().mean(1) / 255
    inside = (grey * mask).sum((1, 2)) / mask.sum((1, 2))
    outside = (grey * ~mask).sum((1, 2)) / (~mask).sum((1, 2))
    contrast = (inside - outside).abs()
    assert mask.sum((1, 2)).min() >= 20
    assert 0.9 < (contrast > 2 * 8 / 255).float().mean() <= 1
    assert (contrast < 6 * 8 / 255).float().mean() > 0.01  # and there are hard ones


def centred(mask: Tensor) -> Tensor:
    """One mask (H,W), its bounding box stretched to 16x16 and flattened to mean zero and length one."""
    rows, columns = mask.nonzero().T
    box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].float()
    flat: Tensor = torch.nn.functional.interpolate(box[None, None], size=(16, 16), mode="area").flatten()
    flat = flat - flat.mean()
    return flat / flat.square().sum().sqrt()


def pillow_digit(font: str, digit: str, angle: float) -> Tensor:
    """The digit as Pillow draws and rotates it, as a mask."""
    face = ImageFont.truetype(matplotlib.font_manager.findfont(font), 28)
    page = Image.new("L", (48, 48))
    ImageDraw.Draw(page).text((8, 4), digit, fill=255, font=face)
    turned = page.rotate(angle, Image.Resampling.BILINEAR)
    return torch.tensor(list(turned.tobytes())).view(48, 48) > 100


def test_masks_are_the_digits_that_the_labels_say(test: Rendered) -> None:
    """Nearest neighbour, on masks, among digits drawn by Pillow alone: most keep their likeness."""
    fonts = ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono", "STIXGeneral", "cmr10")
    styles = list(itertools.product(fonts, (-20, -10, 0, 10, 20), glyphs.CLASSES))
    known = torch.stack([centred(pillow_digit(font, digit, angle)) for font, angle, digit in styles])
    _, label, mask = test
    likeness = torch.stack([centred(one) for one in mask]) @ known.T
    guess = likeness.argmax(1) % 10
    assert (guess == label).float().mean() > 0.85
    sixes_and_nines = (label == 6) | (label == 9)
    upside_down = guess[sixes_and_nines] == 15 - label[sixes_and_nines]
    assert upside_down.float().mean() < 0.03


def test_only_the_glyph_is_painted_over_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out, the glyph changes pixels within a pixel of its mask and nowhere else, and all pixels of the mask."""
    index = torch.arange(100)
    image, _, mask = glyphs.render(index)
    draw_glyph = glyphs._glyph
    monkeypatch.setattr(glyphs, "_glyph", lambda *arguments: 0 * draw_glyph(*arguments))
    without, _, nothing = glyphs.render(index)
    changed = (image != without).any(1)
    around = torch.nn.functional.max_pool2d(mask.float(), 5, stride=1, padding=2) > 0
    assert not nothing.any()
    assert changed[mask].float().mean() > 0.98
    assert (changed & ~around).float().mean() < 0.002


def test_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    glyphs.render(torch.arange(3))
    assert torch.equal(torch.get_rng_state(), before)
