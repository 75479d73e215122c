import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from captum.attr import NoiseTunnel, Saliency
from torch import Tensor, nn

import attrib
from attrib import inference, maps, noise
from attrib.errors import InputError
from attrib.maps import engine


class PoolHead(nn.Module):
    """Convolutions, global average pooling, one linear layer: its Grad-CAM is known in closed form."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            nn.ReLU(inplace),
            nn.Conv2d(6, 12, 3, padding=1),
            nn.ReLU(inplace),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(self.body(x)).flatten(1))
        return logits


def make(kind: type[PoolHead] = PoolHead, *, inplace: bool = False) -> PoolHead:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(inplace=inplace)


@pytest.fixture
def model() -> PoolHead:
    return make()


@pytest.fixture
def image() -> Tensor:
    return torch.rand(5, 3, 16, 12, generator=torch.Generator().manual_seed(1))


LABEL = torch.tensor([0, 3, 1, 2, 2])
ALL = sorted(maps.MAPS)


def plain_gradient(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    """d z_y / dx, one image at a time."""
    found = []
    for x, y in zip(image, label, strict=True):
        x = x.clone().requires_grad_()
        model(x[None])[0, y].backward()
        assert x.grad is not None
        found.append(x.grad)
    return torch.stack(found)


def test_gradient_is_the_derivative_of_the_score(model: PoolHead, image: Tensor) -> None:
    expected = plain_gradient(model, image, LABEL)
    torch.testing.assert_close(maps.gradient(model, image, LABEL), expected.abs().sum(1))
    torch.testing.assert_close(maps.gradient(model, image, LABEL, signed=True), expected.sum(1))


def test_smoothgrad_without_noise_is_the_gradient(model: PoolHead, image: Tensor) -> None:
    smooth = maps.smoothgrad(model, image, LABEL, sigma=0, samples=8)
    assert torch.equal(smooth, maps.gradient(model, image, LABEL))


def test_smoothgrad_averages_signed_gradients(model: PoolHead, image: Tensor) -> None:
    """Against Captum's NoiseTunnel over signed saliency: same expectation, other noise."""
    ours = maps.smoothgrad(model, image, LABEL, sigma=0.2, samples=200)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tunnel = NoiseTunnel(Saliency(model)).attribute(
            image.clone().requires_grad_(),
            target=LABEL,
            nt_samples=200,
            stdevs=0.2,
            nt_type="smoothgrad",
            abs=False,
        )
    theirs = tunnel.abs().sum(1)
    correlation = torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1]
    assert correlation > 0.98
    torch.testing.assert_close(ours.mean(), theirs.mean(), rtol=0.05, atol=0)


def test_smoothgrad_is_the_mean_over_its_noisy_copies(model: PoolHead, image: Tensor) -> None:
    """However many of them share a pass: one after the other, with the noise of their stream."""
    index = torch.tensor([9, 4, 7, 1, 30])
    expected = torch.zeros_like(image)
    for stream in range(1, 31):
        noisy = image + 0.2 * noise.normal(index, image.shape[1:], seed=3, stream=stream)
        expected += plain_gradient(model, noisy, LABEL) / 30
    found = maps.smoothgrad(model, image, LABEL, samples=30, sigma=0.2, seed=3, index=index)
    torch.testing.assert_close(found, expected.abs().sum(1))


def test_smoothgrad_noise_belongs_to_the_image(model: PoolHead, image: Tensor) -> None:
    index = torch.tensor([9, 4, 7, 1, 30])
    whole = maps.smoothgrad(model, image, LABEL, samples=4, seed=3, index=index)
    alone = maps.smoothgrad(model, image[2:3], LABEL[2:3], samples=4, seed=3, index=index[2:3])
    torch.testing.assert_close(whole[2:3], alone)
    assert not torch.allclose(whole, maps.smoothgrad(model, image, LABEL, samples=4, seed=4, index=index))


