"""Find the state dict in other people's checkpoints: inside dicts, beside averages, with prefixes."""

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from attrib.errors import InputError
from attrib.models.weights import content_of, faults, few, state_dict
from attrib.models.zoo import StrPath, file

AVERAGED = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "model_ema_state_dict", "params_ema", "ema",
    "swa_state_dict", "model_swa", "swa_model", "swa", "averaged_model",
)  # fmt: skip
"""Keys of a moving average of the weights. Training that keeps one evaluates it."""
RAW = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "net_state_dict", "params", "weights",
    "module", "classifier", "encoder",
)  # fmt: skip
"""Keys of the weights themselves."""
PREFIX = re.compile(r"^(?:module|_orig_mod|model|net|network|backbone)\.")
"""Prefixes that wrappers of a model put before the names of its weights."""
COUNTERS = ("n_averaged",)
"""Entries of an average that are no weights."""


class StateDict(NamedTuple):
    """A state dict and its place in the file."""

    state: dict[str, object]
    """Names as in the file."""
    at: str
    """The keys that lead to it, as ``checkpoint.state_dict``; "" for the whole file."""
    note: str
    """A warning if another state dict could have been taken; else ""."""


def state_in(content: Mapping[str, object]) -> StateDict:
    """The state dict in a file's content; raises InputError if several keys hold one."""
    direct = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    averaged = [key for key in AVERAGED if _holds_weights(content.get(key))]
    raw = [key for key in RAW if _holds_weights(content.get(key))]
    if not averaged and not raw:
        raw = [str(key) for key, value in content.items() if _holds_weights(value)]
        if len(raw) > 1 and not direct:
            raise InputError(f"holds weights under several keys: {few(raw)}; save only the weights to use")
    if direct and not (averaged or raw):
        return StateDict({name: value for name, value in content.items() if name not in COUNTERS}, "", "")
    if not averaged and not raw:
        return StateDict(dict(content), "", "")
    key = (averaged or raw)[0]
    inner = content[key]
    assert isinstance(inner, Mapping)
    state, at, note = state_in(inner)
    if averaged and raw:
        note = f"took {key}, a moving average of the weights, not {raw[0]}"
    return StateDict(state, f"{key}.{at}".rstrip("."), note)


def _holds_weights(value: object) -> bool:
    """Whether the value is a state dict, or a dict that holds one."""
    return _is_state(value) or (isinstance(value, Mapping) and any(map(_is_state, value.values())))


def _is_state(value: object) -> bool:
    """Whether the value maps names mostly to tensors and is not an optimiser's state."""
    if not isinstance(value, Mapping) or "param_groups" in value or not all(isinstance(key, str) for key in value):
        return False
    tensors = sum(isinstance(entry, Tensor) for entry in value.values())
    return tensors > 0 and 2 * tensors > len(value)


def stripped(state: Mapping[str, object]) -> tuple[dict[str, object], str]:
    """The state dict without the prefix that all its names share, and this prefix."""
    names, prefix = dict(state), ""
    while len(names) > 1 and (match := PREFIX.match(str(next(iter(names))))):
        if not all(str(name).startswith(match[0]) for name in names):
            break
        prefix += match[0]
        names = {str(name).removeprefix(match[0]): value for name, value in names.items()}
    return names, prefix


def load_into(module: nn.Module, path: StrPath) -> None:
    """Load a weight file into a module that a user's factory made.

    The names in the file may have a prefix that the module's names lack, or the reverse. Warns if some weights in the
    file are left out. Raises InputError if the weights do not fit; it names the first missing and unexpected ones.
    """
    content = content_of(file(path))
    try:
        state, _, note = state_in(content if "format_version" not in content else {"weights": content["weights"]})
        weights = state_dict(state, strip=False)
        expected = module.state_dict()
        _, own = stripped(expected)
        prefix = _prefix(weights, [name.removeprefix(own) for name in expected], path)
        fitting = {own + name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        _check(fitting, expected, type(module).__name__)
    except InputError as error:
        raise InputError(f"{path}: {' '.join(str(error).removeprefix(f'{path}: ').split())}") from None
    if note:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    if left := [name for name in weights if not name.startswith(prefix)]:
        warnings.warn(f"{path}: took the weights that begin with {prefix}; left out: {few(left)}", stacklevel=2)
    module.load_state_dict(fitting, strict=False)


def _prefix(weights: Iterable[str], expected: list[str], path: StrPath) -> str:
    """The one prefix that all expected names have in the file; "" if they have none."""
    names = set(weights)
    needed = [name for name in expected if not _is_optional(name)]
    first = needed[0] if needed else ""
    prefixes = {name.removesuffix(first) for name in names if name == first or name.endswith(f".{first}")}
    whole = sorted(prefix for prefix in prefixes if all(prefix + name in names for name in needed))
    if "" in whole or not whole:
        return "" if "" in whole else stripped(dict.fromkeys(names))[1]
    if len(whole) > 1:
        raise InputError(f"{path}: holds several such models, {few(whole)}; save only the one to use")
    return whole[0]


def _is_optional(name: str) -> bool:
    """Whether the weight is a batch counter. Older files lack it, and no output depends on it."""
    return name.endswith("num_batches_tracked")


def _check(weights: Mapping[str, Tensor], expected: Mapping[str, object], model: str) -> None:
    shapes = {
        name: value for name, value in expected.items()
        if isinstance(value, Tensor) and (name in weights or not _is_optional(name))
    }  # fmt: skip
    listed = faults(weights, shapes)
    if listed:
        raise InputError(
            f"weights don't fit the factory's {model}; {listed}; make the factory build the network that was trained"
            " (depth, width, classes), or save its state_dict() alone"
        )
