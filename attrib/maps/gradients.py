"""Gradients with respect to the pixels: plain, smoothed, and integrated."""

import captum.attr
import torch
from torch import Tensor, nn

from attrib import noise
from attrib.errors import InputError
from attrib.fast import Prepared
from attrib.inference import Label, Precision
from attrib.maps.engine import Chunk, in_chunks, over_channels

SAMPLES, SIGMA, STEPS = 32, 0.15, 32
"""Defaults: SmoothGrad's number of noisy copies and their noise; steps of integrated gradients."""


def gradient(
    model: nn.Module, image: Tensor, label: Label, *, signed: bool = False, precision: Precision = "fp32"
) -> Tensor:
    """The gradient d z_y / dx (Simonyan et al. 2014): (N,C,H,W) images to (N,H,W).

    Raises InputError for images or labels of another shape.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> attrib.gradient(model, image, label).shape
    torch.Size([4, 32, 32])
    >>> x = image.clone().requires_grad_()
    >>> model(x).gather(1, label[:, None]).sum().backward()
    >>> torch.allclose(attrib.gradient(model, image, label), x.grad.abs().sum(1), atol=1e-5)
    True
    """
    return smoothgrad(model, image, label, samples=1, sigma=0, signed=signed, precision=precision)


def smoothgrad(
    model: nn.Module,
    image: Tensor,
    label: Label,
    *,
    samples: int = SAMPLES,
    sigma: float = SIGMA,
    seed: int = 0,
    index: Tensor | None = None,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """SmoothGrad (Smilkov et al. 2017): the mean of the signed gradients over ``samples`` noisy copies.

    sigma: the noise's standard deviation as a share of the input range, which is 1; 0 gives ``gradient``.
    index: (N,) positions in the data set (default: in the batch); the noise depends on them and on ``seed`` only.
    Returns (N,H,W). Raises InputError for images or labels of another shape, samples < 1 or sigma < 0.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> maps = attrib.smoothgrad(model, image, label, samples=8)
    >>> maps.shape, bool((maps >= 0).all())
    (torch.Size([4, 32, 32]), True)
    >>> maps = attrib.smoothgrad(model, image, label, samples=2, sigma=0)  # no noise: the gradient
    >>> torch.allclose(maps, attrib.gradient(model, image, label), atol=1e-4)
    True
    """
    if samples < 1 or not sigma >= 0:
        raise InputError(f"smoothgrad: expected samples >= 1 and sigma >= 0, got {samples} and {sigma}")
    count = samples if sigma else 1

    def explain(fast: Prepared, chunk: Chunk) -> Tensor:
        x, y, rows, room = chunk
        saliency = captum.attr.Saliency(fast.model)
        total = torch.zeros_like(x)
        copies = max(1, room // len(x))
        for first in range(1, 1 + count, copies):
            streams = range(first, min(first + copies, 1 + count))
            noisy = torch.cat([_noisy(x, rows, sigma=sigma, seed=seed, stream=stream) for stream in streams])
            gradients = saliency.attribute(noisy.requires_grad_(), target=y.repeat(len(streams)), abs=False)
            total += gradients.unflatten(0, (-1, len(x))).sum(0)
        return total / count

    return over_channels(in_chunks(model, image, label, explain, index=index, precision=precision), signed)


def integrated_gradients(
    model: nn.Module,
    image: Tensor,
    label: Label,
    *,
    steps: int = STEPS,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """Integrated gradients (Sundararajan et al. 2017) from a black image at ``steps`` Gauss-Legendre nodes: (N,H,W).

    Raises InputError for images or labels of another shape, or steps < 1.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> signed = attrib.integrated_gradients(model, image, label, steps=64, signed=True)
    >>> rise = (model(image) - model(torch.zeros_like(image))).gather(1, label[:, None]).squeeze(1)
    >>> bool(((signed.sum((1, 2)) - rise).abs() < 0.05).all())  # completeness
    True
    """
    if steps < 1:
        raise InputError(f"integrated_gradients: expected steps >= 1, got {steps}")

    def explain(fast: Prepared, chunk: Chunk) -> Tensor:
        explainer = captum.attr.IntegratedGradients(fast.model)
        # Without internal_batch_size, Captum puts all steps of all images into one forward pass.
        integral: Tensor = explainer.attribute(
            chunk.image, target=chunk.label, n_steps=steps, internal_batch_size=len(chunk.image)
        )
        return integral

    return over_channels(in_chunks(model, image, label, explain, precision=precision), signed)


def _noisy(x: Tensor, rows: Tensor, *, sigma: float, seed: int, stream: int) -> Tensor:
    return x + sigma * noise.normal(rows, x.shape[1:], seed=seed, stream=stream) if sigma else x
