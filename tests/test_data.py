"""Every data set and file format, against arrays that the test writes. Bad files give one clear line."""

import gzip
import http.server
import io
import math
import os
import pickle
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest
import scipy.io
import torch
from PIL import Image
from torch import Tensor

from attrib.data import CATALOG, Dataset, dataset, glyphs
from attrib.data.catalog import Remote
from attrib.errors import InputError

Array = np.ndarray[Any, Any]
COUNT = 12  # images of each small file written here


@pytest.fixture
def pixels() -> Array:
    return np.random.default_rng(0).integers(0, 256, (COUNT, 3, 32, 32), np.uint8)


@pytest.fixture
def labels() -> list[int]:
    return [(7 * position) % 10 for position in range(COUNT)]


@pytest.fixture(autouse=True)
def small_and_offline(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Data sets as small as this file's, an empty cache, and no network, except where the data is real."""
    monkeypatch.delenv("ATTRIB_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path / "cache")
    if "real_data" in request.fixturenames:
        return
    for name in CATALOG.keys() - {"glyphs"}:
        replaced(monkeypatch, name, counts={"train": 5 * COUNT if name == "cifar10" else COUNT, "test": COUNT})

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no\nnetwork")

    if "server" not in request.fixturenames:
        monkeypatch.setattr(pooch, "retrieve", offline)


def replaced(monkeypatch: pytest.MonkeyPatch, name: str, **fields: Any) -> None:
    monkeypatch.setitem(CATALOG, name, replace(CATALOG[name], **fields))


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def idx(array: Array) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def check_error(call: Callable[[], object], *words: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


# Reading, format by format


@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist(tmp_path: Path, pixels: Array, labels: list[int], folder: str, suffix: str) -> None:
    images = pixels[:, 0, :28, :28]
    write(tmp_path / folder / f"t10k-images-idx3-ubyte{suffix}", idx(images))
    write(tmp_path / folder / f"t10k-labels-idx1-ubyte{suffix}", idx(np.array(labels)))
    mnist = dataset("mnist", root=tmp_path)
    assert (mnist.name, mnist.split, mnist.shape, len(mnist)) == ("mnist", "test", (1, 28, 28), COUNT)
    np.testing.assert_array_equal(mnist.images, images[:, None])
    assert mnist.labels.tolist() == labels


def cifar_binary(pixels: Array, labels: list[int], *, coarse: bytes = b"") -> bytes:
    return b"".join(coarse + bytes([label]) + image.tobytes() for image, label in zip(pixels, labels, strict=True))


def python2_pickle(pixels: Array, labels: list[int], key: str) -> bytes:
    """A batch as Python 2 wrote the official ones: protocol 2, every text a byte string, the old numpy module."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value  # SHORT_BINSTRING

    raw = pixels.reshape(len(pixels), -1).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR"
        b"(K\x01" + b"K" + bytes([len(pixels)]) + b"M\x00\x0c\x86cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR"
        b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<I", len(raw)) + raw + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(key.encode()) + numbers + b"u."


def numpy_pickle(pixels: Array, labels: list[int], key: str) -> bytes:
    """The same written today: by Python 3 and this numpy."""
    batch = {b"data": pixels.reshape(len(pixels), -1), key.encode(): labels}
    return pickle.dumps(batch, protocol=2)


@pytest.mark.parametrize("layout", ["bin", python2_pickle, numpy_pickle])
def test_cifar10(tmp_path: Path, pixels: Array, labels: list[int], layout: Any) -> None:
    for number in range(1, 6):
        rolled = np.roll(pixels, number, 0), list(np.roll(labels, number).tolist())
        if layout == "bin":
            write(tmp_path / f"cifar-10-batches-bin/data_batch_{number}.bin", cifar_binary(*rolled))
        else:
            write(tmp_path / f"cifar-10-batches-py/data_batch_{number}", layout(*rolled, "labels"))
    cifar = dataset("cifar10", split="train", root=tmp_path)
    assert (cifar.shape, len(cifar), len(cifar.classes)) == ((3, 32, 32), 5 * COUNT, 10)
    np.testing.assert_array_equal(cifar.images, np.concatenate([np.roll(pixels, n, 0) for n in range(1, 6)]))
    assert cifar.labels.tolist() == [label for n in range(1, 6) for label in np.roll(labels, n)]


@pytest.mark.parametrize("layout", ["bin", python2_pickle, numpy_pickle])
def test_cifar100(tmp_path: Path, pixels: Array, labels: list[int], layout: Any) -> None:
    labels = [label + 90 for label in labels]
    if layout == "bin":
        write(tmp_path / "cifar-100-binary/test.bin", cifar_binary(pixels, labels, coarse=b"\x13"))
    else:
        write(tmp_path / "cifar-100-python/test", layout(pixels, labels, "fine_labels"))
    cifar = dataset("cifar100", root=tmp_path)
    np.testing.assert_array_equal(cifar.images, pixels)
    assert cifar.labels.tolist() == labels
    assert len(set(cifar.classes)) == 100
    assert list(cifar.classes) == sorted(cifar.classes)


def test_svhn(tmp_path: Path, pixels: Array, labels: list[int]) -> None:
    ten_for_zero = np.array([[label or 10] for label in labels], np.uint8)
    (tmp_path / "svhn").mkdir()
    scipy.io.savemat(tmp_path / "svhn/test_32x32.mat", {"X": pixels.transpose(2, 3, 1, 0), "y": ten_for_zero})
    svhn = dataset("svhn", root=tmp_path)
    np.testing.assert_array_equal(svhn.images, pixels)
    assert svhn.labels.tolist() == labels


def test_npz(tmp_path: Path, pixels: Array, labels: list[int]) -> None:
    masks = pixels[:, 0] > 100
    colour = pixels.transpose(0, 2, 3, 1)
    np.savez(tmp_path / "full.npz", images=colour, labels=labels, masks=masks, classes=list("abcdefghij"))
    np.savez_compressed(tmp_path / "grey.npz", images=pixels[:, 0], labels=np.array(labels, np.uint8))
    full = dataset(f"npz:{tmp_path}/full.npz")
    grey = dataset(f"npz:{tmp_path}/grey.npz", split="train")  # to train on: whole in either split
    np.testing.assert_array_equal(full.images, pixels)
    np.testing.assert_array_equal(grey.images, pixels[:, :1])
    assert full.labels.tolist() == grey.labels.tolist() == labels
    assert full.masks is not None
    np.testing.assert_array_equal(full.masks, masks)
    assert (full.classes, grey.classes) == (tuple("abcdefghij"), tuple("0123456789"))
    assert (full.split, grey.split) == ("all", "all")
    assert (grey.masks, grey.shape) == (None, (1, 32, 32))


@pytest.mark.parametrize("kind", ["e", "f", "d", ">d", "g"])
def test_npz_of_floats(kind: str, tmp_path: Path, pixels: Array, labels: list[int]) -> None:
    floats = (pixels / 255).astype(kind)
    np.savez(tmp_path / "floats.npz", images=floats.transpose(0, 2, 3, 1), labels=labels)
    found = dataset(f"npz:{tmp_path}/floats.npz")
    tensors = dataset((torch.from_numpy(floats.astype(np.float32)), labels))
    assert torch.equal(next(found.batches(COUNT)).image, next(tensors.batches(COUNT)).image)


def test_glyphs() -> None:
    few = dataset("glyphs", limit=5, seed=3)
    image, label, mask = glyphs.render(torch.arange(5), seed=3, split="test")
    assert few.masks is not None
    assert all(map(torch.equal, (few.images, few.labels, few.masks), (image, label, mask)))


def test_real_data(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRIB_DATA", str(real_data))
    mnist, cifar = dataset("mnist", split="train"), dataset("cifar10", split="train")
    assert torch.bincount(mnist.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(cifar.labels).tolist() == [5000] * 10
    for whole in (mnist, cifar):
        assert isinstance(whole.images, Tensor)
        mean, std = CATALOG[whole.name].mean, CATALOG[whole.name].std
        channels = [whole.images[:, channel].float() / 255 for channel in range(len(mean))]
        assert [float(channel.mean()) for channel in channels] == pytest.approx(mean, abs=1e-4)
        assert [float(channel.std()) for channel in channels] == pytest.approx(std, abs=1e-4)
    assert len(dataset("mnist", limit=100)) == 100
    assert dataset("cifar10").labels[:5].tolist() == [3, 8, 8, 0, 6]


# Batches


def test_batches_are_the_images_in_order() -> None:
    small = dataset("glyphs", limit=10)
    assert isinstance(small.images, Tensor)
    assert small.masks is not None
    batches = list(small.batches(4))
    assert [len(batch.image) for batch in batches] == [4, 4, 2]
    for name, expected in (
        ("image", small.images.float() / 255),
        ("label", small.labels),
        ("index", torch.arange(10)),
        ("mask", small.masks),
    ):
        assert torch.equal(torch.cat([getattr(batch, name) for batch in batches]), expected)
    order = torch.tensor([9, 0, 3])
    (batch,) = small.batches(100, order=order)
    assert torch.equal(batch.index, order)
    assert torch.equal(batch.image, small.images[order].float() / 255)
    assert torch.equal(batch.label, small.labels[order])
    assert list(small.batches(4, order=torch.arange(0))) == []
    check_error(lambda: small.batches(0), "at least 1", "0")


def test_a_limit_is_a_prefix_and_frees_the_rest(tmp_path: Path, pixels: Array) -> None:
    np.savez(tmp_path / "some.npz", images=pixels[:, 0], labels=np.arange(COUNT))
    prefix = dataset(f"npz:{tmp_path}/some.npz", limit=3)
    assert dataset(f"npz:{tmp_path}/some.npz").first(3).key == prefix.key == prefix.first(9).key
    assert isinstance(prefix.images, Tensor)
    assert prefix.labels.tolist() == [0, 1, 2]
    assert len(prefix.classes) == COUNT
    assert prefix.images.untyped_storage().nbytes() == 3 * 32 * 32
    assert len(dataset(f"npz:{tmp_path}/some.npz", limit=COUNT + 1)) == COUNT


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16])
def test_floats_in_0_1_stay_as_they_are(kind: torch.dtype) -> None:
    bytes_ = dataset("glyphs", limit=5)
    assert isinstance(bytes_.images, Tensor)
    floats = replace(bytes_, images=(bytes_.images.double() / 255).to(kind))
    (one,), (other,) = bytes_.batches(5), floats.batches(5)
    assert other.image.dtype == torch.float32
    torch.testing.assert_close(one.image, other.image, atol=1e-3 if kind == torch.float16 else 1e-7, rtol=0)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.full((2, 3, 4, 4), 255.0), "floats from 255 to 255; divide by 255"),
        (torch.linspace(-2, 2, 96).view(2, 3, 4, 4), "floats from -2 to 2"),
        (torch.full((2, 3, 4, 4), float("nan")), "got NaN or infinity in 2 of 2 images, the first is image 0"),
        (torch.tensor([0.5, math.inf]).repeat(48, 1).T.view(2, 3, 4, 4), "in 1 of 2 images, the first is image 1"),
        (torch.tensor([math.nan, 300.0]).repeat(48, 1).T.view(2, 3, 4, 4), "in 1 of 2 images, the first is image 0"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), "torch.int64"),
        (torch.zeros(2, 4, 4), r"\(2, 4, 4\)"),
    ],
)
def test_pixels_of_another_range_or_type_are_refused(images: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=f"images: expected uint8, or floats in .0,1.*{words}"):
        Dataset("own", "all", ("a", "b"), images, torch.tensor([0, 1]))


def test_nothing_is_moved_that_need_not_be() -> None:
    on_meta = dataset("glyphs", limit=4).to("meta")
    (batch,) = on_meta.batches(4, device="meta", order=torch.arange(4, device="meta"))
    assert {part.device.type for part in batch if part is not None} == {"meta"}
    here = dataset("glyphs", limit=4)
    assert here.to("cpu").images is here.images


# Folders


def picture(path: Path, size: tuple[int, int], value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 255 - value)).save(path)


def test_folder(tmp_path: Path) -> None:
    for value in range(9):
        picture(tmp_path / ("cat", "dog", "eel")[value % 3] / f"deeper/{value}.png", (10, 8), value)
    (tmp_path / "cat/notes.txt").write_text("not a picture")
    (tmp_path / ".hidden").mkdir()
    before = torch.get_rng_state()
    animals = dataset(f"folder:{tmp_path}")
    assert (animals.shape, animals.classes, len(animals)) == ((3, 8, 10), ("cat", "dog", "eel"), 9)
    assert animals.split == dataset(f"folder:{tmp_path}", split="train").split == "all"
    for size in (2, 100):  # by workers, and without
        batches = list(animals.batches(size))
        image, label = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("image", "label"))
        values = torch.arange(9)
        assert torch.equal(label, values % 3)
        assert torch.equal(image[:, 0], (values.float() / 255)[:, None, None].expand(9, 8, 10))
        assert torch.equal(torch.cat([batch.index for batch in batches]), torch.arange(9))
    (batch,) = animals.to("cpu").batches(3, order=torch.tensor([8, 0]))
    assert batch.image[:, 0, 0, 0].mul(255).round().tolist() == [8, 0]
    assert (batch.label.tolist(), batch.index.tolist(), batch.mask) == ([2, 0], [8, 0], None)
    assert torch.equal(torch.get_rng_state(), before)
    assert dataset(f"folder:{tmp_path}").first(4).key == dataset(f"folder:{tmp_path}", limit=4).key


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_folder_with_splits(tmp_path: Path, held_out: str) -> None:
    picture(tmp_path / "train/a/1.png", (6, 6), 1)
    picture(tmp_path / f"{held_out}/a/2.JPG", (6, 6), 2)
    picture(tmp_path / f"{held_out}/b/3.png", (6, 6), 3)
    train, test = (dataset(f"folder:{tmp_path}", split=split) for split in ("train", "test"))
    assert (train.labels.tolist(), test.labels.tolist()) == ([0], [0, 1])
    assert (train.split, test.split) == ("train", "test")


def test_folder_resizes_the_shorter_side_and_crops_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255  # the middle third is what remains
    (tmp_path / "a").mkdir()
    Image.fromarray(wide).save(tmp_path / "a/wide.png")
    Image.fromarray(wide.transpose(1, 0, 2)).convert("L").save(tmp_path / "a/tall.png")
    (batch,) = dataset(f"folder:{tmp_path}", size=20).batches(2)
    assert torch.equal(batch.image, torch.ones(2, 3, 20, 20))
    (batch,) = dataset(f"folder:{tmp_path}", size=10).batches(2)
    assert batch.image[..., 2:-2, 2:-2].min() == 1
    assert dataset(f"folder:{tmp_path}").shape == (3, 224, 224)


def test_sixteen_bits_of_grey_are_scaled_and_floats_refused(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    (tmp_path / "a").mkdir()
    Image.fromarray(ramp).save(tmp_path / "a/ramp.png")
    (batch,) = dataset(f"folder:{tmp_path}", size=16).batches(1)
    exact = torch.from_numpy(ramp / 65535).float().expand(3, 16, 16)
    assert (batch.image[0] - exact).abs().max() <= 0.5 / 255 + 1e-6
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "a/ramp.tiff")
    check_error(lambda: list(dataset(f"folder:{tmp_path}", size=16).batches(2)), "ramp.tiff", "floats")


def test_a_corrupt_picture_is_named_from_a_worker_too(tmp_path: Path) -> None:
    for value in range(6):
        picture(tmp_path / f"a/{value}.png", (16, 16), value)
    whole = (tmp_path / "a/0.png").read_bytes()
    (tmp_path / "a/4.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a/5.jpg").write_bytes(b"<html>")
    animals = dataset(f"folder:{tmp_path}", size=16)
    for size in (1, 2, 100):
        check_error(lambda size=size: list(animals.batches(size)), "4.png", "mend or remove")  # type: ignore[misc]
    (tmp_path / "a/4.png").write_bytes(whole)
    check_error(lambda: list(animals.batches(2)), "5.jpg")
    check_error(lambda: dataset(f"folder:{tmp_path}"), "5.jpg")


# Downloads


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server of ``tmp_path/web``; its address."""
    root = tmp_path / "web"
    root.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(root))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


def tar_gz(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def test_missing_files_are_downloaded_once_and_checked(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch, pixels: Array, labels: list[int],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    archive = tar_gz({"cifar-100-binary/test.bin": cifar_binary(pixels, labels, coarse=b"\0")})
    (tmp_path / "web/c.tar.gz").write_bytes(archive)
    good = Remote(f"{server}/c.tar.gz", md5(archive).hexdigest(), "")

    replaced(monkeypatch, "cifar100", remotes={"test": (good._replace(md5="0" * 32),)})
    check_error(lambda: dataset("cifar100"), "hash", "test.bin", str(tmp_path / "cache"))
    replaced(monkeypatch, "cifar100", remotes={"test": (good,)})
    assert dataset("cifar100", root=tmp_path / "elsewhere").labels.tolist() == labels
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cifar-100-binary"]
    (tmp_path / "web/c.tar.gz").unlink()
    assert dataset("cifar100").labels.tolist() == labels
    assert capfd.readouterr() == ("", "")


def test_an_archive_cannot_write_outside_its_folder(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tar_gz({"../../escaped": b"!"})
    (tmp_path / "web/c.tar.gz").write_bytes(archive)
    remote = Remote(f"{server}/c.tar.gz", md5(archive).hexdigest(), "")
    replaced(monkeypatch, "cifar10", remotes={"test": (remote,)})
    check_error(lambda: dataset("cifar10"), "OutsideDestinationError")
    assert not list(tmp_path.rglob("escaped"))


# What can be wrong


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch evil",)


def test_a_pickle_with_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    everywhere: list[Any] = [
        Evil(),
        {b"data": Evil()},
        {b"data": np.zeros((1, 3072), object)},
        {b"data": np.zeros((1, 3072)), b"labels": [0]},
        {b"data": np.array(1).dtype, b"labels": eval},
    ]
    for content in everywhere:
        write(tmp_path / "cifar-10-batches-py/test_batch", pickle.dumps(content))
        check_error(lambda: dataset("cifar10", root=tmp_path), "test_batch", "not a CIFAR batch")
    assert not (tmp_path / "evil").exists()


def bad_files(root: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Write one bad file after the other; yields the data set that meets it and words of its error."""
    images, digits = idx(np.zeros((COUNT, 28, 28))), idx(np.zeros(COUNT))
    image_file, label_file = root / "mnist/t10k-images-idx3-ubyte.gz", root / "mnist/t10k-labels-idx1-ubyte"
    write(label_file, digits)
    write(image_file, images)
    packed = image_file.read_bytes()
    for content, words in (
        (packed[: len(packed) // 2], ("cannot be read", "fetch it again")),
        (b"<html>", ("cannot be read", "images-idx3")),
        (gzip.compress(digits), ("00 00 08 03", "00 00 08 01")),
        (gzip.compress(b""), ("got nothing",)),
        (gzip.compress(images[:-1]), (f"{COUNT * 784} bytes", f"{COUNT * 784 - 1}")),
        (gzip.compress(idx(np.zeros((COUNT, 28, 27)))), ("28x28", "(28, 27)")),
        (gzip.compress(idx(np.zeros((3, 28, 28)))), ("3 labels", str(COUNT))),
    ):
        image_file.write_bytes(content)
        yield "mnist", words
    write(image_file, images)
    write(label_file, idx(np.full(COUNT, 10)))
    yield "mnist", ("between 0 and 9", "10")
    write(image_file, idx(np.zeros((3, 28, 28))))
    write(label_file, idx(np.zeros(3)))
    yield "mnist", (f"expected {COUNT} images, got 3",)
    label_file.unlink()
    yield "mnist", ("no t10k-labels-idx1-ubyte under", "ConnectionError: no)", "put them into", "ATTRIB_DATA")
    label_file.mkdir()
    yield "mnist", ("is a folder, not a file",)

    binary = root / "cifar-10-batches-bin/test_batch.bin"
    for size, words in ((3000, ("3073", "3000")), (0, ("3073",)), (3073, (f"expected {COUNT} images, got 1",))):
        write(binary, bytes(size))
        yield "cifar10", words
    write(binary, b"\x0b" * 3073)
    yield "cifar10", ("between 0 and 9", "11")
    binary.unlink()
    python = root / "cifar-10-batches-py/test_batch"
    batch = np.zeros((1, 3072), np.uint8)
    for content, words in (
        (pickle.dumps({b"data": batch})[:-100], ("not a CIFAR batch",)),
        (pickle.dumps([1]), ("expected a pickled dict, got list",)),
        (pickle.dumps({b"data": batch[:, 1:], b"labels": [0]}), ("(N,3072)",)),
        (pickle.dumps({b"data": batch}), ("1 integers",)),
        (pickle.dumps({b"data": batch, b"labels": [10]}), ("0 to 9",)),
        (pickle.dumps({b"data": batch, b"labels": [[0]]}), ("0 to 9",)),
    ):
        write(python, content)
        yield "cifar10", words

    mat = write(root / "svhn/test_32x32.mat", b"MATLAB 5.0 MAT-file, cut short")
    yield "svhn", ("not a MATLAB file", "test_32x32.mat")
    for X, y, words in (
        (np.zeros((32, 32, 3, 2)), np.ones((2, 1)), ("uint8 (32,32,3,N)", "float64")),
        (np.zeros((32, 32, 3, 2), np.uint8), np.ones((3, 1), np.uint8), ("2 integers",)),
        (np.zeros((32, 32, 3, 2), np.uint8), np.zeros((2, 1), np.uint8), ("between 1 and 10",)),
    ):
        scipy.io.savemat(mat, {"X": X, "y": y})
        yield "svhn", words
    scipy.io.savemat(mat, {"X": np.zeros(3)})
    yield "svhn", ("found no y",)

    npz = root / "bad.npz"
    image, label = np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64)
    for arrays, words in (
        ({"images": image}, ("no 'labels'",)),
        ({"labels": label}, ("no 'images'",)),
        ({"images": image.astype(int), "labels": label}, ("uint8", "int64")),
        ({"images": image + 255.0, "labels": label}, ("floats in [0,1]", "from 255 to 255; divide by 255")),
        ({"images": image - np.nan, "labels": label}, ("floats in [0,1]", "NaN")),
        ({"images": np.zeros((2, 3, 32, 32), np.uint8), "labels": label}, ("(N,H,W,C)", "(2, 3, 32, 32)")),
        ({"images": image[:0], "labels": label[:0]}, ("(0, 4, 4)",)),
        ({"images": image, "labels": label[:1]}, ("2 integers", "(1,)")),
        ({"images": image, "labels": label + 0.5}, ("2 integers", "float64")),
        ({"images": image, "labels": label - 1}, ("-1",)),
        ({"images": image, "labels": label + 10**12}, ("1000000000000",)),
        ({"images": image, "labels": label + 1, "classes": ["one"]}, ("between 0 and 0",)),
        ({"images": image, "labels": label, "classes": [1]}, ("'classes' to be text",)),
        ({"images": image, "labels": label, "masks": image}, ("'masks' to be bool (2, 4, 4)", "uint8")),
        ({"images": image.astype(object), "labels": label}, ("plain arrays", "allow_pickle")),
    ):
        np.savez(npz, **arrays)
        yield f"npz:{npz}", words
    npz.write_bytes(npz.read_bytes()[:-30])
    yield f"npz:{npz}", ("bad.npz", "not an .npz archive")
    with npz.open("wb") as file:
        np.save(file, image)
    yield f"npz:{npz}", ("got a single array",)
    yield f"npz:{root}", ("found a folder",)
    yield f"npz:{root}/none.npz", ("found nothing",)
    yield f"npz:{root}/\0", ("found nothing",)

    yield f"folder:{root}/none", ("found nothing",)
    yield f"folder:{npz}", ("found a file",)
    (root / "empty/class").mkdir(parents=True)
    yield f"folder:{root}/empty", ("no pictures",)
    yield f"folder:{root}/empty/class", ("one folder per class",)
    for name in ("imagenet", "folder:", "npz:", "", "MNIST"):
        yield name, ("expected one of glyphs, mnist, svhn", repr(name))


def test_bad_files_give_one_clear_line(tmp_path: Path) -> None:
    for name, words in bad_files(tmp_path):
        check_error(lambda name=name: dataset(name, root=tmp_path), *words)  # type: ignore[misc]


def test_bad_arguments_give_one_clear_line() -> None:
    check_error(lambda: dataset("glyphs", split="val"), "train or test", "'val'")
    for limit in (0, -3):
        check_error(lambda limit=limit: dataset("glyphs", limit=limit), "limit", "at least 1", str(limit))  # type: ignore[misc]
    check_error(lambda: dataset("folder:x", size=0), "size", "at least 1")
    check_error(lambda: dataset("glyphs", size=64, limit=1), "32x32", "folder")
    assert dataset("glyphs", size=32, limit=1).shape == (3, 32, 32)


def test_a_missing_data_set_names_its_files_and_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRIB_DATA", str(tmp_path / "environment"))
    names = [f"data_batch_{number}.bin" for number in range(1, 6)]
    places = [str(tmp_path / name) for name in ("given", "environment", "cache")]
    check_error(lambda: dataset("cifar10", split="train", root=tmp_path / "given"), *names, *places, "cifar-10-binary")


def test_roots_are_tried_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: Array, labels: list[int]
) -> None:
    monkeypatch.setenv("ATTRIB_DATA", str(tmp_path / "environment"))
    for shift, place in enumerate(("cache", "environment", "given")):
        content = cifar_binary(np.roll(pixels, shift, 0), labels)
        write(tmp_path / place / "cifar-10-batches-bin/test_batch.bin", content)
        found = dataset("cifar10", root=tmp_path / "given")
        np.testing.assert_array_equal(found.images, np.roll(pixels, shift, 0))
