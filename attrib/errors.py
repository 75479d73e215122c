"""The exception for users' errors, and one-line messages of errors."""

import os
import re
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path


class InputError(ValueError):
    """A bad argument or file; its message says what was expected, what came, and what to do.

    The command line prints it as one line and exits with status 2; a notebook shows it like any
    other ``ValueError``.
    """


class WriteError(InputError):
    """A file or folder that cannot be written."""


def one_line(error: BaseException) -> str:
    """The first line of an error's message, after its type unless it is an InputError.

    >>> one_line(InputError("eps: expected a number")), one_line(KeyError("weight")), one_line(EOFError())
    ('eps: expected a number', "KeyError: 'weight'", 'EOFError')
    """
    first = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, InputError):
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def printable(message: str) -> str:
    """The message as one line of bounded length, with control characters escaped.

    >>> printable("a\\x1b[31mred.pt:\\n  no such file")
    'a\\\\x1b[31mred.pt: no such file'
    """
    line = " ".join(message.split())
    if len(line) > LONGEST_LINE:
        line = f"{line[: LONGEST_LINE // 2]} [...] {line[-LONGEST_LINE // 2 :]}"
    return _ODD.sub(lambda match: match[0].encode("unicode_escape").decode(), line)


LONGEST_LINE, LONGEST_NAME, LONGEST_PATH = 2000, 200, 4096
"""Characters of a message, of a name in tables and figures, and of a path."""
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and the characters that stand for bytes that are not UTF-8."""


def check_name(kind: str, name: str, *, longest: int = LONGEST_NAME) -> None:
    """Raise InputError for a name that tables, figures and pages cannot hold."""
    if len(name) > longest or _ODD.search(name):
        raise InputError(
            f"{kind}: expected at most {longest} characters that can be printed, got {name!r:.60}; rename it"
        )


def refused(name: str, given: object, known: Iterable[str]) -> InputError:
    """The error for an unknown choice, with the nearest known one.

    >>> str(refused("attack", "pdg", ("fgsm", "pgd", "cw")))
    "attack: expected one of fgsm, pgd, cw, got 'pdg'; did you mean pgd?"
    """
    known = list(known)
    return InputError(f"{name}: expected one of {', '.join(known)}, got {given!r:.200}{meant(given, known)}")


def meant(given: object, known: Iterable[str], *, before: str = "", after: str = "") -> str:
    """ "; did you mean NAME?" with the nearest known name; empty if none is near.

    Case, hyphens, underscores and spaces are ignored. before, after: text around the name.

    >>> meant("Grad-CAM", ["gradient", "gradcam"]), meant("lime", ["gradient", "gradcam"])
    ('; did you mean gradcam?', '')
    """
    names = {_folded(name): name for name in known}
    near = get_close_matches(_folded(given), names, n=1) if isinstance(given, str) else []
    return f"; did you mean {before}{names[near[0]]}{after}?" if near else ""


def meant_path(missing: Path, *, before: str = "") -> str:
    """``meant`` for a missing path: the nearest name in its folder."""
    beside = [path.name for path in missing.parent.iterdir()] if os.path.isdir(missing.parent) else []
    return meant(missing.name, beside, before=before + ("" if missing.parent == Path() else f"{missing.parent}/"))


def _folded(name: str) -> str:
    return name.lower().translate(str.maketrans("", "", "-_ "))


class Stopped(Exception):
    """The user interrupted work; the message says how to continue, or what is left."""


INTERRUPTED = 130
"""The status of a command that Ctrl-C stopped."""


def interrupted_by_signals() -> None:
    """Let SIGTERM and SIGHUP stop this process as Ctrl-C does: finished work is kept. Nohup still ignores SIGHUP."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def print_error(line: str, *, status: int) -> None:
    """Print the last line of a command; under torchrun, only the first process with this line prints it."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True) or _is_news(line, status):
        with suppress(OSError):
            sys.stderr.write(f"{line}\n")


def _is_news(line: str, status: int) -> bool:
    """Whether no other process has the same error; for an interruption, whether none has any.

    torchrun stops all processes when one fails, so only that one, whatever its rank, knows the reason.
    """
    try:
        from torch.distributed import TCPStore  # here: torch takes seconds, and one process does not need it

        where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(*where, is_master=False, timeout=timedelta(seconds=5))
        ended = store.add(f"attrib ended {os.environ['TORCHELASTIC_RESTART_COUNT']}", 1)
        return store.add(line, 1) == 1 and (status != INTERRUPTED or ended == 1)
    except Exception:  # torchrun is gone, or a signal came while torch was imported
        return status != INTERRUPTED
