import doctest
import itertools
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import permutation_test

from attrib import stats
from attrib.stats import Values, images, multiple, seeds


@pytest.mark.parametrize("module", [images, multiple, seeds])
def test_examples_of_the_docstrings(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert (result.failed, result.attempted > 1) == (0, True)


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
    with pytest.raises(ValueError, match="same number of values"):
        stats.paired(np.zeros(2), np.zeros(3))


def test_the_same_seed_gives_the_same_numbers_and_no_other_state_is_touched() -> None:
    values = np.random.default_rng(3).random(50)
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    assert stats.interval(values, seed=5) == stats.interval(values, seed=5)
    assert stats.interval(values, seed=5) != stats.interval(values, seed=6)
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize(("count", "slack"), [(7, 1e-12), (10, 1e-12), (11, 0.03), (400, 0.03)])
def test_sign_flips_are_scipy_s_permutation_test(count: int, slack: float) -> None:
    """Up to ten images all flips are tried, and the answer is the same; then both draw, each for itself."""
    draw = np.random.default_rng(count)
    for values in (draw.normal(0.3, 1, count) / np.sqrt(count / 10), draw.integers(-1, 2, count) / 10):
        test = permutation_test(
            (values,), np.mean, permutation_type="samples", n_resamples=stats.RESAMPLES, vectorized=True, rng=draw
        )
        assert stats.paired(values, np.zeros(count)).p == pytest.approx(test.pvalue, abs=slack)


def seeds_of(draw: np.random.Generator, image: Values, *, seeds: int, between: float) -> Values:
    """Values (S,N) of seeds that differ by ``between`` on the whole and by 0.5 image by image; their mean is 0."""
    return image + draw.normal(0, between, (seeds, 1)) + draw.normal(0, 0.5, (seeds, len(image)))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("between", [0.0, 0.07, 0.5], ids=["images dominate", "both alike", "seeds dominate"])
def test_the_interval_over_seeds_and_images_holds_the_truth(seeds: int, between: float) -> None:
    draw = np.random.default_rng(0)
    hits, shown = 0, 0
    for _ in range(300):
        a, b = (seeds_of(draw, draw.normal(0, 1, 200), seeds=seeds, between=between) for _ in "ab")
        low, high = stats.interval(a)
        hits += low <= 0 <= high
        found = stats.paired(a, b)
        shown += found.low <= 0 <= found.high
        assert (found.p > 0.05) == (found.low < 0 < found.high)
    assert 0.93 <= hits / 300 <= 1 - 0.01 * (seeds > 2)
    assert 0.93 <= shown / 300 <= 0.995


@pytest.mark.parametrize("between", [0.1, 0.3])
@pytest.mark.parametrize("other", [1, 3])
def test_p_between_methods_is_uniform_where_there_is_no_difference(between: float, other: int) -> None:
    draw = np.random.default_rng(1)
    p = []
    for _ in range(400):
        image = draw.normal(0, 1, 200)
        a, b = (seeds_of(draw, image, seeds=count, between=between) for count in (3, other))
        p.append(stats.paired(a, b).p)
    for level in (0.05, 0.2, 0.5):
        # A little too unsure at most: what differs image by image is counted with the seeds and with the images.
        assert 0.4 * level <= np.mean(np.array(p) < level) <= level + 0.04


def test_seeds_that_agree_leave_the_interval_over_images() -> None:
    draw = np.random.default_rng(2)
    a, b = draw.random(500), draw.random(500)
    assert stats.interval(np.array([a, a, a])) == pytest.approx(stats.interval(a), abs=2e-3)
    alone, many = stats.paired(a, b), stats.paired(np.array([a, a]), np.array([b, b, b]))
    assert many == pytest.approx(alone, abs=4e-3, rel=0.1)
    assert stats.paired(np.array([a, a, a]), np.array([a, a])) == pytest.approx((0, 0, 0, 1))
    one = np.full((3, 50), 0.25)
    assert stats.interval(one) == (0.25, 0.25)
    assert stats.paired(one, one[:2]) == stats.Paired(0.0, 0.0, 0.0, 1.0)


def test_seeds_without_an_effect_of_images_are_student_s_t() -> None:
    """Every image alike: what is left is the textbook's interval of the mean of S numbers, and its two-sample test."""
    from scipy.stats import t, ttest_ind

    a, b = np.array([1.0, 3.0, 4.0]), np.array([0.0, 0.5])
    wide = [np.repeat(side[:, None], 9, 1) for side in (a, b)]
    expected = t.interval(0.95, 2, a.mean(), a.std(ddof=1) / np.sqrt(3))
    assert stats.interval(wide[0]) == pytest.approx(expected)
    test = ttest_ind(a, b)
    found = stats.paired(*wide)
    ends = test.confidence_interval()
    assert found == pytest.approx((a.mean() - b.mean(), ends.low, ends.high, test.pvalue))
    # One file has no spread of its own: Student's test then is that of one more number from the same distribution.
    single = stats.paired(wide[0], wide[1][0])
    assert single.p == pytest.approx(ttest_ind(a, b[:1]).pvalue)


def test_what_seeds_miss_is_left_out_file_by_file() -> None:
    draw = np.random.default_rng(3)
    values = draw.random((3, 40))
    values[0, :10] = np.nan
    values[1, 5:30] = np.nan
    means = [np.nanmean(row) for row in values]
    assert stats.mean(values) == pytest.approx(np.mean(means))
    low, high = stats.interval(values)
    assert (low + high) / 2 == pytest.approx(np.mean(means))
    # The images' part by brute force: images drawn anew, each file's mean over those that it has.
    drawn = draw.integers(40, size=(4000, 40))
    resampled = np.array([[np.nanmean(row[rows]) for row in values] for rows in drawn])
    half = np.hypot(4.3027 * np.std(means, ddof=1) / np.sqrt(3), 1.96 * resampled.mean(1).std())
    assert (high - low) / 2 == pytest.approx(half, rel=0.04)
    values[2] = np.nan
    assert stats.interval(values) == stats.interval(values[:2])
    assert np.isnan(stats.interval(np.full((2, 3), np.nan))).all()
    assert np.isnan(stats.interval(np.array([[0.1], [0.2]]))).all()
    assert np.isnan(stats.paired(np.full((2, 3), np.nan), np.ones(3))).all()


def test_a_mean_s_resamples_say_what_the_mean_says() -> None:
    """Of a mean, the way for other statistics gives what the way for means gives, up to resampling."""
    draw = np.random.default_rng(4)
    a, b = draw.random((3, 300)) + 0.1 * np.arange(3)[:, None], draw.random((2, 300))
    weights = stats.image_weights(np.arange(300))
    a_drawn, b_drawn = (side @ weights / weights.sum(0) for side in (a, b))
    within = (0.0, 1.0)
    assert stats.basic_interval(a.mean(1), a_drawn, within=within) == pytest.approx(
        stats.interval(a, within=within), abs=0.004
    )
    assert stats.basic_paired(a.mean(1), b.mean(1), a_drawn, b_drawn) == pytest.approx(stats.paired(a, b), abs=0.01)
    found = stats.over_seeds(a.mean(1), a_drawn)
    assert (found.low, found.high) == pytest.approx(stats.interval(a), abs=0.004)


def test_groups_that_differ_between_seeds_against_resampling() -> None:
    draw = np.random.default_rng(5)
    values = draw.normal(0, 1, (3, 120)) + np.array([[0.0], [0.2], [0.1]])
    first = draw.random((3, 120)) < 0.3
    a, b = np.where(first, values, np.nan), np.where(first, np.nan, values)
    found = stats.groups_over_seeds(a, b)
    each = np.nanmean(a, 1) - np.nanmean(b, 1)
    assert found.difference == pytest.approx(each.mean())
    drawn = draw.integers(120, size=(3000, 120))
    resampled = [(np.nanmean(a[:, rows], 1) - np.nanmean(b[:, rows], 1)).mean() for rows in drawn]
    half = np.hypot(4.3027 * each.std(ddof=1) / np.sqrt(3), 1.96 * np.std(resampled))
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)
    # Of the same images in every seed, and all of them, it is the comparison of two means.
    whole = stats.groups_over_seeds(values, np.zeros((3, 120)))
    assert whole == pytest.approx(tuple(stats.mean_over_seeds(values)))
    one = a.copy()
    one[1:] = np.nan  # only one seed has the group at all
    assert np.isnan(stats.groups_over_seeds(one, b)[1:]).all()


