from contextlib import AbstractContextManager, nullcontext
from typing import Any

import eagerpy
import foolbox
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attrib import attack
from attrib.errors import InputError
from attrib.loss import cross_entropy, margin


def small_net(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = (
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Dropout(0.5), nn.Linear(32, 5),
        )  # fmt: skip
        return nn.Sequential(*layers).to(dtype)


@pytest.fixture
def model() -> nn.Sequential:
    return small_net()


@pytest.fixture
def image() -> Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


LABEL = torch.tensor([0, 1, 2, 3, 4, 0])


def test_stays_in_the_ball_and_in_the_image(model: nn.Module, image: Tensor) -> None:
    for run in (attack.pgd, attack.cw):
        adversarial = run(model, image, LABEL, eps=0.1, step_size=0.04, steps=7)
        assert (adversarial - image).abs().max() <= 0.1 + 1e-6
        assert adversarial.min() >= 0
        assert adversarial.max() <= 1
        assert (adversarial - image).abs().max() > 0.09


def test_eps_zero_returns_the_image(model: nn.Module, image: Tensor) -> None:
    assert torch.equal(attack.pgd(model, image, LABEL, eps=0, step_size=0.01, steps=3), image)
    assert torch.equal(attack.fgsm(model, image, LABEL, eps=0), image)


def test_fgsm_is_its_formula(model: nn.Module, image: Tensor) -> None:
    x = image.clone().requires_grad_()
    F.cross_entropy(model.eval()(x), LABEL).backward()
    assert x.grad is not None
    expected = (image + 0.05 * x.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(attack.fgsm(model, image, LABEL, eps=0.05), expected)


def test_agrees_with_foolbox_from_the_same_start(model: nn.Module, image: Tensor) -> None:
    start = (image + 0.1 * (2 * torch.rand(image.shape) - 1)).clamp(0, 1)

    class FromStart(foolbox.attacks.LinfPGD):
        def get_random_start(self, x0: Any, epsilon: float) -> Any:  # noqa: ARG002
            return eagerpy.astensor(start)

    model.eval()
    theirs, _, _ = FromStart(abs_stepsize=0.02, steps=10)(
        foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), image, LABEL, epsilons=0.1
    )
    ours = attack.ascend(model, cross_entropy, image, LABEL, start=start, eps=0.1, step_size=0.02, steps=(10,))
    torch.testing.assert_close(ours[10], theirs)


def test_cw_is_the_loop_on_the_margin(image: Tensor) -> None:
    """Against an image-by-image loop in float64 from the same random start."""
    model = small_net(dtype=torch.float64).eval()
    image = image.double()
    start = attack.cw(model, image, LABEL, eps=0.1, step_size=0.0, steps=1)
    expected = []
    for x0, x, y in zip(image, start, LABEL, strict=True):
        for _ in range(5):
            x = x.detach().requires_grad_()
            z = model(x[None])[0]
            (max(z[j] for j in range(5) if j != y) - z[y]).backward()
            assert x.grad is not None
            x = torch.max(torch.min((x + 0.03 * x.grad.sign()).detach(), x0 + 0.1), x0 - 0.1).clamp(0, 1)
        expected.append(x)
    ours = attack.cw(model, image, LABEL, eps=0.1, step_size=0.03, steps=5)
    torch.testing.assert_close(ours, torch.stack(expected))


def test_margin_is_positive_exactly_where_misclassified() -> None:
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(3))
    label = torch.arange(50) % 5
    assert torch.equal(margin(logits, label) > 0, logits.argmax(1) != label)


def test_snapshots_are_prefixes_of_one_run(model: nn.Module, image: Tensor) -> None:
    taken = attack.snapshots(model, image, LABEL, objective=cross_entropy, eps=0.1, step_size=0.02, steps=(2, 5, 9))
    assert list(taken) == [2, 5, 9]
    for steps, adversarial in taken.items():
        alone = attack.pgd(model, image, LABEL, eps=0.1, step_size=0.02, steps=steps)
        assert torch.equal(adversarial, alone)


def test_worst_case_counts_an_image_broken_by_any_step(model: nn.Module, image: Tensor) -> None:
    label = model.eval()(image).argmax(1)
    every = attack.snapshots(model, image, label, objective=margin, eps=0.2, step_size=0.15, steps=tuple(range(1, 9)))
    ever_broken = torch.stack([model(x).argmax(1) != label for x in every.values()])
    for steps in (3, 8):
        worst = attack.cw(model, image, label, eps=0.2, step_size=0.15, steps=steps, worst=True)
        assert torch.equal(model(worst).argmax(1) != label, ever_broken[:steps].any(0))


