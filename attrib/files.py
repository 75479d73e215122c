"""Write files atomically, lock folders, and tell what is at a path. No torch."""

import json
import math
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from attrib.errors import InputError, WriteError, meant_path

TEMPORARY = f".attrib-{platform.node()}-"
"""The beginning of the names of temporary files; the number of the process follows."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``: it replaces ``path`` after the body, or is deleted if the body raises.

    Raises WriteError if it cannot be written: no such folder, no rights, a full disk.
    """
    try:
        if path.is_dir():
            raise WriteError(f"cannot write {path}: it is a directory; name another place")
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{TEMPORARY}{os.getpid()}-", suffix=path.suffix)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror}; name another place") from None
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except Exception as error:
        if isinstance(error, InputError) or not (reason := _system_error(error)):
            raise
        raise WriteError(f"cannot write {path}: {reason.strerror or reason}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _system_error(error: BaseException | None) -> OSError | None:
    """The OSError that the error is or comes from, if any.

    torch.save and zipfile raise their own errors when they close a file that could not be written.
    """
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def at_home(path: str | Path) -> Path:
    """The path with ~ expanded; unchanged if there is no such user (Path.expanduser raises an error)."""
    return Path(os.path.expanduser(path))


def given_path(text: str, name: str) -> Path:
    """The path that an option names, with ~ expanded. Raises InputError for an empty path or an unknown user."""
    if not text or os.path.expanduser(text).startswith("~"):
        raise InputError(f"{name}: expected a path, got {text!r}{'; there is no such user' if text else ''}")
    return at_home(text)


def folder(path: Path) -> Path:
    """Create the folder if it is missing, and delete the temporary files of killed processes in it; returns it.

    Raises WriteError if it cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        for left in path.glob(f"{TEMPORARY}*"):
            process = left.name.removeprefix(TEMPORARY).partition("-")[0]
            if process.isdecimal() and not _runs(int(process)):
                left.unlink(missing_ok=True)
    except FileExistsError:
        raise WriteError(f"out (--out): expected a folder, found {found_at(path)} at {path}") from None
    except OSError as error:
        raise WriteError(
            f"cannot write to the folder {path}: {error.strerror}; name another with out (--out)"
        ) from None
    return path


def found_at(path: str | Path, *, before: str = "") -> str:
    """What is at a path, for an error's message: a file, a folder, a pipe or device, or nothing, with the nearest name.

    before: the text before the path in the user's input.
    """
    if os.path.isfile(path):  # unlike Path's, these take every text, also one too long for a name
        return "a file"
    if os.path.isdir(path):
        return "a folder"
    return "a pipe or device" if os.path.exists(path) else f"nothing{meant_path(Path(path), before=before)}"


def _runs(process: int) -> bool:
    """Whether there is, or may be, such a process on this machine."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the folder against other runs. Raises WriteError, with the owner, if another run holds the lock.

    It is the system's lock (flock), which ends with its process, however that ends. The number of a process does not
    tell whether it lives in another container, or on another machine that shares the file system.
    """
    lock, owner = FileLock(path / ".attrib.lock"), path / ".attrib.owner"
    try:
        lock.acquire(blocking=False)
    except Timeout:
        who = owner.read_text() if owner.exists() else "another run"
        raise WriteError(f"{path} is written to by {who}; wait until it ends, or name another folder") from None
    except OSError:  # a file system without locks
        yield
        return
    try:
        with atomic(owner) as temporary:
            temporary.write_text(
                f"process {os.getpid()} on {platform.node()}, since {datetime.now():%Y-%m-%d %H:%M:%S}"
            )
        yield
    finally:
        owner.unlink(missing_ok=True)
        with suppress(OSError):  # Windows deletes no file that is open
            os.unlink(lock.lock_file)
        lock.release()


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
