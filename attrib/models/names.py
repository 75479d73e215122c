"""What kind of spec a text is, and what a model is called where nobody names it."""

from pathlib import Path

from attrib.errors import meant, meant_path
from attrib.models import zoo
from attrib.models.hubs import is_hub


def is_factory(spec: str) -> bool:
    """Whether the spec is package.module:factory; not zoo:NAME, nor a collection's, nor a file."""
    ours = spec.startswith("zoo:") or is_hub(spec)
    return ":" in spec and not ours and not Path(spec).exists() and "/" not in spec


def is_code(spec: str) -> bool:
    """Whether the spec is a factory or a collection's, whose models take mean, std and size."""
    return is_hub(spec) or is_factory(spec)


def usual_name(spec: str) -> str:
    """What a model is called if the user gives it no name: after its file, factory or run."""
    place = Path(spec.partition(":")[2] if is_hub(spec) else spec)
    if place.is_dir():
        return place.resolve().name.replace("=", "-")
    if is_hub(spec):
        return place.name
    return spec.rpartition(":")[2] if is_factory(spec) else name_of_path(spec)


def name_of_path(text: str) -> str:
    """runs/pgd-at/model.pt is called pgd-at, since every run's file has the same name."""
    path = Path(text.removeprefix("zoo:"))
    generic = path.stem in ("model", "last", "best", "checkpoint") and path.parent.name
    return path.parent.name if generic else path.stem


def meant_model(missing: Path) -> str:
    """What a path that is not there may stand for: a file beside it, or a model of the zoo."""
    return meant_path(missing) or meant(str(missing), zoo.names(), before=zoo.PREFIX)
