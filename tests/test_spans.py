import math

import numpy as np
import pytest
import torch
from torch import Tensor

from attrib.errors import InputError
from attrib.spans import (
    RULES,
    coverage,
    coverage_curve,
    curve_area,
    empty,
    inside,
    iou,
    object_covered,
    parse_threshold,
    pointing,
    span,
)

WRITTEN = ["mean", "max:0", "max:0.3", "otsu", "mass:0.5", "mass:1", "quantile:0", "quantile:0.3", "quantile:0.9"]


@pytest.fixture
def maps() -> Tensor:
    return torch.randn(7, 6, 5, generator=torch.Generator().manual_seed(0)).relu() ** 2


def one_by_one(m: Tensor, rule: str) -> Tensor:
    """The rules written out pixel by pixel."""
    name, _, parameter = rule.partition(":")
    values = [float(v) for v in m.flatten()]
    if name == "mean":
        chosen = [v > sum(values) / len(values) for v in values]
    elif name == "max":
        chosen = [v > float(parameter) * max(values) for v in values]
    elif name == "quantile":
        chosen = [bool(v > np.quantile(values, float(parameter))) for v in values]
    else:
        positive = [max(v, 0.0) for v in values]
        order = sorted(range(len(values)), key=lambda k: (-positive[k], k))
        chosen, held = [False] * len(values), 0.0
        for k in order:
            if held >= float(parameter) * sum(positive) - 1e-9 or positive[k] == 0:
                break
            chosen[k], held = True, held + positive[k]
    return torch.tensor(chosen).view_as(m)


@pytest.mark.parametrize("rule", [rule for rule in WRITTEN if rule != "otsu"])
def test_span_is_its_rule(maps: Tensor, rule: str) -> None:
    signed = maps - 0.2
    for given in (maps, signed):
        assert torch.equal(span(given, threshold=rule), torch.stack([one_by_one(m, rule) for m in given]))


@pytest.mark.parametrize(("offset", "step"), [(0.0, 2.0**-149), (1.0, 2.0**-23)])
def test_otsu_of_values_that_float32_hardly_tells_apart(offset: float, step: float) -> None:
    """The smallest numbers that there are, and neighbours of 1: fewer steps than a histogram has bins."""
    levels = torch.randint(0, 5, (3, 6, 6), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(span(offset + step * levels, threshold="otsu"), span(levels, threshold="otsu"))


def test_otsu_maximises_the_variance_between_the_two_sides() -> None:
    draw = torch.Generator().manual_seed(0)
    low, high = torch.rand(1500, generator=draw) * 0.5, 0.3 + torch.rand(1000, generator=draw)
    m = torch.cat([low, high]).view(1, 50, 50)
    flat = m.flatten().double()

    def between(mask: Tensor) -> float:
        inside, outside = flat[mask], flat[~mask]
        return len(inside) * len(outside) * float(inside.mean() - outside.mean()) ** 2

    best = max(between(flat > t) for t in torch.linspace(0.01, 1.25, 1000).tolist())
    # scikit-image looks at 256 histogram bins, so it may miss the best threshold by one of them.
    assert between(span(m, threshold="otsu").flatten()) > 0.999 * best


@pytest.mark.parametrize("rule", WRITTEN)
@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 0.7, -1.0])
def test_a_constant_map_is_empty_under_every_rule(rule: str, value: float) -> None:
    constant = torch.full((2, 9, 7), value)
    assert not span(constant, threshold=rule).any()
    assert empty(constant).all()
    assert (curve_area(constant) == 0).all()
    assert (coverage_curve(constant, [0, 0.5]) == 0).all()


@pytest.mark.parametrize("rule", WRITTEN)
def test_a_map_that_is_nowhere_positive_is_empty(rule: str, maps: Tensor) -> None:
    negative = -maps - 0.1
    assert not span(negative, threshold=rule).any()
    assert empty(negative).all()
    assert (curve_area(negative) == 0).all()


@pytest.mark.parametrize("rule", WRITTEN)
def test_a_one_hot_map_covers_one_pixel(rule: str) -> None:
    one_hot = torch.zeros(1, 4, 5)
    one_hot[0, 2, 3] = 0.25
    assert torch.equal(span(one_hot, threshold=rule), one_hot > 0)
    assert coverage(span(one_hot, threshold=rule)).item() == pytest.approx(1 / 20)


@pytest.mark.parametrize("rule", WRITTEN)
def test_coverage_does_not_depend_on_the_scale_of_the_map(maps: Tensor, rule: str) -> None:
    assert torch.equal(span(maps, threshold=rule), span(1024 * maps, threshold=rule))


