"""Models whose output is not a float32 tensor of logits (N,K), and how it is read."""

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attrib
from attrib import accuracy, inference
from attrib.errors import InputError
from attrib.models.answers import as_logits

IMAGES = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, 1])


def small(classes: int = 4) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes)
        ).eval()


class Answer(nn.Module):
    """A network whose answer ``wrap`` puts into something."""

    def __init__(self, wrap: Any, classes: int = 4) -> None:
        super().__init__()
        self.body = small(classes)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.body(x))


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class Named(NamedTuple):
    hidden: Tensor
    logits: Tensor


WRAPS = {
    "list": lambda z: [z, z.new_zeros(1)],
    "None first": lambda z: (None, z),
    "output": lambda z: Output(z),
    "ordered": lambda z: OrderedDict(loss=z.sum(), logits=z, hidden=z.new_zeros(len(z), 4)),
    "named tuple": lambda z: Named(z.new_zeros(len(z), 4), z),
    "dict": lambda z: {"prediction": z, "features": z.new_zeros(len(z), 5, 2, 2), "name": "net"},
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_everything_takes_the_logits_of_any_answer(wrap: Any) -> None:
    model, plain = Answer(wrap), small()
    assert torch.equal(inference.logits(model, IMAGES), plain(IMAGES))
    for function in (attrib.gradcam, attrib.eq6, attrib.gradient, attrib.occlusion, attrib.guided_gradcam):
        torch.testing.assert_close(function(model, IMAGES, LABELS), function(plain, IMAGES, LABELS))
    attack: dict[str, Any] = {"eps": 0.1, "step_size": 0.05, "steps": 2}
    for strike in (attrib.pgd, attrib.cw):
        torch.testing.assert_close(strike(model, IMAGES, LABELS, **attack), strike(plain, IMAGES, LABELS, **attack))
    torch.testing.assert_close(attrib.contribution(model, IMAGES, LABELS), attrib.contribution(plain, IMAGES, LABELS))
    torch.testing.assert_close(
        accuracy.gradient_size(model, IMAGES, LABELS), accuracy.gradient_size(plain, IMAGES, LABELS)
    )


@pytest.mark.parametrize("wrap", [lambda z: z, lambda z: z[:, 0], lambda z: z.squeeze()], ids=["N1", "N", "squeezed"])
def test_one_logit_is_two_classes(wrap: Any) -> None:
    """A network of two logits, the first of which is always zero, is the same function."""
    model, twin = Answer(wrap, classes=1), small(2)
    last = model.body[4]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        twin[0].load_state_dict(model.body[0].state_dict())
        for name, value in last.named_parameters():
            twin[4].get_parameter(name).copy_(torch.cat([torch.zeros_like(value), value]))
    label = torch.tensor([0, 1, 1])
    assert torch.equal(inference.logits(model, IMAGES), twin(IMAGES))
    assert inference.logits(model, IMAGES[:1]).shape == (1, 2)
    torch.testing.assert_close(attrib.eq6(model, IMAGES, label), attrib.eq6(twin, IMAGES, label))
    moved = attrib.fgsm(model, IMAGES, label, eps=0.1)
    assert (moved - IMAGES).abs().max() > 0.09
    torch.testing.assert_close(moved, attrib.fgsm(twin, IMAGES, label, eps=0.1))
    torch.testing.assert_close(attrib.contribution(model, IMAGES, label), attrib.contribution(twin, IMAGES, label))
    with pytest.raises(InputError, match=r"classes in 0\.\.1"):
        attrib.gradcam(model, IMAGES, label + 1)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (torch.zeros(3, 21, 8, 8), r"got \(3, 21, 8, 8\): a score for every pixel"),
        ({"out": torch.zeros(3, 21, 8, 8)}, "got dict of out .*every pixel"),
        (torch.zeros(3, 5, 2), "several scores for every class"),
        ({"species": torch.zeros(3, 5), "genus": torch.zeros(3, 4)}, r"dict of species \(3, 5\), genus \(3, 4\)"),
        ((), "got tuple of nothing"),
        (["cat"], "got list of str"),
        (7, "got int"),
        (torch.zeros(2, 4), r"got \(2, 4\)"),
        (torch.zeros(3, 0), r"got \(3, 0\)"),
        (torch.zeros(3, 4, dtype=torch.int64), "expected logits from Net, got torch.int64"),
    ],
)
def test_answers_that_are_not_clear(output: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        as_logits(output, images=3, model="Net")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("normalized", [False, True])
def test_other_precisions(kind: torch.dtype, normalized: bool) -> None:
    def made(inner: nn.Module) -> nn.Module:
        return attrib.Normalized(inner, [0.5] * 3, [0.2] * 3) if normalized else inner

    model, plain = made(small().to(kind)), made(small())
    found = inference.logits(model, IMAGES)
    assert found.dtype == torch.float32
    close: dict[str, Any] = {"rtol": 0.05, "atol": 0.02} if kind != torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(found, plain(IMAGES), **close)
    torch.testing.assert_close(attrib.gradcam(model, IMAGES, LABELS), attrib.gradcam(plain, IMAGES, LABELS), **close)
    assert attrib.gradient(model, IMAGES, LABELS).dtype == torch.float32
    assert attrib.contribution(model, IMAGES, LABELS).isfinite().all()
    attack: dict[str, Any] = {"eps": 0.1, "step_size": 0.05, "steps": 2, "precision": "bf16"}
    for images in (attrib.pgd(model, IMAGES, LABELS, **attack), attrib.fgsm(model, IMAGES, LABELS, eps=0.1)):
        assert images.dtype == torch.float32
        assert (images - IMAGES).abs().max() > 0.05


def test_our_own_classifier_in_half_precision() -> None:
    whole = attrib.build("resnet32", num_classes=3, input_shape=(3, 12, 12), gated=True).eval()
    half = attrib.build("resnet32", num_classes=3, input_shape=(3, 12, 12), gated=True).eval()
    half.load_state_dict(whole.state_dict())
    half.half()
    torch.testing.assert_close(inference.logits(half, IMAGES), whole(IMAGES), rtol=0.05, atol=0.05)
    found = accuracy.attacked(half, IMAGES, LABELS, eps=0.1, step_size=0.05, steps=(2,))
    assert set(found) >= {"fgsm", "pgd-2", "cw-2"}


def test_images_in_double_precision_keep_it() -> None:
    model = small().double()
    x = IMAGES.double()
    assert inference.logits(model, x).dtype == torch.float64
    assert torch.equal(inference.logits(model, x), model(x))


def test_an_analysis_of_three_kinds_of_answers() -> None:
    labels = torch.tensor([0, 1, 1])
    images = torch.from_numpy((IMAGES.numpy() * 255).astype(np.uint8)).float() / 255
    models = {"dict": Answer(lambda z: {"logits": z}, 2), "half": small(2).half(), "one": Answer(lambda z: z, 1)}
    result = attrib.Span(map="gradcam").run(models, (images, labels))
    assert all(0 < result[name]["asc"] < 1 for name in models)
    assert [text.partition(" ")[0] for text in result.summary["warnings"] if "own precision" in text] == ["half"]


def scripted(kind: str) -> nn.Module:
    """Programs of torch: nothing can look into them, but they answer and have gradients."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "traced":
            return nn.Sequential(torch.jit.trace(small(), IMAGES))
        if kind == "scripted":
            made: nn.Module = torch.jit.script(small())
            return made
        batch = torch.export.Dim("batch", min=1, max=64)
        return torch.export.export(small(), (IMAGES,), dynamic_shapes=({0: batch},)).module()


@pytest.mark.parametrize("kind", ["traced", "scripted", "exported"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_programs(kind: str) -> None:
    model, plain = scripted(kind), small()
    for function in (attrib.gradient, attrib.occlusion):
        torch.testing.assert_close(function(model, IMAGES, LABELS), function(plain, IMAGES, LABELS))
    attack: dict[str, Any] = {"eps": 0.1, "step_size": 0.05, "steps": 2}
    torch.testing.assert_close(attrib.pgd(model, IMAGES, LABELS, **attack), attrib.pgd(plain, IMAGES, LABELS, **attack))
    if kind == "scripted":
        with pytest.raises(InputError, match="TorchScript program, whose layers cannot be looked at"):
            attrib.gradcam(model, IMAGES, LABELS)
    if kind != "exported":  # whose layers are no modules of known types to randomise
        data = (torch.rand(3, 3, 12, 12), torch.tensor([0, 3, 1]))
        assert attrib.Span(map="gradient").run({"x": model}, data).summary["models"][0]["asc"] > 0


class Rounds(nn.Module):
    """Its gradient stops on the way, as in a quantised network, although the answer has a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.body = small()
        self.shift = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x.detach()) + self.shift.detach().requires_grad_()
        return logits


