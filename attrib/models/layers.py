"""Find a model's last feature map, its last linear layer, or a layer by name."""

from difflib import get_close_matches

from torch import Tensor, nn

from attrib.errors import InputError
from attrib.map_table import LAYER_MAPS, MAPS
from attrib.models.answers import answer_of
from attrib.models.classifier import Classifier
from attrib.models.outside import bare, unwrapped
from attrib.models.tokens import Layout, has_places, layouts
from attrib.models.trace import Call, Trace, depends_on, run


def locate(module: nn.Module, example: Tensor) -> tuple[nn.Module, nn.Linear]:
    """The layer that Grad-CAM looks at and the last linear layer, found in one forward pass.

    example: (N, C, H, W) in [0, 1]; only the first image is run, and none for a ``Classifier``.
    ``feature_layer`` and ``last_linear`` find one of them and describe it. Raises InputError as they do.

    >>> import torch
    >>> module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    >>> layer, fc = locate(module, torch.rand(1, 3, 8, 8))
    >>> layer is module[1], fc is module[4]
    (True, True)
    """
    module = bare(module)
    if isinstance(module, Classifier):
        return module.stages[-1], module.fc
    trace = run(module, example)
    return trace.calls[_feature_call(module, example, trace)].module, _last_linear(trace)


def feature_layer(module: nn.Module, example: Tensor) -> nn.Module:
    """The layer whose output is the last feature map before pooling, larger than 1x1.

    The map may be (N, C, h, w), (N, h, w, C), or the tokens (N, T, C) of a vision transformer. If several modules
    return it, the outermost is taken: a whole block rather than the last layer inside it. In a transformer that
    classifies by its class token, it is the first norm of the last block, since the other tokens have no effect after
    it. example: (N, C, H, W) in [0, 1]. Raises InputError if there is no such layer, or the module cannot run on the
    example.
    """
    module = bare(module)
    if isinstance(module, Classifier):
        return module.stages[-1]
    trace = run(module, example)
    return trace.calls[_feature_call(module, example, trace)].module


def last_linear(module: nn.Module, example: Tensor) -> nn.Linear:
    """The ``nn.Linear`` that gives the logits.

    example: (N, C, H, W) in [0, 1]. Raises InputError if another layer gives the logits (as a 1x1 convolution), or if
    the module cannot run on the example.
    """
    module = bare(module)
    return module.fc if isinstance(module, Classifier) else _last_linear(run(module, example))


def layout_of(module: nn.Module, layer: nn.Module, example: Tensor) -> Layout:
    """The layout of a layer's output, by which it becomes a map (N, C, h, w).

    example: (N, C, H, W) in [0, 1]. If the layer runs several times, its last call with a map counts. Raises InputError
    for a layer that never runs or whose output is no map.
    """
    trace = run(module, example)
    calls = [(call, layout) for call, layout in zip(trace.calls, layouts(trace), strict=True) if call.module is layer]
    if not calls:
        raise InputError(f"layer: {trace.model} never runs the one given")
    fitting = [layout for _, layout in calls if layout]
    if fitting:
        return fitting[-1]
    shape = tuple(calls[-1][0].output.shape)
    got = "one of 1x1" if shape[2:] == (1, 1) else f"an output without height and width {('N', *shape[1:])}"
    raise InputError(
        f"layer: expected one whose output is a feature map (N,C,h,w), larger than 1x1, got {got.replace(chr(39), '')};"
        " name one before, or say with reshape= how it becomes a map"
    )


