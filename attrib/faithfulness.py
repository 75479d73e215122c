"""Does the model use what a map shows? Insertion and deletion, deletion of the span, and chance levels.

Functions of a model and tensors; the model is restored afterwards. Images are (N,C,H,W) in [0,1], labels (N,) the
explained classes, maps (N,H,W), spans bool (N,H,W). Images are processed in chunks of bounded memory, and no result
depends on the other images in the batch. Localisation is in ``attrib.spans``: ``inside`` and ``pointing``.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attrib import noise
from attrib.errors import InputError, refused
from attrib.fast import answering
from attrib.inference import Label, check_images, checked_labels, images_per_chunk
from attrib.tensors import check_tensors

BASELINES = ("mean", "black")
_ORDER, _PIXELS, _MOVE = 2**32 + 1, 2**32 + 2, 2**32 + 3
"""Streams of attrib.noise; attacks and SmoothGrad use 0, 1, 2, ..."""


def insertion(
    model: nn.Module, image: Tensor, label: Label, maps: Tensor, *, steps: int = 20, baseline: str = "mean"
) -> Tensor:
    """Insertion (Petsiuk et al. 2018): p_y while pixels are inserted into the baseline, those highest in the map first.

    Returns (N,steps+1), the probabilities at ``fractions``; ties go to the lower pixel index. The baseline is the
    image's own mean colour (``mean``) or ``black``. (The paper's blurred image would still show the content of small
    images.) Raises InputError for other baselines or shapes, labels that are no class, and steps < 1.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> curve = insertion(model, image, label, attrib.gradcam(model, image, label), steps=4)
    >>> curve.shape, torch.allclose(curve[:, -1], probability(model, image, label))  # at the end the image is whole
    (torch.Size([4, 5]), True)
    """
    return _curve(model, image, label, maps, steps=steps, inserted=True, baseline=baseline)


def deletion(
    model: nn.Module, image: Tensor, label: Label, maps: Tensor, *, steps: int = 20, baseline: str = "mean"
) -> Tensor:
    """Deletion (Petsiuk et al. 2018): p_y while pixels are replaced by the baseline, those highest in the map first.

    Arguments, result and errors are those of ``insertion``.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> curve = deletion(model, image, label, attrib.gradcam(model, image, label), steps=4)
    >>> torch.allclose(curve[:, 0], probability(model, image, label))  # at the start the image is whole
    True
    """
    return _curve(model, image, label, maps, steps=steps, inserted=False, baseline=baseline)


def fractions(pixels: int, steps: int) -> list[float]:
    """The share of changed pixels at each point of a curve, from 0 to 1 in whole pixels.

    Raises InputError for steps < 1 or above the number of pixels.

    >>> fractions(10, 4)
    [0.0, 0.2, 0.5, 0.8, 1.0]
    """
    if not 1 <= steps <= pixels:
        raise InputError(f"steps: expected 1 to {pixels}, the number of pixels, got {steps}")
    return [round(step * pixels / steps) / pixels for step in range(steps + 1)]


def area(curve: Tensor, pixels: int) -> Tensor:
    """The area under curves (N,steps+1) by the trapezoidal rule over ``fractions``, as (N,).

    The area of a constant curve is that constant.

    >>> area(torch.tensor([[0.0, 0.5, 1.0], [0.7, 0.7, 0.7]]), 4)
    tensor([0.5000, 0.7000])
    """
    check_tensors(curve=(curve, "floats N,P"))
    share = torch.tensor(fractions(pixels, curve.shape[1] - 1), dtype=curve.dtype, device=curve.device)
    return torch.trapezoid(curve, share, dim=1)


def random_maps(index: Tensor, size: tuple[int, int], *, seed: int = 0) -> Tensor:
    """A map of random numbers for every image, (N,H,W), as a control.

    index: (N,) positions in the data set; the numbers depend on them and on the seed only.

    >>> both = random_maps(torch.tensor([7, 3]), (4, 4))
    >>> torch.equal(both[1:], random_maps(torch.tensor([3]), (4, 4)))  # not on the batch
    True
    """
    check_tensors(index=(index, "integers N"))
    return noise.uniform(index, size, seed=seed, stream=_ORDER)


class SpanDeletion(NamedTuple):
    """The drop of p_y, (N,) each, if these pixels are replaced by the baseline."""

    span: Tensor
    """The pixels of the span."""
    random: Tensor
    """As many random pixels."""
    moved: Tensor
    """The span moved to another random place."""


def span_deletion(
    model: nn.Module, image: Tensor, label: Label, mask: Tensor, *, index: Tensor, seed: int = 0,
    baseline: str = "mean",
) -> SpanDeletion:  # fmt: skip
    """The drop of p_y without the span, and without as many other pixels.

    There are two controls, since scattered pixels damage an image in another way than a patch does: random pixels, and
    the span moved to another place (wrapping around the edges). Both depend on (seed, index) only. mask: the span, bool
    (N,H,W). Raises InputError for other baselines or shapes, and for labels that are no class.

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
    label = check_images(model, image, label, index)
    _check_index(mask, index)
    check_tensors(image=(image, "floats N,C,H,W"), mask=(mask, "bool N,H,W"))
    gone = _baseline(image, baseline)
    whole = probability(model, image, label)
    masks = mask, random_pixels(mask, index, seed=seed), moved(mask, index, seed=seed)
    drops = (whole - probability(model, torch.where(m[:, None], gone, image), label) for m in masks)
    return SpanDeletion(*drops)


