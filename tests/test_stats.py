import itertools

import numpy as np
import pytest

from attrib import stats


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        low, high = stats.interval(draw.exponential(1.0, 80), seed=trial)
        hits += low <= 1.0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_interval_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(1).random(2000)
    low, high = stats.interval(values)
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_permutation_p_equals_all_sign_flips() -> None:
    a = np.array([0.3, 0.5, 0.1, 0.9, 0.4, 0.8])
    b = np.array([0.2, 0.6, 0.0, 0.5, 0.1, 0.7])
    difference = a - b
    flips = [
        abs(np.mean(difference * np.array(signs))) >= abs(difference.mean()) - 1e-12
        for signs in itertools.product((1, -1), repeat=len(a))
    ]
    result = stats.paired(a, b)
    assert result.p == pytest.approx(np.mean(flips))
    assert result.difference == pytest.approx(difference.mean())


def test_paired_is_antisymmetric_and_zero_against_itself() -> None:
    draw = np.random.default_rng(2)
    a, b = draw.random(300), draw.random(300) + 0.1
    forth, back = stats.paired(a, b), stats.paired(b, a)
    assert forth.difference == pytest.approx(-back.difference)
    assert forth.low < forth.difference < forth.high < 0
    assert forth.p < 0.01
    assert stats.paired(a, a) == stats.Paired(0.0, 0.0, 0.0, 1.0)


def test_values_that_are_missing_are_left_out() -> None:
    values = np.array([0.1, np.nan, 0.3])
    assert stats.mean(values) == pytest.approx(0.2)
    assert stats.interval(values) == stats.interval(np.array([0.1, 0.3]))
    assert np.isnan(stats.interval(np.array([0.5, np.nan]))).all()
    assert np.isnan(stats.paired(np.array([0.5]), np.array([0.1])).p)
    with pytest.raises(ValueError, match="as many values"):
        stats.paired(np.zeros(2), np.zeros(3))


def test_the_same_seed_gives_the_same_numbers_and_no_other_state_is_touched() -> None:
    values = np.random.default_rng(3).random(50)
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    assert stats.interval(values, seed=5) == stats.interval(values, seed=5)
    assert stats.interval(values, seed=5) != stats.interval(values, seed=6)
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]  # noqa: NPY002
