"""``attrib zoo``: which trained models come with the package?"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from attrib.analyses.table import Table
from attrib.cli.show import width
from attrib.lazy import Lazy

if TYPE_CHECKING:
    from attrib import files
    from attrib.models import checkpoint
    from attrib.models import zoo as models
    from attrib.models.checkpoint import Checkpoint
else:
    files, checkpoint, models = Lazy("attrib.files"), Lazy("attrib.models.checkpoint"), Lazy("attrib.models.zoo")


def zoo(json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False) -> None:
    """The models that come with the package, for --ckpt zoo:NAME, with their accuracies."""
    cards = [_card(name, checkpoint.read(f"{models.PREFIX}{name}")) for name in models.names()]
    if json:
        typer.echo(files.to_json({"models": cards}))
        return
    rows = [
        {
            "--ckpt": card["checkpoint"], "method": card["method"], "recipe": card["recipe"], "seed": card["seed"],
            "clean %": f"{100 * card['clean']:.2f}", "robust %": f"{100 * card['robust']:.2f}",
            "attack": f"{card['attack']}, eps {card['eps']:.3g}", "images": f"{card['images']:,}",
            "fingerprint": card["fingerprint"],
        }
        for card in cards
    ]  # fmt: skip
    caption = (
        "Accuracy on the first test images, as many as in the column images, measured by python -m train.zoo with these"
        " half-precision weights; robust: after the attack from one random start; each row is one training run: another"
        " run of its method can differ"
    )
    typer.echo(Table("Models that come with attrib", rows, caption).to_text(width()), nl=False)


def _card(name: str, ckpt: "Checkpoint") -> dict[str, Any]:
    measured = {key: ckpt.metrics[key] for key in ("clean", "robust", "eps")}
    return {
        "name": name, "checkpoint": f"zoo:{name}", "data": ckpt.data, "architecture": ckpt.arch,
        "method": ckpt.method, "recipe": ckpt.hyper["recipe"], "seed": ckpt.hyper["seed"], "epoch": ckpt.epoch,
        **measured, "attack": f"PGD-{ckpt.metrics['steps']:.0f}", "images": int(ckpt.metrics["images"]),
        "fingerprint": ckpt.fingerprint,
    }  # fmt: skip