def _feature_call(module: nn.Module, example: Tensor, trace: Trace) -> int:
    """Position among the calls of the one whose output ``feature_layer`` describes."""
    # Tensors are compared by identity, since a container that ends in pooling returns the pooled tensor itself.
    pooled = {id(call.output) for call in trace.calls if _is_pooling(call.module)}
    call_layouts = layouts(trace)
    maps = [
        position
        for position, (call, layout) in enumerate(zip(trace.calls, call_layouts, strict=True))
        if layout and id(call.output) not in pooled and (layout.kind != "tokens" or has_places(call))
    ]
    # If unreadable tokens follow, the map before them is only the patch embedding.
    last = maps[-1] if maps else -1
    unknown = [call for call, layout in list(zip(trace.calls, call_layouts, strict=True))[last + 1 :] if layout is None]
    if not maps or any(_makes_tokens(call) for call in unknown):
        raise InputError(
            f"model: {trace.model} has no feature map (N, C, h, w) before its last layers; name the layer to look at"
            f" with layer= (--layer), or take a map that needs none: {', '.join(WITHOUT_LAYER)}"
        )
    if trace.calls[last].output.ndim == 4:
        return last
    # After the last attention, nothing reads the tokens beside the class token.
    start = max((position for position in maps if trace.calls[position].output.ndim == 4), default=maps[0])
    candidates = [position for position in maps if position >= start]
    prefixes = [layout.prefix if (layout := call_layouts[position]) else 0 for position in candidates]
    matters = depends_on(module, example, list(zip(candidates, prefixes, strict=True)))
    return [position for position, does in zip(candidates, matters, strict=True) if does][-1]


WITHOUT_LAYER = tuple(name for name in MAPS if name not in LAYER_MAPS)


def _last_linear(trace: Trace) -> nn.Linear:
    logits = answer_of(trace.output, images=1, model=trace.model)
    # A reparametrised linear layer without bias has no parameter of its own.
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
        "analyses of the last layer need one; name it with fc= (--fc) if it is elsewhere"
    )


def _is_pooling(module: nn.Module) -> bool:
    return any(base.__module__ == "torch.nn.modules.pooling" for base in type(module).__mro__)


def _has_weights(module: nn.Module) -> bool:
    """Whether the module has parameters of its own, not only those of its children."""
    return next(module.parameters(recurse=False), None) is not None


def _makes_tokens(call: Call) -> bool:
    """Whether the output looks like tokens of one image: (1,T,C), or (T,1,C) with the sequence first."""
    shape = call.output.shape
    return len(shape) == 3 and min(shape[:2]) == 1 < max(shape[:2]) and _has_weights(call.module)


def named(module: nn.Module, name: str, example: Tensor | None = None, *, what: str = "layer") -> nn.Module:
    """The submodule called ``name`` ("layer4.1") in the model without wrappers such as ``Normalized``.

    what: the argument that errors name. Raises InputError if there is no such submodule; the message lists the nearest
    names, with an example (N, C, H, W) only those of layers that maps can look at.
    """
    module = unwrapped(module)
    modules: dict[str, nn.Module] = dict(module.named_modules())
    plain = name.removeprefix("_orig_mod.").removeprefix("module.")
    for candidate in (name, plain):
        if candidate and candidate in modules:
            return modules[candidate]
    fitting = [] if example is None else map_layers(module, example)
    names = fitting or [candidate for candidate in modules if candidate]
    near = get_close_matches(name, names, n=5, cutoff=0.5)
    near = near or fitting[-5:] or [candidate for candidate, _ in module.named_children()]
    listed = f"{'maps can look at' if fitting else 'some that it has'}: {', '.join(near) or 'none'}"
    raise InputError(f"{what}: {type(module).__name__} has no {name!r}; {listed}")


def map_layers(module: nn.Module, example: Tensor) -> list[str]:
    """The names of the layers whose output is a map, in the order in which they run, up to ``feature_layer``.

    The logits do not depend on what later layers give at single places.
    """
    try:
        trace = run(module, example)
        last = _feature_call(module, example, trace)
    except InputError:
        return []
    pairs = list(zip(trace.calls, layouts(trace), strict=True))[: last + 1]
    return list(dict.fromkeys(call.name for call, layout in pairs if layout and has_places(call)))
