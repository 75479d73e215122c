"""The layer that attrib finds in well-known families, and its Grad-CAM against autograd: ``python -m bench.families``.

The networks come from transformers, timm and torchvision at their real sizes, with random weights: nothing is
downloaded. Packages that are not installed are named and left out. The reference is Grad-CAM by hand: a hook on the
same layer, ``torch.autograd.grad``, a mean and a sum, image by image. Both are compared at the images' size and before
their ReLU, which would hide half of the differences. A difference is a share of the map's largest absolute value. The
layout of each layer's output is written down here, while attrib has to find it.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attrib
from attrib.models.layers import feature_layer
from bench.timing import Row, begin, parser, publish

TARGET = 1e-5
PACKAGES = "transformers", "timm", "torchvision"


def as_it_is(output: Tensor) -> Tensor:
    """(N,C,h,w)"""
    return output


def channels_last(output: Tensor) -> Tensor:
    """(N,h,w,C) to (N,C,h,w)."""
    return output.permute(0, 3, 1, 2)


def tokens(prefix: int) -> Callable[[Tensor], Tensor]:
    """Tokens (N,T,C) of a square image to (N,C,h,w), without the first ``prefix`` tokens."""

    def to_map(output: Tensor) -> Tensor:
        side = round((output.shape[1] - prefix) ** 0.5)
        return channels_last(output[:, prefix:].unflatten(1, (side, side)))

    return to_map


class Network(NamedTuple):
    """A network of a family."""

    family: str
    package: str
    name: str
    """The name of the model in timm and torchvision, of the class in transformers."""
    to_map: Callable[[Tensor], Tensor] = as_it_is
    config: dict[str, Any] = {}  # noqa: RUF012  # a NamedTuple's default that nothing changes
    """For transformers: differences from the class's default configuration."""
    size: int = 224


SMALL = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "image_size": 224}
NETWORKS = (
    Network("ResNet", "transformers", "ResNet"),
    Network("ResNet", "timm", "resnet50"),
    Network("ResNet", "torchvision", "resnet50"),
    Network("VGG", "timm", "vgg16"),
    Network("VGG", "torchvision", "vgg16"),
    Network("DenseNet", "timm", "densenet121"),
    Network("DenseNet", "torchvision", "densenet121"),
    Network("MobileNet", "transformers", "MobileNetV2"),
    Network("MobileNet", "timm", "mobilenetv3_large_100"),
    Network("MobileNet", "torchvision", "mobilenet_v2"),
    Network("EfficientNet", "transformers", "EfficientNet", config=SMALL),
    Network("EfficientNet", "timm", "efficientnet_b0"),
    Network("EfficientNet", "torchvision", "efficientnet_b0"),
    Network("RegNet", "transformers", "RegNet"),
    Network("RegNet", "timm", "regnety_040"),
    Network("RegNet", "torchvision", "regnet_y_3_2gf"),
    Network("ConvNeXt", "transformers", "ConvNext"),
    Network("ConvNeXt", "timm", "convnext_tiny"),
    Network("ConvNeXt", "torchvision", "convnext_tiny"),
    Network("ViT", "transformers", "ViT", tokens(1)),
    Network("ViT", "timm", "vit_base_patch16_224", tokens(1)),
    Network("ViT", "torchvision", "vit_b_16", tokens(1)),
    Network("DeiT", "transformers", "DeiT", tokens(2)),
    Network("DeiT", "timm", "deit_base_distilled_patch16_224", tokens(2)),
    Network("Swin", "transformers", "Swin", tokens(0)),
    Network("Swin", "timm", "swin_tiny_patch4_window7_224", channels_last),
    Network("Swin", "torchvision", "swin_t"),
    Network("Mixer", "timm", "mixer_b16_224", tokens(0)),
    Network("Inception", "timm", "inception_v3", size=299),
    Network("Inception", "torchvision", "inception_v3", size=299),
)


