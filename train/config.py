"""The configuration of a run: one frozen dataclass for recipes, command line and checkpoint."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from attrib.analyses.options import check_type
from attrib.bounds import LARGEST_NUMBER, read_toml
from attrib.data import DATA_SETS, Budget, default_attack
from attrib.errors import InputError, meant, refused
from attrib.models.architectures import ARCHITECTURES, check_gated

METHODS = ("standard", "pgd-at", "alp", "aalp", "trades", "mart", "again")
WEIGHT = {"alp": 1.0, "aalp": 1.0, "trades": 6.0, "mart": 5.0}
"""The papers' weights of a loss's second term: ALP's lambda, AALP's alpha, TRADES' beta, MART's lambda."""

RECIPES = Path(__file__).parent / "recipes"


def _option(
    default: Any, text: str, choices: tuple[str, ...] | None = None, *, low: float = -math.inf, high: float = math.inf
) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices, "low": low, "high": high})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every option of a run, checked. eps, step_size and steps default to the data set's, weight to the method's.

    Raises InputError for values out of bounds and for options of another method.
    """

    method: str = field(metadata={"help": "training method", "choices": METHODS})
    data: str = field(metadata={"help": "data set: " + ", ".join(DATA_SETS)})
    arch: str = field(metadata={"help": "architecture", "choices": tuple(ARCHITECTURES)})
    epochs: int = _option(10, "passes over the training images", low=1)
    batch_size: int = _option(128, "images per step, over all processes", low=1)
    optimizer: str = _option("sgd", "optimizer; sgd has Nesterov momentum 0.9", ("sgd", "adam"))
    lr: float = _option(0.1, "peak learning rate", low=0, high=1e6)
    weight_decay: float = _option(5e-4, "L2 penalty", low=0)
    schedule: str = _option(
        "onecycle",
        "learning rate: up and down linearly, divided by 10 at 1/2 and 3/4, or constant",
        ("onecycle", "step", "constant"),
    )
    eps: float | None = _option(None, "radius of the attack in pixels of [0,1]", low=0, high=1)
    step_size: float | None = _option(None, "step of the attack", low=0, high=1)
    steps: int | None = _option(None, "steps of the attack", low=1)
    eps_warmup: float = _option(
        0.0, "share of the run over which eps grows from 0 (ours; the papers have none)", low=0, high=1
    )
    holdout: int = _option(1000, "training images held out to choose the best epoch", low=1)
    limit: int | None = _option(None, "number of training images to use, the first ones (default: all)", low=2)
    augment: bool = _option(True, "crop and flip at random, for data sets that use it")
    seed: int = _option(0, "seed of weights, order, augmentation and attack", low=0, high=2**63 - 1)
    precision: str = _option("auto", "auto: bf16 where the device is fast at it, else fp32", ("auto", "fp32", "bf16"))
    save_every: int = _option(0, "epochs between the files epoch-K.pt; 0: none", low=0)
    ema: float = _option(
        0.0, "decay of the running mean of the weights, which the checkpoint then holds; 0: off", low=0, high=0.999999
    )
    awp: float = _option(0.0, "adversarial weight perturbation, gamma (0.005 in the paper); 0: off", low=0, high=1)
    awp_from: int = _option(10, "epoch from which weights are perturbed", low=1)
    mixed: bool = _option(False, "pgd-at: add the loss of the clean images")
    label_smoothing: float = _option(0.0, "pgd-at: share of the target spread over all classes", low=0, high=1)
    smoothing_ramp: bool = _option(False, "pgd-at: smooth labels only with probability i/N, like again's --ramp")
    guided_dropout: bool = _option(False, "standard, pgd-at, alp: AALP's Guided Dropout")
    adaptive: bool = _option(False, "alp: weigh each pair by the clean image's confidence (AALP, Eq. 9)")
    weight: float | None = _option(
        None, "weight of the second term: alp 1, aalp 1 (alpha), trades 6 (beta), mart 5", low=0
    )
    alpha: float = _option(0.6, "again: share of the true label", low=0, high=1)
    form: Literal["gate", "logit"] = _option(
        "gate", "again: the released form (gate) or the supplement's Eq. 1 (logit)", ("gate", "logit")
    )
    gates: Literal["true", "own"] = _option(
        "true",
        "again, gate form: in training the gates follow the true label or their own prediction (own)",
        ("true", "own"),
    )
    fusion: bool = _option(True, "again: hybrid feature fusion")
    ramp: bool = _option(True, "again: use its loss only with probability i/N, else the plain one (Algorithm 1)")
    base: Literal["pgd-at", "trades"] = _option("pgd-at", "again, logit form: the base method", ("pgd-at", "trades"))

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            value, limits = getattr(self, option.name), option.metadata
            if limits.get("choices") and value not in limits["choices"]:
                raise refused(_flag(option.name), value, limits["choices"])
            low, high = limits.get("low", -math.inf), limits.get("high", math.inf)
            if isinstance(value, int | float) and not low <= value <= min(high, LARGEST_NUMBER):
                open_above = high == math.inf and value <= LARGEST_NUMBER
                expected = f"at least {low}" if open_above else f"a number in [{low}, {min(high, LARGEST_NUMBER)}]"
                raise InputError(f"{_flag(option.name)}: expected {expected}, got {value}")
            if value is not None or NoneType not in get_args(option.type):
                check_type(_flag(option.name), value, option.type)
        if not self.lr > 0:
            raise InputError(f"--lr: expected a number > 0, got {self.lr}")
        self._check_used()
        eps, step_size, steps = default_attack(self.data)
        defaults = {"eps": eps, "step_size": step_size, "steps": steps, "weight": WEIGHT.get(self.method)}
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def _check_used(self) -> None:
        """Raise InputError for options of another method, which would be ignored without notice."""
        defaults = {option.name: option.default for option in dataclasses.fields(self)}
        for name, methods in _BELONGS.items():
            if getattr(self, name) != defaults[name] and self.method not in methods:
                raise InputError(f"{_flag(name)}: belongs to {', '.join(methods)}, got it with {self.method}")
        if self.base != "pgd-at" and self.form != "logit":
            raise InputError(f"--base {self.base}: expected --form logit with it, got --form {self.form}")
        if self.gates != "true" and self.form != "gate":
            raise InputError(f"--gates {self.gates}: expected --form gate with it, got --form {self.form}")
        if self.smoothing_ramp and not self.label_smoothing:
            raise InputError("--smoothing-ramp: expected --label-smoothing above 0 with it, got 0")
        if self.gated:
            check_gated(self.arch)

    @property
    def budget(self) -> Budget:
        """The attack's eps, step_size and steps, all of them set."""
        assert self.eps is not None
        assert self.step_size is not None
        assert self.steps is not None
        return Budget(self.eps, self.step_size, self.steps)

    @property
    def gated(self) -> bool:
        """Whether the model has AGAIN's gates."""
        return self.method == "again" and self.form == "gate"

    def as_dict(self) -> dict[str, Any]:
        """The configuration as plain values. The checkpoint stores them and ``attrib info`` prints them."""
        return dataclasses.asdict(self)


