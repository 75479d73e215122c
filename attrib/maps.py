"""Attribution maps through Captum: which pixels a class score depends on.

Every function takes images (N,C,H,W) in [0,1] and labels (N,), and returns a map (N,H,W): non-negative and in
the units of the score, never rescaled per image, so that models stay comparable. ``signed=True`` gives the signed
sum over channels instead. The model is any ``nn.Module`` that returns logits (N,K); it is run in eval mode and
left as it was. Batches of any size are worked through in chunks of bounded memory.
"""

import warnings
from collections.abc import Callable, Hashable
from typing import NamedTuple
from weakref import WeakKeyDictionary

import captum.attr
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrib import noise
from attrib.errors import InputError
from attrib.fast import Prepared, prepared
from attrib.inference import Precision, check_images, checked_labels, images_per_chunk
from attrib.loss import cross_entropy
from attrib.models.layers import feature_layer


class Chunk(NamedTuple):
    """Images (N,C,H,W), labels and positions (N,) that are worked on together."""

    image: Tensor
    label: Tensor
    rows: Tensor
    room: int
    """How many images fit one forward and backward pass."""


SAMPLES = 32
"""Noisy copies of SmoothGrad, wherever nobody asks for another number."""

Explain = Callable[[Prepared, Chunk], Tensor]
"""The model (and layer) to run, and what on, to attributions."""


