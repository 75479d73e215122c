"""The command ``attrib``. Its help imports no torch; an analysis imports it when it runs."""

import codecs
import io
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import attrib
from attrib.analyses import ANALYSES
from attrib.errors import INTERRUPTED, InputError, Stopped, interrupted_by_signals, print_error, printable, refused

INTERRUPTED_MESSAGE = "interrupted; nothing was written"
"""The message if there is no other; typer then returns the status."""

try:
    import typer
    from typer.core import TyperGroup
    from typer.main import get_command_from_info
    from typer.models import CommandInfo
except KeyboardInterrupt:
    print(f"attrib: error: {INTERRUPTED_MESSAGE}", file=sys.stderr)
    sys.exit(INTERRUPTED)

COMMANDS = {
    **{name: (f"attrib.analyses.{name}:{entry.kind}", entry.question) for name, entry in ANALYSES.items()},
    "report": ("attrib.cli.report:report", "One HTML page of everything."),
    "info": ("attrib.cli.info:info", "What is in this checkpoint file?"),
    "zoo": ("attrib.cli.zoo:zoo", "Which trained models come with the package?"),
}
"""The location of every command, and its line in ``attrib --help``, which imports no command."""


class Lazily(TyperGroup):
    """A group of commands that are imported when they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in for a command, with its line for the list of commands."""
        return _made(cmd_name, _nothing, COMMANDS[cmd_name][1]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command to run, and its arguments."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise refused("command", args[0], COMMANDS)
        name, _, rest = super().resolve_command(ctx, args)
        return name, _made(str(name), function_of(COMMANDS[str(name)][0]), None), rest


def _made(name: str, callback: Callable[..., None], help: str | None) -> Any:
    info = CommandInfo(name=name, callback=callback, help=help)
    return get_command_from_info(info, pretty_exceptions_short=True, rich_markup_mode=None)


def _nothing() -> None:
    """The function of a stand-in for a command."""


def function_of(place: str) -> Callable[..., None]:
    """The function of a command; for an analysis it is made from its class."""
    module, _, name = place.partition(":")
    target: Any = getattr(import_module(module), name)
    from attrib.cli.options import command  # imports numpy, which attrib --help does not need

    function: Callable[..., None] = command(target) if isinstance(target, type) else target
    return function


app = typer.Typer(
    name="attrib", cls=Lazily, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="What does an image classifier look at, how much of the image does it use, and is the difference real?",
)  # fmt: skip


def _version(requested: bool) -> None:
    if requested:
        typer.echo(attrib.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Options of attrib itself."""


def main() -> None:
    """Run the command line and exit: status 0 on success, 2 with one line on stderr for a user's error."""
    interrupted_by_signals()
    warnings.showwarning = _show_warning
    codecs.register_error("attrib", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if utf8 else "attrib")  # a path's bytes may be any
    try:
        status = app(standalone_mode=False) or 0
        sys.stdout.flush()
        message = INTERRUPTED_MESSAGE if status == INTERRUPTED else ""
    except InputError as error:
        message, status = str(error), 2
    except typer.Abort as error:  # older typers raise it for Ctrl-C, all for an EOFError
        if isinstance(error.__cause__, EOFError):
            raise error.__cause__ from None
        message, status = INTERRUPTED_MESSAGE, INTERRUPTED
    except Stopped as stop:
        message, status = f"interrupted; {stop}", INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        sys.exit(141)
    except OSError as error:
        _drop_output()
        message, status = f"{error.filename or 'cannot write the output'}: {error.strerror or error}", 2
    except Exception as error:
        if not hasattr(error, "format_message"):  # a usage error: click's, or typer's own since it has them
            raise
        message, status = _words(error), 2
    if message:  # empty on success, and if an empty command line printed the help
        print_error(f"attrib: error: {printable(message)}", status=status)
    sys.exit(status)


def _drop_output() -> None:
    """Discard the rest of the output, so that flushing it at exit does not fail again."""
    with suppress(OSError):  # a stream in Python has no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


IN_ASCII = str.maketrans({"−": "-", "–": "-", "─": "-", "↓": "v", "↑": "^", "…": ".", "×": "x", "·": "."})


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that the terminal's encoding lacks, such as the minus sign in Windows' cp1252."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end].translate(IN_ASCII)
    return lacking.encode("ascii", "replace").decode(), error.end


def _words(error: Any) -> str:
    """The message of a usage error; for an unknown option with the nearest ones."""
    option, near = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    if option and near:
        return f"{option}: no such option; did you mean {' or '.join(near)}?"
    return str(error.format_message())


def _show_warning(message: Warning | str, *_args: object, **_names: object) -> None:
    print(f"attrib: warning: {printable(str(message))}", file=sys.stderr)
