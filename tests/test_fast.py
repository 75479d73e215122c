"""The fast copies of models against the models themselves, the slow and independent definition."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attrib
from attrib import accuracy, inference, maps
from attrib.fast import keep_prepared, prepared
from attrib.loss import cross_entropy
from attrib.models.classifier import Classifier
from attrib.models.gated import GatedClassifier
from attrib.models.outside import Normalized

CPU = torch.device("cpu")


def settled(make: Callable[[], nn.Module]) -> nn.Module:
    """The model with batch norms as training leaves them: statistics and weights that are not 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = 0.3 * torch.randn(module.num_features)
                module.running_var = 0.5 + torch.rand(module.num_features)
                if module.affine:
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, std=0.3)
    return model.eval()


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def answer(model: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the gradient of their squared sum."""
    x = image.clone().requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(logits.float().square().sum(), x)
    return logits.detach(), gradient


def folded(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d) and "forward" in vars(module)]


class Named(nn.Module):
    """As most models from outside are written: every layer an attribute, calls in ``forward``."""

    def __init__(self, *, bias: bool = True, affine: bool = True) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=bias), nn.BatchNorm2d(8, affine=affine)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=bias), nn.BatchNorm2d(8, affine=affine)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.head(x + self.bn2(self.conv2(x)))

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.relu(features).mean((2, 3)))
        return logits


class WithFlag(Named):
    """A flag that nobody sets, as research code has it."""

    def forward(self, x: Tensor, features_only: bool = False, scale: float | None = None) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = x + self.bn2(self.conv2(x))
        if features_only:
            return x
        return self.head(x) if scale is None else scale * self.head(x)


class SeenTwice(Named):
    """Not only the norm sees the first convolution."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.head(self.bn2(self.conv2(self.bn1(x))) + x)


class CalledTwice(Named):
    """One convolution before two norms."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.head(self.bn1(self.conv2(x)) + self.bn2(self.conv2(x)))


class ReadElsewhere(Named):
    """The weights of the second convolution and the last layer have a second use."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        logits = self.head(x + self.bn2(self.conv2(x)))
        return logits * self.conv2.weight.square().mean() + self.fc.weight.square().sum(1)


class Undecided(Named):
    """What is computed depends on the image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.mean() > 0.5 else 1 - x)


class Enclosed(Named):
    """A closure holds on to the layers of the first object."""

    def __init__(self) -> None:
        super().__init__()
        self.first: Callable[[Tensor], Tensor] = lambda x: self.bn1(self.conv1(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        return self.head(x + self.bn2(self.conv2(x)))


class Listed(Named):
    """The layers are called through a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Callable[[Tensor], Tensor]] = [self.conv1, self.bn1, self.relu, self.conv2, self.bn2]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Aliased(Listed):
    """The norms are registered under a second name, by which they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.ModuleList([self.bn1, self.bn2])

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.again
        return self.head(second(self.conv2(self.relu(first(self.conv1(x))))))


class Exact(Named):
    """The head insists on float32."""

    def head(self, features: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().head(features.float())


def spectral() -> nn.Module:
    model = Named()
    torch.nn.utils.parametrizations.spectral_norm(model.conv2)  # in place
    return model


def old_weight_norm() -> nn.Module:
    model = Named()
    with pytest.warns(FutureWarning):
        model.conv1 = nn.utils.weight_norm(model.conv1)
    return model


def built(arch: str, *, gated: bool = False) -> Callable[[], nn.Module]:
    return lambda: attrib.build(
        arch, num_classes=4, input_shape=(3, 16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2), gated=gated
    )


# How many norms have a convolution to go into; None where the model runs as it is.
MODELS: dict[str, tuple[Callable[[], nn.Module], int | None]] = {
    "lenet": (built("lenet"), 0),
    "resnet9": (built("resnet9"), 8),
    "resnet32": (built("resnet32"), 31),
    "resnet18": (built("resnet18"), 20),
    "preactresnet18": (built("preactresnet18"), 8),
    "gated resnet32": (built("resnet32", gated=True), 31),
    "gated preactresnet18": (built("preactresnet18", gated=True), 8),
    "named": (Named, 2),
    "with a flag": (WithFlag, 2),
    "no bias": (lambda: Named(bias=False), 2),
    "not affine": (lambda: Named(affine=False), 2),
    "normalized": (lambda: Normalized(Named(), (0.4, 0.5, 0.6), (0.2, 0.3, 0.2)), 2),
    "resized": (lambda: Normalized(Named(), (0.4, 0.5, 0.6), (0.2, 0.3, 0.2), size=20), 2),
    "sequence": (lambda: nn.Sequential(Named(), nn.Linear(4, 4)), 2),
    "own classifier": (
        lambda: Classifier(
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), nn.Flatten(), nn.Linear(8 * 14**2, 4),
            mean=[0.0] * 3, std=[1.0] * 3,
        ),
        1,
    ),
    "parametrized": (spectral, 1),
    "read elsewhere": (ReadElsewhere, 1),
    "seen twice": (SeenTwice, 1),
    "called twice": (CalledTwice, 0),
    "aliased": (Aliased, 2),
    "listed": (Listed, 2),
    "enclosed": (Enclosed, None),
    "undecided": (Undecided, None),
    "hooked": (old_weight_norm, None),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_answers_the_same(name: str) -> None:
    make, norms = MODELS[name]
    # In float64, where only a fault and no rounding turns a ReLU around.
    model, image = settled(make).double(), images(4, 3, 16, 16).double()
    expected = answer(model, image)
    with prepared(model, CPU, "fp32") as fast:
        found = answer(fast.model, image)
        assert (None if fast.model is model else len(folded(fast.model))) == norms
        assert type(fast.model) is type(model)
        with prepared(fast.model, CPU, "fp32") as again:  # a copy of a copy
            torch.testing.assert_close(answer(again.model, image), found)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", [*MODELS, "exact"])
def test_low_precision_answers_as_autocast(name: str) -> None:
    """As close to float32 as autocast is by itself."""
    model, image = settled(MODELS[name][0] if name in MODELS else Exact), images(4, 3, 16, 16)
    exact, _ = answer(model, image)
    with inference.frozen(model), inference.autocast(CPU, "bf16"):
        plain, _ = answer(model, image)
    with prepared(model, CPU, "bf16") as fast:
        found, _ = answer(fast.model, image)
    assert (found - exact).norm() <= 2 * (plain - exact).norm() + 0.01 * exact.norm()


def test_weights_are_cast_once() -> None:
    model = settled(built("resnet32"))
    with prepared(model, CPU, "bf16") as fast:
        weights = [m.weight for m in fast.model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert {weight.dtype for weight in weights} == {torch.bfloat16}
        assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights if w.ndim == 4)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_float32_is_as_close_as_float32_can_be() -> None:
    model, image = settled(built("resnet9")), images(4, 3, 16, 16)
    with prepared(model, CPU, "fp32") as fast:
        torch.testing.assert_close(fast.model(image), model(image), rtol=1e-4, atol=1e-4)


def test_the_copy_follows_the_model() -> None:
    """Weights change from step to step of training; nothing remembers the old ones."""
    model, image = settled(Named), images(2, 3, 16, 16)
    with prepared(model, CPU, "fp32") as fast:
        before, _ = answer(fast.model, image)
    for parameter in model.parameters():
        parameter.data.mul_(1.5)  # behind autograd's back
    with prepared(model, CPU, "fp32") as fast:
        after, _ = answer(fast.model, image)
    torch.testing.assert_close(after, answer(model, image)[0])
    assert not torch.allclose(before, after)


def test_copies_of_several_layers_are_kept_where_nothing_changes() -> None:
    model, image = settled(Named), images(2, 3, 16, 16)
    layer = model.get_submodule("conv1")

    def copies() -> list[nn.Module]:
        found = []
        for kept in (None, layer):
            with prepared(model, CPU, "fp32", layer=kept) as fast:
                torch.testing.assert_close(fast.model(image), model(image))
                found.append(fast.model)
        return found

    with keep_prepared(model, model):
        first, second = copies(), copies()
        assert [a is b for a, b in zip(first, second, strict=True)] == [True, True]
        assert first[0] is not first[1]
        with keep_prepared(model):
            assert copies()[0] is first[0]
        assert copies()[0] is first[0]
    # Otherwise the one used last is.
    assert copies()[0] is not first[0]
    assert all(parameter.requires_grad for parameter in model.parameters())


def addresses(model: nn.Module) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in state(model).items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("arch", "gated"), [
    ("lenet", False), ("resnet32", False), ("preactresnet18", False), ("resnet32", True), ("preactresnet18", True),
])  # fmt: skip
def test_training_refreshes_the_copy_in_place(arch: str, gated: bool, precision: inference.Precision) -> None:
    """After optimizer steps, on batch norm's new statistics: bit for bit what a new copy would be."""
    model, image = settled(built(arch, gated=gated)), images(4, 3, 16, 16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    with prepared(model, CPU, precision) as fast:
        kept, before = fast.model, addresses(fast.model)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model.train()(image), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
    with prepared(model, CPU, precision) as fast:
        assert fast.model is kept
        assert addresses(kept) == before
        refreshed = answer(kept, image)
    new = copy.deepcopy(model)
    with prepared(new, CPU, precision) as fast:
        expected = answer(fast.model, image)
    assert all(torch.equal(a, b) for a, b in zip(refreshed, expected, strict=True))
    tolerance = 0.1 if precision == "bf16" else 1e-4
    torch.testing.assert_close(refreshed[0].float(), model.eval()(image), atol=tolerance, rtol=tolerance)


def test_a_copy_in_use_stays_as_it_is() -> None:
    """A graph that autograd holds must not find its weights written over."""
    model, image = settled(Named), images(2, 3, 16, 16)
    x = image.clone().requires_grad_()
    with prepared(model, CPU, "fp32") as outer:
        logits = outer.model(x)
        with prepared(model, CPU, "fp32") as inner:
            assert inner.model is outer.model
        logits.sum().backward()
    assert x.grad is not None


def add_hook(model: nn.Module) -> None:
    model.get_submodule("conv1").register_forward_hook(lambda *_: None)


def replace_weight(model: nn.Module) -> None:
    fc = model.get_submodule("fc")
    assert isinstance(fc, nn.Linear)
    fc.weight = nn.Parameter(2 * fc.weight.detach())


def replace_layer(model: nn.Module) -> None:
    model.add_module("relu", nn.Tanh())


def change_attribute(model: nn.Module) -> None:
    bn = model.get_submodule("bn1")
    assert isinstance(bn, nn.BatchNorm2d)
    bn.eps = 0.5


def replace_forward(model: nn.Module) -> None:
    relu = model.get_submodule("relu")
    relu.forward = lambda x: 2 * x


@pytest.mark.parametrize("change", [add_hook, replace_weight, replace_layer, change_attribute, replace_forward])
def test_a_model_that_changed_gets_another_copy(change: Callable[[nn.Module], None]) -> None:
    model, image = settled(Named), images(2, 3, 16, 16)
    with prepared(model, CPU, "fp32") as fast:
        old = fast.model
    change(model)
    with prepared(model, CPU, "fp32") as fast:
        assert fast.model is not old
        torch.testing.assert_close(fast.model(image), model(image))


def test_a_compiled_stage_is_copied_as_it_was() -> None:
    model, image = settled(built("resnet32")), images(2, 3, 16, 16)
    expected = model(image)
    stages = model.get_submodule("stages")
    for stage in stages.children():
        stage.forward = torch.compile(stage.forward, backend="eager")
    with prepared(model, CPU, "fp32") as fast:
        assert len(folded(fast.model)) == 31
        torch.testing.assert_close(fast.model(image), expected, rtol=1e-4, atol=1e-4)
        assert not any("forward" in vars(stage) for stage in fast.model.get_submodule("stages").children())


def test_a_copy_goes_with_its_model() -> None:
    model = settled(built("resnet32"))
    with prepared(model, CPU, "fp32") as fast:
        copied = weakref.ref(fast.model)
    del fast, model
    gc.collect()
    assert copied() is None


def test_leaves_no_trace() -> None:
    model = settled(Named).train()
    model.get_parameter("fc.bias").requires_grad_(False)
    kept = {name: (t.clone(), t.stride(), t.requires_grad, t.data_ptr()) for name, t in state(model).items()}

    def fails() -> None:
        with prepared(model, CPU, "bf16") as fast:
            answer(fast.model, images(2, 3, 16, 16))
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fails()
    for name, tensor in state(model).items():
        value, *rest = kept[name]
        assert torch.equal(tensor, value)
        assert [tensor.stride(), tensor.requires_grad, tensor.data_ptr()] == rest
    assert all(module.training for module in model.modules())
    assert [module.inplace for module in model.modules() if isinstance(module, nn.ReLU)] == [True]
    assert not folded(model)


def state(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def test_hooks_are_called() -> None:
    model, seen = settled(Named), []
    handle = model.get_submodule("conv1").register_forward_hook(lambda *_: seen.append(1))
    attrib.pgd(model, images(2, 3, 16, 16), torch.tensor([0, 1]), eps=0.1, step_size=0.05, steps=3)
    handle.remove()
    assert len(seen) == 3


@pytest.mark.parametrize("name", ["conv1", "bn1", "conv2", "bn2"])
def test_a_layer_gives_out_what_it_does_in_the_model(name: str) -> None:
    """Also a convolution whose norm comes after it: its map is of what it computes, not of the norm's output."""
    model, image, label = settled(Named), images(3, 3, 16, 16), torch.tensor([0, 1, 2])
    layer = model.get_submodule(name)
    outputs: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _input, output: outputs.append(output))
    with inference.frozen(model):  # or a ReLU in place would overwrite what was seen
        score = model(image.clone().requires_grad_()).gather(1, label[:, None]).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, outputs[0])
    expected = (gradient.mean((2, 3), keepdim=True) * outputs[0]).sum(1).relu()
    torch.testing.assert_close(
        maps.cam_grid("gradcam", model, image, label, layer=layer), expected, rtol=1e-3, atol=1e-6
    )


