"""The one exception for what the user can mend, and other errors in one line of it."""

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
    """A file or folder that cannot be written, whatever is written to it."""


def one_line(error: BaseException) -> str:
    """The first line of what an error says, with its type where that is none of ours.

    >>> one_line(InputError("eps: expected a number")), one_line(KeyError("weight")), one_line(EOFError())
    ('eps: expected a number', "KeyError: 'weight'", 'EOFError')
    """
    first = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, InputError):
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def printable(message: str) -> str:
    """The message as one line of bounded length: a name or a file in it moves no cursor and fills no screen.

    >>> printable("a\\x1b[31mred.pt:\\n  no such file")
    'a\\\\x1b[31mred.pt: no such file'
    """
    line = " ".join(message.split())
    if len(line) > LONGEST_LINE:
        line = f"{line[: LONGEST_LINE // 2]} [...] {line[-LONGEST_LINE // 2 :]}"
    return _ODD.sub(lambda found: found[0].encode("unicode_escape").decode(), line)


LONGEST_LINE, LONGEST_NAME, LONGEST_PATH = 2000, 200, 4096
"""Characters of a message, of a name in tables and figures, and of a path."""
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and what stands for bytes that are not UTF-8."""


def check_name(kind: str, name: str, *, longest: int = LONGEST_NAME) -> None:
    """Raise InputError for a name that tables, figures and pages cannot hold."""
    if len(name) > longest or _ODD.search(name):
        raise InputError(
            f"{kind}: expected at most {longest} characters that can be printed, got {name!r:.60}; rename it"
        )


def refused(name: str, given: object, known: Iterable[str]) -> InputError:
    """The error for a choice that is none of those known, with the nearest of them.

    >>> str(refused("attack", "pdg", ("fgsm", "pgd", "cw")))
    "attack: expected one of fgsm, pgd, cw, got 'pdg'; did you mean pgd?"
    """
    known = list(known)
    return InputError(f"{name}: expected one of {', '.join(known)}, got {given!r:.200}{meant(given, known)}")


def meant(given: object, known: Iterable[str], *, before: str = "", after: str = "") -> str:
    """ "; did you mean NAME?" with the known name that is nearest, or nothing where none is near.

    Case, hyphens, underscores and spaces count for nothing. before, after: what the name stands between.

    >>> meant("Grad-CAM", ["gradient", "gradcam"]), meant("lime", ["gradient", "gradcam"])
    ('; did you mean gradcam?', '')
    """
    names = {_folded(name): name for name in known}
    near = get_close_matches(_folded(given), names, n=1) if isinstance(given, str) else []
    return f"; did you mean {before}{names[near[0]]}{after}?" if near else ""


def meant_path(missing: Path, *, before: str = "") -> str:
    """``meant`` for a path at which nothing is: the nearest name beside it."""
    beside = [path.name for path in missing.parent.iterdir()] if os.path.isdir(missing.parent) else []
    return meant(missing.name, beside, before=before + ("" if missing.parent == Path() else f"{missing.parent}/"))


def _folded(name: str) -> str:
    return name.lower().translate(str.maketrans("", "", "-_ "))


class Stopped(Exception):
    """The user interrupted work about which there is something to say: that it can be continued, or what is left."""


INTERRUPTED = 130
"""The status of a command that Ctrl-C stopped."""


def interrupted_by_signals() -> None:
    """Let SIGTERM and SIGHUP stop this process as Ctrl-C does: what is finished is kept. Nohup still ignores SIGHUP."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def print_error(line: str, *, status: int) -> None:
    """Print the line with which a command ends. Of torchrun's processes the first that has it prints it."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True) or _is_news(line, status):
        with suppress(OSError):
            sys.stderr.write(f"{line}\n")


def _is_news(line: str, status: int) -> bool:
    """Whether no other process has the same error; of an interruption, whether none has any.

    torchrun stops all processes when one has failed: a rule by rank would lose what only the first to fail can say.
    """
    try:
        from torch.distributed import TCPStore  # here, since torch takes seconds, and one process alone needs none

        where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(*where, is_master=False, timeout=timedelta(seconds=5))
        ended = store.add(f"attrib ended {os.environ['TORCHELASTIC_RESTART_COUNT']}", 1)
        return store.add(line, 1) == 1 and (status != INTERRUPTED or ended == 1)
    except Exception:  # torchrun is gone, or a signal came while torch was imported
        return status != INTERRUPTED
