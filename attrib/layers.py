"""A model from outside: get it, normalise its input, find the layer to look at and the last linear layer."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attrib.errors import InputError, one_line
from attrib.inference import frozen
from attrib.model import Classifier, normalise, statistics


def locate(module: nn.Module, example: Tensor) -> tuple[nn.Module, nn.Linear]:
    """The layer that Grad-CAM looks at and the last linear layer, found by running one example.

    example: (N, C, H, W) in [0, 1], of which the first image is used (none, for a ``Classifier``).
    See ``feature_layer`` and ``last_linear``, for what needs one of them only. Raises InputError as they do.

    >>> module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    >>> layer, fc = locate(module, torch.rand(1, 3, 8, 8))
    >>> layer is module[1], fc is module[4]
    (True, True)
    """
    if isinstance(module, Classifier):
        return module.stages[-1], module.fc
    trace = _run(module, example)
    return _feature_layer(trace), _last_linear(trace)


def feature_layer(module: nn.Module, example: Tensor) -> nn.Module:
    """The layer whose output is the last feature map (N, C, h, w), larger than 1x1, before pooling.

    Of several modules that return this map, it is the outermost; it is a whole block rather than the last
    layer inside it. example: (N, C, H, W) in [0, 1]. Raises InputError if there is no such layer (a vision
    transformer), or the module cannot run on the example.
    """
    return module.stages[-1] if isinstance(module, Classifier) else _feature_layer(_run(module, example))


def last_linear(module: nn.Module, example: Tensor) -> nn.Linear:
    """The ``nn.Linear`` that gives the logits.

    example: (N, C, H, W) in [0, 1]. Raises InputError if the module ends otherwise (in a 1x1 convolution)
    or cannot run on the example.
    """
    return module.fc if isinstance(module, Classifier) else _last_linear(_run(module, example))


class _Call(NamedTuple):
    """One finished call of a submodule."""

    name: str
    module: nn.Module
    output: Tensor


class _Trace(NamedTuple):
    model: str
    calls: list[_Call]  # in the order in which they finished: a container after what it contains
    output: object  # of the whole


def _run(module: nn.Module, example: Tensor) -> _Trace:
    """Run the first image of the example and record the output of each submodule that returns a tensor."""
    if example.ndim != 4 or len(example) == 0:
        raise InputError(f"example: expected shape (N, C, H, W) with N at least 1, got {tuple(example.shape)}")
    inner = unwrapped(module)
    model = type(inner).__name__
    names = {child: name for name, child in inner.named_modules() if child is not inner}
    calls: list[_Call] = []

    def record(child: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            calls.append(_Call(names[child], child, output))

    hooks = [child.register_forward_hook(record) for child in names]
    try:
        with frozen(module), torch.no_grad():
            return _Trace(model, calls, module(example[:1]))
    except (RuntimeError, InputError) as error:
        shape = tuple(example[:1].shape)
        raise InputError(f"model: {model} cannot run on an image of shape {shape}: {one_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()


def _feature_layer(trace: _Trace) -> nn.Module:
    # Tensors are compared by identity: a container or dropout that ends in pooling returns the pooled tensor.
    pooled = {id(call.output) for call in trace.calls if _is_pooling(call.module)}
    maps = [
        position
        for position, (_, _, output) in enumerate(trace.calls)
        if output.ndim == 4 and output.shape[2:].numel() > 1 and id(output) not in pooled
    ]
    # The patch embedding of a transformer is a feature map too, but it is the tokens after it that count.
    if not maps or any(_makes_tokens(call) for call in trace.calls[maps[-1] + 1 :]):
        raise InputError(
            f"model: {trace.model} has no feature map (N, C, h, w) before its last layers (a transformer?); "
            "name the layer to look at with layer= (--layer)"
        )
    chosen = trace.calls[maps[-1]]
    if any(call.output is chosen.output and type(call.module) in _CHANNELS_LAST for call in trace.calls):
        raise InputError(
            f"model: {trace.model}'s last feature map, of {chosen.name}, has its channels last, (N, h, w, C); name a"
            " layer with channels first, (N, C, h, w), with layer= (--layer)"
        )
    return chosen.module


_CHANNELS_LAST = (nn.LayerNorm, nn.Linear)
"""What works on the last dimension: where it gives out four, they are (N, h, w, C)."""


def _last_linear(trace: _Trace) -> nn.Linear:
    logits = trace.output
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"model: expected {trace.model} to return logits of shape (N, K), got {found}")
    # A reparametrised layer without bias holds no parameter itself, hence the first half of the condition.
    weighted = [call for call in trace.calls if isinstance(call.module, nn.Linear) or _has_weights(call.module)]
    if weighted:
        name, module, output = weighted[-1]
        if isinstance(module, nn.Linear) and output.shape == logits.shape:
            return module
        ending = f"it ends in {name} ({type(module).__name__}, output {tuple(output.shape)})"
    else:
        ending = "no submodule has weights"
    raise InputError(
        f"model: {trace.model} does not get its logits {tuple(logits.shape)} from a linear layer: {ending}; "
        "what looks at the last layer's weights needs one, named with fc= (--fc) if it is elsewhere"
    )


def _is_pooling(module: nn.Module) -> bool:
    return any(base.__module__ == "torch.nn.modules.pooling" for base in type(module).__mro__)


def _has_weights(module: nn.Module) -> bool:
    """Whether the module itself, not only what it contains, holds parameters."""
    return next(module.parameters(recurse=False), None) is not None


def _makes_tokens(call: _Call) -> bool:
    return call.output.ndim == 3 and call.output.shape[1] > 1 and _has_weights(call.module)


def named(module: nn.Module, name: str) -> nn.Module:
    """The submodule called ``name`` ("layer4.1"); inside a ``Normalized``, as the outside model calls it.

    Raises InputError that lists the nearest names if there is none.
    """
    module = unwrapped(module)
    modules: dict[str, nn.Module] = dict(module.named_modules())
    if name and name in modules:
        return modules[name]
    names = [known for known in modules if known]
    near = get_close_matches(name, names, n=5, cutoff=0.5) or [known for known, _ in module.named_children()]
    raise InputError(f"layer: {type(module).__name__} has no {name!r}; some that it has: {', '.join(near) or 'none'}")


def load_factory(spec: str) -> nn.Module:
    """The model that ``package.module:factory`` makes: the factory is called without arguments.

    The current directory is importable too; a name that is a module already is taken as it is.
    Raises InputError if the import or the call fails or gives something else than an ``nn.Module``.
    """
    source, _, name = spec.partition(":")
    if not source or not name or source.endswith(".py"):
        raise InputError(f"model: expected package.module:factory, like my_code:build for my_code.py, got {spec!r}")
    with _importing_from(Path.cwd()):
        try:
            found: object = importlib.import_module(source)
        except Exception as error:  # somebody else's code runs here and may raise anything
            raise InputError(f"model {spec}: cannot import {source}: {one_line(error)}") from error
        try:
            found = attrgetter(name)(found)
        except AttributeError:
            raise InputError(f"model {spec}: {source} has no {name!r}") from None
        if not isinstance(found, nn.Module):
            if not callable(found):
                raise InputError(f"model {spec}: expected a function or class, got {type(found).__name__}")
            try:
                found = found()
            except Exception as error:  # as above
                raise InputError(f"model {spec}: calling it failed: {one_line(error)}") from error
    if not isinstance(found, nn.Module):
        raise InputError(f"model {spec}: expected it to return an nn.Module, got {type(found).__name__}")
    return found


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    entry = str(folder)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(entry)


class Normalized(nn.Module):
    """An outside model behind the project's interface: pixels in [0, 1] are resized and normalised for it.

    mean, std: one number per channel, None leaves the pixels as they are; size: (height, width) or one side, None
    leaves the size as it comes. The resize is bilinear, smoothed when it shrinks. Raises InputError for bad numbers,
    or other channels.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        module: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.size = (size, size) if isinstance(size, int) else size
        if self.size is not None and min(self.size) < 1:
            raise InputError(f"size: expected at least 1 pixel, got {size}")
        known = (None, None) if mean is None and std is None else statistics(mean or (), std or ())
        for name, values in zip(("mean", "std"), known, strict=True):
            self.register_buffer(name, values)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> whatever the module returns, logits (N, K)."""
        if self.size is not None and x.shape[2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True)
        if self.mean is not None and self.std is not None:
            x = normalise(x, self.mean, self.std)
        out: Tensor = self.module(x)
        return out


def unwrapped(module: nn.Module) -> nn.Module:
    """The outside model itself, without the ``Normalized`` in front of it."""
    return module.module if isinstance(module, Normalized) else module