def test_a_block_that_ends_before_its_norm() -> None:
    model = settled(lambda: nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)))
    image = images(2, 3, 16, 16)
    with prepared(model, CPU, "fp32", layer=model.get_submodule("0")) as fast:
        assert fast.layer is fast.model.get_submodule("0")
        torch.testing.assert_close(fast.layer(image), model.get_submodule("0")(image))
        torch.testing.assert_close(fast.model(image), model(image))


@pytest.mark.parametrize("arch", ["resnet32", "preactresnet18"])
def test_gates_are_attacked_in_every_way(arch: str) -> None:
    model = settled(built(arch, gated=True))
    image, label = images(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    with prepared(model, CPU, "fp32") as fast:
        assert isinstance(fast.model, GatedClassifier)
        assert isinstance(model, GatedClassifier)
        torch.testing.assert_close(fast.model.all_logits(image), model.all_logits(image), rtol=1e-3, atol=1e-4)
        assert len(accuracy.attack_paths(fast.model)) == 4
    with model.gated_by(label, [label.flip(0)] * len(model.gates), 0.6), prepared(model, CPU, "fp32") as fast:
        torch.testing.assert_close(fast.model(image), model(image), rtol=1e-3, atol=1e-4)


class Trained:
    """A small residual network, adversarially trained for a moment on digits, and images that it has not seen."""

    def __init__(self) -> None:
        train = next(attrib.dataset("glyphs", split="train", limit=1500).batches(1500))
        self.batch = next(attrib.dataset("glyphs", limit=400).batches(400))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = Classifier(
                nn.Sequential(
                    nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
                    nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
                ),
                nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten()), nn.Linear(512, 10), mean=[0.5] * 3, std=[0.3] * 3,
            ).train()  # fmt: skip
            optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-3)
            for _ in range(8):
                for rows in torch.randperm(1500).split(100):
                    image, label = train.image[rows], train.label[rows]
                    image = attrib.pgd(self.model, image, label, eps=4 / 255, step_size=4 / 255, steps=1, index=rows)
                    optimizer.zero_grad()
                    cross_entropy(self.model(image), label).mean().backward()
                    optimizer.step()
        self.model.eval()


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained()