def covered(share: float, count: int) -> float:
    """How often the interval of a share holds it, over all outcomes (no draws)."""
    from scipy.stats import binom

    outcomes = np.arange(count + 1)
    ends = np.array([stats.share_interval(np.arange(count) < held) for held in outcomes])
    held = (ends[:, 0] <= share) & (share <= ends[:, 1])
    return float(binom.pmf(outcomes, count, share) @ held)


def test_the_interval_of_a_share_is_wilson_s() -> None:
    from scipy.stats import binomtest

    for count, held in ((400, 360), (20, 20), (50, 0), (1000, 1)):
        expected = binomtest(held, count).proportion_ci(method="wilson")
        assert stats.share_interval(np.arange(count) < held) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert np.isnan(stats.share_interval(np.ones(1, bool))).all()
    # The bootstrap's interval would be a point at 0 wherever none is held, and hold the truth in 63 % at one of 100.
    levels = [covered(share, 100) for share in (0.002, 0.005, 0.01, 0.02, 0.05, 0.5, 0.95, 0.99)]
    assert min(levels) > 0.9
    assert np.mean(levels) > 0.94


def test_the_interval_of_seeds_shares_is_no_narrower_than_one_file_s_near_the_ends() -> None:
    seeds = np.random.default_rng(0).random((3, 400)) < 0.9
    assert stats.share_interval(seeds) == stats.interval(seeds.astype(float), within=(0, 1))
    none = np.zeros((3, 400), bool)
    assert stats.share_interval(none) == stats.share_interval(none[0])
    one = none.copy()
    one[0, 0] = True
    assert stats.share_interval(one)[0] == 0
    assert stats.share_interval(one)[1] >= stats.share_interval(none)[1]


