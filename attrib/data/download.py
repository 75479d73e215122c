"""Find the files of the public data sets on disk; download missing ones and verify their checksums."""

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
    """All images (N,C,H,W) uint8 and labels (N,) int64 of a split of mnist, svhn, cifar10 or cifar100.

    The search order is ``root``, the environment's ATTRIB_DATA, the user's cache. Missing files are downloaded to the
    cache. Raises InputError if that fails or a file is invalid.
    """
    layout, paths = _find(name, split, root) or _fetch(name, split, root)
    images, labels = layout.read(paths)
    if len(images) != (expected := CATALOG[name].counts[split]):
        where = ", ".join(map(str, paths))
        raise InputError(f"{name} {split}: expected {expected} images, got {len(images)} in {where}; fetch it again")
    return images, labels


def roots(root: Path | None) -> Iterator[Path]:
    """The folders to search, in order."""
    if root is not None:
        yield at_home(root)
    if from_environment := os.environ.get("ATTRIB_DATA"):
        yield at_home(from_environment)
    yield _cache()


def _cache() -> Path:
    import pooch  # here, since it takes long and most calls need no download

    return Path(pooch.os_cache("attrib"))


def _find(name: str, split: str, root: Path | None) -> tuple[Layout, list[Path]] | None:
    """The first layout whose files all exist, and these files."""
    for place in roots(root):
        for layout in CATALOG[name].layouts:
            paths = [_existing(place / layout.folder / file) for file in layout.files[split]]
            if all(paths):
                return layout, [path for path in paths if path]
    return None


def _existing(path: Path) -> Path | None:
    """The file or its gzipped version; None if neither exists."""
    packed = path.with_name(f"{path.name}.gz")
    return next((candidate for candidate in (path, packed) if candidate.is_file()), None)


def _fetch(name: str, split: str, root: Path | None) -> tuple[Layout, list[Path]]:
    try:
        for remote in CATALOG[name].remotes[split]:
            _download(remote, _cache())
    except Exception as error:  # of requests, urllib3, tarfile, ...: the advice is the same for all
        raise InputError(_advice(name, split, root, error)) from None
    if layout_and_paths := _find(name, split, root):
        return layout_and_paths
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
    """Unpack the archive into ``target`` and delete it; an interrupted run leaves no partial folder."""
    with tempfile.TemporaryDirectory(dir=target) as unpacked:
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        for entry in Path(unpacked).iterdir():
            shutil.rmtree(target / entry.name, ignore_errors=True)
            entry.replace(target / entry.name)
    archive.unlink()


def _cause(error: BaseException) -> str:
    """Why a download failed: a library's error ends with the system's own."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return one_line(error)[:200]


def _advice(name: str, split: str, root: Path | None, error: Exception) -> str:
    """One line: the missing files, the folders searched, why the download failed, and where to put the files."""
    places = list(dict.fromkeys(roots(root)))
    # The user most likely has the layout where the fewest files are missing.
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
        + f", and downloading {urls} failed ({_cause(error)}); "
        f"put them into {fewest[0].parent}, or name their folder with root (--data-root) or ATTRIB_DATA"
    )
