"""Find the layer to look at and the last linear layer of any model, or a layer by its name."""

from difflib import get_close_matches
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attrib.errors import InputError, one_line
from attrib.inference import frozen
from attrib.models.answers import answer_of, fitting
from attrib.models.classifier import Classifier
from attrib.models.outside import unwrapped


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
    # torch allows no hooks inside a TorchScript program.
    scripted = torch.jit.ScriptModule
    names = {
        child: name for name, child in inner.named_modules() if child is not inner and not isinstance(child, scripted)
    }
    if isinstance(inner, scripted):
        raise InputError(
            f"model: {model} is a TorchScript program, into whose layers nothing can look; maps of the image, as"
            " gradient, smoothgrad, integrated-gradients and occlusion, need none"
        )
    calls: list[_Call] = []

    def record(child: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            calls.append(_Call(names[child], child, output))

    hooks = [child.register_forward_hook(record) for child in names]
    try:
        with frozen(module), torch.no_grad():
            return _Trace(model, calls, module(fitting(module, example[:1])))
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
    logits = answer_of(trace.output, images=1, model=trace.model)
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