def test_the_difference_of_shares_is_the_resampled_one_but_near_the_ends() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random(400) < 0.9, generator.random(400) < 0.85
    ours, theirs = stats.paired_shares(a, b), stats.paired(a.astype(float), b.astype(float))
    np.testing.assert_allclose(ours[:3], theirs[:3], atol=0.01)
    assert ours.p == theirs.p
    assert np.isnan(stats.paired_shares(a[:1], b[:1])).all()
    # Agreement on 100 images does not mean that there is no difference; seeds that agree say no more.
    one, three = stats.paired_shares(a[:100], a[:100]), stats.paired_shares(np.array([a[:100]] * 3), a[:100])
    assert one == pytest.approx((0, -0.0272, 0.0272, 1), abs=1e-4)
    assert three == pytest.approx(one)
    seeds = generator.random((3, 400)) < 0.9
    assert stats.paired_shares(seeds, b) == stats.paired(seeds.astype(float), b.astype(float))


@pytest.mark.parametrize("chances", [(0.005, 0.005), (0.02, 0.0), (0.05, 0.02)])
def test_the_interval_of_a_difference_of_shares_holds_the_truth(chances: tuple[float, float]) -> None:
    draw, hits = np.random.default_rng(1), 0
    for _ in range(1000):
        kind = draw.random(100)
        only_a, only_b = kind < chances[0], kind > 1 - chances[1]
        found = stats.paired_shares(only_a, only_b)
        hits += found.low <= chances[0] - chances[1] <= found.high
    assert hits / 1000 >= 0.94


def test_the_gap_of_seeds_near_0_and_1_holds_what_one_file_s_does() -> None:
    """Two seeds that are right on every image tell no more than one about the images that nobody asked."""
    everywhere = np.ones((2, 60), bool), np.ones((2, 40), bool)
    assert stats.unpaired_shares(*everywhere) == stats.unpaired_shares(*(side[0] for side in everywhere))
    difference, low, high = stats.unpaired_shares(*everywhere)
    assert difference == 0
    assert low < -0.04 < 0.04 < high
    draw = np.random.default_rng(6)
    for shares in ((0.5, 0.4), (0.97, 0.5)):
        a, b = (draw.random((3, count)) < share for share, count in zip(shares, (200, 150), strict=True))
        found = stats.unpaired_shares(a, b)
        apart = np.full((3, 350), np.nan), np.full((3, 350), np.nan)
        apart[0][:, :200], apart[1][:, 200:] = a, b
        over_seeds = stats.groups_over_seeds(*apart)
        assert found[0] == pytest.approx(a.mean() - b.mean())
        near = 0.97 in shares
        assert found[1] <= over_seeds.low + 1e-12
        assert found[2] >= over_seeds.high - 1e-12
        assert near or found[1:] == pytest.approx(over_seeds[1:3])


def test_differences_of_shares_over_seeds_stay_within_100_points() -> None:
    """Two seeds that are 60 points apart: t(1) is 12.7, and the plain interval is 800 points wide to either side."""
    draw = np.random.default_rng(8)
    a, b = draw.random((2, 200)) < [[0.2], [0.8]], draw.random(200) < 0.9
    plain, found = stats.paired(a.astype(float), b.astype(float)), stats.paired_shares(a, b)
    assert plain.low < -5 < 5 < plain.high
    assert found == plain._replace(low=-1, high=1)
    assert stats.unpaired_shares(a, a[::-1, :100])[1:] == (-1, 1)
    groups = np.where(draw.random((2, 200)) < 0.5, a, np.nan), np.where(a, 1.0, np.nan)
    plain, found = (stats.groups_over_seeds(*groups, within=within) for within in (stats.ANYTHING, (-1, 1)))
    assert plain.low < -1 or plain.high > 1
    assert found == plain._replace(low=max(plain.low, -1), high=min(plain.high, 1))


def test_no_p_rests_on_a_normal_distribution_s_far_tail() -> None:
    draw = np.random.default_rng(7)
    resampled = draw.normal(0, 1, (2, 2000))
    p = [stats.basic_paired(far, 0.0, far + resampled[0], resampled[1]).p for far in (0.0, 2.0, 5.0, 9.0, 90.0, 900.0)]
    assert p == sorted(p, reverse=True)
    assert p[-1] == p[-2] == 1e-12
    assert p[3] < 1e-6
