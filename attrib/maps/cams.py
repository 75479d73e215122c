"""Maps of a layer: Grad-CAM and its variants, AALP's Eq. 6, and guided Grad-CAM.

A is the layer's feature map (N,C,h,w), and z_y the logit of the explained class. ``attrib.models.tokens`` turns tokens
and channels-last outputs into a feature map. Every function takes ``layer``, a module or its dotted name (default: the
last feature map before pooling), and ``reshape``, a function from the layer's output to (N,C,h,w) for other outputs.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import captum.attr
from torch import Tensor, nn

from attrib.fast import Prepared
from attrib.inference import Label, Precision, check_images
from attrib.loss import cross_entropy
from attrib.maps.engine import Chunk, in_chunks, over_channels, upsample
from attrib.maps.layer import Place, Score, activation_and_gradient, logit, place
from attrib.models.tokens import Reshape

Combine = Callable[[Tensor, Tensor, bool], Tensor]
"""From the feature map A and d score / dA, both (N,C,h,w), and ``signed`` to the map (N,h,w)."""


def gradcam(
    model: nn.Module,
    image: Tensor,
    label: Label,
    *,
    layer: nn.Module | str | None = None,
    reshape: Reshape | None = None,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017): relu(sum over channels of mean(dz_y/dA) * A), upsampled to (N,H,W).

    layer: a module or its dotted name (default: the last feature map before pooling). reshape: a function from its
    output to (N,C,h,w). Raises InputError if the output is no feature map, or if no layer is given and none is found.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> maps = attrib.gradcam(model, image, label)  # at the last stage
    >>> maps.shape, bool((maps >= 0).all())
    (torch.Size([4, 32, 32]), True)
    >>> torch.equal(maps, attrib.gradcam(model, image, label, layer="stages.1"))
    True
    """
    grid = cam_grid("gradcam", model, image, label, layer=layer, reshape=reshape, signed=signed, precision=precision)
    return upsample(grid, image.shape[-2:])


def _gradcam(activation: Tensor, gradient: Tensor, signed: bool) -> Tensor:
    return _rectified((gradient.mean((2, 3), keepdim=True) * activation).sum(1), signed)


