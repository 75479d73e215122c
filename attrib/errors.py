"""The one exception for what the user can mend, and other errors in one line of it."""


class InputError(ValueError):
    """A bad argument or file; its message says what was expected, what came, and what to do.

    The command line prints it as one line and exits with status 2; a notebook shows it like any
    other ``ValueError``.
    """


def one_line(error: BaseException) -> str:
    """The first line of what an error says, with its type where that is none of ours.

    >>> one_line(InputError("eps: expected a number")), one_line(KeyError("weight")), one_line(EOFError())
    ('eps: expected a number', "KeyError: 'weight'", 'EOFError')
    """
    first = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, InputError):
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


class Stopped(Exception):
    """The user interrupted work about which there is something to say: that it can be continued, or what is left."""