def gradient(
    model: nn.Module, image: Tensor, label: Tensor, *, signed: bool = False, precision: Precision = "fp32"
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
    label: Tensor,
    *,
    samples: int = SAMPLES,
    sigma: float = 0.15,
    seed: int = 0,
    index: Tensor | None = None,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """SmoothGrad (Smilkov et al. 2017): the mean of the signed gradients over ``samples`` noisy copies.

    sigma: the noise's standard deviation as a share of the input range, which is 1; 0 gives :func:`gradient`.
    index: (N,) positions in the data set, which with ``seed`` fix the noise (default: positions in the batch).
    Returns (N,H,W). Raises InputError for images or labels of another shape, samples < 1 or sigma < 0.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> found = attrib.smoothgrad(model, image, label, samples=8)
    >>> found.shape, bool((found >= 0).all())
    (torch.Size([4, 32, 32]), True)
    >>> still = attrib.smoothgrad(model, image, label, samples=2, sigma=0)  # no noise: the gradient
    >>> torch.allclose(still, attrib.gradient(model, image, label), atol=1e-4)
    True
    """
    if samples < 1 or not sigma >= 0:
        raise InputError(f"smoothgrad: expected samples >= 1 and sigma >= 0, got {samples} and {sigma}")
    count = samples if sigma else 1

    def explain(fast: Prepared, chunk: Chunk) -> Tensor:
        x, y, rows, room = chunk
        saliency = captum.attr.Saliency(fast.model)
        total = torch.zeros_like(x)
        together = max(1, room // len(x))
        for first in range(1, 1 + count, together):
            streams = range(first, min(first + together, 1 + count))
            noisy = torch.cat([_noisy(x, rows, sigma=sigma, seed=seed, stream=stream) for stream in streams])
            found = saliency.attribute(noisy.requires_grad_(), target=y.repeat(len(streams)), abs=False)
            total += found.unflatten(0, (-1, len(x))).sum(0)
        return total / count

    return _over_channels(_in_chunks(model, image, label, explain, index=index, precision=precision), signed)


def gradcam(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    *,
    layer: nn.Module | None = None,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017) at the last stage, or at ``layer``: bilinear to (N,H,W).

    Raises InputError for a layer whose output is no feature map, and where none is given and none is found.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> maps = attrib.gradcam(model, image, label)  # at the last stage
    >>> maps.shape, bool((maps >= 0).all())
    (torch.Size([4, 32, 32]), True)
    >>> torch.equal(maps, attrib.gradcam(model, image, label, layer=model.stages[-1]))
    True
    """
    grid = gradcam_grid(model, image, label, layer=layer, signed=signed, precision=precision)
    return upsample(grid, image.shape[-2:])


def gradcam_grid(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    *,
    layer: nn.Module | None = None,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """:func:`gradcam` on the layer's own grid, (N,h,w)."""
    layer = layer or _stage(model, image, label)

    def explain(fast: Prepared, chunk: Chunk) -> Tensor:
        explainer = captum.attr.LayerGradCam(fast.model, fast.layer)
        cam: Tensor = explainer.attribute(chunk.image, target=chunk.label, relu_attributions=not signed)
        return _on_grid(cam)

    return _in_chunks(model, image, label, explain, layer=layer, precision=precision).squeeze(1)


def eq6(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    *,
    layer: nn.Module | None = None,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """AALP's Eq. 6, relu(dS/dA * A) element by element, summed over channels; bilinear to (N,H,W).

    This is pytorch-grad-cam's element-wise CAM (``GradCAMElementWise``) on -loss instead of the class score, and not
    rescaled per image. The paper writes S as the class's loss; here S = -L (cross-entropy), so that bright means
    "supports the class". Raises InputError for a layer whose output is no feature map, and where none is given and
    none is found.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> maps = attrib.eq6(model, image, label)
    >>> maps.shape, bool((maps >= 0).all())
    (torch.Size([4, 32, 32]), True)
    """
    grid = eq6_grid(model, image, label, layer=layer, signed=signed, precision=precision)
    return upsample(grid, image.shape[-2:])


def eq6_grid(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    *,
    layer: nn.Module | None = None,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """:func:`eq6` on the layer's own grid, (N,h,w)."""
    layer = layer or _stage(model, image, label)

    def explain(fast: Prepared, chunk: Chunk) -> Tensor:
        def minus_loss(x: Tensor, y: Tensor) -> Tensor:
            return -cross_entropy(fast.model(x), y)

        explainer = captum.attr.LayerGradientXActivation(minus_loss, fast.layer)
        product: Tensor = explainer.attribute(chunk.image, additional_forward_args=chunk.label)
        return _on_grid(product if signed else product.relu())

    return _in_chunks(model, image, label, explain, layer=layer, precision=precision).sum(1)


def integrated_gradients(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    *,
    steps: int = 32,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """Integrated gradients (Sundararajan et al. 2017) from a black image, ``steps`` Gauss-Legendre nodes: (N,H,W).

    Raises InputError for images or labels of another shape, or steps < 1.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> signed = attrib.integrated_gradients(model, image, label, steps=64, signed=True)
    >>> rise = (model(image) - model(torch.zeros_like(image))).gather(1, label[:, None]).squeeze(1)
    >>> bool(((signed.sum((1, 2)) - rise).abs() < 0.05).all())  # what the pixels add up to
    True
    """
    if steps < 1:
        raise InputError(f"integrated_gradients: expected steps >= 1, got {steps}")

    def explain(fast: Prepared, chunk: Chunk) -> Tensor:
        explainer = captum.attr.IntegratedGradients(fast.model)
        # Captum would put all steps of all images into one forward pass; a chunk's worth at a time is enough.
        integral: Tensor = explainer.attribute(
            chunk.image, target=chunk.label, n_steps=steps, internal_batch_size=len(chunk.image)
        )
        return integral

    return _over_channels(_in_chunks(model, image, label, explain, precision=precision), signed)


def occlusion(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    *,
    window: int = 4,
    stride: int = 2,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """Occlusion (Zeiler & Fergus 2014): how much z_y drops under a black window of ``window`` pixels: (N,H,W).

    Every pixel gets the mean drop of the windows that cover it. Raises InputError for images or labels of another
    shape, or a window or stride that does not fit the image.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> attrib.occlusion(model, image[:1], label[:1]).shape
    torch.Size([1, 32, 32])
    """
    height, width = image.shape[-2:]
    if not (1 <= stride <= window <= min(height, width)):
        raise InputError(
            f"occlusion: expected 1 <= stride <= window <= {min(height, width)}, got stride {stride}, window {window}"
        )
    shape = (image.shape[1], window, window)

    def explain(fast: Prepared, chunk: Chunk) -> Tensor:
        explainer = captum.attr.Occlusion(fast.model)
        drop: Tensor = explainer.attribute(
            chunk.image, sliding_window_shapes=shape, strides=(image.shape[1], stride, stride), target=chunk.label
        )
        return drop[:, :1]  # the window spans the channels, so all of them hold the same value

    return _over_channels(_in_chunks(model, image, label, explain, precision=precision), signed)


def guided_gradcam(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    *,
    layer: nn.Module | None = None,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """Guided Grad-CAM (Selvaraju et al. 2017): guided backpropagation times the upsampled :func:`gradcam`, (N,H,W).

    Guided backpropagation acts on ``nn.ReLU`` modules; functional ReLUs are passed as they are.
    Raises InputError for a layer whose output is no feature map, and where none is given and none is found.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> attrib.guided_gradcam(model, image, label).shape
    torch.Size([4, 32, 32])
    """
    layer = layer or _stage(model, image, label)

    # Captum's own product of the two leaves a layer without places to a warning and an empty answer.
    def explain(fast: Prepared, chunk: Chunk) -> Tensor:
        cam = _on_grid(
            captum.attr.LayerGradCam(fast.model, fast.layer).attribute(
                chunk.image, target=chunk.label, relu_attributions=True
            )
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Setting backward hooks on ReLU")
            guided: Tensor = captum.attr.GuidedBackprop(fast.model).attribute(
                chunk.image.requires_grad_(), target=chunk.label
            )
        return guided * upsample(cam.squeeze(1), chunk.image.shape[2:])[:, None]

    return _over_channels(_in_chunks(model, image, label, explain, layer=layer, precision=precision), signed)


def upsample(grid: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """A map on a layer's grid, bilinear to the image: (N,h,w) to (N,H,W)."""
    return F.interpolate(grid[:, None], tuple(size), mode="bilinear", align_corners=False).squeeze(1)


MAPS: dict[str, Callable[..., Tensor]] = {
    "gradient": gradient,
    "smoothgrad": smoothgrad,
    "gradcam": gradcam,
    "eq6": eq6,
    "integrated-gradients": integrated_gradients,
    "occlusion": occlusion,
    "guided-gradcam": guided_gradcam,
}
GRID_MAPS: dict[str, Callable[..., Tensor]] = {"gradcam": gradcam_grid, "eq6": eq6_grid}
"""The maps that live on a layer's grid, before they are brought to the image's size."""
LAYER_MAPS = (*GRID_MAPS, "guided-gradcam")
"""The maps that look at a layer."""


class Attribution(NamedTuple):
    """What :func:`attribution` gives."""

    map: Tensor
    """(N,H,W)"""
    grid: Tensor | None
    """(N,h,w) where the map was brought up from a layer's grid."""


def attribution(
    name: str,
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    *,
    layer: nn.Module | None = None,
    seed: int = 0,
    index: Tensor | None = None,
    precision: Precision = "fp32",
) -> Attribution:
    """The map called ``name``, one of ``MAPS``, with the options that this map has.

    image: (N,C,H,W); label, index: (N,); layer: for ``LAYER_MAPS``; seed and index: of SmoothGrad's noise.
    Raises InputError for another name, and what the map raises.
    """
    if name not in MAPS:
        raise InputError(f"map: expected one of {', '.join(MAPS)}, got {name!r}")
    if name in GRID_MAPS:
        grid = GRID_MAPS[name](model, image, label, layer=layer, precision=precision)
        return Attribution(upsample(grid, image.shape[-2:]), grid)
    if name in LAYER_MAPS:
        return Attribution(MAPS[name](model, image, label, layer=layer, precision=precision), None)
    if name == "smoothgrad":
        return Attribution(smoothgrad(model, image, label, seed=seed, index=index, precision=precision), None)
    return Attribution(MAPS[name](model, image, label, precision=precision), None)


def _in_chunks(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    explain: Explain,
    *,
    index: Tensor | None = None,
    layer: nn.Module | None = None,
    precision: Precision,
) -> Tensor:
    """Attributions of every image, worked through in chunks that fit a memory budget.

    The images come without ``requires_grad``: what looks at a layer needs no graph of what lies before it.
    """
    check_images(image, label, index)
    if layer is not None and not isinstance(layer, nn.Module):
        raise InputError(f"layer: expected a module of the model, as model.layer4, got {layer!r}")
    if index is None:
        index = torch.arange(len(image), device=image.device)
    with prepared(model, image.device, precision, layer=layer) as fast, torch.enable_grad():
        size = _room(model, fast.model, image, precision)
        parts = zip(image.detach().split(size), label.split(size), index.split(size), strict=True)
        try:
            with checked_labels(fast.model, label):
                found = [explain(fast, Chunk(*part, room=size)).detach() for part in parts]
        except (RuntimeError, AssertionError) as error:
            said = _reason(error, model)
            if said is None:
                raise
            raise InputError(said) from None
    return torch.cat(found).float()


def _reason(error: Exception, model: nn.Module) -> str | None:
    """Translate torch and Captum errors into advice."""
    name, said = type(model).__name__, str(error)
    if "does not require grad" in said:
        return (
            f"model: {name} gives no gradient to explain; does its forward pass run under torch.no_grad(), or detach or"
            " round what it computes?"
        )
    if "did not obtain any outputs" in said:
        return f"layer: {name} never runs the one given"
    return None


def _on_grid(found: Tensor) -> Tensor:
    """Attributions of a layer, (N,C,h,w); raises InputError for a layer that knows no places."""
    if found.ndim != 4 or found.shape[2:].numel() < 2:
        got = "one of 1x1" if found.ndim == 4 else "an output without height and width"
        raise InputError(
            f"layer: expected one whose output is a feature map (N,C,h,w), larger than 1x1, got {got}; name one before"
        )
    return found


_known_room: WeakKeyDictionary[nn.Module, dict[Hashable, int]] = WeakKeyDictionary()


def _room(model: nn.Module, fast: nn.Module, image: Tensor, precision: Precision) -> int:
    """How many images fit one pass, measured at the first batch of a model: measuring costs two passes."""
    known = _known_room.setdefault(model, {})
    key = image.shape[1:], image.dtype, image.device, precision
    if key not in known:
        known[key] = images_per_chunk(fast, image)
    return known[key]


def _stage(model: nn.Module, image: Tensor, label: Tensor) -> nn.Module:
    check_images(image, label)
    return feature_layer(model, image)


def _noisy(x: Tensor, rows: Tensor, *, sigma: float, seed: int, stream: int) -> Tensor:
    return x + sigma * noise.normal(rows, x.shape[1:], seed=seed, stream=stream) if sigma else x


def _over_channels(attribution: Tensor, signed: bool) -> Tensor:
    return attribution.sum(1) if signed else attribution.abs().sum(1)


__all__ = [
    "GRID_MAPS", "LAYER_MAPS", "MAPS", "SAMPLES", "Attribution", "attribution", "eq6", "eq6_grid", "gradcam",
    "gradcam_grid", "gradient", "guided_gradcam", "integrated_gradients", "occlusion", "smoothgrad", "upsample",
]  # fmt: skip