def test_gradcam_of_pool_and_linear_head_is_the_class_activation_map(model: PoolHead, image: Tensor) -> None:
    """CAM (Zhou et al. 2016): relu(sum_c W[y,c] A[c]) / (h*w)."""
    features = model.body(image)
    cam = torch.einsum("nc,nchw->nhw", model.fc.weight[LABEL], features).relu() / features[0, 0].numel()
    torch.testing.assert_close(maps.cam_grid("gradcam", model, image, LABEL), cam)
    expected = F.interpolate(cam[:, None], (16, 12), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(maps.gradcam(model, image, LABEL), expected)


def test_eq6_is_relu_of_gradient_times_activation(model: PoolHead, image: Tensor) -> None:
    features = model.body(image).detach().requires_grad_()
    logits = model.fc(model.pool(features).flatten(1))
    (gradient,) = torch.autograd.grad(-F.cross_entropy(logits, LABEL, reduction="sum"), features)
    torch.testing.assert_close(maps.cam_grid("eq6", model, image, LABEL), (gradient * features).relu().sum(1))


def hidden_head(model: PoolHead, image: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    """A network whose gradient differs from place to place, its features A and d z_y / dA."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        head = nn.Sequential(nn.Conv2d(12, 9, 3), nn.Tanh(), nn.Flatten(), nn.Linear(9 * 6 * 4, 4))
    features = model.body(image).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(head(features).gather(1, LABEL[:, None]).sum(), features)
    return nn.Sequential(model.body, head), features.detach(), gradient


def test_hirescam_and_layercam_are_sums_of_products(model: PoolHead, image: Tensor) -> None:
    whole, features, gradient = hidden_head(model, image)
    product = torch.einsum("nchw,nchw->nhw", gradient, features)
    found = maps.MAPS["hirescam"](whole, image, LABEL, layer="0")
    torch.testing.assert_close(found, maps.upsample(product.relu(), (16, 12)))
    signed = maps.hirescam(whole, image, LABEL, layer="0", signed=True)
    torch.testing.assert_close(signed, maps.upsample(product, (16, 12)))
    positive = torch.einsum("nchw,nchw->nhw", gradient.clamp(min=0), features)
    torch.testing.assert_close(maps.layercam(whole, image, LABEL, layer="0"), maps.upsample(positive, (16, 12)))


def test_hirescam_adds_up_to_the_logit_before_a_linear_layer(model: PoolHead, image: Tensor) -> None:
    """Draelos and Carin 2020: but for the bias, also where nothing is pooled."""
    body = model.body
    with torch.random.fork_rng():
        torch.manual_seed(4)
        linear = nn.Linear(12 * 8 * 6, 4)
    whole = nn.Sequential(body, nn.Flatten(), linear)
    found = maps.cam_grid("hirescam", whole, image, LABEL, signed=True).sum((1, 2))
    logit = whole(image).gather(1, LABEL[:, None]).squeeze(1) - linear.bias[LABEL]
    torch.testing.assert_close(found, logit, atol=1e-5, rtol=0)


def test_gradcam_plus_plus_is_equation_19_of_the_paper(model: PoolHead, image: Tensor) -> None:
    """Place by place, in float64: alpha = g^2 / (2 g^2 + g^3 sum A), the weight sums alpha * relu(g)."""
    whole, features, gradient = hidden_head(model, image)
    expected = torch.zeros(5, 8, 6, dtype=torch.float64)
    for n in range(5):
        for c in range(12):
            a, g = features[n, c].double(), gradient[n, c].double()
            weight = 0.0
            for slope in g.flatten().tolist():
                if slope > 0:
                    weight += slope**2 / (2 * slope**2 + slope**3 * float(a.sum())) * slope
            expected[n] += weight * a
    found = maps.cam_grid("gradcam++", whole, image, LABEL, layer=model.body)
    torch.testing.assert_close(found, expected.relu().float())


def test_integrated_gradients_are_complete(model: PoolHead, image: Tensor) -> None:
    """Their signed sum is z_y(x) - z_y(black) (axiom of completeness)."""
    total = maps.integrated_gradients(model, image, LABEL, steps=200, signed=True).sum((1, 2))
    rows = torch.arange(len(image))
    expected = model(image)[rows, LABEL] - model(torch.zeros_like(image))[rows, LABEL]
    torch.testing.assert_close(total, expected, rtol=0.02, atol=1e-3)


def test_occlusion_of_the_whole_image_is_the_drop_to_black(model: PoolHead) -> None:
    image = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    label = LABEL[:3]
    drop = maps.occlusion(model, image, label, window=8, stride=8, signed=True)
    rows = torch.arange(3)
    expected = (model(image) - model(torch.zeros_like(image)))[rows, label]
    torch.testing.assert_close(drop, expected[:, None, None].expand(3, 8, 8))


def test_guided_gradcam_of_a_linear_model_is_gradient_times_gradcam() -> None:
    """Without a ReLU there is nothing to guide."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    image = torch.rand(4, 3, 8, 8)
    label = torch.arange(4)
    guided = maps.guided_gradcam(model, image, label, layer=model[0])
    expected = (
        (plain_gradient(model, image, label) * maps.gradcam(model, image, label, layer=model[0])[:, None]).abs().sum(1)
    )
    torch.testing.assert_close(guided, expected)


@pytest.mark.parametrize("name", ALL)
def test_every_map_is_non_negative_and_image_sized(name: str, model: PoolHead, image: Tensor) -> None:
    found = maps.MAPS[name](model, image, LABEL)
    assert found.shape == (5, 16, 12)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert (found >= 0).all()
    assert found.amax() > 0


@pytest.mark.parametrize("name", ALL)
def test_no_map_depends_on_the_batch_or_the_chunk(
    name: str, model: PoolHead, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = torch.arange(5)
    extra = {"index": index} if name == "smoothgrad" else {}
    whole = maps.MAPS[name](model, image, LABEL, **extra)
    monkeypatch.setattr(engine, "_room", lambda *_: 2)
    torch.testing.assert_close(maps.MAPS[name](model, image, LABEL, **extra), whole)


@pytest.mark.parametrize("name", ALL)
def test_in_place_relu_changes_nothing(name: str, model: PoolHead, image: Tensor) -> None:
    in_place = make(inplace=True)
    torch.testing.assert_close(maps.MAPS[name](in_place, image, LABEL), maps.MAPS[name](model, image, LABEL))
    assert all(module.inplace for module in in_place.modules() if isinstance(module, nn.ReLU))


@pytest.mark.parametrize("name", ALL)
def test_leaves_no_trace(name: str, model: PoolHead, image: Tensor) -> None:
    model.train()
    model.fc.bias.requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with torch.no_grad():
        maps.MAPS[name](model, image, LABEL)
    assert [p.requires_grad for p in model.parameters()] == before
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["gradient", "gradcam", "eq6"])
def test_low_precision_is_close(name: str, model: PoolHead, image: Tensor) -> None:
    exact = maps.MAPS[name](model, image, LABEL)
    low = maps.MAPS[name](model, image, LABEL, precision="bf16")
    assert low.dtype == torch.float32
    assert (low - exact).abs().mean() < 0.05 * exact.mean()


@pytest.mark.parametrize("arch", ["resnet9", "preactresnet18"])
def test_every_map_runs_on_our_models(arch: str) -> None:
    model = attrib.build(arch, num_classes=4, input_shape=(3, 32, 32))
    image = torch.rand(2, 3, 32, 32)
    for name in ("gradient", "gradcam", "eq6", "guided-gradcam"):
        assert maps.MAPS[name](model, image, torch.tensor([1, 2])).shape == (2, 32, 32)


def test_chunks_are_measured(model: PoolHead) -> None:
    """Four times the pixels keep four times the activations, so a quarter of the images fit."""
    small = inference.images_per_chunk(model, torch.rand(1, 3, 512, 512))
    large = inference.images_per_chunk(model, torch.rand(1, 3, 1024, 1024))
    assert 3.5 < small / large < 4.5


def test_chunks_of_small_images_stay_in_a_cpus_caches(model: PoolHead) -> None:
    assert inference.images_per_chunk(model, torch.rand(1, 3, 32, 32)) == inference.BUSY


def test_gradcam_keeps_no_graph_of_what_lies_before_the_layer(model: PoolHead, image: Tensor) -> None:
    shapes = []

    def see(tensor: Tensor) -> Tensor:
        shapes.append(tensor.shape)
        return tensor

    hidden = model.body[0](image).shape
    for layer, seen in ((model.body[0], True), (model.body, False)):
        maps.cam_grid("gradcam", model, image, LABEL, layer=layer)  # which also measures how many images fit one pass
        shapes.clear()
        with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
            maps.cam_grid("gradcam", model, image, LABEL, layer=layer)
        assert shapes
        assert image.shape not in shapes
        assert (hidden in shapes) == seen


def test_bad_input_is_named(model: PoolHead, image: Tensor) -> None:
    cases: tuple[tuple[Callable[[], Tensor], str], ...] = (
        (lambda: maps.gradcam(model, image[0], LABEL), r"\(N,C,H,W\)"),
        (lambda: maps.gradient(model, image, LABEL[:2]), r"label: expected integers of shape \(5,\)"),
        (lambda: maps.gradient(model, image, LABEL + 4), "label: expected classes in 0..3, got"),
        (lambda: maps.eq6(model, image, LABEL + 4), r"label: expected classes in 0..3"),
        (lambda: maps.smoothgrad(model, image, LABEL, index=LABEL[:1]), "index: expected integers of shape"),
        (lambda: maps.gradcam(model, image, LABEL, layer=3), "layer: expected a module of"),  # type: ignore[arg-type]
        (lambda: maps.gradcam(model, image, LABEL, layer="body.7"), r"has no 'body.7'; maps can look at: .*body\.2"),
        (lambda: maps.gradcam(model, image, LABEL, layer=nn.Conv2d(3, 3, 3)), "layer: PoolHead never runs the one"),
        (lambda: maps.smoothgrad(model, image, LABEL, samples=0), "samples >= 1"),
        (lambda: maps.smoothgrad(model, image, LABEL, sigma=-1), "sigma >= 0"),
        (lambda: maps.integrated_gradients(model, image, LABEL, steps=0), "steps >= 1"),
        (lambda: maps.occlusion(model, image, LABEL, window=20), "window <= 12"),
    )
    for call, words in cases:
        with pytest.raises(InputError, match=words):
            call()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident memory from /proc")
def test_measuring_chunks_keeps_nothing(model: PoolHead) -> None:
    """Autograd keeps its graph alive for ever where a hook hands back the very tensor that is saved."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    image = torch.rand(1, 3, 256, 256)
    inference.images_per_chunk(model, image)
    before = resident()
    for _ in range(60):
        inference.images_per_chunk(model, image)
    kept_by_one_call = 3 * 128 * 128 * 18 * 4
    assert resident() - before < 20 * kept_by_one_call