@pytest.mark.skipif(torch.backends.quantized.engine == "none", reason="this torch has no quantised products")
@pytest.mark.filterwarnings("ignore")
def test_a_quantised_model_has_no_gradient() -> None:
    head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head)
    model = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear}, dtype=torch.qint8)
    for function in (attrib.gradcam, attrib.gradient, attrib.eq6):
        with pytest.raises(InputError, match="gives no gradient") as caught:
            function(model, IMAGES, LABELS)
        assert "\n" not in str(caught.value)
    assert attrib.occlusion(model, IMAGES, LABELS).isfinite().all()


class RoundsAtTheEnd(nn.Module):
    """Its gradient stops behind the feature map, as in a network whose linear layers are quantised."""

    def __init__(self) -> None:
        super().__init__()
        self.body = small()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x).mul(8).round().detach() * self.scale.detach().requires_grad_()
        return logits


def test_a_model_whose_gradient_does_not_reach_the_image() -> None:
    model = Rounds()
    with pytest.raises(InputError, match="gives no gradient to explain; is it quantised"):
        attrib.gradient(model, IMAGES, LABELS)
    with pytest.raises(InputError, match="gives no gradient at its output; does what follows run under"):
        attrib.gradcam(RoundsAtTheEnd(), IMAGES, LABELS)
    assert attrib.fgsm(model, IMAGES, LABELS, eps=0.1).equal(IMAGES)
    assert accuracy.gradient_size(model, IMAGES, LABELS).eq(0).all()
