"""The architectures of both papers, and ``build``, which makes a classifier of one.

The numbers of parameters are those for CIFAR-10, and for MNIST with lenet.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from attrib.errors import InputError, refused
from attrib.models.classifier import Classifier, Residual, Shape
from attrib.models.gated import GatedClassifier


class ZeroPadShortcut(nn.Module):
    """Shortcut without parameters (He et al. 2016, CVPR, 3.3, option A): every ``stride``-th pixel, new channels 0."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class Body(NamedTuple):
    """A classifier without its last layer; ``pool`` outputs (N, ``width``)."""

    stages: nn.Sequential
    pool: nn.Module
    width: int


Block = Callable[[int, int, int], nn.Module]  # channels in, channels out, stride


def _conv(inputs: int, outputs: int, *, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def _conv_norm_relu(inputs: int, outputs: int) -> list[nn.Module]:
    return [_conv(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()]


def _norm_relu_conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.BatchNorm2d(inputs), nn.ReLU(), _conv(inputs, outputs, stride=stride)]


def _basic_block(inputs: int, outputs: int, stride: int, *, projection: bool) -> nn.Module:
    """Two 3x3 convolutions, activation after the sum (He et al. 2016, CVPR, figure 2)."""
    shortcut: nn.Module = nn.Identity()
    if (inputs, stride) != (outputs, 1):
        if projection:
            shortcut = nn.Sequential(_conv(inputs, outputs, size=1, stride=stride), nn.BatchNorm2d(outputs))
        else:
            shortcut = ZeroPadShortcut(outputs - inputs, stride)
    first = [_conv(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs), nn.ReLU()]
    return Residual(nn.Sequential(*first, _conv(outputs, outputs), nn.BatchNorm2d(outputs)), shortcut, nn.ReLU())


def _preact_block(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Activation before each convolution; where the shape changes, the shortcut shares the first one."""
    second = _norm_relu_conv(outputs, outputs)
    if (inputs, stride) == (outputs, 1):
        branch = nn.Sequential(*_norm_relu_conv(inputs, outputs), *second)
        return Residual(branch, nn.Identity(), nn.Identity())
    branch = nn.Sequential(_conv(inputs, outputs, stride=stride), *second)
    shortcut = _conv(inputs, outputs, size=1, stride=stride)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), Residual(branch, shortcut, nn.Identity()))


def _residual(stem: nn.Sequential, inputs: int, widths: Sequence[int], depth: int, block: Block) -> nn.Sequential:
    """The stem and one stage of ``depth`` blocks per width; each stage but the first halves the resolution.

    Convolutions start as in He et al. 2015 (ICCV), eq. 14: normal, variance 2 / (9 outputs) for a 3x3 one.
    """
    stages = nn.Sequential(stem)
    for number, outputs in enumerate(widths):
        first = block(inputs, outputs, 2 if number else 1)
        stages.append(nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(depth - 1))))
        inputs = outputs
    for module in stages.modules():
        # Drawing on the meta device does nothing but import sympy, which takes a second.
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return stages


def _mean_pool() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _at_least(name: str, input_shape: Shape, side: int) -> None:
    if min(input_shape[1:]) < side:
        height, width = input_shape[1:]
        raise InputError(f"input_shape: {name} needs at least {side}x{side} pixels, got {height}x{width}")


def _activated(stages: nn.Sequential, width: int) -> nn.Sequential:
    """Append the norm and ReLU that follow the last pre-activation block to the last stage."""
    stages[-1] = nn.Sequential(stages[-1], nn.BatchNorm2d(width), nn.ReLU())
    return stages


def lenet(input_shape: Shape) -> Body:
    """LeNet as in Caffe (examples/mnist/lenet.prototxt), after LeCun et al. 1998; 431,080 parameters.

    20 and 50 filters of 5x5 without padding, 2x2 max pooling, 500 hidden units. Unlike Caffe's, each convolution has a
    ReLU, as is common. Raises InputError below 16x16 pixels.
    """
    _at_least("lenet", input_shape, 16)
    channels, *sides = input_shape
    pooled = [((side - 4) // 2 - 4) // 2 for side in sides]
    stages = nn.Sequential(
        nn.Sequential(nn.Conv2d(channels, 20, 5), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(20, 50, 5), nn.ReLU()),
    )
    pool = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(50 * math.prod(pooled), 500), nn.ReLU())
    return Body(stages, pool, 500)


def resnet9(input_shape: Shape) -> Body:
    """ResNet-9 of DAWNBench: D. Page, "How to train your ResNet" (myrtle.ai, 2018); 6,573,130 parameters.

    Eight convolutions and the last layer; two residual blocks with a ReLU at the end of the branch and none after
    the sum; global max pooling. Unlike Page's, it has no fixed factor 1/8 on the logits, and its last layer has a bias.
    (AALP says "ResNet9" and cites He et al. 2016, who have none.) Raises InputError below 8x8 pixels.
    """
    _at_least("resnet9", input_shape, 8)

    def block(width: int) -> nn.Module:
        branch = nn.Sequential(*_conv_norm_relu(width, width), *_conv_norm_relu(width, width))
        return Residual(branch, nn.Identity(), nn.Identity())

    stages = nn.Sequential(
        nn.Sequential(*_conv_norm_relu(input_shape[0], 64)),
        nn.Sequential(*_conv_norm_relu(64, 128), nn.MaxPool2d(2), block(128)),
        nn.Sequential(*_conv_norm_relu(128, 256), nn.MaxPool2d(2)),
        nn.Sequential(*_conv_norm_relu(256, 512), nn.MaxPool2d(2), block(512)),
    )
    return Body(stages, nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()), 512)


def _resnet_for_cifar(input_shape: Shape, n: int) -> Body:
    """He et al. 2016 (CVPR), 4.2: 6n + 2 layers, shortcuts of option A."""
    stem = nn.Sequential(*_conv_norm_relu(input_shape[0], 16))
    stages = _residual(stem, 16, (16, 32, 64), n, partial(_basic_block, projection=False))
    return Body(stages, _mean_pool(), 64)


def resnet8(input_shape: Shape) -> Body:
    """ResNet-8 for CIFAR: He et al. 2016 (CVPR), 4.2, n = 1 (the paper begins at n = 3); 75,290 parameters."""
    return _resnet_for_cifar(input_shape, 1)


def resnet32(input_shape: Shape) -> Body:
    """ResNet-32 for CIFAR: He et al. 2016 (CVPR), 4.2, n = 5; 464,154 parameters."""
    return _resnet_for_cifar(input_shape, 5)


def resnet18(input_shape: Shape) -> Body:
    """ResNet-18: He et al. 2016 (CVPR), table 1, with the 3x3 stem used on CIFAR; 11,173,962 parameters."""
    stem = nn.Sequential(*_conv_norm_relu(input_shape[0], 64))
    stages = _residual(stem, 64, (64, 128, 256, 512), 2, partial(_basic_block, projection=True))
    return Body(stages, _mean_pool(), 512)


def preactresnet18(input_shape: Shape) -> Body:
    """Pre-activation ResNet-18: He et al. 2016 (ECCV), with its last norm and ReLU; 11,172,170 parameters."""
    stem = nn.Sequential(_conv(input_shape[0], 64))
    stages = _residual(stem, 64, (64, 128, 256, 512), 2, _preact_block)
    return Body(_activated(stages, 512), _mean_pool(), 512)


def wrn_34_10(input_shape: Shape) -> Body:
    """Wide ResNet 34-10: Zagoruyko & Komodakis 2016 (BMVC), table 1, no dropout; 46,160,474 parameters."""
    stem = nn.Sequential(_conv(input_shape[0], 16))
    stages = _residual(stem, 16, (160, 320, 640), 5, _preact_block)
    return Body(_activated(stages, 640), _mean_pool(), 640)


ARCHITECTURES: dict[str, Callable[[Shape], Body]] = {
    "lenet": lenet,
    "resnet9": resnet9,
    "resnet8": resnet8,
    "resnet32": resnet32,
    "resnet18": resnet18,
    "preactresnet18": preactresnet18,
    "wrn-34-10": wrn_34_10,
}

GATED = ("resnet8", "resnet32", "resnet18", "preactresnet18", "wrn-34-10")
"""Architectures that can have AGAIN's gates. In the others, max pooling follows the second gate. Where a weight of the
gate is negative, it would pick the smallest activation."""


def check_gated(arch: str) -> None:
    """Raise InputError if the architecture cannot have AGAIN's gates."""
    if arch not in GATED:
        raise InputError(
            f"arch: expected one of {', '.join(GATED)} for AGAIN's gates, got {arch!r};"
            " form='logit' (--form logit) works with every architecture"
        )


def build(
    arch: str,
    *,
    num_classes: int,
    input_shape: Shape,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    gated: bool = False,
) -> Classifier:
    """A freshly initialised classifier of one of ``ARCHITECTURES``.

    input_shape: (C, H, W). mean, std: one number per channel, for pixels in [0, 1]; default 0 and 1.
    gated: make AGAIN's ``GatedClassifier``; its other weights are those of the ungated classifier.
    The weights are drawn from torch's global generator. Raises InputError for an unknown name, no classes, an input
    too small for the architecture, mean and std that don't fit the channels, and gates in an architecture that cannot
    have them (see ``GATED``).

    >>> import torch
    >>> model = build("lenet", num_classes=10, input_shape=(1, 28, 28))
    >>> model(torch.zeros(2, 1, 28, 28)).shape, model.features(torch.zeros(2, 1, 28, 28)).shape
    (torch.Size([2, 10]), torch.Size([2, 50, 8, 8]))
    """
    if arch not in ARCHITECTURES:
        raise refused("arch", arch, ARCHITECTURES)
    if gated:
        check_gated(arch)
    if num_classes < 1:
        raise InputError(f"num_classes: expected at least 1, got {num_classes}")
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise InputError(f"input_shape: expected (channels, height, width), each at least 1, got {tuple(input_shape)}")
    channels = input_shape[0]
    mean = [0.0] * channels if mean is None else mean
    std = [1.0] * channels if std is None else std
    if len(mean) != channels or len(std) != channels:
        raise InputError(f"mean, std: expected {channels} numbers each, one per channel, got {list(mean)}, {list(std)}")
    body = ARCHITECTURES[arch](input_shape)
    fc = nn.Linear(body.width, num_classes)
    if gated:
        return GatedClassifier(body.stages, body.pool, fc, mean=mean, std=std)
    return Classifier(body.stages, body.pool, fc, mean=mean, std=std)
