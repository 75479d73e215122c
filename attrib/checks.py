"""Does a map mean anything? Randomisation, insertion and deletion, deletion of the span, chance levels.

Functions of a model and tensors; the model is left as it was. Images are (N,C,H,W) in [0,1], labels (N,) the classes
explained, maps (N,H,W), spans bool (N,H,W). Images are worked through in chunks of bounded memory, and no answer
depends on the batch that an image comes in. Localisation is in :mod:`attrib.spans`: ``inside`` and ``pointing``.
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
from attrib.errors import InputError
from attrib.fast import prepared
from attrib.inference import frozen, images_per_chunk
from attrib.layers import Normalized

BASELINES = ("mean", "black")
# Streams of attrib.noise: attacks and SmoothGrad take 0, 1, 2, ...
_ORDER, _PIXELS, _MOVE, _IMAGE = 2**32 + 1, 2**32 + 2, 2**32 + 3, 2**32 + 4


class Randomised(NamedTuple):
    """A copy of a model whose last layers are re-initialised."""

    layers: int
    """How many layers are, counted from the top."""
    lowest: str
    """The name of the last one reached."""
    model: nn.Module
    layer: nn.Module | None
    """The copy of the layer that was asked for, where Grad-CAM looks."""


def parameter_layers(model: nn.Module, example: Tensor) -> list[str]:
    """The modules that hold parameters of their own, from the last to the first to run.

    Named as the model's own code calls them, also inside a ``Normalized``. example: (N,C,H,W), of which the first
    image is run. Those that do not run as modules come at the end.
    Raises InputError where there is none.
    """
    names = {part: name for name, part in _parts(model).items() if any(True for _ in part.parameters(False))}
    called: list[str] = []
    hooks = [module.register_forward_hook(lambda module, *_: called.append(names[module])) for module in names]
    try:
        with frozen(model), torch.no_grad():
            model(example[:1])
    finally:
        for hook in hooks:
            hook.remove()
    last_first = dict.fromkeys(reversed(called))  # a layer used twice counts where it is used last
    layers = [*last_first, *(name for name in reversed(names.values()) if name not in last_first)]
    if not layers:
        raise InputError(f"model: {type(model).__name__} has no parameters to randomise")
    return layers


def _parts(model: nn.Module) -> dict[str, nn.Module]:
    """All submodules by name, for a model inside a ``Normalized`` its own."""
    return dict((model.module if isinstance(model, Normalized) else model).named_modules())


def stage_counts(layers: int, stages: int) -> list[int]:
    """After how many of the layers a cascade stops: at most ``stages`` counts, evenly spread, from 1 to all.

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
    """Cascading randomisation (Adebayo et al. 2018, section 4.1): the model with ever more layers as if never trained.

    Layers are re-initialised one after another from the top (:func:`parameter_layers`), and the copy is handed out
    after each of :func:`stage_counts`. It is one copy that goes on changing, so use it before the next.
    example: (N,C,H,W); layer: the layer to look at, followed into the copy.

    Weights are drawn from He's normal distribution by a generator of our own; biases become 0 and the scales of
    normalisation layers 1. Batch-norm statistics become those of a new model, 0 and 1, since they were learned too.
    Raises InputError for a model without parameters, or that cannot be copied.

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
        # Together, so that the copied layer is a part of the copied model.
        copied, copied_layer = copy.deepcopy((model, layer))
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"model: {type(model).__name__} cannot be copied to randomise its layers: {reason}") from error
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
            # Drawn on the CPU: every device then gets the same model.
            drawn = torch.empty(parameter.shape)
            nn.init.kaiming_normal_(drawn, nonlinearity="relu", generator=generator)
            parameter.copy_(drawn)
        else:
            parameter.fill_(0.0 if "bias" in name else 1.0)
    if isinstance(module, _NormBase):
        module.reset_running_stats()


def edges(image: Tensor) -> Tensor:
    """The Sobel edge detector, a map that knows no model: (N,C,H,W) to (N,H,W), the mean magnitude over channels.

    >>> image = torch.zeros(1, 1, 3, 4)
    >>> image[..., 2:] = 1  # dark on the left, bright on the right
    >>> edges(image)[0, 1]
    tensor([0., 1., 1., 0.])
    """
    padded = F.pad(image.float(), (1, 1, 1, 1), mode="replicate")
    # Smoothed one way and then subtracted the other way: exactly 0 where an image is flat, as a convolution is not.
    beside = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    above = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    magnitude = torch.hypot(beside[..., 2:, :] - beside[..., :-2, :], above[..., 2:] - above[..., :-2]) / 4
    return magnitude.mean(1)


def spearman(original: Tensor, other: Tensor) -> Tensor:
    """Spearman's rank correlation of two maps (N,H,W) of the same image, as (N,); ties share their mean rank.

    A constant ``other`` correlates 0: it has none of the original's order. NaN where the original is constant.

    >>> a = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
    >>> spearman(a, a**3), spearman(a, -a), spearman(a, torch.ones(1, 2, 2))
    (tensor([1.], dtype=torch.float64), tensor([-1.], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    a, b = (ranks - ranks.mean(1, keepdim=True) for ranks in (_ranks(original), _ranks(other)))
    scale = (a.square().sum(1) * b.square().sum(1)).sqrt()
    correlation = torch.where(scale > 0, (a * b).sum(1) / scale, 0.0)
    return torch.where(_constant(original), math.nan, correlation)


def ssim(original: Tensor, other: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, scikit-image) of two maps (N,H,W), each scaled to [0,1], as (N,).

    NaN where the original is constant. Raises InputError for maps smaller than 3x3.

    >>> a = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> ssim(a, 3 * a).round(decimals=3)  # each is scaled to [0,1]
    tensor([1., 1.])
    """
    from skimage.metrics import structural_similarity

    window = min(7, *original.shape[1:])
    if window < 3:
        raise InputError(f"maps: structural similarity expects at least 3x3, got {tuple(original.shape[1:])}")
    pairs = zip(_unit(original).cpu().numpy(), _unit(other).cpu().numpy(), strict=True)
    found = [float(structural_similarity(a, b, data_range=1.0, win_size=window - 1 + window % 2)) for a, b in pairs]
    return torch.where(_constant(original), math.nan, torch.tensor(found, device=original.device))


def insertion(
    model: nn.Module, image: Tensor, label: Tensor, maps: Tensor, *, steps: int = 20, baseline: str = "mean"
) -> Tensor:
    """Insertion (Petsiuk et al. 2018): p_y while pixels are put onto the baseline, those highest in the map first.

    Returns (N,steps+1), the probabilities at :func:`fractions`; ties go to the lower pixel index. The baseline is the
    image's own mean colour (``mean``) or ``black``. (The paper inserts into a blurred image, which already shows
    small images' content.) Raises InputError for other baselines, shapes or steps < 1.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> curve = insertion(model, image, label, attrib.gradcam(model, image, label), steps=4)
    >>> curve.shape, torch.allclose(curve[:, -1], probability(model, image, label))  # at the end the image is whole
    (torch.Size([4, 5]), True)
    """
    return _curve(model, image, label, maps, steps=steps, start=_baseline(image, baseline), end=image)


def deletion(
    model: nn.Module, image: Tensor, label: Tensor, maps: Tensor, *, steps: int = 20, baseline: str = "mean"
) -> Tensor:
    """Deletion (Petsiuk et al. 2018): p_y while pixels are replaced by the baseline, those highest in the map first.

    Otherwise as :func:`insertion`.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> curve = deletion(model, image, label, attrib.gradcam(model, image, label), steps=4)
    >>> torch.allclose(curve[:, 0], probability(model, image, label))  # it begins with the whole image
    True
    """
    return _curve(model, image, label, maps, steps=steps, start=image, end=_baseline(image, baseline))


def fractions(pixels: int, steps: int) -> list[float]:
    """The shares of the pixels that are changed at each point of a curve: 0 to 1, in whole pixels.

    Raises InputError for steps < 1 or more than pixels.

    >>> fractions(10, 4)
    [0.0, 0.2, 0.5, 0.8, 1.0]
    """
    if not 1 <= steps <= pixels:
        raise InputError(f"steps: expected 1 to {pixels}, the number of pixels, got {steps}")
    return [round(step * pixels / steps) / pixels for step in range(steps + 1)]


def area(curve: Tensor, pixels: int) -> Tensor:
    """The area under curves (N,steps+1) by the trapezoidal rule over :func:`fractions`, as (N,).

    For a constant probability it is that probability.

    >>> area(torch.tensor([[0.0, 0.5, 1.0], [0.7, 0.7, 0.7]]), 4)
    tensor([0.5000, 0.7000])
    """
    share = torch.tensor(fractions(pixels, curve.shape[1] - 1), dtype=curve.dtype, device=curve.device)
    return torch.trapezoid(curve, share, dim=1)


def random_maps(index: Tensor, size: tuple[int, int], *, seed: int = 0) -> Tensor:
    """A map of random numbers for every image, (N,H,W): the order of pixels that knows nothing, as a control.

    index: (N,) positions in the data set, which with the seed fix the numbers.

    >>> both = random_maps(torch.tensor([7, 3]), (4, 4))
    >>> torch.equal(both[1:], random_maps(torch.tensor([3]), (4, 4)))  # whatever batch an image comes in
    True
    """
    return noise.uniform(index, size, seed=seed, stream=_ORDER)


def noise_images(image: Tensor, index: Tensor, *, seed: int = 0) -> Tensor:
    """Uniform noise in the place of every image (N,C,H,W), fixed by (seed, index (N,)).

    The map of a randomised model and a noise image knows neither model nor image. What similarity it still has is the
    architecture's (strides and borders favour the same pixels always), and the floor of :func:`cascade`.

    >>> noise_images(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])).shape
    torch.Size([2, 3, 4, 4])
    """
    return noise.uniform(index, image.shape[1:], seed=seed, stream=_IMAGE)


class SpanDeletion(NamedTuple):
    """The drop of p_y, each (N,), when so many pixels are replaced by the baseline."""

    span: Tensor
    """Those of the span."""
    random: Tensor
    """As many random pixels."""
    moved: Tensor
    """The span's own shape at a random other place."""