def test_is_attacked_as_well_as_the_model_itself(trained: Trained) -> None:
    """The same robust accuracy within half a point, and the same images within a few pixels' steps."""
    image, label, index, _ = trained.batch
    settings: dict[str, Any] = {"eps": 8 / 255, "step_size": 2 / 255, "steps": (10,), "index": index}
    low, exact = (accuracy.attacked(trained.model, image, label, precision=p, **settings) for p in ("bf16", "fp32"))
    with inference.frozen(trained.model):
        x = plain = attrib.pgd(trained.model, image, label, eps=8 / 255, step_size=0, steps=1, index=index)
        for _ in range(10):
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(trained.model(x), label, reduction="sum"), x)
            x = (x + 2 / 255 * gradient.sign()).clamp(image - 8 / 255, image + 8 / 255).clamp(0, 1)
        plain = trained.model(x).argmax(1)
    expected = float((plain == label).float().mean())
    assert 0.1 < expected < float((accuracy.evaluate(trained.model, image, label).prediction == label).float().mean())
    for outcomes in (low, exact):
        right = (outcomes["pgd-10"].prediction == label).float().mean()
        assert float(right) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("name", ["smoothgrad", "gradcam", "eq6", "integrated-gradients"])
def test_maps_in_low_precision_rank_the_pixels_alike(name: str, trained: Trained) -> None:
    image, label = trained.batch.image[:100], trained.batch.label[:100]
    exact, low = (maps.MAPS[name](trained.model, image, label, precision=p).flatten() for p in ("fp32", "bf16"))
    ranks = torch.stack([exact.argsort().argsort(), low.argsort().argsort()]).double()
    assert torch.corrcoef(ranks)[0, 1] > 0.99
