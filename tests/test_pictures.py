"""Unusual folders and pictures: pipes, unreadable folders, huge pictures, folders one level off."""

import os
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from own_pictures import Linear, fit, save
from PIL import Image

import attrib
from attrib.analyses.maps_file import read_maps
from attrib.data import pictures
from attrib.data.matching import read_classes
from attrib.errors import InputError
from attrib.models.outside import Normalized


@pytest.fixture
def in_time() -> Iterator[None]:
    """What waits for a pipe raises TimeoutError."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


READERS: dict[str, Callable[[Path], object]] = {
    "a.png": attrib.dataset,
    "b.npz": lambda path: attrib.dataset(f"npz:{path}"),
    "c.txt": read_classes,
    "d.npz": read_maps,
    "e.pt": attrib.load,
    "f/cat/1.png": lambda path: attrib.dataset(f"folder:{path.parents[1]}"),
    "g/1.png": lambda path: list(attrib.dataset(f"folder:{path.parent}", size=8).batches(1)),
}


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(InputError, match="a pipe or device"):
        READERS[name](path)


@pytest.mark.parametrize(
    ("mode", "colour", "hole", "warns"),
    [
        ("RGBA", (9, 8, 7, 255), (250, 0, 0, 0), True), ("RGBA", (9, 8, 7, 255), (250, 0, 0, 255), False),
        ("LA", (9, 255), (250, 128), True), ("P", 1, 0, True), ("RGB", (9, 8, 7), (250, 0, 0), False),
    ],
)  # fmt: skip
def test_transparent_pixels_are_named(mode: str, colour: Any, hole: Any, warns: bool, tmp_path: Path) -> None:
    picture = Image.new(mode, (8, 8), colour)
    if mode == "P":
        picture.putpalette([250, 0, 0, 9, 8, 7])
        picture.info["transparency"] = 0
    picture.putpixel((2, 3), hole)
    save(tmp_path / "a.png")
    picture.save(tmp_path / "b.png")
    expected = torch.tensor([250, 250, 250] if mode == "LA" else [250, 0, 0]) / 255  # the colour under it is kept
    for data, name in (
        (attrib.dataset(f"folder:{tmp_path}"), f"{tmp_path}/b.png: some pixels are transparent"),
        (attrib.dataset([Image.open(tmp_path / each) for each in ("a.png", "b.png")]), "picture 1: some pixels"),
    ):
        fits, warned = fit(data, Linear(2))
        assert [each for each in warned if "transparent" in each] == [each for each in warned if each.startswith(name)]
        assert len([each for each in warned if "transparent" in each]) == warns
        (batch,) = fits.batches(2)
        torch.testing.assert_close(batch.image[1, :, 3, 2], expected)


def test_a_dangling_link_is_no_picture(tmp_path: Path) -> None:
    save(tmp_path / "cat/1.png")
    (tmp_path / "cat/2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"2\.png: expected a picture, found nothing"):
        attrib.dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize("closed", [".", "cat", "dog/deep"])
def test_a_folder_that_cannot_be_listed_is_an_error(
    closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cat/1.png", "dog/deep/2.png"):
        save(tmp_path / name)
    listing = os.scandir

    def scandir(path: Any) -> Any:  # root may list any folder, so that chmod says nothing
        if Path(path) == tmp_path / closed:
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"cannot be listed \(Permission denied\)"):
        attrib.dataset(f"folder:{tmp_path}")


def test_pictures_beside_class_folders_are_left_out_with_a_word(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/2.png", "3.png"):
        save(tmp_path / name)
    data = attrib.dataset(f"folder:{tmp_path}")
    assert len(data) == 2
    assert "left out: 1, as 3.png" in data.notes[0]


def test_folders_without_pictures_are_no_classes(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for name in ("1.png", "2.png"):
        save(tmp_path / name)
    data = attrib.dataset(f"folder:{tmp_path}")
    assert (len(data), data.labels) == (2, None)


@pytest.mark.parametrize(
    ("names", "noted"),
    [
        (("1/cat", "1/dog", "2/cat", "2/dog"), True),
        (("fog/1", "fog/2", "snow/1", "snow/2"), True),
        (("cat/left", "dog/right"), False),
        (("cat/deep", "dog/deep"), False),
        (("1", "2"), False),
    ],
)
def test_folders_one_level_above_the_classes(names: tuple[str, ...], noted: bool, tmp_path: Path) -> None:
    for name in names:
        save(tmp_path / name / "1.png")
    data = attrib.dataset(f"folder:{tmp_path}")
    assert any("hold" in note for note in data.notes) == noted
    if noted:  # the advice is right
        place = data.notes[-1].rpartition("folder:")[2]
        assert len(attrib.dataset(f"folder:{place}").classes) == 2


NOWHERE = ("~nobody-of-this-name/x", "n" * 5000, "\0")


@pytest.mark.parametrize("place", NOWHERE)
@pytest.mark.parametrize("name", ["folder:{}", "npz:{}.npz", "{}.png", "{}", "cifar10c:{}:1"])
def test_a_place_that_cannot_be_is_one_line(name: str, place: str) -> None:
    with pytest.raises(InputError, match=r"found nothing|expected one of|no folder CIFAR-10-C"):
        attrib.dataset(name.format(place))


@pytest.mark.parametrize("given", [*NOWHERE, 3])
def test_names_of_classes_that_cannot_be_are_one_line(given: Any) -> None:
    with pytest.raises(InputError, match=r"^classes: expected"):
        attrib.dataset("glyphs", limit=1, classes=given)


# Sizes


@pytest.mark.parametrize("size", [0, -1, 8193, 10**5, 10**30])
def test_a_size_out_of_range_is_one_line(size: int, tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    for call in (lambda: attrib.dataset(tmp_path / "a.png", size=size), lambda: Normalized(torch.nn.ReLU(), size=size)):
        with pytest.raises(InputError, match=r"size: expected at (least|most)"):
            call()


def test_a_narrow_picture_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1 x 50,000 pixels: resized first, it would have 128 x 6,400,000 pixels."""
    Image.new("L", (50_000, 1), 7).save(tmp_path / "a.png")
    largest = 0
    resize = Image.Image.resize

    def measured(self: Any, size: tuple[int, int], *rest: Any, **more: Any) -> Any:
        nonlocal largest
        largest = max(largest, size[0] * size[1])
        return resize(self, size, *rest, **more)

    monkeypatch.setattr(Image.Image, "resize", measured)
    (batch,) = attrib.dataset(tmp_path / "a.png", size=128).batches(1)
    assert largest == 128 * 128
    assert torch.equal(batch.image, torch.full((1, 3, 128, 128), 7 / 255))


