import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attrib.errors import InputError
from attrib.models.architectures import build
from attrib.models.layers import feature_layer, last_linear, locate, named
from attrib.models.outside import Normalized, load_factory

EXAMPLE = torch.rand(1, 3, 16, 16)


def in_place() -> nn.Sequential:
    """A ReLU that overwrites the batch norm's output, so that two modules return one tensor."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


class FunctionalBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)) + x)


class FunctionalResNet(nn.Module):
    """Functional ReLU and pooling, as many ResNets for CIFAR are written."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(FunctionalBlock(), FunctionalBlock())
        self.linear = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(F.relu(self.stem(x), inplace=True))
        x = F.avg_pool2d(x, x.shape[-1]).flatten(1)
        logits: Tensor = self.linear(x)
        return logits


class Vgg(nn.Module):
    """``features`` ends in max pooling, the head has two linear layers and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.ReLU(True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3),
            nn.ReLU(True),
            nn.MaxPool2d(2),
        )
        self.dropout = nn.Dropout2d()
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.dropout(self.features(x))))
        return logits


class SqueezeExcite(nn.Module):
    """Its linear layers run in the middle of the network, its pooled map is 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.excite = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.excite(self.squeeze(x))
        return x * scale[:, :, None, None]


class Vit(nn.Module):
    """A transformer with a convolutional patch embedding: a feature map, but not what is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.encoder(self.patches(x).flatten(2).transpose(1, 2))
        logits: Tensor = self.head(tokens.mean(1))
        return logits


class ChannelsLast(nn.Module):
    """Height and width before the channels, as a Swin transformer has them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.patches(x).permute(0, 2, 3, 1)).mean((1, 2)))
        return logits


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, 5))


def all_convolutional(*, excited: bool = False) -> nn.Sequential:
    middle = SqueezeExcite() if excited else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), middle, nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


@pytest.mark.parametrize(
    ("model", "layer", "fc"),
    [
        (in_place(), "2", "5"),
        (nn.Sequential(in_place()[:3], *list(in_place())[3:]), "0", "3"),
        (FunctionalResNet(), "layer1", "linear"),
        (Vgg(), "features.4", "classifier.4"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), SqueezeExcite(), *list(in_place())[3:]), "1", "4"),
        (Normalized(in_place(), [0.5] * 3, [0.5] * 3), "module.2", "module.5"),
        (nn.Sequential(*in_place(), nn.LogSoftmax(1)), "2", "5"),
        (Vit(), "encoder", "head"),
        (ChannelsLast(), "norm", "head"),
    ],
    ids=[
        "in-place",
        "in-place in a container",
        "functional",
        "vgg",
        "squeeze",
        "normalized",
        "log-softmax",
        "vit",
        "channels last",
    ],
)
def test_locate(model: nn.Module, layer: str, fc: str) -> None:
    modules = dict(model.named_modules())
    assert locate(model, EXAMPLE) == (modules[layer], modules[fc])
    assert feature_layer(model, EXAMPLE) is modules[layer]
    assert last_linear(model, EXAMPLE) is modules[fc]


def test_a_classifier_is_not_run() -> None:
    with torch.device("meta"):
        model = build("resnet18", num_classes=10, input_shape=(3, 32, 32))
    assert locate(model, torch.empty(0)) == (model.stages[-1], model.fc)


def test_without_a_feature_map() -> None:
    model = mlp()
    with pytest.raises(InputError, match=r"no feature map .*layer= \(--layer\), or take a map .*: gradient"):
        locate(model, EXAMPLE)
    assert last_linear(model, EXAMPLE).out_features == 5


@pytest.mark.parametrize("excited", [False, True])
def test_without_a_last_linear_layer(excited: bool) -> None:
    model = all_convolutional(excited=excited)
    with pytest.raises(InputError, match=r"from a linear layer: it ends in 3 \(Conv2d, .*name it with fc="):
        locate(model, EXAMPLE)
    assert feature_layer(model, EXAMPLE) is model[3]


