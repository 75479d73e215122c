import copy
import itertools
from collections.abc import Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrib import attack, maps
from attrib.errors import InputError
from attrib.gated import Gate, GatedClassifier, GatedResidual, combined_loss, heads_loss
from attrib.inference import frozen
from attrib.layers import locate
from attrib.model import build, normalise

IMAGES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABEL = torch.tensor([0, 1, 2, 2, 0])
FAKES = [torch.tensor([2, 0, 2, 1, 0]), torch.tensor([0, 2, 1, 0, 2])]
SMALL = ["resnet9", "resnet32"]
"""One architecture without residual blocks and one with; both are fast."""


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
    """One image's features (C,h,w) gated channel by channel, and the logits of the head."""
    weight, bias = head.weight.tolist(), head.bias.tolist()
    means = [float(channel.sum() / channel.numel()) for channel in features]
    logits = [b + sum(w * m for w, m in zip(row, means, strict=True)) for row, b in zip(weight, bias, strict=True)]
    if y is None:
        y, alpha = max(range(len(logits)), key=logits.__getitem__), 1.0
    share = [alpha * own + (1 - alpha) * other for own, other in zip(weight[y], weight[fake], strict=True)]
    return torch.stack([channel * share[c] for c, channel in enumerate(features)]), logits


def slow_logits(model: GatedClassifier, image: Tensor, y: int | None, fakes: list[int], alpha: float) -> Tensor:
    """The final logits and the heads' of one image (C,H,W), as the design describes them: (3,K)."""
    x = model.stages[:-1](normalise(image[None], model.mean, model.std))
    modules = dict(model.stages[-1].named_children())
    final_gate = modules.pop("gate")
    assert isinstance(final_gate, Gate)
    entrance_gate = modules.pop("entrance_gate", None)
    if isinstance(entrance_gate, Gate):
        gated, first = slow_gate(x[0], entrance_gate.head, y, fakes[0], alpha)
        x = gated[None]
    for module in flattened(modules.values()):
        if isinstance(module, GatedResidual):
            gated, first = slow_gate(x[0], module.gate.head, y, fakes[0], alpha)
            x = module.after(module.branch(gated[None]) + module.shortcut(x))
        else:
            x = module(x)
    features, second = slow_gate(x[0], final_gate.head, y, fakes[1], alpha)
    final = model.fc(model.pool(features[None]))[0]
    return torch.stack([final, torch.tensor(first).double(), torch.tensor(second).double()])


def flattened(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Modules in order, with the sequences among them unpacked."""
    flat: list[nn.Module] = []
    for module in modules:
        flat += flattened(module) if type(module) is nn.Sequential else [module]
    return flat


@pytest.mark.parametrize("arch", ["resnet9", "resnet32", "preactresnet18"])
@torch.no_grad()
def test_the_gates_are_their_definition(arch: str) -> None:
    model, images = gated(arch).double(), IMAGES[:3].double()
    inference = model.all_logits(images)
    with model.gated_by(LABEL[:3], [fake[:3] for fake in FAKES], 0.6):
        training = model.all_logits(images)
    for n in range(3):
        fakes = [int(fake[n]) for fake in FAKES]
        torch.testing.assert_close(inference[:, n], slow_logits(model, images[n], None, fakes, 0.6))
        torch.testing.assert_close(training[:, n], slow_logits(model, images[n], int(LABEL[n]), fakes, 0.6))
    assert not torch.allclose(inference, training)


@pytest.mark.parametrize(("arch", "classes"), [
    ("resnet9", 10), ("resnet18", 3), ("resnet32", 100), ("preactresnet18", 10),
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


@pytest.mark.parametrize("arch", SMALL)
@torch.no_grad()
def test_the_parts_are_those_of_a_classifier(arch: str) -> None:
    model = gated(arch)
    features = model.features(IMAGES)
    assert torch.equal(features, model.stages(normalise(IMAGES, model.mean, model.std)))
    assert torch.equal(model.embed(IMAGES), model.pool(features))
    assert torch.equal(model(IMAGES), model.fc(model.embed(IMAGES)))
    assert locate(model, IMAGES) == (model.stages[-1], model.fc)


@pytest.mark.parametrize("arch", [*SMALL, "resnet18", "preactresnet18"])
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
    with pytest.raises(InputError, match=r"alpha: expected a number in \[0,1\], got 1.5"), \
         model.gated_by(LABEL, FAKES, 1.5):  # fmt: skip
        pass
    with pytest.raises(InputError, match="labels were given for 5 images, the model came to 2"), \
         model.gated_by(LABEL, FAKES, 0.6):  # fmt: skip
        model(IMAGES[:2])


@pytest.mark.parametrize("arch", [*SMALL, "resnet9"])
def test_maps_at_the_last_stage_are_those_of_the_ungated_features(arch: str) -> None:
    model = gated(arch)
    cam = maps.gradcam_grid(model, IMAGES, LABEL, signed=True)
    product = maps.eq6_grid(model, IMAGES, LABEL, signed=True)
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


@pytest.mark.parametrize("arch", SMALL)
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


@pytest.mark.parametrize("arch", SMALL)
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


def test_without_residual_blocks_only_the_final_features_are_gated() -> None:
    model = build("lenet", num_classes=10, input_shape=(1, 28, 28), gated=True)
    assert isinstance(model, GatedClassifier)
    assert [gate.head.in_features for gate in model.gates] == [50]
    assert model.all_logits(torch.rand(4, 1, 28, 28)).shape == (2, 4, 10)
