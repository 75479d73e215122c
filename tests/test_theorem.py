import math

import pytest
import torch

from train import theorem


@pytest.mark.parametrize("classes", [3, 10, 100])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.6, 0.9, 0.99])
def test_theorem_1(alpha: float, classes: int) -> None:
    row = theorem.check(alpha, classes, seed=5)
    assert row.c > 2
    # c by the supplement's formula, from the same random logits.
    z = (2 * torch.randn(classes, dtype=torch.float64, generator=torch.Generator().manual_seed(5))).tolist()
    c = 1 + sum(math.exp(z[j] - z[1]) for j in range(2, classes))
    assert row.c == pytest.approx(c)
    assert row.gap == pytest.approx(math.log(alpha * c / (1 - alpha)), abs=1e-5)
    # With only z_y free the least loss is above the entropy, and over all logits it is the entropy, not 0.
    h = -alpha * math.log(alpha) - (1 - alpha) * math.log(1 - alpha)
    assert row.least == pytest.approx(h + (1 - alpha) * math.log(c), abs=1e-9)
    assert row.least > h
    assert row.least_over_all == pytest.approx(h, abs=1e-5)


def test_two_classes_reach_the_entropy() -> None:
    row = theorem.check(0.6, 2)
    assert row.c == 1
    assert row.gap == pytest.approx(math.log(0.6 / 0.4), abs=1e-6)
    assert row.least == pytest.approx(theorem.entropy(0.6), abs=1e-12)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    theorem.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.count("|") == 3][1:]
    assert len(rows) == 20
    for row in rows:
        _, gaps, losses, bounds = (part.split() for part in row.split("|"))
        for found, formula in (gaps, losses, bounds):
            assert float(found) == pytest.approx(float(formula), abs=1e-4)