def test_no_trace_is_left() -> None:
    model = in_place()
    model[1].eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    locate(model, EXAMPLE)
    with pytest.raises(InputError):
        locate(model, torch.zeros(1, 1, 16, 16))
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert all(not module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert getattr(model[2], "inplace", None) is True
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (in_place(), torch.rand(3, 16, 16), r"example: expected floats of shape \(N,C,H,W\)"),
        (in_place(), torch.rand(0, 3, 16, 16), "example: expected at least one image, got none"),
        (
            in_place(),
            torch.rand(1, 1, 16, 16),
            r"Sequential cannot run on an image of shape \(1, 1, 16, 16\)",
        ),
        (nn.Conv2d(3, 5, 3), EXAMPLE, "no feature map"),
        (
            nn.Sequential(nn.Conv2d(3, 5, 3)),
            EXAMPLE,
            r"expected logits of shape \(1,K\) from Sequential, got \(1, 5, 14, 14\)",
        ),
    ],
)
def test_bad_input(model: nn.Module, example: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        locate(model, example)
    assert "\n" not in str(caught.value)


def test_named() -> None:
    model = FunctionalResNet()
    assert named(model, "layer1.1") is model.layer1[1]
    assert named(Normalized(model, [0.5] * 3, [0.5] * 3), "layer1.1") is model.layer1[1]
    with pytest.raises(InputError, match=r"has no 'layer1.7'; some that it has: .*layer1\.1"):
        named(model, "layer1.7")
    with pytest.raises(InputError, match="has no 'zzzz'; some that it has: stem, layer1, linear"):
        named(model, "zzzz")
    with pytest.raises(InputError, match="has no ''"):
        named(model, "")


def test_load_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from torch import nn\nbuild = lambda: nn.Linear(2, 3)\nclass Zoo:\n    best = nn.Linear(4, 5)\n"
    (tmp_path / "attrib_test_factory.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = list(sys.path)
    for spec, inputs in [
        ("attrib_test_factory:build", 2),
        ("attrib_test_factory:Zoo.best", 4),
        ("torch.nn:Identity", None),
    ]:
        assert getattr(load_factory(spec), "in_features", None) == inputs
    assert sys.path[: len(path)] == path
    assert sys.path[len(path) :] in ([], [str(tmp_path)])  # for what the model imports later


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torch.nn", "expected package.module:factory, like my_code:build for my_code.py, got 'torch.nn'"),
        (":build", "expected package.module:factory"),
        ("my_code.py:build", "got 'my_code.py:build'"),
        ("attrib_no_such:build", "cannot import attrib_no_such: ModuleNotFoundError"),
        ("attrib_test_broken:build", "cannot import attrib_test_broken: SyntaxError"),
        ("torch.nn:Lineer", "torch.nn has no 'Lineer'"),
        ("torch.nn:Linear", "calling it failed: TypeError"),
        ("math:pi", "expected a function or class, got float"),
        ("builtins:dict", "expected it to return an nn.Module, got dict"),
    ],
)
def test_load_factory_explains(spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "attrib_test_broken.py").write_text("def build(:\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        load_factory(spec)
    assert "\n" not in str(caught.value)


def test_normalized() -> None:
    model = Normalized(nn.Identity(), [0.2, 0.4, 0.6], [0.5, 1.0, 2.0])
    by_hand = torch.stack([(EXAMPLE[:, 0] - 0.2) / 0.5, EXAMPLE[:, 1] - 0.4, (EXAMPLE[:, 2] - 0.6) / 2.0], 1)
    torch.testing.assert_close(model(EXAMPLE), by_hand)


def test_normalized_resizes() -> None:
    model = Normalized(nn.Identity(), [0.0] * 3, [1.0] * 3, size=(8, 24))
    assert model(EXAMPLE).shape == (1, 3, 8, 24)
    halved = Normalized(nn.Identity(), [0.0] * 3, [1.0] * 3, size=8)
    flat = torch.full((1, 3, 16, 16), 0.25)
    torch.testing.assert_close(halved(flat), flat[:, :, :8, :8])
    assert torch.equal(Normalized(nn.Identity(), [0.0] * 3, [1.0] * 3, size=16)(EXAMPLE), EXAMPLE)
    for example in (flat, flat[:, :1]):  # without mean and std, of as many channels as come
        torch.testing.assert_close(Normalized(nn.Identity(), size=8)(example), example[:, :, :8, :8])


@pytest.mark.parametrize(
    ("mean", "std", "size", "message"),
    [
        ([0.5], [0.5, 0.5], None, "one number per channel in each"),
        ([0.5], None, None, "one number per channel in each"),
        ([0.5], [0.0], None, "std: expected finite numbers above 0"),
        ([0.5], [0.5], 0, "size: expected at least 1 pixel and at most 8192, got 0"),
    ],
)
def test_normalized_bad_numbers(mean: list[float], std: list[float] | None, size: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Normalized(nn.Identity(), mean, std, size)


def test_normalized_other_channels() -> None:
    with pytest.raises(InputError, match=r"expected shape \(N, 1, H, W\)"):
        Normalized(nn.Identity(), [0.5], [0.5])(EXAMPLE)
