"""What a file would take to be read, found before anything is made of it. No torch."""

import pickletools
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from attrib.errors import InputError

MOST = 10**8
"""Objects in one: more are an attack, as of a pair of twice the same pair of twice ..., whose hash takes for ever."""


LARGEST_NUMBER = 2**63 - 1
"""That a machine counts to."""
MOST_CLASSES = 100_000
"""More, or a larger label, are a mistake."""
LARGEST_SIDE = 2**13
"""Of an image, in pixels: one of 0.8 GB."""
ROUNDING = 1e-5
"""How far a pixel may lie outside [0,1], as after a normalisation that was undone."""
LARGEST = 8 * 2**30
"""Bytes that are taken into memory of a file that is smaller itself."""


def check_unpacked(path: Path, arrays: Iterable[str]) -> None:
    """Raise InputError where arrays of an NPZ file are far larger than the file."""
    names = {f"{name}.npy" for name in arrays}
    with zipfile.ZipFile(path) as archive:
        size = sum(each.file_size for each in archive.infolist() if each.filename in names)
    if size > max(LARGEST, path.stat().st_size):
        raise InputError(f"{path}: refused: its arrays would take {size:,} bytes")


def check_pickle(file: IO[bytes]) -> None:
    """Read one pickle to its end without making anything of it.

    Raises InputError where its lengths go beyond the file, its memo has holes, or one object holds too many others.
    """
    stack: list[list[int] | None] = []  # of every object how many it holds, and itself; None: a mark
    memo: dict[int, list[int] | None] = {}
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                place = len(memo) if argument is None else argument
                if place > 2 * len(memo) + 1000:  # the reader's table would be as long as its highest place
                    raise InputError(f"it numbers an object {place}")
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
    """Take from the stack what the operation takes, and put there what it gives."""
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
