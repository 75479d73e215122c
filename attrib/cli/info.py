"""``attrib info``: what is in this file?"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrib.cli.options import SPEC, named_files
from attrib.errors import InputError
from attrib.lazy import Lazy

if TYPE_CHECKING:
    from attrib import files
    from attrib.models import cards, checkpoint
else:
    cards, checkpoint = Lazy("attrib.models.cards"), Lazy("attrib.models.checkpoint")
    files = Lazy("attrib.files")


def info(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH...", help="Checkpoint files.")] = None,
    ckpt: Annotated[list[str] | None, typer.Option("--ckpt", metavar="[NAME=]SPEC", help=SPEC)] = None,
    arch: Annotated[str | None, typer.Option(help="Architecture of a bare state dict.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Architecture, training, metrics and fingerprint of checkpoint files; of others' files their weights."""
    given = [*(paths or ()), *(path for text in ckpt or () for path in named_files(text)[1])]
    if not given:
        raise InputError("name at least one checkpoint: attrib info PATH")
    each = [
        cards.checkpoint_card(path, *checkpoint.load(path, arch=arch))
        if arch or checkpoint.is_ours(path)
        else cards.weights_card(path)
        for path in given
    ]
    if json:
        typer.echo(files.to_json({"checkpoints": each}))
        return
    for card in each:
        typer.echo(card["path"])
        for key, value in card.items():
            if key == "shapes":
                for name, shape in value.items():
                    typer.echo(f"    {name:<40} {shape}")
            elif key != "path":
                typer.echo(f"  {key:<13} {_line(value)}")


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key}={_line(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(_line, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value) if value not in ("", None) else "–"
