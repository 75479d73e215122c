"""Attribution maps through Captum: which pixels a class score depends on.

Every function takes images (N,C,H,W) in [0,1] and labels (N,), and returns a map (N,H,W): non-negative and in
the units of the score, never rescaled per image, so that models stay comparable. ``signed=True`` gives the signed
sum over channels instead. The model is any ``nn.Module`` that returns logits (N,K); it is run in eval mode and
left as it was. Batches of any size are worked through in chunks of bounded memory.
"""

import warnings
from collections.abc import Callable

import captum.attr
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrib import noise
from attrib.errors import InputError
from attrib.inference import Precision, autocast, frozen, images_per_chunk
from attrib.layers import feature_layer

Explain = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Images, labels and indices of one chunk to their attributions."""


def gradient(
    model: nn.Module, image: Tensor, label: Tensor, *, signed: bool = False, precision: Precision = "fp32"
) -> Tensor:
    """The gradient d z_y / dx (Simonyan et al. 2014): (N,C,H,W) images to (N,H,W).

    Raises InputError for images or labels of another shape.
    """
    return smoothgrad(model, image, label, samples=1, sigma=0, signed=signed, precision=precision)


def smoothgrad(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    *,
    samples: int = 32,
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
    """
    if samples < 1 or not sigma >= 0:
        raise InputError(f"smoothgrad: expected samples >= 1 and sigma >= 0, got {samples} and {sigma}")
    saliency = captum.attr.Saliency(model)

    def explain(x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for sample in range(samples if sigma else 1):
            noisy = x
            if sigma:
                noisy = x + sigma * noise.normal(rows, x.shape[1:], seed=seed, stream=1 + sample)
            total += saliency.attribute(noisy.detach().requires_grad_(), target=y, abs=False)
        return total / (samples if sigma else 1)

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

    Raises InputError where no layer is given and none with a 4-D activation is found.
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
    explainer = captum.attr.LayerGradCam(model, layer or _stage(model, image, label))

    def explain(x: Tensor, y: Tensor, _: Tensor) -> Tensor:
        cam: Tensor = explainer.attribute(x, target=y, relu_attributions=not signed)
        return cam

    return _in_chunks(model, image, label, explain, precision=precision).squeeze(1)


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

    The paper writes S as the class's loss; here S = -L (cross-entropy), so that bright means "supports the class".
    Raises InputError where no layer is given and none with a 4-D activation is found.
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

    def minus_loss(x: Tensor, y: Tensor) -> Tensor:
        return -F.cross_entropy(model(x).float(), y, reduction="none")

    explainer = captum.attr.LayerGradientXActivation(minus_loss, layer or _stage(model, image, label))

    def explain(x: Tensor, y: Tensor, _: Tensor) -> Tensor:
        product: Tensor = explainer.attribute(x, additional_forward_args=y)
        return product if signed else product.relu()

    return _in_chunks(model, image, label, explain, precision=precision).sum(1)


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
    """
    if steps < 1:
        raise InputError(f"integrated_gradients: expected steps >= 1, got {steps}")
    explainer = captum.attr.IntegratedGradients(model)

    def explain(x: Tensor, y: Tensor, _: Tensor) -> Tensor:
        # Captum would put all steps of all images into one forward pass; a chunk's worth at a time is enough.
        integral: Tensor = explainer.attribute(x, target=y, n_steps=steps, internal_batch_size=len(x))
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
    """
    height, width = image.shape[-2:]
    if not (1 <= stride <= window <= min(height, width)):
        raise InputError(
            f"occlusion: expected 1 <= stride <= window <= {min(height, width)}, got stride {stride}, window {window}"
        )
    explainer = captum.attr.Occlusion(model)
    shape = (image.shape[1], window, window)

    def explain(x: Tensor, y: Tensor, _: Tensor) -> Tensor:
        drop: Tensor = explainer.attribute(
            x, sliding_window_shapes=shape, strides=(image.shape[1], stride, stride), target=y
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
    Raises InputError where no layer is given and none with a 4-D activation is found.
    """
    explainer = captum.attr.GuidedGradCam(model, layer or _stage(model, image, label))

    def explain(x: Tensor, y: Tensor, _: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Setting backward hooks on ReLU")
            guided: Tensor = explainer.attribute(x, target=y, interpolate_mode="bilinear")
        return guided

    return _over_channels(_in_chunks(model, image, label, explain, precision=precision), signed)


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


def _in_chunks(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    explain: Explain,
    *,
    index: Tensor | None = None,
    precision: Precision,
) -> Tensor:
    """Attributions of every image, worked through in chunks that fit a memory budget."""
    _check(image, label)
    if index is None:
        index = torch.arange(len(image), device=image.device)
    with frozen(model), torch.enable_grad(), autocast(image.device, precision):
        size = images_per_chunk(model, image)
        parts = zip(image.split(size), label.split(size), index.split(size), strict=True)
        found = [explain(x.detach().requires_grad_(), y, rows).detach() for x, y, rows in parts]
    return torch.cat(found).float()


def _stage(model: nn.Module, image: Tensor, label: Tensor) -> nn.Module:
    _check(image, label)
    return feature_layer(model, image)


def _check(image: Tensor, label: Tensor) -> None:
    if image.ndim != 4 or not len(image) or not image.is_floating_point():
        raise InputError(f"image: expected floats of shape (N,C,H,W), N >= 1, got {image.dtype} {tuple(image.shape)}")
    if label.shape != image.shape[:1]:
        raise InputError(f"label: expected shape ({len(image)},), got {tuple(label.shape)}")


def _over_channels(attribution: Tensor, signed: bool) -> Tensor:
    return attribution.sum(1) if signed else attribution.abs().sum(1)


__all__ = [
    "GRID_MAPS", "MAPS", "eq6", "eq6_grid", "gradcam", "gradcam_grid", "gradient", "guided_gradcam",
    "integrated_gradients", "occlusion", "smoothgrad", "upsample",
]  # fmt: skip
