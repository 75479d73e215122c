"""Maps by perturbation: how the score changes when a part of the image is hidden."""

import captum.attr
from torch import Tensor, nn

from attrib.errors import InputError
from attrib.fast import Prepared
from attrib.inference import Label, Precision
from attrib.maps.engine import Chunk, in_chunks, over_channels
from attrib.tensors import check_tensors


def occlusion(
    model: nn.Module,
    image: Tensor,
    label: Label,
    *,
    window: int | None = None,
    stride: int | None = None,
    signed: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """Occlusion (Zeiler & Fergus 2014): the drop of z_y under a black square of ``window`` pixels a side: (N,H,W).

    A pixel's value is the mean drop over the squares that cover it. window: default an eighth of the image's shorter
    side; stride: default half a window. Raises InputError for images or labels of another shape, or a window or stride
    that does not fit the image.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> attrib.occlusion(model, image[:1], label[:1]).shape
    torch.Size([1, 32, 32])
    """
    check_tensors(image=(image, "floats N,C,H,W"))
    height, width = image.shape[-2:]
    window = max(1, round(min(height, width) / 8)) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
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

    return over_channels(in_chunks(model, image, label, explain, precision=precision), signed)
