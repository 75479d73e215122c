"""Differences of groups and rank correlations: against scipy, loops, and degenerate cases."""

import doctest

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

import attrib
from attrib.stats import RESAMPLES, association


def test_examples_of_the_docstrings() -> None:
    result = doctest.testmod(association)
    assert (result.failed, result.attempted > 4) == (0, True)


def test_rank_correlation_is_scipy_s_also_with_ties_and_in_resamples() -> None:
    draw = np.random.default_rng(0)
    x = draw.integers(0, 12, 60).astype(float)
    y = x + draw.normal(size=60) * 6
    found = association.rank_correlation(x, y)
    assert found.rho == pytest.approx(spearmanr(x, y).statistic)
    assert found.low < found.rho < found.high
    # The interval by the slow way: every resample is ranked by scipy.
    generator, slow = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        rows = generator.integers(60, size=60)
        slow.append(spearmanr(x[rows], y[rows]).statistic)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    assert found.p < 0.05
    x[3] = np.nan
    assert association.rank_correlation(x, y).n == 59


def test_one_image_unlike_all_others_allows_no_interval() -> None:
    x, y = np.zeros(60), np.random.default_rng(0).normal(size=60)
    x[y.argmax()] = 1
    found = association.rank_correlation(x, y)
    assert found.rho > 0.2
    assert np.isnan([found.low, found.high]).all()  # a third of the resamples do not hold it
    assert found.p > 0.01


def test_partial_correlation_is_that_of_the_residuals_of_ranks() -> None:
    draw = np.random.default_rng(1)
    given = draw.normal(size=80)
    x, y = given + draw.normal(size=80), given + draw.normal(size=80)
    ranks = [rankdata(column) for column in (x, y, given)]
    left = [column - np.polyval(np.polyfit(ranks[2], column, 1), ranks[2]) for column in ranks[:2]]
    assert association.partial_rank_correlation(x, y, given).rho == pytest.approx(np.corrcoef(left)[0, 1])
    assert np.isnan(association.partial_rank_correlation(given, y, given).rho)


def test_difference_of_means_and_degenerate_groups() -> None:
    draw = np.random.default_rng(2)
    a, b = draw.normal(1, 1, 40), draw.normal(0, 1, 30)
    found = association.mean_difference(a, b)
    assert found.difference == pytest.approx(sum(a) / 40 - sum(b) / 30)
    assert found.low < found.difference < found.high
    both, generator = np.concatenate([a, b]), np.random.default_rng(5)
    beyond = 0
    for _ in range(2000):
        mixed = generator.permutation(both)
        beyond += abs(mixed[:40].mean() - mixed[40:].mean()) >= abs(found.difference)
    assert found.p == pytest.approx(beyond / 2000, abs=0.01)
    assert np.isnan(association.mean_difference(a, a[:0]).difference)
    one = association.mean_difference(a, b[:1])
    assert np.isfinite(one.difference)
    assert np.isnan([one.low, one.high, one.p]).all()
    constant = association.rank_correlation(np.ones(9), b[:9])
    assert np.isnan(constant.rho)
    with pytest.raises(attrib.InputError, match="got 3, 4"):
        association.rank_correlation(a[:3], b[:4])
