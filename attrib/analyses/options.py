"""Option fields and the attack, shared by the Python call, the command and the JSON. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args

from attrib.bounds import LARGEST_NUMBER
from attrib.errors import InputError, meant, refused
from attrib.lazy import Lazy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from attrib import attack as attacks
    from attrib.data import Batch, catalog
    from attrib.inference import Precision
else:
    attacks, catalog = Lazy("attrib.attack"), Lazy("attrib.data.catalog")

ATTACKS = ("fgsm", "pgd", "cw")


def option(
    default: Any, help: str, *, choices: Sequence[str] | None = None, low: float | None = None,
    check: Callable[[Any], object] | None = None, parse: Callable[[str], Any] | None = None,
    show: Callable[[Any], str] = str, metavar: str | None = None,
) -> Any:  # fmt: skip
    """A dataclass field that becomes an option of the command.

    choices: the values allowed; low: the smallest number; check: raises InputError for a bad value; parse: turns the
    text of the command line into the value; show: turns the value into text; metavar: the value's name in the help.
    """
    metadata = {
        "help": help, "choices": choices, "low": low, "check": check, "parse": parse, "show": show, "metavar": metavar,
    }  # fmt: skip
    return field(default=default, metadata=metadata)


def same_option(kind: type, name: str) -> Any:
    """A copy of a field of another dataclass, with its default and help."""
    other = kind.__dataclass_fields__[name]  # type: ignore[attr-defined]
    return field(default=other.default, metadata=other.metadata)


def check_options(settings: Any) -> None:
    """Raise InputError for a field made by ``option`` whose value is not allowed."""
    for each in fields(settings):
        value, rules = getattr(settings, each.name), each.metadata
        if value is None or callable(value) or not rules:
            continue
        if each.type is not str or not (rules["choices"] or rules["check"]):  # these name the texts to choose from
            check_type(each.name, value, each.type)
        if rules["choices"] and value not in rules["choices"]:
            raise refused(each.name, value, rules["choices"])
        if rules["low"] is not None and not value >= rules["low"]:
            raise InputError(f"{each.name}: expected at least {rules['low']}, got {value}")
        if rules["check"]:
            rules["check"](value)


def check_type(name: str, value: Any, type_: Any) -> None:
    """Raise InputError for a value of the wrong type; an int is accepted as a float."""
    types = set(get_args(type_)) if isinstance(type_, UnionType) else {type_}
    kinds = types & {int, float, str, bool}
    if not kinds or types - kinds - {type(None)}:
        return  # any value, or a type that checks itself
    fits = type(value) in kinds or (float in kinds and type(value) is int)
    if not fits:
        words = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
        expected = " or ".join(words[kind] for kind in sorted(kinds, key=str))
        raise InputError(f"{name}: expected {expected}, got {value!r}")
    if type(value) is int and abs(value) > LARGEST_NUMBER:
        raise InputError(f"{name}: expected at most {LARGEST_NUMBER}, got {value}")
    if value == "":
        raise InputError(f"{name}: expected text, got none")


@dataclass(frozen=True)
class Attack:
    """An attack and its strength; None means the data set's default.

    name: fgsm, pgd or cw; eps: L-infinity radius, step_size: size of a step, both for pixels in [0,1]; steps: their
    number. fgsm takes one step of eps and ignores the other two. Raises InputError for another name, a radius or step
    size outside [0,1], and fewer than one step.
    """

    name: str = "pgd"
    eps: float | None = None
    step_size: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.name not in ATTACKS:
            expected = f"attack: expected {', '.join(ATTACKS[:-1])} or {ATTACKS[-1]}, got {self.name!r}"
            raise InputError(expected + meant(self.name, ATTACKS))
        for each in fields(self):
            if getattr(self, each.name) is not None:
                check_type(each.name, getattr(self, each.name), each.type)
        for name in ("eps", "step_size"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name}: expected a number in [0,1] (pixels are in [0,1]), got {value}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps: expected at least 1, got {self.steps}")

    def resolved(self, data: str) -> "Attack":
        """The attack with every None replaced by the data set's default."""
        usual = catalog.default_attack(data)
        missing = {name: getattr(usual, name) for name in usual._fields if getattr(self, name) is None}
        return replace(self, **missing)

    def images(self, model: "nn.Module", batch: "Batch", *, seed: int, precision: "Precision") -> "Tensor":
        """The batch's images after the attack on the model, (N,C,H,W). The attack must be ``resolved``."""
        assert self.eps is not None
        assert self.step_size is not None
        assert self.steps is not None
        if self.name == "fgsm":
            return attacks.fgsm(model, batch.image, batch.label, eps=self.eps, precision=precision)
        run = attacks.pgd if self.name == "pgd" else attacks.cw
        return run(
            model, batch.image, batch.label, eps=self.eps, step_size=self.step_size, steps=self.steps, seed=seed,
            index=batch.index, precision=precision,
        )  # fmt: skip

    def entry(self, precision: "Precision") -> dict[str, Any]:
        """The attack and its precision, for a result."""
        return asdict(self) | {"precision": precision}


def fraction(text: str, name: str) -> float:
    """A number like 0.03 or 8/255, in [0,1]. Raises InputError, with the option's name, for anything else."""
    above, slash, below = text.partition("/")
    try:
        value = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{name}: expected a number like 0.03 or 8/255, got {text!r}") from None
    if not 0 <= value <= 1:
        raise InputError(f"{name}: expected a number in [0,1] (pixels are in [0,1]), got {text}")
    return value
