"""Where the files of the public data sets are: on disk, else downloaded with their checksum verified."""

import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from attrib import readers
from attrib.errors import InputError, one_line

Reader = Callable[[Sequence[Path]], readers.Arrays]


class Layout(NamedTuple):
    """One way in which a data set lies on disk: folder below the root, files by split, and their reader."""

    folder: str
    files: dict[str, tuple[str, ...]]
    read: Reader


class Remote(NamedTuple):
    """A file to download: where it is, its checksum, and its folder below the cache."""

    url: str
    md5: str
    folder: str


def _layouts(folders: Sequence[str], *, train: Sequence[str], test: Sequence[str], read: Reader) -> list[Layout]:
    return [Layout(folder, {"train": tuple(train), "test": tuple(test)}, read) for folder in folders]


_FIVE = [f"data_batch_{number}" for number in range(1, 6)]

# In the order of the search. The empty folder is the root itself.
LAYOUTS: dict[str, list[Layout]] = {
    "mnist": _layouts(
        ["mnist", "MNIST/raw", ""],
        train=["train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
        test=["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
        read=readers.mnist,
    ),
    "svhn": _layouts(["svhn", ""], train=["train_32x32.mat"], test=["test_32x32.mat"], read=readers.svhn),
    "cifar10": [
        *_layouts(
            ["cifar-10-batches-bin", ""],
            train=[f"{name}.bin" for name in _FIVE],
            test=["test_batch.bin"],
            read=partial(readers.cifar_binary, classes=10),
        ),
        *_layouts(
            ["cifar-10-batches-py", ""],
            train=_FIVE,
            test=["test_batch"],
            read=partial(readers.cifar_python, classes=10),
        ),
    ],
    "cifar100": [
        *_layouts(
            ["cifar-100-binary", ""],
            train=["train.bin"],
            test=["test.bin"],
            read=partial(readers.cifar_binary, classes=100),
        ),
        *_layouts(
            ["cifar-100-python", ""],
            train=["train"],
            test=["test"],
            read=partial(readers.cifar_python, classes=100),
        ),
    ],
}

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz"
_SVHN_URL = "http://ufldl.stanford.edu/housenumbers"
_CIFAR10_REMOTE = Remote(f"{_CIFAR_URL}/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", "")
_CIFAR100_REMOTE = Remote(f"{_CIFAR_URL}/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", "")

REMOTES: dict[tuple[str, str], tuple[Remote, ...]] = {
    ("mnist", "train"): (
        Remote(f"{_MNIST_URL}/train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", "mnist"),
        Remote(f"{_MNIST_URL}/train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", "mnist"),
    ),
    ("mnist", "test"): (
        Remote(f"{_MNIST_URL}/t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", "mnist"),
        Remote(f"{_MNIST_URL}/t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", "mnist"),
    ),
    ("cifar10", "train"): (_CIFAR10_REMOTE,),
    ("cifar10", "test"): (_CIFAR10_REMOTE,),
    ("cifar100", "train"): (_CIFAR100_REMOTE,),
    ("cifar100", "test"): (_CIFAR100_REMOTE,),
    ("svhn", "train"): (Remote(f"{_SVHN_URL}/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", "svhn"),),
    ("svhn", "test"): (Remote(f"{_SVHN_URL}/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", "svhn"),),
}

# Images per split, which tells a file cut at the end of a record from a whole one.
COUNTS = {
    "mnist": {"train": 60_000, "test": 10_000},
    "svhn": {"train": 73_257, "test": 26_032},
    "cifar10": {"train": 50_000, "test": 10_000},
    "cifar100": {"train": 50_000, "test": 10_000},
}


def read(name: str, *, split: str, root: Path | None) -> readers.Arrays:
    """Images (N,C,H,W) uint8 and labels (N,) int64 of mnist, svhn, cifar10 or cifar100, all of the split.

    Looked for under ``root``, then the environment's ATTRIB_DATA, then the user's cache, where missing files
    are downloaded to. Raises InputError where that fails, or a file is not what it should be.
    """
    layout, paths = _find(name, split, root) or _fetch(name, split, root)
    images, labels = layout.read(paths)
    if len(images) != (expected := COUNTS[name][split]):
        where = ", ".join(map(str, paths))
        raise InputError(f"{name} {split}: expected {expected} images, got {len(images)} in {where}; fetch it again")
    return images, labels


def _roots(root: Path | None) -> Iterator[Path]:
    if root is not None:
        yield root.expanduser()
    if named := os.environ.get("ATTRIB_DATA"):
        yield Path(named).expanduser()
    yield _cache()


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("attrib"))


def _find(name: str, split: str, root: Path | None) -> tuple[Layout, list[Path]] | None:
    """The first layout whose files are all there."""
    for place in _roots(root):
        for layout in LAYOUTS[name]:
            paths = [_existing(place / layout.folder / file) for file in layout.files[split]]
            if all(paths):
                return layout, [path for path in paths if path]
    return None


def _existing(path: Path) -> Path | None:
    """The file, or the same packed with gzip, or None."""
    packed = path.with_name(f"{path.name}.gz")
    return next((candidate for candidate in (path, packed) if candidate.is_file()), None)


def _fetch(name: str, split: str, root: Path | None) -> tuple[Layout, list[Path]]:
    try:
        for remote in REMOTES[name, split]:
            _download(remote, _cache())
    except Exception as error:  # requests, urllib3, OSError, tarfile: whatever it is, the remedy is the same
        raise InputError(_advice(name, split, root, error)) from None
    if found := _find(name, split, root):
        return found
    raise InputError(_advice(name, split, root, FileNotFoundError("what came does not hold these files")))


def _download(remote: Remote, cache: Path) -> None:
    import pooch

    pooch.get_logger().setLevel("ERROR")
    file = remote.url.rsplit("/", 1)[-1]
    target = cache / remote.folder
    pooch.retrieve(remote.url, f"md5:{remote.md5}", fname=file, path=target, progressbar=sys.stderr.isatty())
    if file.endswith(".tar.gz"):
        _extract(target / file, target)


def _extract(archive: Path, target: Path) -> None:
    """Unpack the archive into ``target`` and delete it; its folder appears when it is complete."""
    with tempfile.TemporaryDirectory(dir=target) as unpacked:
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        for entry in Path(unpacked).iterdir():
            shutil.rmtree(target / entry.name, ignore_errors=True)
            entry.replace(target / entry.name)
    archive.unlink()


def _advice(name: str, split: str, root: Path | None, error: Exception) -> str:
    """What is missing, where it was looked for, why it did not come, and where to put it: in one line."""
    places = list(dict.fromkeys(_roots(root)))
    # Of all places and layouts speak of the one where the fewest files are missing.
    missing = [
        [path for file in layout.files[split] if not _existing(path := place / layout.folder / file)]
        for place in places
        for layout in LAYOUTS[name]
    ]
    fewest = min(missing, key=len)
    files = ", ".join(path.name for path in fewest)
    folders = [path for path in fewest if path.is_dir()]
    looked = ", ".join(map(str, places))
    urls = ", ".join(remote.url for remote in REMOTES[name, split])
    return (
        f"{name} {split}: no {files} under {looked}"
        + (f" ({folders[0]} is a folder, not a file)" if folders else "")
        + f", and downloading {urls} failed ({one_line(error)[:200]}); "
        f"put them into {fewest[0].parent}, or name their folder with --data-root or ATTRIB_DATA"
    )
