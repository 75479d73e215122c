"""P-values of permutation tests, against enumeration, many permutations and exact tests, and without an effect."""

import doctest
import itertools
from collections.abc import Callable
from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest, fisher_exact, norm, rankdata, ttest_ind

from attrib import stats
from attrib.stats import Values, association, permutation

Draw = np.random.Generator


def test_examples_of_the_docstrings() -> None:
    result = doctest.testmod(permutation)
    assert (result.failed, result.attempted > 3) == (0, True)


@pytest.mark.parametrize("values", [[0.3, -0.1, 0.25, 0.7, 0.0, 0.2], [3, 1, -2, 2, 2, 1, 0, 4, 1, 2, -1], [2.0, 5.0]])
def test_sign_flips_are_counted_one_by_one(values: list[float]) -> None:
    difference = np.array(values)
    sums = [abs(np.dot(signs, difference)) for signs in itertools.product((1, -1), repeat=len(difference))]
    expected = np.mean(np.array(sums) >= abs(difference.sum()) - 1e-9)
    assert permutation.sign_flips(difference) == pytest.approx(expected)


def test_of_right_and_wrong_answers_it_is_mcnemar_s_exact_test() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.random(400) < 0.7, draw.random(400) < 0.4
    expected = binomtest(int((a & ~b).sum()), int((a ^ b).sum())).pvalue
    assert permutation.sign_flips(a.astype(float) - b) == pytest.approx(expected)
    assert stats.paired_shares(a, b).p == pytest.approx(expected)


def test_two_values_are_fisher_s_exact_test() -> None:
    draw = np.random.default_rng(1)
    a, b = draw.random(200) < 0.7, draw.random(200) < 0.4
    table = [[a.sum(), (~a).sum()], [b.sum(), (~b).sum()]]
    # Groups of one size: the distribution is symmetric, and twice one side is both sides.
    assert permutation.two_groups(a.astype(float), b.astype(float)) == pytest.approx(fisher_exact(table).pvalue)


def all_choices(a: Values, b: Values) -> float:
    both = np.concatenate([a, b])
    means = np.array([np.mean(chosen) for chosen in itertools.combinations(both, len(a))])
    return float(2 * min(np.mean(means >= a.mean() - 1e-9), np.mean(means <= a.mean() + 1e-9)))


@pytest.mark.parametrize("shift", [2.0, 3.5, 9.0])
def test_the_tail_of_two_groups_against_all_choices(shift: float) -> None:
    draw = np.random.default_rng(2)
    a, b = draw.exponential(1, 7) + shift, draw.exponential(1, 13)
    exact = all_choices(a, b)
    assert exact < permutation.TAIL
    assert exact / 1.5 < permutation.two_groups(a, b) < 1.5 * exact
    assert permutation.two_groups(-b, -a) == pytest.approx(permutation.two_groups(a, b))


def test_groups_that_do_not_overlap_are_one_choice_of_all() -> None:
    draw = np.random.default_rng(3)
    a, b = draw.random(50) + 2, draw.random(60)
    assert permutation.two_groups(a, b) == pytest.approx(2 / comb(110, 50))


def flips(draw: Draw, difference: Values, runs: int) -> Values:
    return np.asarray(draw.choice([-1.0, 1.0], (runs, len(difference))) @ difference)


def exchanges(draw: Draw, both: Values, runs: int) -> Values:
    mixed = draw.permuted(np.tile(both, (runs, 1)), axis=1)
    return np.asarray(mixed[:, :40].mean(1) - mixed[:, 40:].mean(1))


def test_moderate_effects_against_long_runs() -> None:
    """Around 0.005, where 2,000 resamples would have 5 a side: 100,000 have 250."""
    draw = np.random.default_rng(4)
    difference = draw.standard_t(4, 120) + 0.33
    runs = flips(draw, difference, 100_000)
    expected = np.mean(np.abs(runs) >= abs(difference.sum()))
    assert 0.001 < expected < permutation.TAIL
    assert permutation.sign_flips(difference) == pytest.approx(expected, rel=0.2)
    a, b = draw.exponential(1, 40), draw.exponential(1, 80)
    a += b.mean() - a.mean() + 0.52
    runs = exchanges(draw, np.concatenate([a, b]), 100_000)
    expected = 2 * np.mean(runs >= a.mean() - b.mean())
    assert 0.001 < expected < permutation.TAIL
    assert permutation.two_groups(a, b) == pytest.approx(expected, rel=0.2)
    x = rankdata(np.round(draw.exponential(1, 60), 1))
    y = rankdata(x + draw.normal(0, 70, 60))
    centred = y - y.mean()
    runs = draw.permuted(np.tile(x, (100_000, 1)), axis=1) @ centred
    expected = np.mean(np.abs(runs) >= abs(x @ centred) - 1e-9)
    assert 0.001 < expected < permutation.TAIL
    assert permutation.pairings(x, y) == pytest.approx(expected, rel=0.2)


