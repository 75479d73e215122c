"""Folded copies of a model: faster, for the many passes of an attack or a map.

A copy computes what the model computes, but for rounding: batch norm in eval mode is one more linear map and is folded
into the convolution before it; weights lie with the channels innermost, which suits convolutions on every device; and
for passes in bfloat16, weights are cast once and not in every pass (autocast remembers its casts of trained weights
only). A copy keeps the model's class and the names of its parts.

A copy is made once and refreshed in place: weights that it changes are its own tensors, written anew from the model's
before each use; all others are the model's. So its tensors keep their addresses while the model is trained, which is
what a CUDA graph needs.

Which convolution feeds which norm is read from a trace of the forward pass (torch.fx), not guessed from the order of
the modules. A model that cannot be traced, or that has hooks, runs as it is.
"""

import copy
import types
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from inspect import signature, unwrap
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from attrib.inference import Precision, autocast, frozen, precision_for
from attrib.models.answers import Answers, adapted
from attrib.models.classifier import normalise
from attrib.models.outside import unwrapped
from attrib.models.types import place_of


class Prepared(NamedTuple):
    """What ``prepared`` gives."""

    model: nn.Module
    layer: nn.Module | None = None
    """The counterpart of the layer that was asked for."""


@contextmanager
def prepared(
    model: nn.Module, device: torch.device, precision: Precision, *, layer: nn.Module | None = None
) -> Iterator[Prepared]:
    """Inside, the model is frozen, autocast is set, and there is a folded copy, or the model itself without one.

    device: that of the images; layer: a submodule of the model whose output the copy must keep as well.
    The copy has the model's weights of the moment of entering; it is of no use after the context. The last copy of a
    model is kept for the next call as long as the model's structure stays what it was.
    """
    wanted = _Wanted(device, precision, layer)
    with frozen(model), autocast(device, precision):
        copies = _kept.get(model)
        if copies is None:
            made = _current(model, wanted)
        elif wanted in copies:
            made = copies[wanted]
        else:
            made = copies[wanted] = _current(model, wanted)
        if made is None:
            yield Prepared(model, layer)
            return
        made.users += 1
        try:
            yield Prepared(made.model, made.layer)
        finally:
            made.users -= 1


@contextmanager
def answering(
    model: nn.Module, device: torch.device, precision: Precision, *, layer: nn.Module | None = None
) -> Iterator[Prepared]:
    """``prepared`` for a model from anywhere: what it gives takes images on the device and returns logits (N,K).

    A model in half or double precision runs in its own, on its own device. Raises InputError, when it is run, for
    answers that hold no clear logits.
    """
    with prepared(model, place_of(model, device), precision_for(model, precision), layer=layer) as fast:
        yield fast if adapted(model, device) is model else fast._replace(model=Answers(fast.model))


@contextmanager
def keep_prepared(*models: nn.Module) -> Iterator[None]:
    """Inside, neither weights nor hooks of the models change, so all their copies are kept and none is refreshed.

    For work on many batches with several precisions or layers.
    """
    new = set(models) - _kept.keys()
    _kept.update({model: {} for model in new})
    try:
        yield
    finally:
        for model in new:
            del _kept[model]


class _Wanted(NamedTuple):
    """What a copy is made for."""

    device: torch.device
    precision: Precision
    layer: nn.Module | None


class _Fold(NamedTuple):
    """A convolution and the norm behind it, and the copy's convolution that stands for both."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    folded: nn.Conv2d


class _FastCopy:
    """A frozen, folded copy, and how its own weights follow from the model's.

    It must not refer to the model itself, which would then never be freed.
    """

    def __init__(
        self, model: nn.Module, layer: nn.Module | None, folds: list[_Fold], laid: list[tuple[Tensor, Tensor]]
    ) -> None:
        self.model = model
        self.layer = layer
        self.users = 0
        """Contexts that are using it now; meanwhile it stays as it is."""
        self._folds = folds
        self._laid = laid
        """Tensors of the model, each with the copy's own of the same values."""

    @torch.no_grad()
    def refresh(self) -> None:
        """Write the copy's own weights from the model's, in place."""
        for conv, norm, folded in self._folds:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert folded.bias is not None
            # norm(conv(x)) = (conv(x) - mean) * scale + shift, and conv is linear in its weight.
            scale = torch.rsqrt(norm.running_var + norm.eps)
            shift = torch.zeros_like(scale)
            if norm.affine:
                scale, shift = scale * norm.weight, norm.bias
            mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
            folded.weight.copy_(conv.weight * scale[:, None, None, None])
            folded.bias.copy_(torch.addcmul(shift, mean, scale, value=-1))
        for source, own in self._laid:
            own.copy_(source)


class _Last(NamedTuple):
    """The copy of a model that was used last, and what must not have changed for it to serve again."""

    copy: _FastCopy
    name: str | None
    """Of the layer that it keeps."""
    device: torch.device
    precision: Precision
    structure: Hashable
    tensors: list[Tensor]
    """Kept alive, so that the identities in ``structure`` are not given to other tensors."""


_last: WeakKeyDictionary[nn.Module, _Last] = WeakKeyDictionary()
_kept: dict[nn.Module, dict[_Wanted, _FastCopy | None]] = {}
"""Of the models in ``keep_prepared``."""