def hirescam(
    model: nn.Module,
    image: Tensor,
    label: Label,
    *,
    layer: nn.Module | str | None = None,
    reshape: Reshape | None = None,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """HiResCAM (Draelos and Carin 2020): relu(sum over channels of dz_y/dA * A), upsampled to (N,H,W).

    If only a linear layer follows, with or without pooling, the signed values on the grid add up to the logit without
    its bias. Those of Grad-CAM do so only with global average pooling. Arguments and errors are those of ``gradcam``.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> attrib.hirescam(model, image, label).shape
    torch.Size([4, 32, 32])
    """
    grid = cam_grid("hirescam", model, image, label, layer=layer, reshape=reshape, signed=signed, precision=precision)
    return upsample(grid, image.shape[-2:])


def _hirescam(activation: Tensor, gradient: Tensor, signed: bool) -> Tensor:
    return _rectified((gradient * activation).sum(1), signed)


def layercam(
    model: nn.Module,
    image: Tensor,
    label: Label,
    *,
    layer: nn.Module | str | None = None,
    reshape: Reshape | None = None,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """LayerCAM (Jiang et al. 2021): relu(sum over channels of relu(dz_y/dA) * A), upsampled to (N,H,W).

    Every position has its own weight, so that earlier layers give finer maps.
    Arguments and errors are those of ``gradcam``.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> attrib.layercam(model, image, label, layer="stages.0").shape
    torch.Size([4, 32, 32])
    """
    grid = cam_grid("layercam", model, image, label, layer=layer, reshape=reshape, signed=signed, precision=precision)
    return upsample(grid, image.shape[-2:])


def _layercam(activation: Tensor, gradient: Tensor, signed: bool) -> Tensor:
    return _rectified((gradient.relu() * activation).sum(1), signed)


def gradcam_plus_plus(
    model: nn.Module,
    image: Tensor,
    label: Label,
    *,
    layer: nn.Module | str | None = None,
    reshape: Reshape | None = None,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al. 2018): Grad-CAM with weights from positive gradients only; (N,H,W).

    With g = dz_y/dA, a channel's weight is the sum over positions of alpha * relu(g), where alpha = g^2 / (2 g^2 +
    g^3 s) and s is the channel's sum of A. The paper explains exp(z_y). Its factor exp(z_y), one number per image, is
    left out, so that maps have the units of the logit. Arguments and errors are those of ``gradcam``.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> attrib.gradcam_plus_plus(model, image, label).shape
    torch.Size([4, 32, 32])
    """
    grid = cam_grid("gradcam++", model, image, label, layer=layer, reshape=reshape, signed=signed, precision=precision)
    return upsample(grid, image.shape[-2:])


def _gradcam_plus_plus(activation: Tensor, gradient: Tensor, signed: bool) -> Tensor:
    # alpha, with g^2 cancelled: powers of a small g would round to 0
    share = 2 + gradient * activation.sum((2, 3), keepdim=True)
    alpha = (gradient != 0) / share.where(share != 0, 1)
    weight = (alpha * gradient.relu()).sum((2, 3), keepdim=True)
    return _rectified((weight * activation).sum(1), signed)


def eq6(
    model: nn.Module,
    image: Tensor,
    label: Label,
    *,
    layer: nn.Module | str | None = None,
    reshape: Reshape | None = None,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """AALP's Eq. 6: the sum over channels of relu(dS/dA * A), upsampled to (N,H,W).

    This is pytorch-grad-cam's element-wise CAM (``GradCAMElementWise``) of -loss instead of the class score, and not
    rescaled per image. The paper calls S the class's loss; here S = -L (cross-entropy), so that bright pixels support
    the class. Arguments and errors are those of ``gradcam``.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> maps = attrib.eq6(model, image, label)
    >>> maps.shape, bool((maps >= 0).all())
    (torch.Size([4, 32, 32]), True)
    """
    grid = cam_grid("eq6", model, image, label, layer=layer, reshape=reshape, signed=signed, precision=precision)
    return upsample(grid, image.shape[-2:])


def _eq6(activation: Tensor, gradient: Tensor, signed: bool) -> Tensor:
    return _rectified(gradient * activation, signed).sum(1)


def _minus_loss(logits: Tensor, label: Tensor) -> Tensor:
    return -cross_entropy(logits, label)


def guided_gradcam(
    model: nn.Module,
    image: Tensor,
    label: Label,
    *,
    layer: nn.Module | str | None = None,
    reshape: Reshape | None = None,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """Guided Grad-CAM (Selvaraju et al. 2017): guided backpropagation times the upsampled ``gradcam``, (N,H,W).

    Guided backpropagation changes the gradient of ``nn.ReLU`` modules, but not of functional ReLUs.
    Arguments and errors are those of ``gradcam``.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> attrib.guided_gradcam(model, image, label).shape
    torch.Size([4, 32, 32])
    """
    label = check_images(model, image, label)
    where = place(model, image, layer, reshape)

    def explain(fast: Prepared, chunk: Chunk) -> Tensor:
        activation, gradient = activation_and_gradient(fast, chunk, where, logit)
        cam = _gradcam(activation, gradient, signed=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Setting backward hooks on ReLU")
            guided: Tensor = captum.attr.GuidedBackprop(fast.model).attribute(
                chunk.image.requires_grad_(), target=chunk.label
            )
        return guided * upsample(cam, chunk.image.shape[2:])[:, None]

    return over_channels(in_chunks(model, image, label, explain, layer=where.layer, precision=precision), signed)


def _rectified(values: Tensor, signed: bool) -> Tensor:
    return values if signed else values.relu()


class _Cam(NamedTuple):
    """The definition of one map of a layer."""

    combine: Combine
    score: Score = logit
    """The score whose gradient is taken."""


_CAMS = {
    "gradcam": _Cam(_gradcam),
    "hirescam": _Cam(_hirescam),
    "layercam": _Cam(_layercam),
    "gradcam++": _Cam(_gradcam_plus_plus),
    "eq6": _Cam(_eq6, _minus_loss),
}


def cam_grid(
    name: str,
    model: nn.Module,
    image: Tensor,
    label: Label,
    *,
    layer: nn.Module | str | None = None,
    reshape: Reshape | None = None,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """The map called ``name`` on the layer's own grid, (N,h,w): gradcam, hirescam, layercam, gradcam++ or eq6.

    Arguments and errors are those of ``gradcam``.
    """
    combine, score = _CAMS[name]
    label = check_images(model, image, label)
    where: Place = place(model, image, layer, reshape)

    def explain(fast: Prepared, chunk: Chunk) -> Tensor:
        return combine(*activation_and_gradient(fast, chunk, where, score), signed)

    return in_chunks(model, image, label, explain, layer=where.layer, precision=precision)