def random_pixels(mask: Tensor, index: Tensor, *, seed: int = 0) -> Tensor:
    """As many random pixels as the mask (N,H,W) has in each image, bool (N,H,W); a function of (seed, index (N,)).

    >>> mask = torch.tensor([[[True, True], [False, False]]])
    >>> random_pixels(mask, torch.tensor([0])).sum()
    tensor(2)
    """
    _check_index(mask, index)
    order = _positions(noise.uniform(index, mask.shape[1:], seed=seed, stream=_PIXELS))
    return (order < mask.flatten(1).sum(1, keepdim=True)).view_as(mask)


def moved(mask: Tensor, index: Tensor, *, seed: int = 0) -> Tensor:
    """The mask (N,H,W) moved by a random distance, wrapping around the edges; a function of (seed, index (N,)).

    >>> mask = torch.tensor([[[True, False], [False, False]]])
    >>> elsewhere = moved(mask, torch.tensor([0]))
    >>> elsewhere.sum(), (elsewhere & mask).any()
    (tensor(1), tensor(False))
    """
    _check_index(mask, index)
    height, width = mask.shape[1:]
    random = noise.uniform(index, (1,), seed=seed, stream=_MOVE)[:, 0]
    # One of the H*W - 1 distances other than 0.
    distance = 1 + (random.double() * (height * width - 1)).long()
    rows = (torch.arange(height, device=mask.device)[None] - (distance // width)[:, None]) % height
    columns = (torch.arange(width, device=mask.device)[None] - (distance % width)[:, None]) % width
    return mask[torch.arange(len(mask), device=mask.device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def chance_iou(a: Tensor, b: Tensor) -> Tensor:
    """The chance level of the IoU of two spans (N,H,W), as (N,); NaN if both are empty.

    It is the expected overlap over the expected union of independent random pixels, as many as the spans have.

    >>> half = torch.tensor([[[True, False], [True, False]]])
    >>> chance_iou(half, half)  # a quarter of the pixels is in both, three quarters are in either
    tensor([0.3333], dtype=torch.float64)
    """
    check_tensors(a=(a, "bool N,H,W"), b=(b, "bool N,H,W"))
    first, second = (mask.flatten(1).double().mean(1) for mask in (a, b))
    overlap = first * second
    return overlap / (first + second - overlap)


def probability(model: nn.Module, image: Tensor, label: Label) -> Tensor:
    """The softmax probability of each image's label, (N,) float64, from logits in fp32.

    Raises InputError for pixels outside [0,1] and labels that are no class.

    >>> model = nn.Sequential(nn.Flatten(), nn.Identity())  # its logits are the two pixels
    >>> probability(model, torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([1]))
    tensor([0.7311], dtype=torch.float64)
    """
    label = check_images(model, image, label)
    with answering(model, image.device, "fp32") as fast, torch.no_grad():
        size = images_per_chunk(fast.model, image)
        with checked_labels(fast.model, label):
            return torch.cat([_probability(fast.model, *part) for part in _chunks(size, image, label)])


def _probability(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    probabilities: Tensor = model(image).double().softmax(1)
    return probabilities.gather(1, label[:, None]).squeeze(1)


def _chunks(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _curve(
    model: nn.Module, image: Tensor, label: Label, maps: Tensor, *, steps: int, inserted: bool, baseline: str
) -> Tensor:
    """p_y (N,steps+1) while pixels are inserted or deleted in the order of the map."""
    label = check_images(model, image, label)
    check_tensors(image=(image, "floats N,C,H,W"), maps=(maps, "floats N,H,W"))
    gone = _baseline(image, baseline)
    start, end = (gone, image) if inserted else (image, gone)
    pixels = maps[0].numel()
    counts = [round(share * pixels) for share in fractions(pixels, steps)]
    curves = []
    with answering(model, image.device, "fp32") as fast, torch.no_grad():
        size = images_per_chunk(fast.model, image)
        with checked_labels(fast.model, label):
            for y, values, a, b in _chunks(size, label, maps, start, end):
                rank = _positions(-values).view_as(values)[:, None]
                points = [_probability(fast.model, torch.where(rank < count, b, a), y) for count in counts]
                curves.append(torch.stack(points, 1))
    return torch.cat(curves)


def _positions(values: Tensor) -> Tensor:
    """The rank of each pixel of (N,H,W) in ascending order, (N,H*W); ties in the order of pixels."""
    ordered = values.flatten(1).argsort(dim=1, stable=True)
    places = torch.arange(ordered.shape[1], device=values.device).expand_as(ordered)
    return torch.empty_like(ordered).scatter_(1, ordered, places)


def _baseline(image: Tensor, name: str) -> Tensor:
    """The colour of a removed pixel, (N,C,1,1)."""
    if name not in BASELINES:
        raise refused("baseline", name, BASELINES)
    mean = image.mean((2, 3), keepdim=True)
    return mean if name == "mean" else torch.zeros_like(mean)


def _check_index(mask: Tensor, index: Tensor) -> None:
    check_tensors(mask=(mask, "bool N,H,W"), index=(index, "integers N"))