def test_mass_takes_the_lower_pixel_of_a_tie() -> None:
    tied = torch.tensor([[[1.0, 2.0, 1.0, 1.0]]])
    assert span(tied, threshold="mass:0.6").tolist() == [[[True, True, False, False]]]


def test_quantile_of_pixels_that_all_differ_covers_the_rest() -> None:
    m = torch.randperm(101, generator=torch.Generator().manual_seed(0)).float().view(1, 1, 101)
    for q in (0.0, 0.05, 0.5, 0.75, 0.99, 0.999):
        assert span(m, threshold=f"quantile:{q}").sum() == math.ceil(100 * (1 - q) - 1e-9)


def test_area_is_mean_over_maximum_and_the_integral_of_the_curve(maps: Tensor) -> None:
    for given in (maps, maps - 0.3):
        area = curve_area(given)
        expected = given.relu().flatten(1).mean(1) / given.flatten(1).amax(1)
        torch.testing.assert_close(area, expected)
        levels = np.linspace(0, 1, 20001)
        curve = coverage_curve(given, levels.tolist()).numpy()
        np.testing.assert_allclose(np.trapezoid(curve, levels, axis=1), area.numpy(), atol=2e-4)


def test_curve_holds_the_coverage_of_max_rules(maps: Tensor) -> None:
    curve = coverage_curve(maps, [0, 0.25, 0.8, 1])
    for column, t in enumerate((0, 0.25, 0.8)):
        torch.testing.assert_close(curve[:, column], coverage(span(maps, threshold=f"max:{t}")))
    assert (curve[:, 3] == 0).all()


def test_overlaps_count_pixels() -> None:
    a = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]]]).bool()
    b = torch.tensor([[[0, 1, 1, 1]], [[0, 0, 0, 0]]]).bool()
    assert iou(a, b)[0].item() == pytest.approx(1 / 4)
    assert iou(a, b)[1].isnan()
    assert inside(a, b)[0].item() == pytest.approx(1 / 2)
    assert inside(a, b)[1].isnan()
    assert object_covered(a, b)[0].item() == pytest.approx(1 / 3)
    assert torch.equal(iou(a[:1], a[:1]), torch.ones(1))


def test_pointing_shares_a_tie() -> None:
    m = torch.tensor([[[3.0, 1.0, 0.0]], [[1.0, 0.0, 5.0]], [[2.0, 2.0, 2.0]]])
    target = torch.tensor([[[True, False, False]]] * 3)
    torch.testing.assert_close(pointing(m, target), torch.tensor([1.0, 0.0, 1 / 3]))


def test_every_rule_of_the_table_is_tested_here_and_its_default_is_one() -> None:
    assert {rule.partition(":")[0] for rule in WRITTEN} == set(RULES)
    for name, rule in RULES.items():
        written = f"{name}:{rule.default}" if rule.parameter else name
        assert parse_threshold(written) == pytest.approx((name, rule.default), nan_ok=True)


@pytest.mark.parametrize(
    "rule",
    ["max:2", "max:-0.1", "max", "mass:0", "mass:1.1", "quantile", "quantile:1", "quantile:-0.1", "mean:1", "mean:",
     "median", "", "max:x", "max:nan"],
)  # fmt: skip
def test_an_unknown_rule_is_named(rule: str, maps: Tensor) -> None:
    with pytest.raises(InputError, match="threshold: expected mean, max:t"):
        span(maps, threshold=rule)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_maps_that_are_not_finite_are_no_empty_maps(maps: Tensor, value: float) -> None:
    broken = maps.clone()
    broken[1, 0, 0] = value
    for measure in (span, curve_area, lambda m: span(m, threshold="otsu"), lambda m: coverage_curve(m, [0.5])):
        with pytest.raises(InputError, match=f"NaN or infinity in 1 of {len(maps)}"):
            measure(broken)


def test_a_map_is_no_span(maps: Tensor) -> None:
    with pytest.raises(InputError, match=r"expected bool of shape \(N,H,W\), as span\(maps\) gives it"):
        coverage(maps)
    with pytest.raises(InputError, match=r"threshold: expected mean.*got 0.5"):
        span(maps, threshold=0.5)  # type: ignore[arg-type]


def test_maps_of_another_shape_are_refused(maps: Tensor) -> None:
    with pytest.raises(InputError, match=r"\(N,H,W\)"):
        span(maps[0])
    with pytest.raises(InputError, match="floats"):
        span(maps > 0)