_BELONGS = {
    "mixed": ("pgd-at",), "label_smoothing": ("pgd-at",), "smoothing_ramp": ("pgd-at",),
    "guided_dropout": ("standard", "pgd-at", "alp"), "adaptive": ("alp",), "weight": tuple(WEIGHT),
    "alpha": ("again",), "form": ("again",), "gates": ("again",), "fusion": ("again",), "ramp": ("again",),
    "base": ("again",),
}  # fmt: skip


def read_recipes(*recipes: str | Path) -> dict[str, Any]:
    """The options of several recipes. Later recipes override earlier ones. See ``read_recipe``."""
    options: dict[str, Any] = {}
    for recipe in recipes:
        options |= read_recipe(Path(recipe))
    return options


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the options in a TOML file. Keys are spelled as on the command line, with _ or -.

    A bare name means a file of train/recipes.
    Raises InputError for a missing file, TOML that does not parse, an unknown key or a value of the wrong type.
    """
    if not path.is_file() and path.parent == Path() and (RECIPES / f"{path}.toml").exists():
        path = RECIPES / f"{path}.toml"
    try:
        raw = read_toml(path)
    except InputError as error:
        recipes = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.toml")))
        raise InputError(f"--recipe: {error}{'' if path.exists() else f'; train/recipes has {recipes}'}") from None
    options = {option.name: option for option in dataclasses.fields(Config)}
    recipe = {}
    for key, value in raw.items():
        name = key.replace("-", "_")
        if name not in options:
            suggestion = meant(key, options)
            known = ", ".join(options)
            raise InputError(f"--recipe: {path} has an unknown key {key!r}; the options are {known}{suggestion}")
        kind = value_type(options[name])
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise InputError(f"--recipe: {path}: expected {key} to be {kind.__name__}, got {value!r}")
        recipe[name] = value
    return recipe


def value_type(option: dataclasses.Field[Any]) -> type:
    """The type of an option: T if it is declared T or T | None, str for a Literal."""
    declared = option.type
    assert not isinstance(declared, str)
    if get_origin(declared) is Literal:
        return str
    return next(kind for kind in getattr(declared, "__args__", (declared,)) if kind is not NoneType)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
