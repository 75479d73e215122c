"""The command ``attrib``: one file per sub-command. Imports torch only inside a command, so that help is instant."""

import os
import sys
import warnings

import typer
from typer.exceptions import TyperException

from attrib.cli import batches, check, contrib, evolve, fc, info, maps, relate, report, robust, sets, span, zoo
from attrib.errors import InputError

INTERRUPTED = 130
"""The status of a command that Ctrl-C stopped; typer returns it where nobody else has something to say."""

app = typer.Typer(
    name="attrib",
    help="What does an image classifier look at, how much of the image does it use, and is the difference real?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("span")(span.span)
app.command("maps")(maps.maps)
app.command("sets")(sets.sets)
app.command("contrib")(contrib.contrib)
app.command("fc")(fc.fc)
app.command("robust")(robust.robust)
app.command("check")(check.check)
app.command("evolve")(evolve.evolve)
app.command("relate")(relate.relate)
app.command("report")(report.report)
app.command("info")(info.info)
app.command("zoo")(zoo.zoo)


def main() -> None:
    """Run the command line and exit: 0 done, 2 for anything the user can mend, said in one line on stderr."""
    warnings.showwarning = _show_warning
    sys.path.insert(0, os.getcwd())  # so that --model finds the user's own module
    try:
        status = app(standalone_mode=False) or 0
        message = "interrupted; nothing was written" if status == INTERRUPTED else ""
    except InputError as error:
        message, status = str(error), 2
    except TyperException as error:
        message, status = error.format_message(), 2
    except batches.Stopped as stop:
        message, status = f"interrupted; {stop}", INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; a second attempt to flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    if message:  # none where all went well, or the command line was empty and the help was printed instead
        print(f"attrib: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def _show_warning(message: Warning | str, *_args: object, **_names: object) -> None:
    print(f"attrib: warning: {message}", file=sys.stderr)
