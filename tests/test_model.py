import pytest
import torch
from torch import nn

from attrib.errors import InputError
from attrib.models.architectures import ARCHITECTURES, build
from attrib.models.classifier import Classifier, Residual, Shape, normalise

CIFAR: Shape = (3, 32, 32)
RESIDUAL = [name for name in ARCHITECTURES if name != "lenet"]


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arch", "input_shape", "count"),
    [
        ("lenet", (1, 28, 28), 431_080),  # Caffe's
        ("resnet9", CIFAR, 6_573_130),
        ("resnet8", CIFAR, 75_290),
        ("resnet32", CIFAR, 464_154),  # "0.46M", He et al. 2016, table 6
        ("resnet18", CIFAR, 11_173_962),
        ("preactresnet18", CIFAR, 11_172_170),
        ("wrn-34-10", CIFAR, 46_160_474),  # "46.2M"
    ],
)
def test_number_of_parameters(arch: str, input_shape: Shape, count: int) -> None:
    with torch.device("meta"):
        assert parameters(build(arch, num_classes=10, input_shape=input_shape)) == count


@pytest.mark.parametrize(
    ("arch", "input_shape", "features", "width"),
    [
        ("lenet", (1, 28, 28), (50, 8, 8), 500),
        ("lenet", (3, 32, 32), (50, 10, 10), 500),
        ("lenet", (3, 64, 64), (50, 26, 26), 500),
        ("lenet", (1, 16, 20), (50, 2, 4), 500),
        ("resnet9", (1, 28, 28), (512, 3, 3), 512),
        ("resnet9", (3, 32, 32), (512, 4, 4), 512),
        ("resnet8", (3, 32, 32), (64, 8, 8), 64),
        ("resnet32", (1, 28, 28), (64, 7, 7), 64),
        ("resnet32", (3, 32, 32), (64, 8, 8), 64),
        ("resnet32", (3, 64, 64), (64, 16, 16), 64),
        ("resnet18", (1, 28, 28), (512, 4, 4), 512),
        ("resnet18", (3, 32, 32), (512, 4, 4), 512),
        ("resnet18", (3, 64, 64), (512, 8, 8), 512),
        ("preactresnet18", (3, 32, 32), (512, 4, 4), 512),
        ("wrn-34-10", (1, 28, 28), (640, 7, 7), 640),
        ("wrn-34-10", (3, 32, 32), (640, 8, 8), 640),
    ],
)
@pytest.mark.parametrize("classes", [10, 100])
def test_shapes(arch: str, input_shape: Shape, features: Shape, width: int, classes: int) -> None:
    with torch.device("meta"):
        model = build(arch, num_classes=classes, input_shape=input_shape).eval()
        x = torch.empty(2, *input_shape)
    assert model.features(x).shape == (2, *features)
    assert model.embed(x).shape == (2, width)
    assert model(x).shape == (2, classes)


@pytest.mark.parametrize("arch", ["lenet", "resnet9", "resnet32"])
def test_the_parts_compose_to_the_whole(arch: str) -> None:
    model = build(arch, num_classes=7, input_shape=CIFAR, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.1]).eval()
    x = torch.rand(2, *CIFAR)
    by_hand = torch.stack([(x[:, c] - m) / s for c, (m, s) in enumerate([(0.4, 0.2), (0.5, 0.3), (0.6, 0.1)])], 1)
    torch.testing.assert_close(model.features(x), model.stages(by_hand))
    assert torch.equal(model.embed(x), model.pool(model.features(x)))
    assert torch.equal(model(x), model.fc(model.embed(x)))


def test_the_normalisation_is_saved_moved_and_not_trained() -> None:
    model = build("lenet", num_classes=2, input_shape=(3, 16, 16), mean=[0.1, 0.2, 0.3], std=[1, 2, 3])
    assert model.state_dict()["mean"].shape == model.state_dict()["std"].shape == (1, 3, 1, 1)
    assert model.double().mean.dtype == torch.float64
    assert {"mean", "std"}.isdisjoint(name for name, _ in model.named_parameters())


def test_identity_normalisation_is_the_default() -> None:
    model = build("lenet", num_classes=2, input_shape=(2, 16, 16))
    x = torch.rand(1, 2, 16, 16)
    assert torch.equal(normalise(x, model.mean, model.std), x)


