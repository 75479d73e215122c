"""``attrib info``: what is in a file, and which class is each folder of pictures?"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrib.cli.options import SPEC, named_files
from attrib.errors import InputError
from attrib.lazy import Lazy

if TYPE_CHECKING:
    from attrib import files
    from attrib.analyses import fitting
    from attrib.data import folders as data_folders
    from attrib.models import cards, checkpoint, hubs, names, specs
    from attrib.models.specs import Model
else:
    cards, checkpoint, specs = (Lazy(f"attrib.models.{name}") for name in ("cards", "checkpoint", "specs"))
    files, fitting = Lazy("attrib.files"), Lazy("attrib.analyses.fitting")
    data_folders = Lazy("attrib.data.folders")
    hubs, names = Lazy("attrib.models.hubs"), Lazy("attrib.models.names")


def info(
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH...", help="Models, and folder:DIR: which class is each folder?")
    ] = None,
    ckpt: Annotated[list[str] | None, typer.Option("--ckpt", metavar="[NAME=]SPEC", help=SPEC)] = None,
    arch: Annotated[str | None, typer.Option(help="Architecture of a bare state dict.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Architecture, training, metrics and fingerprint of checkpoint files; for other files, their weights."""
    given = [*(paths or ()), *(path for text in ckpt or () for path in named_files(text)[1])]
    if not given:
        raise InputError("name at least one checkpoint: attrib info PATH")
    folders = [path for path in given if data_folders.is_data(path)]
    models = [(path, _model(path, arch)) for path in given if path not in folders]
    model_cards = [cards.weights_card(path) if model is None else cards.card_of(model) for path, model in models]
    data_cards = [fitting.data_card(path, [model for _, model in models if model]) for path in folders]
    if json:
        typer.echo(files.to_json({"checkpoints": model_cards} | ({"data": data_cards} if data_cards else {})))
        return
    for card in model_cards + data_cards:
        typer.echo(card["path"])
        for key, value in card.items():
            if key in ("shapes", "folders"):
                for name, item in value.items():
                    typer.echo(f"    {name:<40} {' '.join(map(str, item.values())) if key == 'folders' else item}")
            elif key != "path":
                typer.echo(f"  {key:<13} {_line(value)}")


def _model(path: str, arch: str | None) -> "Model | None":
    """The model; None for a file of weights that is not a checkpoint."""
    if names.is_code(path) or hubs.is_hub(path):
        return specs.model(path)
    return specs.model(path, arch=arch) if arch or checkpoint.is_ours(path) else None


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key}={_line(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(_line, value)) or "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value) if value not in ("", None) else "–"
