"""Writing files so that none is ever half-written, and what is at a path. No torch."""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrib.errors import InputError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the body is through, and vanishes when it raises.

    Raises InputError where the folder cannot be written to.
    """
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a directory; name another place")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; name another place") from None
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def folder(path: Path) -> Path:
    """The folder, made where it is missing; raises InputError where that cannot be, or it cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"cannot write to the folder {path}: {error.strerror}; name another with --out") from None
    return path


def found_at(path: str | Path) -> str:
    """What is at a path, as an error says it: a file, a folder, nothing, or what is neither, as a pipe or a device."""
    if os.path.isfile(path):  # unlike Path's, these take every text, also one too long for a name
        return "a file"
    if os.path.isdir(path):
        return "a folder"
    return "a pipe or device" if os.path.exists(path) else "nothing"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def to_json(summary: Mapping[str, Any]) -> str:
    """The summary as JSON text; NaN, which JSON lacks, becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    return json.dumps(plain(summary), indent=2, allow_nan=False)
