"""Loss and margin of logits against torch in float64, and cases in which float32 lost the gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attrib
from attrib.loss import cross_entropy, deficit, full, margin


def logits_of(count: int = 40, classes: int = 7, *, scale: float = 5.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = scale * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    return z, torch.randint(classes, (count,), generator=generator)


@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0, 300.0])
def test_value_and_gradient_are_those_of_the_usual_formula_in_float64(scale: float) -> None:
    z, y = logits_of(scale=scale)
    z.requires_grad_()
    usual = F.cross_entropy(z, y, reduction="none")
    torch.testing.assert_close(cross_entropy(z, y), usual, rtol=1e-12, atol=1e-14)
    found, expected = (torch.autograd.grad(loss.sum(), z)[0] for loss in (cross_entropy(z, y), usual))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("lead", [5.0, 15.0, 18.0, 30.0, 80.0])
def test_float32_keeps_the_gradient_of_a_sure_image(lead: float) -> None:
    """The usual formula has 3 digits of the true class's term left at a lead of 10, and none from 17."""
    exact = torch.tensor([[lead, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    rounded = exact.detach().float().requires_grad_()
    y = torch.tensor([0])
    # 1 - p_y as it stands in the sum over the others, since float64 loses it as well from 37.
    others = (exact[:, 1:] - exact[:, :1]).logsumexp(1)
    (expected,) = torch.autograd.grad((others.detach().sigmoid() * others).sum(), exact)
    (found,) = torch.autograd.grad(cross_entropy(rounded, y).sum(), rounded)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_fgsm_in_float32_takes_float64s_step_on_sure_images() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).double()
    image = torch.rand(64, 3, 4, 4, dtype=torch.float64)
    label = model(image).argmax(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(60)
    assert (model(image).softmax(1).amax(1).float() == 1).sum() > 10
    exact = attrib.fgsm(model, image, label, eps=0.1)
    rounded = attrib.fgsm(model.float(), image.float(), label, eps=0.1)
    assert ((exact - rounded).abs() < 1e-5).double().mean() > 0.999


def test_deficit_and_margin_by_a_loop() -> None:
    z, y = logits_of()
    for row, own, d, m in zip(z, y.tolist(), deficit(z, y), margin(z, y), strict=True):
        others = [float(value) for k, value in enumerate(row) if k != own]
        p = float(row.softmax(0)[own])
        assert float(m) == pytest.approx(max(others) - float(row[own]))
        assert float(d) == pytest.approx(-torch.tensor(p / (1 - p), dtype=torch.float64).log().item(), rel=1e-6)


def test_bfloat16_goes_up_and_float64_stays() -> None:
    kinds = (torch.bfloat16, torch.float32, torch.float64)
    assert [full(torch.zeros(1, dtype=kind)).dtype for kind in kinds] == [torch.float32, torch.float32, torch.float64]
