"""Does a map depend on the model's training? The randomisation check of Adebayo et al. (2018) and its controls.

Functions of a model and tensors; the model is not changed. Images are (N,C,H,W) in [0,1], maps (N,H,W).
"""

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from attrib import noise
from attrib.errors import InputError, one_line
from attrib.inference import frozen
from attrib.lazy import Lazy
from attrib.models.answers import adapted
from attrib.models.outside import unwrapped
from attrib.models.trace import check_example
from attrib.tensors import check_tensors

metrics = Lazy("skimage.metrics")

_IMAGE = 2**32 + 4
"""A stream of attrib.noise; attacks and SmoothGrad use 0, 1, 2, ..., attrib.faithfulness the three before this one."""


class Randomised(NamedTuple):
    """A copy of a model whose last layers are re-initialised."""

    layers: int
    """The number of re-initialised layers, counted from the top."""
    lowest: str
    """The name of the lowest of them."""
    model: nn.Module
    layer: nn.Module | None
    """The copy of the given layer, for maps that look at it."""


def parameter_layers(model: nn.Module, example: Tensor) -> list[str]:
    """The names of the modules with parameters or running statistics of their own, from the last to the first to run.

    The names are those of the model inside a ``Normalized``. example: (N,C,H,W); only the first image is run. Modules
    that are never called come at the end. Raises InputError if there are no such modules.
    """
    check_example(example)
    names = {part: name for name, part in _parts(model).items() if _has_learned(part)}
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: called.append(names[module]))
        for module in names
        if not isinstance(module, torch.jit.ScriptModule)  # torch allows no hooks there
    ]
    try:
        with frozen(model), torch.no_grad():
            adapted(model, example.device)(example[:1])
    finally:
        for hook in hooks:
            hook.remove()
    last_first = dict.fromkeys(reversed(called))  # the last call of a layer counts
    layers = [*last_first, *(name for name in reversed(names.values()) if name not in last_first)]
    if not layers:
        raise InputError(f"model: {type(model).__name__} has no parameters to randomise")
    return layers


def _has_learned(module: nn.Module) -> bool:
    """Whether the module itself has parameters or a norm's running statistics."""
    has_statistics = isinstance(module, _NormBase) and module.running_mean is not None
    return has_statistics or any(True for _ in module.parameters(False))


def _parts(model: nn.Module) -> dict[str, nn.Module]:
    """All submodules by name, of the model inside a ``Normalized``."""
    return dict(unwrapped(model).named_modules())


def stage_counts(layers: int, stages: int) -> list[int]:
    """The numbers of layers at which a cascade stops: at most ``stages`` numbers, evenly spread, from 1 to all.

    Raises InputError for stages < 1.
    """
    if stages < 1:
        raise InputError(f"stages: expected at least 1, got {stages}")
    if stages == 1:
        return [layers]
    return sorted({1 + round(stage * (layers - 1) / (stages - 1)) for stage in range(stages)})


def cascade(
    model: nn.Module, example: Tensor, *, layer: nn.Module | None = None, stages: int = 8, seed: int = 0
) -> Iterator[Randomised]:
    """Cascading randomisation (Adebayo et al. 2018, section 4.1): re-initialise ever more layers of a copy.

    Layers are re-initialised one after another from the top (``parameter_layers``), and the copy is yielded at each of
    ``stage_counts``. It is always the same copy, so use it before taking the next.
    example: (N,C,H,W); layer: a layer of the model, whose copy is given too.

    Weights are drawn from He's normal distribution by a generator with this seed; biases become 0 and the scales of
    normalisation layers 1. Batch-norm statistics become 0 and 1, since they were learned too.
    Raises InputError for a model that has no parameters or cannot be copied.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> maps = attrib.gradcam(model, image, label)
    >>> for stage in cascade(model, image, stages=2):
    ...     other = attrib.gradcam(stage.model, image, label)
    ...     print(stage.layers, stage.lowest, spearman(maps, other).shape)
    1 fc torch.Size([4])
    4 stages.0.0 torch.Size([4])
    """
    names = parameter_layers(model, example)
    stops = stage_counts(len(names), stages)
    try:
        # One deepcopy, so that the copied layer is a part of the copied model; no_grad for TorchScript's copies.
        with torch.no_grad():
            copied, copied_layer = copy.deepcopy((model, layer))
    except (RuntimeError, TypeError) as error:
        name = type(model).__name__
        raise InputError(f"model: {name} cannot be copied to randomise its layers: {one_line(error)}") from error
    modules = _parts(copied)
    generator = torch.Generator().manual_seed(seed)
    for count, name in enumerate(names, start=1):
        _reinitialise(modules[name], generator)
        if count in stops:
            yield Randomised(count, name, copied, copied_layer)


