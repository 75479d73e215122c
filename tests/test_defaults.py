"""The same option has the same default everywhere: the map, and the number of SmoothGrad's noisy copies."""

import inspect

import pytest
import torch

import attrib
from attrib import explorer, floor, maps
from attrib.analyses.result import analysis_class


@pytest.mark.parametrize("name", ["span", "maps", "check", "relate", "evolve"])
def test_every_analysis_takes_grad_cam(name: str) -> None:
    assert analysis_class(name)().options()["map"] == "gradcam"
    assert inspect.signature(floor.asc_floor).parameters["map"].default == "gradcam"


def test_smoothgrad_takes_as_many_samples_everywhere() -> None:
    for function in (attrib.smoothgrad, explorer.explore):
        assert inspect.signature(function).parameters["samples"].default == maps.SAMPLES == 32


def test_eq_6_is_the_element_wise_cam_of_minus_the_loss() -> None:
    """pytorch-grad-cam's ``GradCAMElementWise.get_cam_image`` by hand: maximum(gradients * activations, 0), summed."""
    data = attrib.dataset("glyphs", limit=6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = attrib.build("lenet", num_classes=10, input_shape=data.shape).eval()
    batch = next(data.batches(6))
    activations = model.stages(batch.image).detach().requires_grad_()
    loss = torch.nn.functional.cross_entropy(model.fc(model.pool(activations)), batch.label, reduction="sum")
    (gradients,) = torch.autograd.grad(-loss, activations)
    expected = torch.clamp(gradients * activations, min=0).sum(1)
    found = maps.attribution("eq6", model, batch.image, batch.label).grid
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-7)
