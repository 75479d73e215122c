"""Maps of a layer: Grad-CAM, AALP's Eq. 6, and guided Grad-CAM."""

import warnings

import captum.attr
from torch import Tensor, nn

from attrib.fast import Prepared
from attrib.inference import Precision
from attrib.loss import cross_entropy
from attrib.maps.engine import Chunk, in_chunks, last_stage, on_grid, over_channels, upsample


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
    layer = layer or last_stage(model, image, label)

    def explain(fast: Prepared, chunk: Chunk) -> Tensor:
        explainer = captum.attr.LayerGradCam(fast.model, fast.layer)
        cam: Tensor = explainer.attribute(chunk.image, target=chunk.label, relu_attributions=not signed)
        return on_grid(cam)

    return in_chunks(model, image, label, explain, layer=layer, precision=precision).squeeze(1)


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
    layer = layer or last_stage(model, image, label)

    def explain(fast: Prepared, chunk: Chunk) -> Tensor:
        def minus_loss(x: Tensor, y: Tensor) -> Tensor:
            return -cross_entropy(fast.model(x), y)

        explainer = captum.attr.LayerGradientXActivation(minus_loss, fast.layer)
        product: Tensor = explainer.attribute(chunk.image, additional_forward_args=chunk.label)
        return on_grid(product if signed else product.relu())

    return in_chunks(model, image, label, explain, layer=layer, precision=precision).sum(1)


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
    layer = layer or last_stage(model, image, label)

    # Captum's own product of the two leaves a layer without places to a warning and an empty answer.
    def explain(fast: Prepared, chunk: Chunk) -> Tensor:
        cam = on_grid(
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

    return over_channels(in_chunks(model, image, label, explain, layer=layer, precision=precision), signed)
