import copy
import itertools
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrib import attack, maps
from attrib.errors import InputError
from attrib.inference import frozen
from attrib.models.architectures import GATED, _preact_block, build
from attrib.models.classifier import Residual, normalise
from attrib.models.gated import GatedClassifier, combined_loss, heads_loss
from attrib.models.layers import locate

IMAGES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABEL = torch.tensor([0, 1, 2, 2, 0])
FAKES = [torch.tensor([2, 0, 2, 1, 0]), torch.tensor([0, 2, 1, 0, 2])]
BOTH = ["resnet32", "preactresnet18"]
"""One architecture with activation after the sum and one with activation before the convolutions; both are fast."""


def gated(arch: str, *, classes: int = 3, seed: int = 0) -> GatedClassifier:
    """In eval mode, with heads that don't all predict the same class and running statistics that are not 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(
            arch, num_classes=classes, input_shape=(3, 16, 16), mean=[0.5, 0.4, 0.3], std=[0.2] * 3, gated=True
        )
        assert isinstance(model, GatedClassifier)
        model(IMAGES)
        with torch.no_grad():
            for gate in model.gates:
                gate.head.weight.add_(torch.randn_like(gate.head.weight))
    return model.eval()


def slow_gate(features: Tensor, head: nn.Linear, y: int | None, fake: int, alpha: float) -> tuple[Tensor, list[float]]:
    """One image's features (C,h,w) gated channel by channel, and the logits of the head; y None: its prediction."""
    weight, bias = head.weight.tolist(), head.bias.tolist()
    means = [float(channel.sum() / channel.numel()) for channel in features]
    logits = [b + sum(w * m for w, m in zip(row, means, strict=True)) for row, b in zip(weight, bias, strict=True)]
    if y is None:
        y = max(range(len(logits)), key=logits.__getitem__)
    share = [alpha * own + (1 - alpha) * other for own, other in zip(weight[y], weight[fake], strict=True)]
    return torch.stack([channel * share[c] for c, channel in enumerate(features)]), logits


def norm(x: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    mean, var, scale, shift = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, scale, shift)


