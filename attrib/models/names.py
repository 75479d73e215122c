"""Tell the kinds of model specs apart, and derive a model's name from its spec."""

from pathlib import Path

from attrib.errors import meant, meant_path
from attrib.models import zoo
from attrib.models.hubs import is_hub


def is_factory(spec: str) -> bool:
    """Whether the spec is package.module:factory; not zoo:NAME, nor a collection's, nor a file."""
    ours = spec.startswith("zoo:") or is_hub(spec)
    return ":" in spec and not ours and not Path(spec).exists() and "/" not in spec


def is_code(spec: str) -> bool:
    """Whether the spec is a factory or a collection's model; only these take mean, std and size."""
    return is_hub(spec) or is_factory(spec)


def usual_name(spec: str) -> str:
    """The name of a model that the user does not name: that of its file, factory or run."""
    place = Path(spec.partition(":")[2] if is_hub(spec) else spec)
    if place.is_dir():
        return place.resolve().name.replace("=", "-")
    if is_hub(spec):
        return place.name
    return spec.rpartition(":")[2] if is_factory(spec) else name_of_path(spec)


def name_of_path(text: str) -> str:
    """The file's name; the folder's for a name that every run has: pgd-at for runs/pgd-at/model.pt."""
    path = Path(text.removeprefix("zoo:"))
    generic = path.stem in ("model", "last", "best", "checkpoint") and path.parent.name
    return path.parent.name if generic else path.stem


def meant_model(missing: Path) -> str:
    """A hint for a missing path: a similar file beside it, or a model of the zoo."""
    return meant_path(missing) or meant(str(missing), zoo.names(), before=zoo.PREFIX)
