"""``attrib info``: what is in this file?"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrib.cli.options import SPEC, named_files
from attrib.errors import InputError
from attrib.lazy import Lazy

if TYPE_CHECKING:
    from attrib import files
    from attrib.models import checkpoint
else:
    files, checkpoint = Lazy("attrib.files"), Lazy("attrib.models.checkpoint")


def info(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH...", help="Checkpoint files.")] = None,
    ckpt: Annotated[list[str] | None, typer.Option("--ckpt", metavar="[NAME=]SPEC", help=SPEC)] = None,
    arch: Annotated[str | None, typer.Option(help="Architecture of a bare state dict.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Architecture, training, metrics and fingerprint of checkpoint files."""
    given = [*(paths or ()), *(path for text in ckpt or () for path in named_files(text)[1])]
    if not given:
        raise InputError("name at least one checkpoint: attrib info PATH")
    cards = []
    for path in given:
        model, ckpt_read = checkpoint.load(path, arch=arch)
        cards.append(card_of(path, model, ckpt_read))
    if json:
        typer.echo(files.to_json({"checkpoints": cards}))
        return
    for card in cards:
        typer.echo(card["path"])
        for key, value in card.items():
            if key != "path":
                typer.echo(f"  {key:<13} {_line(value)}")


def card_of(path: str, model: Any, ckpt: Any) -> dict[str, Any]:
    """What a checkpoint file says of its model."""
    return {
        "path": path,
        "fingerprint": ckpt.fingerprint,
        "architecture": ckpt.arch,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "classes": ckpt.num_classes,
        "input": "x".join(map(str, ckpt.input_shape)),
        "data": ckpt.data,
        "method": ckpt.method,
        "epoch": ckpt.epoch,
        "metrics": ckpt.metrics,
        "configuration": ckpt.hyper,
        "arguments": ckpt.arch_kwargs,
        "format": ckpt.format_version,
        "versions": ckpt.versions,
    }


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
