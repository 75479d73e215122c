"""Where maps look in transformers' own image classifiers, with small random configurations."""

from typing import Any

import pytest
import torch
from test_token_layers import as_it_is, by_hand, made, tokens
from torch import Tensor, nn

from attrib import maps
from attrib.models.layers import feature_layer
from attrib.models.trace import first_tensor

transformers = pytest.importorskip("transformers")

IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABEL = torch.tensor([1, 4])
VIT: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
STAGES: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
CLASS_TOKEN = {"ViT": (VIT, tokens(1, 4, 4)), "DeiT": (VIT, tokens(2, 4, 4))}
POOLED = {
    "Swin": (
        {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
        tokens(0, 4, 4),
    ),
    "ConvNext": ({"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, as_it_is),
    "ResNet": (STAGES | {"layer_type": "basic"}, as_it_is),
    "RegNet": (STAGES | {"groups_width": 4}, as_it_is),
    "MobileNetV2": ({"depth_multiplier": 0.25, "image_size": 64}, as_it_is),
    "EfficientNet": ({"width_coefficient": 0.25, "hidden_dim": 320, "image_size": 64}, as_it_is),
}  # fmt: skip


class Logits(nn.Module):
    """The logits of a model of transformers."""

    def __init__(self, kind: str, settings: dict[str, Any]) -> None:
        super().__init__()
        config = getattr(transformers, f"{kind}Config")(num_labels=5, **settings)
        self.inner = getattr(transformers, f"{kind}ForImageClassification")(config)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.inner(image).logits
        return logits


@pytest.mark.parametrize("kind", CLASS_TOKEN)
def test_beside_a_class_token_the_norm_before_the_last_attention_is_taken(kind: str) -> None:
    settings, to_map = CLASS_TOKEN[kind]
    model = made(lambda: Logits(kind, settings))
    layer = feature_layer(model, IMAGE)
    (name,) = (name for name, module in model.named_modules() if module is layer)
    assert name.endswith("layer.1.layernorm_before")
    expected = by_hand(model, layer, IMAGE, LABEL, to_map)
    torch.testing.assert_close(maps.cam_grid("gradcam", model, IMAGE, LABEL), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", POOLED)
def test_elsewhere_it_is_what_transformers_calls_the_last_hidden_state(kind: str) -> None:
    settings, to_map = POOLED[kind]
    image = IMAGE if settings.get("image_size") != 64 else torch.nn.functional.interpolate(IMAGE, 64)
    model = made(lambda: Logits(kind, settings))
    assert isinstance(model, Logits)
    layer = feature_layer(model, image)
    seen: list[Tensor | None] = []
    hook = layer.register_forward_hook(lambda _module, _inputs, output: seen.append(first_tensor(output)))
    with torch.no_grad():
        last = model.inner.base_model(image).last_hidden_state
    hook.remove()
    assert seen[-1] is not None
    torch.testing.assert_close(seen[-1], last)
    expected = by_hand(model, layer, image, LABEL, to_map)
    torch.testing.assert_close(maps.cam_grid("gradcam", model, image, LABEL), expected, atol=1e-5, rtol=0)
