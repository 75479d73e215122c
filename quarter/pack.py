"""Carry runs and results from one machine to another: one archive in a few parts, the most important files first.

The archive is a tar of files, each compressed by itself. A member's name is ``xzK/PATH``: its bytes are split into K
interleaved planes (2 for half, 4 for single precision), which compress better, and packed with xz.
"""

import dataclasses
import io
import lzma
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from attrib.errors import InputError, one_line
from attrib.files import atomic, folder
from figures.models import Row
from quarter import ledger

PART, PARTS, TOTAL = 15 * 2**20, 8, 60 * 2**20
"""Bytes per part, number of parts, and bytes of all parts together."""
BLOCK = 512
"""Tar writes whole blocks."""
TAIL = 20 * BLOCK
"""Bytes that tar may write after the last member."""
TABLES = ".csv"
"""Suffix of tables with a row per image. They stay compressed when they are unpacked."""


class Member(NamedTuple):
    """A file of the archive."""

    path: str
    """``runs/...``, ``results/...`` or ``ledger.json``."""
    planes: int
    content: Callable[[], bytes]
    time: float = 0.0
    """When the file was written."""


def collect(rows: Sequence[Row], *, runs: Path, results: Path, ledger_path: Path) -> list[Member]:
    """Collect the files of the rows, in order of value.

    The order: ledger, results (without PNG, since every picture is a PDF too) and logs; states of unfinished small
    networks; weights of finished small networks; weights of large networks; saved epochs.
    """
    first: list[Member] = []
    states: list[Member] = []
    small: list[Member] = []
    large: list[Member] = []
    epochs: list[Member] = []
    if ledger_path.exists():
        first.append(_whole(ledger_path, "ledger.json"))
    for row in rows:
        for path in sorted((results / row.key).glob("*/[!.]*")):
            if path.is_file() and path.suffix != ".png":
                first += [_whole(path, f"results/{path.relative_to(results)}")]
        run = runs / row.key
        model, last, log = run / "model.pt", run / "last.pt", run / "log.jsonl"
        if not model.exists() or not log.exists():
            continue
        if is_finished(run):
            first.append(_whole(log, f"runs/{row.key}/log.jsonl"))
            (small if row.small else large).append(_halved(model, f"runs/{row.key}/model.pt"))
            epochs += [_halved(path, f"runs/{row.key}/{path.name}") for path in sorted(run.glob("epoch-*.pt"))]
        elif row.small and last.exists():
            first.append(_whole(log, f"runs/{row.key}/log.jsonl"))
            states += [_whole(path, f"runs/{row.key}/{path.name}", planes=4) for path in (last, model)]
            epochs += [_whole(path, f"runs/{row.key}/{path.name}", 4) for path in sorted(run.glob("epoch-*.pt"))]
    return [*first, *states, *small, *large, *epochs]


def is_finished(run: Path) -> bool:
    """Whether the run in this folder has finished all its epochs."""
    from attrib.models import checkpoint

    return len(ledger.history(run)) >= int(str(checkpoint.read(run / "model.pt").hyper.get("epochs", 1)))


def _whole(path: Path, name: str, planes: int = 1) -> Member:
    return Member(name, planes, path.read_bytes, path.stat().st_mtime)


def _halved(path: Path, name: str) -> Member:
    return Member(name, 2, partial(halved, path), path.stat().st_mtime)


def halved(path: Path) -> bytes:
    """The checkpoint with weights in half precision, as the bytes of a file."""
    from attrib.models import checkpoint

    ckpt = checkpoint.read(path)
    weights = {name: value.half() if value.is_floating_point() else value for name, value in ckpt.weights.items()}
    with tempfile.TemporaryDirectory() as place:
        small = Path(place) / "model.pt"
        checkpoint.save(dataclasses.replace(ckpt, weights=weights), small)
        return small.read_bytes()


