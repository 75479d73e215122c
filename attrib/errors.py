"""The one exception for what the user can mend."""


class InputError(ValueError):
    """A bad argument or file; its message says what was expected, what came, and what to do.

    The command line prints it as one line and exits with status 2; a notebook shows it like any
    other ``ValueError``.
    """