def _current(model: nn.Module, wanted: _Wanted) -> _FastCopy | None:
    """A copy of the frozen model as it is now: the last one refreshed where it fits, else a new one; None for none."""
    device, precision, layer = wanted
    names = [name for name, module in model.named_modules() if module is layer]
    if layer is not None and not names:
        return None
    name = names[0] if names else None
    structure = _structure(model)
    last = _last.get(model)
    if last and structure is not None and last[1:5] == (name, device, precision, structure):
        if not last.copy.users:
            last.copy.refresh()
        return last.copy
    made = _copied(model, wanted)
    if made is not None:
        made.refresh()
        if structure is not None:
            _last[model] = _Last(made, name, device, precision, structure, [*model.parameters(), *model.buffers()])
    return made


_OWN = {*vars(nn.Module()), "_compiled_call_impl", "forward"}
"""Attributes that every module has, or that torch.compile adds."""


class _Opaque(Exception):
    """A module holds a value that could change unseen."""


def _structure(model: nn.Module) -> Hashable | None:
    """All that a copy depends on but the values of tensors; None where a module's attributes are not plain values."""
    try:
        return tuple(
            (name, type(module), _is_special(module), _tensors(module), _attributes(module))
            for name, module in model.named_modules(remove_duplicate=False)
        )
    except _Opaque:
        return None


def _tensors(module: nn.Module) -> Hashable:
    return tuple(
        (name, id(tensor), tensor.dtype, tensor.device, tensor.shape)
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    )


def _attributes(module: nn.Module) -> Hashable:
    return tuple((name, _plain(value)) for name, value in vars(module).items() if name not in _OWN)


def _plain(value: object) -> Hashable:
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    plain = int | float | complex | str | torch.dtype | torch.device | types.FunctionType | types.BuiltinFunctionType
    if value is None or isinstance(value, plain):
        return value
    raise _Opaque


def _copied(model: nn.Module, wanted: _Wanted) -> _FastCopy | None:
    """A copy of a frozen model, its own weights not yet written; None where none is sure to compute the same."""
    device, precision, layer = wanted
    if any(_is_special(module) for module in model.modules()):
        return None
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    # Somebody else's code is copied and run here, and may raise and warn of anything.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            copied, its_layer = copy.deepcopy((model, layer), shared)
            for module in copied.modules():
                vars(module).pop("forward", None)  # torch.compile's, of the model
            trace = _traced(copied, device, precision)
            source = dict(zip(copied.modules(), model.modules(), strict=True))
        except Exception:
            return None
    inside = set(its_layer.modules()) if its_layer else set()
    low = torch.bfloat16 if precision == "bf16" else None
    # A layer that ends before the norm must not give out what comes after it.
    pairs = [(conv, norm) for conv, norm in trace.pairs if conv not in inside or norm in inside]
    folds = [_fold(source[conv], source[norm], conv, norm, low) for conv, norm in pairs]
    folded = {conv for conv, _ in pairs}
    laid = [pair for module in trace.plain if module not in folded for pair in _lay(module, low)]
    return _FastCopy(copied, its_layer, folds, laid)


def _is_special(module: nn.Module) -> bool:
    """Whether a copy could behave differently: hooks see the module, or its forward is another than its class's."""
    hooks = (
        module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks,
    )  # fmt: skip
    return any(hooks) or ("forward" in vars(module) and not _is_compiled(module))


def _is_compiled(module: nn.Module) -> bool:
    """Whether the module's forward is its class's own, through torch.compile."""
    forward = vars(module)["forward"]
    original = unwrap(forward) if hasattr(forward, "_torchdynamo_orig_callable") else None
    return getattr(original, "__self__", None) is module and getattr(original, "__func__", None) is type(module).forward


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
        """As ``torch.fx.Tracer`` does."""
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


def _fold(
    source: nn.Module, source_norm: nn.Module, conv: nn.Conv2d, norm: nn.BatchNorm2d, low: torch.dtype | None
) -> _Fold:
    """Make the copy's convolution stand for both."""
    assert isinstance(source, nn.Conv2d)
    assert isinstance(source_norm, nn.BatchNorm2d)
    conv.weight = _own(conv.weight, low)
    conv.bias = _own(conv.weight.new_zeros(conv.out_channels), low)
    # The module stays where it is, under whatever names and in whatever lists, and gives back what it gets.
    norm.forward = nn.Identity().forward  # type: ignore[method-assign]
    return _Fold(source, source_norm, conv)


def _lay(module: nn.Module, low: torch.dtype | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Give the module weights of its own; what they are copies of, and they."""
    for name, weight in list(module.named_parameters(recurse=False)):
        own = _own(weight, low)
        setattr(module, name, own)
        yield weight, own


def _own(weight: Tensor, low: torch.dtype | None) -> nn.Parameter:
    """Room for such a weight: of the type ``low`` if it is float32, the channels innermost."""
    kind = low if low is not None and weight.dtype == torch.float32 else weight.dtype
    form = torch.channels_last if weight.ndim == 4 else torch.preserve_format
    # A copy even where contiguous() would do nothing: with one input channel the strides decide the layout.
    tensor = weight.detach().to(kind, copy=True, memory_format=form)
    return nn.Parameter(tensor, requires_grad=False)