def span_deletion(
    model: nn.Module, image: Tensor, label: Tensor, mask: Tensor, *, index: Tensor, seed: int = 0,
    baseline: str = "mean",
) -> SpanDeletion:  # fmt: skip
    """How much p_y drops without the span, and without as many pixels elsewhere.

    Scattered pixels damage a picture in another way than a patch does, hence the second control, the span moved
    around the image (over its edges). Both are functions of (seed, index). mask: the span, bool (N,H,W).
    Raises InputError for other baselines or shapes.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> mask = attrib.span(attrib.gradcam(model, image, label))
    >>> drop = span_deletion(model, image, label, mask, index=torch.arange(4))
    >>> nothing = span_deletion(model, image, label, mask & False, index=torch.arange(4))
    >>> drop.span.shape, nothing.span.abs().max() < 1e-6
    (torch.Size([4]), tensor(True))
    """
    _check(image, label, mask)
    gone = _baseline(image, baseline)
    whole = probability(model, image, label)
    masks = mask, random_pixels(mask, index, seed=seed), moved(mask, index, seed=seed)
    drops = (whole - probability(model, torch.where(m[:, None], gone, image), label) for m in masks)
    return SpanDeletion(*drops)


def random_pixels(mask: Tensor, index: Tensor, *, seed: int = 0) -> Tensor:
    """As many random pixels as the mask (N,H,W) has in each image, bool (N,H,W), fixed by (seed, index (N,)).

    >>> mask = torch.tensor([[[True, True], [False, False]]])
    >>> random_pixels(mask, torch.tensor([0])).sum()
    tensor(2)
    """
    order = _positions(noise.uniform(index, mask.shape[1:], seed=seed, stream=_PIXELS))
    return (order < mask.flatten(1).sum(1, keepdim=True)).view_as(mask)