def test_an_image_has_the_same_start_in_any_batch(model: nn.Module, image: Tensor) -> None:
    index = torch.tensor([40, 7, 3, 12, 5, 9])
    whole = attack.pgd(model, image, LABEL, eps=0.1, step_size=0.02, steps=3, seed=4, index=index)
    alone = attack.pgd(model, image[2:3], LABEL[2:3], eps=0.1, step_size=0.02, steps=3, seed=4, index=index[2:3])
    torch.testing.assert_close(whole[2:3], alone)
    other = attack.pgd(model, image, LABEL, eps=0.1, step_size=0.0, steps=1, seed=5, index=index)
    assert not torch.equal(other, attack.pgd(model, image, LABEL, eps=0.1, step_size=0.0, steps=1, seed=4, index=index))


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = small_net()

    def forward(self, _: Tensor) -> Tensor:
        raise RuntimeError("on purpose")


@pytest.mark.parametrize("model_type", [small_net, Fails])
def test_leaves_no_trace(model_type: type[nn.Module], image: Tensor) -> None:
    model = model_type()
    model.train()
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    before = [p.requires_grad for p in parameters], [m.training for m in model.modules()]
    values = [t.clone() for t in model.state_dict().values()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    expected: AbstractContextManager[object] = (
        pytest.raises(RuntimeError, match="on purpose") if model_type is Fails else nullcontext()
    )
    with expected:
        attack.pgd(model, image, LABEL, eps=0.1, step_size=0.02, steps=2)
    assert ([p.requires_grad for p in parameters], [m.training for m in model.modules()]) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(values, model.state_dict().values(), strict=True))
    assert all(p.grad is None for p in parameters)
    assert [m.inplace for m in model.modules() if isinstance(m, nn.ReLU)] == [True]


def test_works_inside_no_grad_and_autocast(model: nn.Module, image: Tensor) -> None:
    plain = attack.pgd(model, image, LABEL, eps=0.1, step_size=0.02, steps=2)
    with torch.no_grad():
        assert torch.equal(attack.pgd(model, image, LABEL, eps=0.1, step_size=0.02, steps=2), plain)
    low = attack.pgd(model, image, LABEL, eps=0.1, step_size=0.02, steps=2, precision="bf16")
    assert low.dtype == torch.float32
    assert (low - plain).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eps": -0.1}, "eps: expected"),
        ({"eps": float("nan")}, "eps: expected"),
        ({"step_size": -1.0}, "step_size: expected"),
        ({"steps": 0}, "steps: expected"),
    ],
)
def test_bad_settings_are_named(model: nn.Module, image: Tensor, change: dict[str, float], words: str) -> None:
    settings = {"eps": 0.1, "step_size": 0.02, "steps": 2} | change
    with pytest.raises(InputError, match=words):
        attack.pgd(
            model, image, LABEL,
            eps=settings["eps"], step_size=settings["step_size"], steps=int(settings["steps"]),
        )  # fmt: skip


def test_bad_images_are_named(model: nn.Module, image: Tensor) -> None:
    for bad, label, words in (
        (image * 255, LABEL, r"pixels in \[0,1\]"),
        (image[0], LABEL, r"\(N,C,H,W\)"),
        ((image * 255).byte(), LABEL, "floats"),
        (image, LABEL[:2], r"label: expected integers of shape \(6,\)"),
        (image, LABEL.float(), "label: expected integers"),
        (image, LABEL + 5, r"label: expected classes in 0..4"),
        (image, LABEL - 100, r"label: expected classes in 0..4"),
    ):
        with pytest.raises(InputError, match=words):
            attack.fgsm(model, bad, label, eps=0.1)
    with pytest.raises(InputError, match=r"eps: expected a number in \[0,1\], as pixels are \(8/255, not 8\), got 8"):
        attack.fgsm(model, image, LABEL, eps=8)
    with pytest.raises(InputError, match="label: expected a tensor, got list"):
        attack.fgsm(model, image, LABEL.tolist(), eps=0.1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"index: expected integers of shape \(6,\)"):
        attack.pgd(model, image, LABEL, eps=0.1, step_size=0.1, steps=1, index=torch.tensor([0]))
