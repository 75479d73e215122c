"""``python -m train [METHOD] --data NAME --arch NAME --out DIR [--recipe RECIPE ...] [options]``."""

import argparse
import dataclasses
import math
import sys
from pathlib import Path
from typing import Any, NoReturn

from attrib.errors import INTERRUPTED, InputError, interrupted_by_signals, one_line, print_error, printable
from attrib.files import given_path

try:
    from attrib.parallel import is_first, leave
    from train.config import METHODS, Config, read_recipes, value_type
    from train.engine import ENGINES, keep_freed_memory
    from train.loop import OutOfTime, train
except KeyboardInterrupt:  # importing torch takes seconds
    print("train: interrupted; nothing was written", file=sys.stderr)
    sys.exit(INTERRUPTED)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def parse(arguments: list[str]) -> tuple[Config, argparse.Namespace]:
    """Parse the command line into the configuration and the other options. Options override the recipes.

    Raises InputError for unknown options and bad values.
    """
    parsed = _parser().parse_args(arguments)
    parsed.out = given_path(parsed.out, "--out")
    parsed.data_root = None if parsed.data_root is None else given_path(parsed.data_root, "--data-root")
    options: dict[str, Any] = read_recipes(*parsed.recipe)
    for option in dataclasses.fields(Config):
        if getattr(parsed, option.name, None) is not None:
            options[option.name] = getattr(parsed, option.name)
    for name, label in (("method", "a METHOD"), ("data", "--data"), ("arch", "--arch")):
        if name not in options:
            raise InputError(f"{label} is required (on the command line or in a recipe)")
    return Config(**options), parsed


def _parser() -> _Parser:
    parser = _Parser(prog="python -m train", description="Train an image classifier.", allow_abbrev=False)
    parser.add_argument("method", nargs="?", choices=METHODS, help="training method; a recipe may name it instead")
    parser.add_argument("--out", required=True, metavar="DIR", help="where model.pt, last.pt and log.jsonl go")
    parser.add_argument(
        "--recipe", type=Path, action="append", default=[], metavar="RECIPE",
        help="TOML file of options, or the name of one in train/recipes; repeat to combine: later recipes override "
        "earlier ones, and the command line overrides them all",
    )  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="start over instead of continuing from DIR/last.pt")
    parser.add_argument(
        "--tensorboard", action="store_true", help="also write curves for TensorBoard to DIR/tensorboard"
    )
    parser.add_argument(
        "--until", type=_time, metavar="UNIXTIME",
        help="stop with status 3 before an epoch that would end after this time (seconds since 1970), if it takes as"
        " long as the last one; the same command with a later time continues",
    )  # fmt: skip
    parser.add_argument(
        "--no-last", action="store_true",
        help="write last.pt only at the end or when --until stops the run, not after every epoch; a run that is"
        " interrupted in another way starts over",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--engine", choices=ENGINES, default="auto",
        help="how a GPU runs the training step: eager, compiled, or the attack as one CUDA graph (default: compiled)",
    )  # fmt: skip
    parser.add_argument(
        "--data-root", metavar="DIR", help="folder of the data (default: ATTRIB_DATA, else the user cache)"
    )
    group = parser.add_argument_group("configuration, kept in the checkpoint")
    for option in dataclasses.fields(Config):
        if option.name == "method":
            continue
        flag, kind = "--" + option.name.replace("_", "-"), value_type(option)
        choices = option.metadata.get("choices")
        default = "" if option.default in (dataclasses.MISSING, None) else f" (default {option.default})"
        text = option.metadata["help"] + default
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:
            metavar = None if choices else kind.__name__.upper()
            group.add_argument(
                flag,
                type=_number if kind is float else kind,
                default=argparse.SUPPRESS,
                help=text,
                choices=choices,
                metavar=metavar,
            )
    return parser


def _number(text: str) -> float:
    """A number as 0.03 or 8/255."""
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"expected a number like 0.03 or 8/255, got {text!r}") from None


def _time(text: str) -> float:
    """Seconds since 1970."""
    try:
        time = float(text)
    except ValueError:
        time = math.nan
    if not math.isfinite(time):
        raise argparse.ArgumentTypeError(f"expected seconds since 1970, as $(($(date +%s) + 600)), got {text!r}")
    return time


def main() -> int:
    """Run the command line. Returns 0, 2 for wrong input, 3 if --until stopped the run, 130 if it was interrupted."""
    interrupted_by_signals()
    try:
        config, parsed = parse(sys.argv[1:])
        keep_freed_memory()
        run = train(
            config, parsed.out, device=parsed.device, root=parsed.data_root, fresh=parsed.fresh,
            tensorboard=parsed.tensorboard, until=parsed.until, keep_last=not parsed.no_last, engine=parsed.engine,
        )  # fmt: skip
        if is_first():
            print(run.path, flush=True)
    except OutOfTime as error:
        print_error(f"train: {error}", status=3)
        return 3
    except (InputError, OSError) as error:
        print_error(f"train: error: {printable(one_line(error))}", status=2)
        return 2
    except KeyboardInterrupt:
        effect = "continues after the last finished epoch"
        if "--no-last" in sys.argv:
            effect = "starts over, since --no-last keeps no state"
        print_error(f"train: interrupted; the same command {effect}", status=INTERRUPTED)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    leave(main())
