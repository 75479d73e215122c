"""Limits on sizes, and checks of the memory that a file needs before it is read. No torch."""

import pickletools
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from attrib.errors import InputError
from attrib.files import found_at

MOST = 10**8
"""The most objects nested in one. More are an attack: hashing a pair of the same pair of ... would never end."""
LARGEST_NUMBER = 2**63 - 1
"""The largest int64."""
MOST_CLASSES = 100_000
"""More classes, or a larger label, are a mistake."""
LARGEST_SIDE = 2**13
"""The longest side of an image in pixels; such an image has 0.8 GB."""
ROUNDING = 1e-5
"""The tolerance for pixels outside [0,1], as after undoing a normalisation."""
LARGEST = 8 * 2**30
"""The most bytes that images or arrays may take in memory, unless their file is larger."""

LARGEST_TOML = 10**6
"""The most bytes of a TOML file; the options of a run take a few hundred."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises InputError if it is not one, or has more than ``LARGEST_TOML`` bytes."""
    if not path.is_file():
        raise InputError(f"expected a TOML file at {path}, got {found_at(path)}")
    if (size := path.stat().st_size) > LARGEST_TOML:
        raise InputError(f"expected a TOML file of at most {LARGEST_TOML:,} bytes at {path}, got {size:,}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"expected a TOML file at {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected TOML in {path}: {error}") from None


def check_unpacked(path: Path, arrays: Iterable[str]) -> None:
    """Raise InputError if the arrays of an NPZ file unpack to more than ``LARGEST`` bytes and the file's size."""
    names = {f"{name}.npy" for name in arrays}
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist() if entry.filename in names)
    if size > max(LARGEST, path.stat().st_size):
        raise InputError(f"{path}: refused: its arrays would take {size:,} bytes")


def check_pickle(file: IO[bytes]) -> None:
    """Read one pickle to its end without building its objects.

    Raises InputError if a length goes beyond the file, the memo has holes, or one object contains too many others.
    """
    stack: list[list[int] | None] = []  # per object [the number of objects in it, with itself]; None: a mark
    memo: dict[int, list[int] | None] = {}
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                place = len(memo) if argument is None else argument
                if place > 2 * len(memo) + 1000:  # the unpickler's table is as long as the highest place
                    raise InputError(f"its memo has an entry {place}")
                memo[place] = stack[-1]
            elif opcode.name == "MARK":
                stack.append(None)
            elif opcode.name in ("GET", "BINGET", "LONG_BINGET", "DUP"):
                stack.append(stack[-1] if argument is None else memo[argument])
            else:
                _apply(opcode, stack)
    except (ValueError, IndexError, KeyError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"it is cut off or broken ({error})") from None


def _apply(opcode: pickletools.OpcodeInfo, stack: list[list[int] | None]) -> None:
    """Pop the operation's arguments from the stack, and push its result."""
    total, last = 1, None
    for kind in reversed(opcode.stack_before):
        while kind is pickletools.stackslice and stack[-1] is not None:
            total += (stack.pop() or [0])[0]
        if kind is not pickletools.stackslice:
            last = stack.pop()
            total += (last or [0])[0]
    if total > MOST:
        raise InputError(f"it holds an object of more than {MOST:,} others")
    if opcode.stack_after:
        changed = last if opcode.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD") else None
        if changed:
            changed[0] = total
        stack.append(changed or [total])
