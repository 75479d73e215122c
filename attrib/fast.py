"""Folded copies of a model, which are faster in the many passes of an attack or a map.

A copy computes the same as the model, up to rounding. Batch norm in eval mode is linear and is folded into the
convolution before it. Weights are channels-last, which is faster on every device. For bfloat16, weights are cast once
instead of in every pass (autocast caches its casts only for weights that require a gradient). A copy keeps the model's
class and the names of its submodules.

A copy is made once and refreshed in place. The weights that it changes are its own tensors, which are overwritten from
the model's before each use; all others are shared with the model. So its tensors keep their addresses while the model
is trained, as a CUDA graph needs.

A trace of the forward pass (torch.fx) tells which convolution feeds which norm, not the order of the modules. A model
that cannot be traced, or that has hooks, runs unchanged.
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
    """A model to run, and the layer to look at in it."""

    model: nn.Module
    layer: nn.Module | None = None
    """The counterpart of the requested layer."""


@contextmanager
def prepared(
    model: nn.Module, device: torch.device, precision: Precision, *, layer: nn.Module | None = None
) -> Iterator[Prepared]:
    """Inside, the model is frozen and autocast is set; gives a folded copy, or the model itself if it has none.

    device: the images' device. layer: a submodule of the model, whose output the copy preserves.
    The copy has the model's weights at the time of entering, and must not be used after the context. The last copy of a
    model is reused by the next call if the model's structure is unchanged.
    """
    request = _Request(device, precision, layer)
    with frozen(model), autocast(device, precision):
        copies = _kept.get(model)
        if copies is None:
            fast_copy = _current(model, request)
        elif request in copies:
            fast_copy = copies[request]
        else:
            fast_copy = copies[request] = _current(model, request)
        if fast_copy is None:
            yield Prepared(model, layer)
            return
        fast_copy.users += 1
        try:
            yield Prepared(fast_copy.model, fast_copy.layer)
        finally:
            fast_copy.users -= 1


@contextmanager
def answering(
    model: nn.Module, device: torch.device, precision: Precision, *, layer: nn.Module | None = None
) -> Iterator[Prepared]:
    """``prepared`` for any model: the prepared model takes images on the device and returns logits (N,K).

    A model in half or double precision runs in its own precision, on its own device. Running it raises InputError if
    its output has no unique logits.
    """
    with prepared(model, place_of(model, device), precision_for(model, precision), layer=layer) as fast:
        yield fast if adapted(model, device) is model else fast._replace(model=Answers(fast.model))


@contextmanager
def keep_prepared(*models: nn.Module) -> Iterator[None]:
    """Inside, all copies of the models are kept and none is refreshed; their weights and hooks must not change.

    For many batches with several precisions or layers.
    """
    new = set(models) - _kept.keys()
    _kept.update({model: {} for model in new})
    try:
        yield
    finally:
        for model in new:
            del _kept[model]


class _Request(NamedTuple):
    """The use for which a copy is made."""

    device: torch.device
    precision: Precision
    layer: nn.Module | None


class _Fold(NamedTuple):
    """A convolution and the norm after it, and the copy's convolution that replaces both."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    folded: nn.Conv2d


class _FastCopy:
    """A frozen, folded copy, and the model's weights from which its own weights are computed.

    It must not refer to the model itself, which would then never be freed.
    """

    def __init__(
        self, model: nn.Module, layer: nn.Module | None, folds: list[_Fold], weights: list[tuple[Tensor, Tensor]]
    ) -> None:
        self.model = model
        self.layer = layer
        self.users = 0
        """The number of contexts that use it now; it is not refreshed meanwhile."""
        self._folds = folds
        self._weights = weights
        """Pairs of a tensor of the model and the copy's own tensor of the same values."""

    @torch.no_grad()
    def refresh(self) -> None:
        """Overwrite the copy's own weights from the model's."""
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
        for source, own in self._weights:
            own.copy_(source)


class _Last(NamedTuple):
    """The last copy of a model, and the conditions for using it again."""

    copy: _FastCopy
    name: str | None
    """The name of its layer."""
    device: torch.device
    precision: Precision
    structure: Hashable
    tensors: list[Tensor]
    """The tensors whose ids are in ``structure``; kept alive, so that no other tensor gets such an id."""


_last: WeakKeyDictionary[nn.Module, _Last] = WeakKeyDictionary()
_kept: dict[nn.Module, dict[_Request, _FastCopy | None]] = {}
"""The copies of the models in ``keep_prepared``."""


