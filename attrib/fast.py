"""Frozen, faster copies of a model, for the many passes of an attack or a map.

What such a copy answers is what the model answers, but for rounding: batch norm in eval mode is one more linear map
and is folded into the convolution before it; weights are laid with the channels innermost, which suits convolutions on
every device; and where the passes run in bfloat16, weights are cast once and not again in every pass (autocast
remembers its casts only of weights that are trained). A copy keeps the model's class and the names of its parts.

Which convolution feeds which norm is read from a trace of the forward pass (torch.fx), not guessed from the order of
the modules. A model that cannot be traced, or that somebody has hooks on, runs as it is.
"""

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from attrib.inference import Precision, autocast, frozen
from attrib.layers import unwrapped
from attrib.model import normalise


class Prepared(NamedTuple):
    """What :func:`prepared` gives."""

    model: nn.Module
    layer: nn.Module | None = None
    """The counterpart of the layer that was asked for."""


@contextmanager
def prepared(
    model: nn.Module, device: torch.device, precision: Precision, *, layer: nn.Module | None = None
) -> Iterator[Prepared]:
    """Inside, the model is frozen, autocast is set, and there is a faster copy, or the model itself without one.

    device: that of the images; layer: a submodule of the model whose output the copy must keep as well.
    The copy shares the weights that it does not change, so it is of no use after the context. It is made anew each
    time, since nothing tells for sure that a weight has changed; but see :func:`held`.
    """
    with frozen(model), autocast(device, precision):
        copies = _held.get(model, {})
        wanted = (device, precision, layer)
        if wanted not in copies:
            copies[wanted] = _copied(model, *wanted) or Prepared(model, layer)
        yield copies[wanted]


@contextmanager
def running(
    model: nn.Module, device: torch.device, precision: Precision, forward: Callable[[Tensor], Tensor] | None = None
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Inside, the model is frozen and autocast is set; gives the forward pass to use: a faster copy's, or ``forward``.

    Whoever brings a forward pass of their own, of parts of the model, has made it fast already.
    """
    if forward is None:
        with prepared(model, device, precision) as fast:
            yield fast.model
    else:
        with frozen(model), autocast(device, precision):
            yield forward


_held: dict[nn.Module, dict[tuple[torch.device, Precision, nn.Module | None], Prepared]] = {}


@contextmanager
def held(*models: nn.Module) -> Iterator[None]:
    """Inside, neither weights nor hooks of the models change, so what :func:`prepared` makes of one stays.

    For work on many batches: without it every call of an attack or a map makes a copy of its own.
    """
    new = set(models) - _held.keys()
    _held.update({model: {} for model in new})
    try:
        yield
    finally:
        for model in new:
            del _held[model]


def _copied(model: nn.Module, device: torch.device, precision: Precision, layer: nn.Module | None) -> Prepared | None:
    """The faster copy of a frozen model; None where there is none that is sure to compute the same."""
    modules = list(model.modules())
    if layer not in (None, *modules) or any(_is_special(module) for module in modules):
        return None
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    # Somebody else's code is copied and run here, and may raise and warn of anything.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            copied, its_layer = copy.deepcopy((model, layer), shared)
            trace = _traced(copied, device, precision)
        except Exception:
            return None
    inside = set(its_layer.modules()) if its_layer else set()
    for conv, norm in trace.pairs:
        # A layer that ends before the norm must not give out what comes after it.
        if conv not in inside or norm in inside:
            _fold(conv, norm)
    for module in trace.plain:
        _lay(module, torch.bfloat16 if precision == "bf16" else None)
    return Prepared(copied, its_layer)


def _is_special(module: nn.Module) -> bool:
    """Whether a copy could behave differently: hooks see it, or its forward has been replaced (torch.compile)."""
    hooks = (
        module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks,
    )  # fmt: skip
    return any(hooks) or "forward" in vars(module)


class _Trace(NamedTuple):
    """What a forward pass does with the convolutions and linear layers."""

    plain: list[nn.Module]
    """Those that are only ever called: nobody reads their weights but they themselves."""
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]]
    """Of these, those called once, and what normalises their output and is the only one to see it."""


class _Tracer(fx.Tracer):
    """Refuses a model that turns autocast off for one of its parts: weights in bfloat16 would not do there."""

    def __init__(self, device: torch.device, precision: Precision) -> None:
        # The check in normalise is about the images' shape, which a trace knows nothing of.
        super().__init__(autowrap_functions=(normalise,))
        self.kind, self.low = device.type, precision == "bf16"

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """As :class:`torch.fx.Tracer` does."""
        if torch.is_autocast_enabled(self.kind) != self.low:
            raise fx.proxy.TraceError(f"autocast changes before {type(m).__name__}")
        return super().call_module(m, forward, args, kwargs)


def _traced(model: nn.Module, device: torch.device, precision: Precision) -> _Trace:
    """Raises whatever the model raises where its forward pass is not the same for every image."""
    root = unwrapped(model)
    # Flags are as they are by default, (N,C,H,W) alone is given.
    given = {
        name: flag.default
        for name, flag in signature(root.forward).parameters.items()
        if flag.default is not flag.empty
    }
    graph = _Tracer(device, precision).trace(root, concrete_args=given or None)
    called = {node: root.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"}
    times = Counter(called.values())
    read = {id(_attribute(root, str(node.target))) for node in graph.nodes if node.op == "get_attr"}
    plain = [
        module
        for module in times
        if type(module) in (nn.Conv2d, nn.Linear) and not any(id(weight) in read for weight in module.parameters())
    ]
    pairs = []
    for node, norm in called.items():
        before = node.args[0] if node.args else None
        conv = called.get(before) if isinstance(before, fx.Node) and len(before.users) == 1 else None
        if (
            type(conv) is nn.Conv2d and conv in plain and conv.weight.dtype in (torch.float32, torch.float64)
            and type(norm) is nn.BatchNorm2d and norm.running_mean is not None
            and times[conv] == times[norm] == 1
        ):  # fmt: skip
            pairs.append((conv, norm))
    return _Trace(plain, pairs)


def _attribute(root: nn.Module, name: str) -> object:
    parent, _, own = name.rpartition(".")
    return getattr(root.get_submodule(parent), own)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    # The module stays where it is, under whatever names and in whatever lists, and gives back what it gets.
    norm.forward = nn.Identity().forward  # type: ignore[method-assign]


def _lay(module: nn.Module, dtype: torch.dtype | None) -> None:
    """Weights of its own for the module, of that type if they are float32, the channels innermost."""
    for name, weight in module.named_parameters(recurse=False):
        kind = dtype if dtype is not None and weight.dtype == torch.float32 else weight.dtype
        form = torch.channels_last if weight.ndim == 4 else torch.preserve_format
        # A copy even where contiguous() would do nothing: with one input channel the strides decide the layout.
        tensor = weight.detach().to(kind, copy=True, memory_format=form)
        setattr(module, name, nn.Parameter(tensor, requires_grad=False))