def pack(members: Sequence[Member], out: Path, *, part: int = PART, total: int = TOTAL) -> list[str]:
    """Write ``out``/pack-I-of-N, each at most ``part`` bytes, together at most ``total`` bytes.

    Leaves out every member that no longer fits after those before it. Returns the paths of the members left out.
    """
    total = min(total, part * PARTS)
    buffer, left_out, size = io.BytesIO(), [], TAIL
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive, ThreadPoolExecutor() as pool:
        for member, data in zip(members, pool.map(_compressed, members), strict=True):
            header = tarfile.TarInfo(f"xz{member.planes}/{member.path}")
            header.size, header.mtime = len(data), int(member.time)
            needed = len(header.tobuf(tarfile.GNU_FORMAT)) + -(-len(data) // BLOCK) * BLOCK
            if size + needed > total:
                left_out.append(member.path)
                continue
            size += needed
            archive.addfile(header, io.BytesIO(data))
    content = buffer.getvalue()
    count = -(-len(content) // part)
    folder(out)
    for number in range(count):
        with atomic(out / f"pack-{number + 1}-of-{count}") as temporary:
            temporary.write_bytes(content[number * part : (number + 1) * part])
    return left_out


def _compressed(member: Member) -> bytes:
    content = member.content()
    return lzma.compress(b"".join(content[plane :: member.planes] for plane in range(member.planes)))


def _restored(data: bytes, planes: int) -> bytes:
    split = lzma.decompress(data)
    content = bytearray(len(split))
    start = 0
    for plane in range(planes):
        length = len(range(plane, len(split), planes))
        content[plane::planes] = split[start : start + length]
        start += length
    return bytes(content)


def unpack(source: Path, *, runs: Path, results: Path, ledger_path: Path) -> list[str]:
    """Write the archive's files to their places and merge the ledger. Returns the paths in the archive.

    Tables with a row per image stay compressed: NAME.csv.xz. Raises InputError for a missing part, a file that is no
    such archive, and a run's folder that holds another run.
    """
    places = {"runs": runs, "results": results}
    files = list(_files(source))
    for file in files:
        if file.path.endswith("/log.jsonl"):
            _check_same_run(runs / Path(file.path).relative_to("runs"), file.content.decode())
    for path, content, time in files:
        if path == "ledger.json":
            ledger.merge(ledger_path, ledger.parse(content.decode(), source))
            continue
        place, _, below = path.partition("/")
        target = places[place] / below
        if path.endswith(TABLES):
            target, content = target.with_name(f"{target.name}.xz"), lzma.compress(content)
        folder(target.parent)
        with atomic(target) as temporary:
            temporary.write_bytes(content)
        os.utime(target, (time, time))
    return [file.path for file in files]


class _File(NamedTuple):
    """A file from an archive."""

    path: str
    content: bytes
    time: float


def _files(source: Path) -> Iterator[_File]:
    """Read the files from the parts in a folder."""
    content = _joined(source)
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for info in archive:
                encoding, _, path = info.name.partition("/")
                packed = archive.extractfile(info)
                inside = path == "ledger.json" or path.split("/")[0] in ("runs", "results")
                if packed is None or not encoding.startswith("xz") or not inside or ".." in path.split("/"):
                    raise InputError(f"--unpack: {source} has {info.name!r}, which belongs to no archive of runs")
                yield _File(path, _restored(packed.read(), int(encoding.removeprefix("xz"))), info.mtime)
    except InputError:
        raise
    except (tarfile.TarError, lzma.LZMAError, ValueError) as error:
        reason = one_line(error)
        raise InputError(
            f"--unpack: the parts in {source} are not an archive of runs ({reason}); copy them again"
        ) from None


def _joined(source: Path) -> bytes:
    """Join the parts of an archive."""
    if not source.is_dir():
        raise InputError(f"--unpack: expected the parts of one archive in {source}, which is no folder")
    parts = {path.name: path for path in source.glob("pack-*-of-*")}
    counts = {name.rpartition("-")[2] for name in parts}
    if len(counts) != 1:
        expected = f"the parts of one archive, pack-1-of-N, in {source}"
        raise InputError(f"--unpack: expected {expected}, found those of {len(counts)}")
    names = [f"pack-{number}-of-{count}" for count in counts for number in range(1, int(count) + 1)]
    if missing := [name for name in names if name not in parts]:
        raise InputError(f"--unpack: {source} lacks {', '.join(missing)}; copy it there")
    return b"".join(parts[name].read_bytes() for name in names)


def _check_same_run(log: Path, text: str) -> None:
    """Raise InputError unless the folder of ``log`` holds no run, or an earlier state of the same run."""
    if (log.parent / "model.pt").exists() and not text.startswith(log.read_text() if log.exists() else "?"):
        raise InputError(f"--unpack: {log.parent} holds another run; move it away, or name another folder with --runs")