def conv(x: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    return F.conv2d(x, weights[f"{name}.weight"], padding=1)


def slow_logits(model: GatedClassifier, image: Tensor, y: int | None, fakes: list[int], alpha: float) -> Tensor:
    """The final logits and the heads' of one image (C,H,W): (3,K). Only what comes before the last block is ours.

    Pre-activation, as in the release of AGAIN: out = relu(bn1(x)); out = out * weights of the gate's class;
    x + conv2(relu(bn2(conv1(out)))). Post-activation: relu(x + bn2(conv2(relu(bn1(conv1(x * weights)))))).
    """
    stage = model.stages[-1]
    assert isinstance(stage, nn.Sequential)
    weights = model.state_dict()
    pre = isinstance(stage[0], nn.Sequential)  # then the stage is blocks, norm, ReLU, gate
    blocks = stage[0] if pre else stage[:-1]
    assert isinstance(blocks, nn.Sequential)
    x = blocks[:-1](model.stages[:-1](normalise(image[None], model.mean, model.std)))
    prefix = f"stages.{len(model.stages) - 1}." + (f"0.{len(blocks) - 1}" if pre else f"{len(blocks) - 1}")
    block = {name.removeprefix(f"{prefix}.branch."): each for name, each in weights.items() if name.startswith(prefix)}
    inner, outer = model.gates
    if pre:
        gated, first = slow_gate(norm(x, block, "0").relu()[0], inner.head, y, fakes[0], alpha)
        x = x + conv(norm(conv(gated[None], block, "2"), block, "3").relu(), block, "5")
        x = norm(x, weights, f"stages.{len(model.stages) - 1}.1").relu()
    else:
        gated, first = slow_gate(x[0], inner.head, y, fakes[0], alpha)
        branch = norm(conv(gated[None], block, "0"), block, "1").relu()
        x = (x + norm(conv(branch, block, "3"), block, "4")).relu()
    features, second = slow_gate(x[0], outer.head, y, fakes[1], alpha)
    final = features.mean((1, 2)) @ model.fc.weight.T + model.fc.bias
    return torch.stack([final, torch.tensor(first).double(), torch.tensor(second).double()])


@pytest.mark.parametrize("arch", BOTH)
@torch.no_grad()
def test_the_gates_are_their_definition(arch: str) -> None:
    model, images = gated(arch).double(), IMAGES[:3].double()
    fakes = [fake[:3] for fake in FAKES]
    inference = model.all_logits(images)
    with model.gated_by(LABEL[:3], fakes, 0.6):
        training = model.all_logits(images)
    with model.gated_by(None, fakes, 0.6):
        own = model.all_logits(images)
    with model.gated_by(None, fakes, 1.0):
        torch.testing.assert_close(model.all_logits(images), inference)
    for n in range(3):
        at = [int(fake[n]) for fake in fakes]
        torch.testing.assert_close(inference[:, n], slow_logits(model, images[n], None, at, 1.0))
        torch.testing.assert_close(training[:, n], slow_logits(model, images[n], int(LABEL[n]), at, 0.6))
        torch.testing.assert_close(own[:, n], slow_logits(model, images[n], None, at, 0.6))
    assert not torch.allclose(inference, training)
    assert not torch.allclose(inference, own)


@torch.no_grad()
def test_a_shortcut_behind_the_activation_is_not_gated() -> None:
    """A pre-activation block that changes the shape: conv1x1(out) + conv2(relu(bn2(conv1(out * weights))))."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stages = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(_preact_block(4, 6, 2)))
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        model = GatedClassifier(stages, pool, nn.Linear(6, 3), mean=[0.0] * 3, std=[1.0] * 3).double()
        model(IMAGES.double())
    model.eval()
    x = IMAGES[:1].double()
    weights, inner = model.state_dict(), model.gates[0]
    block = {name.removeprefix("stages.1.0."): each for name, each in weights.items() if name.startswith("stages.1.0.")}
    x = norm(F.conv2d(x, weights["stages.0.0.weight"], weights["stages.0.0.bias"]), block, "0").relu()
    gated, _ = slow_gate(x[0], inner.head, None, 0, 1.0)
    branch = F.conv2d(gated[None], block["2.branch.0.weight"], stride=2, padding=1)
    branch = conv(norm(branch, block, "2.branch.1").relu(), block, "2.branch.3")
    x = branch + F.conv2d(x, block["2.shortcut.weight"], stride=2)
    features, _ = slow_gate(x[0], model.gates[1].head, None, 0, 1.0)
    torch.testing.assert_close(model.features(IMAGES[:1].double())[0], features)


@pytest.mark.parametrize("arch", ["lenet", "resnet9"])
def test_no_gates_before_max_pooling(arch: str) -> None:
    with pytest.raises(InputError, match=f"arch: expected one of resnet8, .*, got '{arch}'"):
        build(arch, num_classes=3, input_shape=(3, 32, 32), gated=True)


def test_which_architectures_have_gates() -> None:
    """Those with a residual block, and with no max pooling at or behind the last stage."""
    from attrib.models.architectures import ARCHITECTURES

    def suits(end: nn.Module) -> bool:
        parts = list(end.modules())
        pooling = any(isinstance(part, nn.MaxPool2d | nn.AdaptiveMaxPool2d) for part in parts)
        return any(isinstance(part, Residual) for part in parts) and not pooling

    with torch.device("meta"):
        bodies = {name: make((3, 32, 32)) for name, make in ARCHITECTURES.items()}
    assert set(GATED) == {name for name, body in bodies.items() if suits(nn.Sequential(body.stages[-1], body.pool))}


@pytest.mark.parametrize(("arch", "classes"), [
    ("resnet18", 3), ("resnet32", 100), ("preactresnet18", 10),
])  # fmt: skip
@torch.no_grad()
def test_any_architecture_and_number_of_classes(arch: str, classes: int) -> None:
    model = gated(arch, classes=classes)
    final = model(IMAGES)
    heads = model.heads(IMAGES)
    assert final.shape == (5, classes)
    assert [head.shape for head in heads] == [final.shape] * 2
    assert torch.equal(model.all_logits(IMAGES), torch.stack([final, *heads]))


@torch.no_grad()
def test_wide_resnet_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = build("wrn-34-10", num_classes=10, input_shape=(3, 32, 32), gated=True)
        assert isinstance(model, GatedClassifier)
        assert model.all_logits(torch.empty(2, 3, 32, 32)).shape == (3, 2, 10)
    assert [gate.head.in_features for gate in model.gates] == [640, 640]


@pytest.mark.parametrize("arch", BOTH)
@torch.no_grad()
def test_the_parts_are_those_of_a_classifier(arch: str) -> None:
    model = gated(arch)
    features = model.features(IMAGES)
    assert torch.equal(features, model.stages(normalise(IMAGES, model.mean, model.std)))
    assert torch.equal(model.embed(IMAGES), model.pool(features))
    assert torch.equal(model(IMAGES), model.fc(model.embed(IMAGES)))
    assert locate(model, IMAGES) == (model.stages[-1], model.fc)


@pytest.mark.parametrize("arch", [*BOTH, "resnet18"])
def test_every_other_weight_is_that_of_the_ungated_model(arch: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        plain = build(arch, num_classes=3, input_shape=(3, 16, 16)).state_dict()
        torch.manual_seed(1)
        model = build(arch, num_classes=3, input_shape=(3, 16, 16), gated=True).state_dict()
    own = {name for name in model if "gate." in name}
    assert len(own) == 4
    assert model.keys() - own == plain.keys()
    assert all(torch.equal(model[name], tensor) for name, tensor in plain.items())


@torch.no_grad()
def test_no_fake_label_and_right_heads_are_inference() -> None:
    model = gated("resnet32")
    inner, outer = model.gates
    outer.head.bias.copy_(torch.tensor([0.0, 0.0, 1e3]))
    inner.head.bias[2] += 1
    images = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    images = images[model.heads(images)[0].argmax(1) == 2]
    assert len(images) >= 2
    inference = model.all_logits(images)
    label = torch.full((len(images),), 2)
    with model.gated_by(label, [torch.zeros_like(label)] * 2, 1.0):
        assert torch.equal(model.all_logits(images), inference)
    # Fake labels that are the true ones are none.
    with model.gated_by(label, [label] * 2, 0.3):
        torch.testing.assert_close(model.all_logits(images), inference)


@torch.no_grad()
def test_inference_depends_on_the_image_alone() -> None:
    model, images = gated("resnet32").double(), IMAGES.double()
    state = torch.get_rng_state()
    together = model.all_logits(images)
    for n in range(len(images)):
        torch.testing.assert_close(model.all_logits(images[n : n + 1]), together[:, n : n + 1])
    assert torch.equal(torch.get_rng_state(), state)


@torch.no_grad()
def test_the_context_restores_what_was() -> None:
    model = gated("resnet32")
    before = model(IMAGES)
    with model.gated_by(LABEL, FAKES, 0.6):
        inner = model(IMAGES)
        assert not torch.equal(inner, before)
        with pytest.raises(ZeroDivisionError), model.gated_by(LABEL, FAKES, 0.1):
            raise ZeroDivisionError
        assert torch.equal(model(IMAGES), inner)
    assert torch.equal(model(IMAGES), before)
    with pytest.raises(InputError, match="image"):
        model.all_logits(IMAGES[:, :1])
    assert all(gate.record is None for gate in model.gates)
    copy.deepcopy(model)


def test_what_does_not_fit() -> None:
    model = gated("resnet32")
    with pytest.raises(InputError, match=r"fake_labels: expected 2 of shape \(5,\), got \(5,\)"), \
         model.gated_by(LABEL, FAKES[:1], 0.6):  # fmt: skip
        pass
    with pytest.raises(InputError, match=r"fake_labels: expected 2 .*got \(4,\), \(5,\)"), \
         model.gated_by(LABEL, [FAKES[0][:4], FAKES[1]], 0.6):  # fmt: skip
        pass
    with pytest.raises(InputError, match=r"fake_labels: expected 2 .*got \(5,\), \(4,\)"), \
         model.gated_by(None, [FAKES[0], FAKES[1][:4]], 0.6):  # fmt: skip
        pass
    with pytest.raises(InputError, match=r"fake_labels: expected 2 .*got none"), model.gated_by(None, [], 0.6):
        pass
    with pytest.raises(InputError, match=r"alpha: expected a number in \[0,1\], got 1.5"), \
         model.gated_by(LABEL, FAKES, 1.5):  # fmt: skip
        pass
    with pytest.raises(InputError, match="labels were given for 5 images, the model came to 2"), \
         model.gated_by(LABEL, FAKES, 0.6):  # fmt: skip
        model(IMAGES[:2])


@pytest.mark.parametrize("arch", BOTH)
def test_maps_at_the_last_stage_are_those_of_the_ungated_features(arch: str) -> None:
    model = gated(arch)
    cam = maps.cam_grid("gradcam", model, IMAGES, LABEL, signed=True)
    product = maps.cam_grid("eq6", model, IMAGES, LABEL, signed=True)
    assert cam.abs().sum((1, 2)).min() > 0
    stage = model.stages[-1]
    assert isinstance(stage, nn.Sequential)
    with frozen(model):
        ungated = stage[:-1](model.stages[:-1](normalise(IMAGES, model.mean, model.std))).detach().requires_grad_()
        logits = model.fc(model.pool(stage[-1](ungated)))
        (of_score,) = torch.autograd.grad(logits.gather(1, LABEL[:, None]).sum(), ungated, retain_graph=True)
        (of_loss,) = torch.autograd.grad(F.cross_entropy(logits, LABEL, reduction="sum"), ungated)
    torch.testing.assert_close(cam, (of_score.mean((2, 3), keepdim=True) * ungated.detach()).sum(1))
    torch.testing.assert_close(product, (-of_loss * ungated.detach()).sum(1))


def test_every_map_runs() -> None:
    model = gated("resnet32")
    for explain in maps.MAPS.values():
        found = explain(model, IMAGES[:2], LABEL[:2])
        assert found.shape == (2, 16, 16)
        assert found.isfinite().all()


@pytest.mark.parametrize("arch", BOTH)
def test_attacks(arch: str) -> None:
    model = gated(arch)
    before = copy.deepcopy(model.state_dict())
    clean = model.all_logits(IMAGES).detach()
    adversarial = attack.pgd(model, IMAGES, LABEL, eps=0.05, step_size=0.02, steps=5)
    assert F.cross_entropy(model(adversarial), LABEL) > F.cross_entropy(clean[0], LABEL)
    for objective in (combined_loss, heads_loss):
        with frozen(model):
            found = attack.ascend(
                model.all_logits, objective, IMAGES, LABEL, start=IMAGES, eps=0.05, step_size=0.02, steps=(5,)
            )[5]
        assert (found - IMAGES).abs().max() <= 0.05 + 1e-6
        assert (objective(model.all_logits(found), LABEL) > objective(clean, LABEL)).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_combined_loss_is_its_formula() -> None:
    logits = torch.randn(3, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    label = torch.tensor([6, 0, 3, 3])

    def cross_entropy(row: Tensor, y: Tensor) -> float:
        return float(row.exp().sum().log() - row[y])

    combined, heads = combined_loss(logits, label), heads_loss(logits, label)
    for n, y in enumerate(label):
        final, *of_heads = (cross_entropy(part[n], y) for part in logits)
        assert float(heads[n]) == pytest.approx(sum(of_heads) / 2)
        assert float(combined[n]) == pytest.approx(final + 2 * sum(of_heads) / 2)


@pytest.mark.parametrize("arch", BOTH)
def test_autocast(arch: str) -> None:
    model = gated(arch)
    with torch.autocast("cpu", dtype=torch.bfloat16), model.gated_by(LABEL, FAKES, 0.6):
        logits = model.all_logits(IMAGES)
        assert model.features(IMAGES).dtype == torch.bfloat16
        combined_loss(logits, LABEL).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with model.gated_by(LABEL, FAKES, 0.6):
        torch.testing.assert_close(logits.float(), model.all_logits(IMAGES), atol=0.2, rtol=0.1)


def test_the_gates_gradient_is_the_finite_difference() -> None:
    model, images = gated("resnet32").double(), IMAGES.double()
    parameters = list(itertools.chain.from_iterable(gate.head.parameters() for gate in model.gates))
    directions = [torch.randn_like(p) for p in parameters]

    def loss(step: float) -> Tensor:
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=step)
        with model.gated_by(LABEL, FAKES, 0.6):
            return combined_loss(model.all_logits(images), LABEL).mean()

    gradients = torch.autograd.grad(loss(0.0), parameters)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    up, down = float(loss(1e-6).detach()), float(loss(-2e-6).detach())
    assert (up - down) / 2e-6 == pytest.approx(slope, rel=1e-5)


def test_stages_without_residual_blocks() -> None:
    stages = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with pytest.raises(InputError, match="stages: expected a residual block"):
        GatedClassifier(stages, nn.Flatten(), nn.Linear(4, 3), mean=[0.5] * 3, std=[0.3] * 3)