def _current(model: nn.Module, request: _Request) -> _FastCopy | None:
    """An up-to-date copy of the frozen model: the last one refreshed if it fits, else a new one, else None."""
    device, precision, layer = request
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
    new = _copied(model, request)
    if new is not None:
        new.refresh()
        if structure is not None:
            _last[model] = _Last(new, name, device, precision, structure, [*model.parameters(), *model.buffers()])
    return new


_OWN = {*vars(nn.Module()), "_compiled_call_impl", "forward"}
"""Attributes that every module has, or that torch.compile adds."""


class _Opaque(Exception):
    """A module has an attribute whose changes cannot be detected."""


def _structure(model: nn.Module) -> Hashable | None:
    """Everything that a copy depends on except values of tensors; None if a module has attributes of other types."""
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


def _copied(model: nn.Module, request: _Request) -> _FastCopy | None:
    """A copy of a frozen model before its first ``refresh``; None if a copy might not compute the same."""
    device, precision, layer = request
    if any(_is_special(module) for module in model.modules()):
        return None
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    # The user's code is copied and run here; it may raise or warn of anything.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            copied, copied_layer = copy.deepcopy((model, layer), shared)
            for module in copied.modules():
                vars(module).pop("forward", None)  # torch.compile's, which runs the original
            trace = _traced(copied, device, precision)
            source = dict(zip(copied.modules(), model.modules(), strict=True))
        except Exception:
            return None
    inside = set(copied_layer.modules()) if copied_layer else set()
    low = torch.bfloat16 if precision == "bf16" else None
    # If the layer ends between convolution and norm, folding would change its output.
    pairs = [(conv, norm) for conv, norm in trace.pairs if conv not in inside or norm in inside]
    folds = [_fold(source[conv], source[norm], conv, norm, low) for conv, norm in pairs]
    folded = {conv for conv, _ in pairs}
    weights = [pair for module in trace.plain if module not in folded for pair in _own_weights(module, low)]
    return _FastCopy(copied, copied_layer, folds, weights)


def _is_special(module: nn.Module) -> bool:
    """Whether a copy could behave differently: the module has hooks, or a forward that is not its class's."""
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
    """The use of convolutions and linear layers in a forward pass."""

    plain: list[nn.Module]
    """Those whose weights no other module reads."""
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]]
    """Those of them that are called once and whose output goes to a batch norm only, with this norm."""


class _Tracer(fx.Tracer):
    """Refuses a model that changes autocast for one of its parts, where weights in bfloat16 would not fit."""

    def __init__(self, device: torch.device, precision: Precision) -> None:
        # Leave out normalise, which checks the images' shape; a trace has no shapes.
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
    """Trace the model; raises an exception if its forward pass depends on the image's values."""
    root = unwrapped(model)
    defaults = {
        name: parameter.default
        for name, parameter in signature(root.forward).parameters.items()
        if parameter.default is not parameter.empty
    }
    graph = _Tracer(device, precision).trace(root, concrete_args=defaults or None)
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
    """Give the copy's convolution its own weights for both modules, and make the norm an identity."""
    assert isinstance(source, nn.Conv2d)
    assert isinstance(source_norm, nn.BatchNorm2d)
    conv.weight = _own(conv.weight, low)
    conv.bias = _own(conv.weight.new_zeros(conv.out_channels), low)
    # The norm is not removed, since it may have several names and be in lists.
    norm.forward = nn.Identity().forward  # type: ignore[method-assign]
    return _Fold(source, source_norm, conv)


def _own_weights(module: nn.Module, low: torch.dtype | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Give the module its own weights; yields pairs of the shared weight and the own one."""
    for name, weight in list(module.named_parameters(recurse=False)):
        own = _own(weight, low)
        setattr(module, name, own)
        yield weight, own


def _own(weight: Tensor, low: torch.dtype | None) -> nn.Parameter:
    """A channels-last copy of a weight; of the dtype ``low`` if it is float32."""
    dtype = low if low is not None and weight.dtype == torch.float32 else weight.dtype
    form = torch.channels_last if weight.ndim == 4 else torch.preserve_format
    # Not contiguous(), which does nothing with one input channel, though the strides decide the layout.
    tensor = weight.detach().to(dtype, copy=True, memory_format=form)
    return nn.Parameter(tensor, requires_grad=False)