def main() -> None:
    """Print the table and write it as JSON."""
    cli = parser(__doc__)
    cli.add_argument("--family", nargs="+", choices=sorted({each.family for each in NETWORKS}))
    cli.add_argument("--images", type=int, default=2)
    options = cli.parse_args()
    device = begin(options)
    wanted = [each for each in NETWORKS if not options.family or each.family in options.family]
    missing = [package for package in PACKAGES if find_spec(package) is None]
    rows: list[Row] = [line(each, options.images, device) for each in wanted if each.package not in missing]
    title = f"Grad-CAM against autograd on {options.images} images, random weights; target: at most {TARGET:g}"
    publish("families", f"{title}{left_out(wanted, missing)}", rows, options, device)


def left_out(wanted: Sequence[Network], missing: Sequence[str]) -> str:
    """The packages that are not installed, and the families that were not run for this reason."""
    if not missing:
        return ""
    ran = {each.family for each in wanted if each.package not in missing}
    families = dict.fromkeys(each.family for each in wanted if each.family not in ran)
    alone = f" (and so nothing of {', '.join(families)})" if families else ""
    return f"; not installed and not run: {', '.join(missing)}{alone}"


def line(network: Network, count: int, device: torch.device) -> Row:
    """The layer found, the size of its map, and how far attrib is from Grad-CAM by hand."""
    image = torch.rand(count, 3, network.size, network.size, generator=torch.Generator().manual_seed(0)).to(device)
    model = build_network(network).to(device)
    size = sum(parameter.numel() for parameter in model.parameters())
    row: Row = {
        "family": network.family, "package": network.package, "model": network.name,
        "million parameters": round(size / 1e6, 1),
    }  # fmt: skip
    try:
        # Some packages' random weights are so small that features at the last layer round to 0.
        (drawn,) = attrib.cascade(model, image, stages=1)
        layer = feature_layer(drawn.model, image)
        name = next(name for name, module in drawn.model.named_modules() if module is layer)
        label = torch.arange(count, device=device)
        pairs = zip(image.split(1), label.tolist(), strict=True)
        expected = torch.cat([by_hand(drawn.model, layer, one, number, network.to_map) for one, number in pairs])
        ours = attrib.gradcam(drawn.model, image, label, signed=True)
    except attrib.InputError as error:
        return row | {"layer found": str(error)}
    full = F.interpolate(expected[:, None], tuple(image.shape[2:]), mode="bilinear").squeeze(1)
    return row | {
        "layer found": name, "map": "x".join(map(str, expected.shape[1:])),
        "difference": float((ours - full).abs().amax() / full.abs().amax()),
    }  # fmt: skip


def build_network(network: Network) -> nn.Module:
    """The network, with the package's random weights."""
    package: Any = import_module(network.package)
    torch.manual_seed(0)
    model: nn.Module
    if network.package == "transformers":
        config = getattr(package, f"{network.name}Config")(num_labels=1000, **network.config)
        model = getattr(package, f"{network.name}ForImageClassification")(config)
    elif network.package == "timm":
        model = package.create_model(network.name, pretrained=False)
    else:
        model = import_module("torchvision.models").get_model(network.name, weights=None)
    return model.eval()


def by_hand(
    model: nn.Module, layer: nn.Module, image: Tensor, label: int, to_map: Callable[[Tensor], Tensor]
) -> Tensor:
    """Grad-CAM of one image before its ReLU, on the layer's grid (1,h,w), with a hook and autograd only."""
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Any) -> None:
        outputs.append(output if isinstance(output, Tensor) else output[0])

    hook = layer.register_forward_hook(keep)
    answer: Any = model(image)
    hook.remove()
    logits: Tensor = getattr(answer, "logits", answer)
    # A layer may run again after the pooling, on maps of 1x1.
    output = [each for each in outputs if each.ndim == 3 or max(each.shape[2:]) > 1][-1]
    (gradient,) = torch.autograd.grad(logits[0, label], output)
    weights = to_map(gradient).mean((2, 3), keepdim=True)
    return (weights * to_map(output)).sum(1).detach()


if __name__ == "__main__":
    main()
