"""Where the files of the public data sets are: on disk, else downloaded with their checksum verified."""

import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from attrib.data import readers
from attrib.data.catalog import CATALOG, Layout, Remote
from attrib.errors import InputError, one_line
from attrib.files import at_home


def read(name: str, *, split: str, root: Path | None) -> readers.Arrays:
    """Images (N,C,H,W) uint8 and labels (N,) int64 of mnist, svhn, cifar10 or cifar100, all of the split.

    Looked for under ``root``, then the environment's ATTRIB_DATA, then the user's cache, where missing files
    are downloaded to. Raises InputError where that fails, or a file is not what it should be.
    """
    layout, paths = _find(name, split, root) or _fetch(name, split, root)
    images, labels = layout.read(paths)
    if len(images) != (expected := CATALOG[name].counts[split]):
        where = ", ".join(map(str, paths))
        raise InputError(f"{name} {split}: expected {expected} images, got {len(images)} in {where}; fetch it again")
    return images, labels


def roots(root: Path | None) -> Iterator[Path]:
    """The folders in which data is looked for."""
    if root is not None:
        yield at_home(root)
    if named := os.environ.get("ATTRIB_DATA"):
        yield at_home(named)
    yield _cache()


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("attrib"))


def _find(name: str, split: str, root: Path | None) -> tuple[Layout, list[Path]] | None:
    """The first layout whose files are all there."""
    for place in roots(root):
        for layout in CATALOG[name].layouts:
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
        for remote in CATALOG[name].remotes[split]:
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
    places = list(dict.fromkeys(roots(root)))
    # Of all places and layouts speak of the one where the fewest files are missing.
    missing = [
        [path for file in layout.files[split] if not _existing(path := place / layout.folder / file)]
        for place in places
        for layout in CATALOG[name].layouts
    ]
    fewest = min(missing, key=len)
    files = ", ".join(path.name for path in fewest)
    folders = [path for path in fewest if path.is_dir()]
    looked = ", ".join(map(str, places))
    urls = ", ".join(remote.url for remote in CATALOG[name].remotes[split])
    return (
        f"{name} {split}: no {files} under {looked}"
        + (f" ({folders[0]} is a folder, not a file)" if folders else "")
        + f", and downloading {urls} failed ({one_line(error)[:200]}); "
        f"put them into {fewest[0].parent}, or name their folder with root (--data-root) or ATTRIB_DATA"
    )
