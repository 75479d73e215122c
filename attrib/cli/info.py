"""``attrib info``: what is in this file?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from attrib.cli import common
from attrib.cli.subjects import files_of, named_pairs
from attrib.errors import InputError


def info(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH...", help="Checkpoint files.")] = None,
    ckpt: common.Ckpt = None,
    arch: common.Arch = None,
    json: common.Json = False,
) -> None:
    """Architecture, training, metrics and fingerprint of checkpoint files."""
    from attrib import results
    from attrib.models import checkpoint
    from attrib.models.cards import checkpoint_card

    given = [
        *(paths or ()),
        *(path for _, text in named_pairs(ckpt or (), lambda text: Path(text).stem) for path in files_of(text)),
    ]
    if not given:
        raise InputError("name at least one checkpoint: attrib info PATH")
    cards = []
    for path in given:
        model, ckpt_read = checkpoint.load(path, arch=arch)
        cards.append(checkpoint_card(path, model, ckpt_read))
    if json:
        typer.echo(results.to_json({"checkpoints": cards}))
        return
    for card in cards:
        typer.echo(card["path"])
        for key, value in card.items():
            if key != "path":
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