@pytest.mark.parametrize("size", [(100_000, 1_000), (14_000, 14_000)])
def test_a_picture_of_a_hundred_megapixels_is_not_decoded(size: tuple[int, int], tmp_path: Path) -> None:
    save(tmp_path / "small.png")
    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    (tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    with pytest.raises(InputError, match=r"large\.png: not a picture that can be read .*exceeds limit"):
        list(attrib.dataset(f"folder:{tmp_path}", size=32).batches(2))


@pytest.mark.parametrize(
    ("sizes", "model_size", "shape", "said"),
    [
        ([(12, 9)], None, (224, 224), True),  # one size, but a large one
        ([(10, 10)], None, (10, 10), False),
        ([(10, 8), (8, 10)], None, (224, 224), True),
        ([(10, 8), (8, 10)], 288, (288, 288), False),  # the size that the model names, not 224 enlarged
    ],
)
def test_pictures_without_a_size_in_common(
    sizes: list[tuple[int, int]], model_size: int | None, shape: tuple[int, int], said: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(pictures, "MOST_PIXELS", 100)
    for number, size in enumerate(sizes):
        save(tmp_path / f"{number}.png", size)
    data, warned = fit(attrib.dataset(f"folder:{tmp_path}"), Linear(2), size=model_size)
    assert data.shape == (3, *shape)
    assert any("224x224" in warning for warning in warned) == said