@pytest.mark.parametrize("arch", ["lenet", "resnet32"])
def test_the_same_seed_gives_the_same_weights(arch: str) -> None:
    def seeded() -> Classifier:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return build(arch, num_classes=10, input_shape=CIFAR)

    for one, other in zip(seeded().parameters(), seeded().parameters(), strict=True):
        assert torch.equal(one, other)


def test_he_initialisation() -> None:
    model = build("resnet18", num_classes=10, input_shape=CIFAR)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            outputs = module.out_channels * module.kernel_size[0] ** 2
            torch.testing.assert_close(module.weight.var(), torch.tensor(2 / outputs), rtol=0.1, atol=0)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_activation_is_a_module_of_its_own(arch: str) -> None:
    """Guided backpropagation replaces the gradient of each ReLU module, so none may run twice."""
    with torch.device("meta"):
        model = build(arch, num_classes=10, input_shape=CIFAR).eval()
        runs: dict[nn.Module, int] = {m: 0 for m in model.modules() if isinstance(m, nn.ReLU)}

        def count(module: nn.Module, _inputs: object, _output: object) -> None:
            runs[module] += 1

        for module in runs:
            module.register_forward_hook(count)
        model(torch.empty(1, *CIFAR))
    assert runs
    assert set(runs.values()) == {1}


@pytest.mark.parametrize("arch", RESIDUAL)
def test_residual_blocks_are_branch_plus_shortcut(arch: str) -> None:
    with torch.device("meta"):
        model = build(arch, num_classes=10, input_shape=CIFAR)
    blocks = [module for module in model.stages.modules() if isinstance(module, Residual)]
    assert len(blocks) == {"resnet8": 3, "resnet9": 2, "resnet32": 15, "wrn-34-10": 15}.get(arch, 8)
    last = blocks[-1].branch
    assert isinstance(last, nn.Sequential)
    assert any(module is blocks[-1] for module in model.stages[-1].modules())


def test_the_parameter_free_shortcut_takes_every_other_pixel() -> None:
    model = build("resnet32", num_classes=10, input_shape=CIFAR)
    block = next(m for m in model.stages[2].modules() if isinstance(m, Residual))
    x = torch.rand(1, 16, 6, 6)
    out = block.shortcut(x)
    assert out.shape == (1, 32, 3, 3)
    assert out[0, 3, 1, 2] == x[0, 3, 2, 4]
    assert not out[:, 16:].any()


def test_two_steps_of_training_lower_the_loss() -> None:
    torch.manual_seed(0)
    model = build("resnet32", num_classes=3, input_shape=(1, 4, 4))
    x, y = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "resnet50"}, r"arch: expected one of lenet, .*wrn-34-10, got 'resnet50'"),
        ({"num_classes": 0}, "num_classes: expected at least 1, got 0"),
        ({"input_shape": (0, 32, 32)}, "input_shape: .*at least 1"),
        ({"input_shape": (3, 32)}, "input_shape: expected .channels, height, width."),
        ({"input_shape": (1, 28, 15)}, "lenet needs at least 16x16 pixels, got 28x15"),
        ({"arch": "resnet9", "input_shape": (1, 7, 8)}, "resnet9 needs at least 8x8 pixels, got 7x8"),
        ({"mean": [0.5]}, "mean, std: expected 3 numbers each"),
        ({"std": [0.5] * 4}, "mean, std: expected 3 numbers each"),
        ({"mean": [0.5, 0.5, float("nan")]}, "mean: expected finite"),
        ({"std": [0.5, 0.0, 0.5]}, "std: expected finite numbers above 0"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    given = {"arch": "lenet", "num_classes": 10, "input_shape": CIFAR} | arguments
    with pytest.raises(InputError, match=message):
        build(**given)  # type: ignore[arg-type]


def test_grey_images_are_not_broadcast_to_colour() -> None:
    model = build("resnet32", num_classes=10, input_shape=CIFAR)
    with pytest.raises(InputError, match=r"expected shape \(N, 3, H, W\) for this model, got \(2, 1, 32, 32\)"):
        model(torch.rand(2, 1, 32, 32))