def moved(mask: Tensor, index: Tensor, *, seed: int = 0) -> Tensor:
    """The mask (N,H,W) of each image moved by a random distance, over the edges, fixed by (seed, index (N,)).

    >>> mask = torch.tensor([[[True, False], [False, False]]])
    >>> elsewhere = moved(mask, torch.tensor([0]))
    >>> elsewhere.sum(), (elsewhere & mask).any()
    (tensor(1), tensor(False))
    """
    height, width = mask.shape[1:]
    by = noise.uniform(index, (2,), seed=seed, stream=_MOVE)
    # Never by (0, 0): one of the other H*W - 1 distances.
    distance = 1 + (by[:, 0].double() * (height * width - 1)).long()
    rows = (torch.arange(height, device=mask.device)[None] - (distance // width)[:, None]) % height
    columns = (torch.arange(width, device=mask.device)[None] - (distance % width)[:, None]) % width
    return mask[torch.arange(len(mask), device=mask.device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def chance_iou(a: Tensor, b: Tensor) -> Tensor:
    """The IoU of two spans (N,H,W) if their pixels were drawn independently: expected overlap over union, (N,).

    NaN where both are empty.

    >>> half = torch.tensor([[[True, False], [True, False]]])
    >>> chance_iou(half, half)  # a quarter of the pixels in both, three quarters in either
    tensor([0.3333], dtype=torch.float64)
    """
    first, second = (mask.flatten(1).double().mean(1) for mask in (a, b))
    overlap = first * second
    return overlap / (first + second - overlap)


def probability(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    """The softmax probability of each image's label, (N,) float64, from logits in fp32.

    >>> model = nn.Sequential(nn.Flatten(), nn.Identity())  # two pixels, taken for logits
    >>> probability(model, torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([1]))
    tensor([0.7311], dtype=torch.float64)
    """
    with prepared(model, image.device, "fp32") as fast, torch.no_grad():
        size = images_per_chunk(fast.model, image)
        return torch.cat([_probability(fast.model, *part) for part in _chunks(size, image, label)])


def _probability(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    found: Tensor = model(image).double().softmax(1).gather(1, label[:, None]).squeeze(1)
    return found


def _chunks(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _curve(
    model: nn.Module, image: Tensor, label: Tensor, maps: Tensor, *, steps: int, start: Tensor, end: Tensor
) -> Tensor:
    """p_y (N,steps+1) on the way from one image to the other, pixels in the order of the map."""
    _check(image, label, maps)
    pixels = maps[0].numel()
    counts = [round(share * pixels) for share in fractions(pixels, steps)]
    curves = []
    with prepared(model, image.device, "fp32") as fast, torch.no_grad():
        for y, values, a, b in _chunks(images_per_chunk(fast.model, image), label, maps, start, end):
            place = _positions(-values).view_as(values)[:, None]
            points = [_probability(fast.model, torch.where(place < count, b, a), y) for count in counts]
            curves.append(torch.stack(points, 1))
    return torch.cat(curves)


def _positions(values: Tensor) -> Tensor:
    """Where each pixel of (N,H,W) comes in ascending order, (N,H*W); ties in the order of pixels."""
    ordered = values.flatten(1).argsort(dim=1, stable=True)
    places = torch.arange(ordered.shape[1], device=values.device).expand_as(ordered)
    return torch.empty_like(ordered).scatter_(1, ordered, places)


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


def _baseline(image: Tensor, name: str) -> Tensor:
    """What a removed pixel shows, (N,C,1,1)."""
    if name not in BASELINES:
        raise InputError(f"baseline: expected one of {', '.join(BASELINES)}, got {name!r}")
    mean = image.mean((2, 3), keepdim=True)
    return mean if name == "mean" else torch.zeros_like(mean)


def _check(image: Tensor, label: Tensor, maps: Tensor) -> None:
    if image.ndim != 4 or not len(image) or maps.shape != image[:, 0].shape or label.shape != image.shape[:1]:
        raise InputError(
            "image, label, map: expected (N,C,H,W), (N,) and (N,H,W) with N at least 1, got "
            f"{tuple(image.shape)}, {tuple(label.shape)} and {tuple(maps.shape)}"
        )