@torch.no_grad()
def _reinitialise(module: nn.Module, generator: torch.Generator) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.ndim >= 2:
            # Drawn on the CPU, so that every device gets the same weights.
            drawn = torch.empty(parameter.shape)
            nn.init.kaiming_normal_(drawn, nonlinearity="relu", generator=generator)
            parameter.copy_(drawn)
        else:
            parameter.fill_(0.0 if "bias" in name else 1.0)
    if isinstance(module, _NormBase):
        module.reset_running_stats()


def edges(image: Tensor) -> Tensor:
    """The Sobel edge detector, a map without a model: (N,C,H,W) to (N,H,W), the mean magnitude over channels.

    >>> image = torch.zeros(1, 1, 3, 4)
    >>> image[..., 2:] = 1  # dark on the left, bright on the right
    >>> edges(image)[0, 1]
    tensor([0., 1., 1., 0.])
    """
    check_tensors(image=(image, "floats N,C,H,W"))
    padded = F.pad(image.float(), (1, 1, 1, 1), mode="replicate")
    # Smooth in one direction and subtract in the other: exactly 0 where an image is flat, unlike a convolution.
    across = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    down = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    magnitude = torch.hypot(across[..., 2:, :] - across[..., :-2, :], down[..., 2:] - down[..., :-2]) / 4
    return magnitude.mean(1)


def noise_images(image: Tensor, index: Tensor, *, seed: int = 0) -> Tensor:
    """Uniform noise in the shape of the images (N,C,H,W), a function of (seed, index (N,)).

    The map of a randomised model on a noise image depends on neither model nor image. Its remaining similarity comes
    from the architecture (strides and borders favour certain pixels) and is the floor for ``cascade``.

    >>> noise_images(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])).shape
    torch.Size([2, 3, 4, 4])
    """
    check_tensors(image=(image, "floats N,C,H,W"), index=(index, "integers N"))
    return noise.uniform(index, image.shape[1:], seed=seed, stream=_IMAGE)


def spearman(original: Tensor, other: Tensor) -> Tensor:
    """Spearman's rank correlation of two maps (N,H,W) of the same image, as (N,); ties share their mean rank.

    0 if ``other`` is constant, since it has nothing of the original's order. NaN if the original is constant.

    >>> a = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
    >>> spearman(a, a**3), spearman(a, -a), spearman(a, torch.ones(1, 2, 2))
    (tensor([1.], dtype=torch.float64), tensor([-1.], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    _check(original, other)
    a, b = (ranks - ranks.mean(1, keepdim=True) for ranks in (_ranks(original), _ranks(other)))
    scale = (a.square().sum(1) * b.square().sum(1)).sqrt()
    correlation = torch.where(scale > 0, (a * b).sum(1) / scale, 0.0)
    return torch.where(_constant(original), math.nan, correlation)


def ssim(original: Tensor, other: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, scikit-image) of two maps (N,H,W), each scaled to [0,1], as (N,).

    NaN if the original is constant. Raises InputError for maps smaller than 3x3.

    >>> a = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> ssim(a, 3 * a).round(decimals=3)  # each is scaled to [0,1]
    tensor([1., 1.])
    """
    _check(original, other)
    window = min(7, *original.shape[1:])
    if window < 3:
        raise InputError(f"maps: structural similarity expects at least 3x3, got {tuple(original.shape[1:])}")
    pairs = zip(_unit(original).cpu().numpy(), _unit(other).cpu().numpy(), strict=True)
    similarities = [
        float(metrics.structural_similarity(a, b, data_range=1.0, win_size=window - 1 + window % 2)) for a, b in pairs
    ]
    return torch.where(_constant(original), math.nan, torch.tensor(similarities, device=original.device))


def _check(original: Tensor, other: Tensor) -> None:
    check_tensors(original=(original, "floats N,H,W"), other=(other, "floats N,H,W"))


def _ranks(maps: Tensor) -> Tensor:
    """Ranks of the pixels, (N,H*W) float64; tied ones share their mean rank."""
    flat = maps.flatten(1).contiguous()
    ordered = flat.sort(1).values
    below = torch.searchsorted(ordered, flat, right=False)
    up_to = torch.searchsorted(ordered, flat, right=True)
    return (below + up_to + 1).double() / 2


def _constant(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    return flat.amax(1) == flat.amin(1)


def _unit(maps: Tensor) -> Tensor:
    """Each map (N,H,W) scaled to [0,1]; constant ones become 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1.0)