def test_far_tails_against_the_normal_distribution_and_a_finer_exact_count() -> None:
    draw = np.random.default_rng(5)
    for count, effect in ((20, 1.1), (30, 1.2), (32, 0.9)):
        difference = draw.normal(effect, 1, count)
        size = np.abs(difference)
        exact = permutation.sign_flips(difference)  # so few are counted
        assert exact < 0.002
        assert 2 * permutation._flips_beyond(size, difference.sum()) == pytest.approx(exact, rel=0.1)
    noise = draw.normal(0, 1, 10_000)
    for errors in (4, 6, 10):
        difference = noise - noise.mean() + errors * noise.std() / 100
        expected = 2 * norm.sf(errors)
        assert expected / 3 < permutation.sign_flips(difference) < 3 * expected
    a, b = draw.normal(0.35, 1, 1000), draw.normal(0, 1, 3000)
    expected = ttest_ind(a, b).pvalue
    assert expected < 1e-12
    assert expected / 3 < permutation.two_groups(a, b) < 3 * expected
    x, y = draw.random((2, 2000))
    y += 0.15 * x
    x, y = rankdata(x), rankdata(y)
    expected = 2 * norm.sf(np.corrcoef(x, y)[0, 1] * np.sqrt(1999))
    assert expected < 1e-8
    assert expected / 3 < permutation.pairings(x, y) < 3 * expected


def test_pairings_of_few_are_counted_and_of_ten_close_to_it() -> None:
    orders = np.array(list(itertools.permutations(range(9))), float)
    x = np.arange(9.0)
    products = orders @ (x - 4)
    for row in (2, 50, 400):
        expected = np.mean(np.abs(products) >= abs(products[row]) - 1e-9)
        assert permutation.pairings(orders[row], x) == pytest.approx(expected)
        if expected < 0.01:  # the tail that stands in from ten on is on the safe side
            assert expected / 1.2 < 2 * permutation._pairings_beyond(orders[row], x) < 6 * expected


def no_difference(draw: Draw) -> float:
    return permutation.sign_flips(draw.standard_t(3, 60), seed=int(draw.integers(2**31)))


def one_group(draw: Draw) -> float:
    a, b = draw.exponential(1, 12), draw.exponential(1, 60)
    return permutation.two_groups(a, b, seed=int(draw.integers(2**31)))


def no_relation(draw: Draw) -> float:
    x, y = draw.integers(0, 9, 30), draw.exponential(1, 30)
    return permutation.pairings(rankdata(x), rankdata(y), seed=int(draw.integers(2**31)))


@pytest.mark.parametrize("test", [no_difference, one_group, no_relation])
def test_without_an_effect_p_is_below_every_level_as_seldom_as_it_says(test: Callable[[Draw], float]) -> None:
    draw = np.random.default_rng(6)
    p = np.array([test(draw) for _ in range(500)])
    for level in (0.002, 0.005, 0.01, 0.05, 0.2, 0.5):
        error = np.sqrt(level * (1 - level) / len(p))
        assert np.mean(p <= level) <= level + 3 * error
        assert np.mean(p <= level) >= level - 4 * error - 0.02 * level


def test_twelve_models_a_hundred_standard_errors_apart_are_all_told_apart() -> None:
    draw = np.random.default_rng(7)
    values = draw.normal(0, 1, (12, 1000)) + 100 / np.sqrt(500) * np.arange(12)[:, None]
    weights = stats.image_weights(np.arange(1000))
    drawn = values @ weights / weights.sum(0)
    right = draw.random(1000) < np.linspace(0.04, 0.96, 12)[:, None]
    pairs = list(itertools.combinations(range(12), 2))
    compared = {
        "paired": [stats.paired(values[a], values[b]).p for a, b in pairs],
        "basic": [stats.basic_paired(values[a].mean(), values[b].mean(), drawn[a], drawn[b]).p for a, b in pairs],
        "accuracy": [stats.paired_shares(right[a], right[b]).p for a, b in pairs],
        "groups": [association.mean_difference(a, b).p for a, b in itertools.pairwise(values)],
        "ranks": [association.rank_correlation(a, values[0] + a).p for a in values[1:]],
    }
    for name, found in compared.items():
        corrected = stats.holm(np.array(found + [max(found)] * (66 - len(found))))
        assert corrected.max() < 0.05, name
        assert min(found) > 0, name


def test_the_normal_tail_of_a_bootstrap_is_close_to_a_longer_one() -> None:
    draw = np.random.default_rng(8)
    resamples = draw.gamma(30, 1, 400_000)
    value = 30.0
    for reached in (48.0, 52.0, 15.0):
        few = resamples[: stats.RESAMPLES]
        # The basic interval's p asks how many resamples lie beyond twice the difference.
        p = stats.basic_paired(reached / 2, 0.0, few, np.zeros(stats.RESAMPLES)).p
        expected = 2 * np.mean(resamples >= reached if reached > value else resamples <= reached)
        assert expected < 0.01
        assert expected / 3 < p < 5 * expected
