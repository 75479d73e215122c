"""figures/: the rule of the verdicts, by simulation; when a claim can be tested; claims on hand-made results."""

import doctest
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm, ttest_1samp, ttest_ind
from scipy.stats import t as student

from attrib import stats
from figures import claims, compare, judge_aalp, judge_training, precondition, readme, shared, verdicts
from figures.compare import Difference
from figures.verdicts import Part, Verdict

PAGE = len(claims.CLAIMS)
Compared = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""Difference, half width of its interval, and p of many comparisons."""


def _compared(a: NDArray[Any], b: NDArray[Any], *, images: float = 0.0) -> Compared:
    """Methods' seeds (..., S) compared as ``attrib.stats.paired`` does, all at once; images: variance from images."""
    degrees = 2 * a.shape[-1] - 2
    difference = a.mean(-1) - b.mean(-1)
    variance = (a.var(-1, ddof=1) + b.var(-1, ddof=1)) / a.shape[-1]

    def half(level: Any) -> NDArray[Any]:
        return np.asarray(np.sqrt(student.isf(level / 2, degrees) ** 2 * variance + norm.isf(level / 2) ** 2 * images))

    low, high = np.full(difference.shape, -30.0), np.zeros(difference.shape)  # powers of ten
    for _ in range(40 if images else 0):
        middle = (low + high) / 2
        reaches = half(10.0**middle) >= np.abs(difference)
        low, high = np.where(reaches, middle, low), np.where(reaches, high, middle)
    p = 10.0**high if images else 2 * student.sf(np.abs(difference) / np.sqrt(variance), degrees)
    return difference, half(0.05), p


def _page(compared: Compared, run: int, counts: list[int]) -> list[list[Verdict]]:
    """The verdicts of one simulated page whose claims have so many parts."""
    parts = iter(
        Part("", (Difference(value, value - half, value + half, p),), 3, None)
        for value, half, p in zip(*(each[run].tolist() for each in compared), strict=True)
    )
    return verdicts.decide([[next(parts) for _ in range(count)] for count in counts])


def _called(page: list[list[Verdict]]) -> list[str]:
    return [
        each.tier for claim in page for each in claim if each.tier in (verdicts.REPRODUCED, verdicts.CONTRARY)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["independent", "with images", "shared models", "conjunctions"])
def test_without_true_differences_at_most_one_page_in_twenty_calls_something_real(kind: str) -> None:
    runs, generator = 10_000, np.random.default_rng(5)
    counts = [3, 2, 1, 1, 6, 5] if kind == "conjunctions" else [1] * PAGE
    if kind == "shared models":  # eight methods with three seeds each, compared with one another
        pairs = list(combinations(range(8), 2))[:PAGE]
        methods = generator.normal(size=(runs, 8, 3))
        compared = _compared(*(methods[:, [pair[side] for pair in pairs]] for side in (0, 1)))
    else:
        images = 2 / 3 if kind == "with images" else 0.0  # as large as the error from seeds
        noise = generator.normal(size=(runs, sum(counts), 1)) * images**0.5
        a, b = generator.normal(size=(2, runs, sum(counts), 3))
        compared = _compared(a + noise, b, images=images)
    share = np.mean([bool(_called(_page(compared, run, counts))) for run in range(runs)])
    print(f"{kind}: {share:.1%} of pages without true differences call something real")  # noqa: T201
    assert 0 < share <= 0.05 + 2 * (0.05 * 0.95 / runs) ** 0.5  # two standard errors of the simulation


def test_power_of_three_seeds_against_the_true_effect() -> None:
    """One true claim among those tested: simulated with the rule itself, beside the formula on the page."""
    runs, generator = 300, np.random.default_rng(7)
    for effect in range(2, 13):
        a, b = generator.normal(size=(2, runs, PAGE, 3))
        a[:, 0] += effect * (2 / 3) ** 0.5
        compared = _compared(a, b)
        pages = [_page(compared, run, [1] * PAGE) for run in range(runs)]
        found = np.mean([page[0][0].tier == verdicts.REPRODUCED for page in pages])
        expected = verdicts.power(effect, claims=PAGE)
        print(f"{effect} standard errors: found in {found:.0%}, expected {expected:.0%}")  # noqa: T201
        assert found == pytest.approx(expected, abs=0.08)
        assert effect < 9 or found >= 0.8
    assert verdicts.power(9, claims=PAGE) >= 0.8
    assert verdicts.power(verdicts.detectable(claims=PAGE), claims=PAGE) == pytest.approx(0.8)


def test_the_simulated_comparison_is_the_librarys() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(2, 3))
    for images in (0.0, 0.5):
        values = generator.normal(size=4)
        # Four images whose mean is 0 and whose mean has the variance wanted.
        spread = (values - values.mean()) * (4 * images / values.var(ddof=1)) ** 0.5
        real = stats.paired(a[:, None] + spread, np.repeat(b[:, None], 4, 1))
        difference, half, p = _compared(a, b, images=images)
        np.testing.assert_allclose(
            [real.difference, real.low, real.high, real.p], [difference, difference - half, difference + half, p],
            rtol=1e-6,
        )  # fmt: skip


def test_weighted_holm_is_the_closed_test() -> None:
    """Of weighted Bonferroni tests of all intersections, by trying all of them."""
    generator = np.random.default_rng(3)
    for count in (1, 3, 5):
        p, weights = generator.uniform(0, 0.2, count), generator.uniform(0.2, 1, count)
        sets = [list(chosen) for size in range(1, count + 1) for chosen in combinations(range(count), size)]
        of_set = [min(1, (p[chosen] / weights[chosen]).min() * weights[chosen].sum()) for chosen in sets]
        closed = [max(value for value, chosen in zip(of_set, sets, strict=True) if i in chosen) for i in range(count)]
        np.testing.assert_allclose(verdicts.weighted_holm(p, weights), closed)
        np.testing.assert_allclose(verdicts.weighted_holm(p, np.ones(count)), stats.holm(p))


UP, DOWN = Difference(0.03, 0.02, 0.04, 1e-4), Difference(-0.03, -0.04, -0.02, 1e-4)
WIDE, NARROW = Difference(0.01, -0.02, 0.04, 0.5), Difference(0.001, -0.004, 0.006, 0.6)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Part("", (UP,), 1), "tendency for it"), (Part("", (DOWN,), 2), "tendency against it"),
        (Part("", (WIDE,), 1), "undecided"), (Part("", (NARROW,), 2), "undecided"), (Part("", (None,), 1), "undecided"),
        (Part("", (UP,), 3), "reproduced"), (Part("", (DOWN,), 4), "contrary"), (Part("", (WIDE,), 3), "undecided"),
        (Part("", (NARROW,), 3), "no difference"), (Part("", (NARROW,), 3, None), "undecided"),
        (Part("", (Difference(0.03, 0.02, 0.04),), 3), "undecided"),  # no p
        (Part("", (UP, DOWN), 3), "undecided"), (Part("", (UP, DOWN), 1), "undecided"),
        (Part("", (UP, WIDE), 3), "undecided"), (Part("", (UP, UP), 3), "reproduced"), (Part("", (UP, None), 3),
                                                                                      "undecided"),
        (Part("", (UP, UP), 1), "tendency for it"), (Part("", (UP,), 3, missing=("no",)), "not tested"),
    ],
)  # fmt: skip
def test_tiers(part: Part, expected: str) -> None:
    ((verdict,),) = verdicts.decide([[part]])
    assert str(verdict) == expected


def test_only_what_is_tested_with_three_seeds_is_corrected_for() -> None:
    sure = Part("", (Difference(0.03, 0.01, 0.05, 0.004),), 3)
    others: list[list[Part]] = [[Part("", (WIDE,), 3)] for _ in range(PAGE - 1)]
    few = [[each._replace(seeds=2) for each in claim] for claim in others]
    absent = [[each._replace(missing=("why",)) for each in claim] for claim in others]
    for more, tier, p in (
        (others, "undecided", 0.004 * PAGE), ([], "reproduced", 0.004), (few, "reproduced", 0.004),
        (absent, "reproduced", 0.004),
    ):  # fmt: skip
        verdict = verdicts.decide([[sure], *more])[0][0]
        assert verdict.tier == tier
        assert verdict.p_holm == pytest.approx(p)
    # Parts share their claim's weight: the others pay for one claim.
    assert verdicts.decide([[sure], [Part("", (WIDE,), 3)] * 9])[0][0].p_holm == pytest.approx(0.008)


def test_examples() -> None:
    result = doctest.testmod(verdicts)
    assert result.attempted >= 4
    assert result.failed == 0


def test_verdicts_are_counted() -> None:
    five = [Verdict("undecided"), *[Verdict("reproduced")] * 4]
    assert verdicts.counted(five) == "reproduced 4 of 5, undecided 1 of 5"
    assert verdicts.counted([Verdict("contrary")] * 2) == "contrary"
    assert verdicts.counted([Verdict("tendency", side=1), Verdict("tendency", side=-1)]) == (
        "tendency for it 1 of 2, tendency against it 1 of 2"
    )


def test_p_of_an_interval_is_students() -> None:
    values = np.array([0.3, 0.9, 0.7])
    test = ttest_1samp(values, 0)
    low, high = test.confidence_interval()
    found = compare.reaching(float(values.mean()), low, high, degrees=2)
    assert found.p == pytest.approx(test.pvalue)
    assert found.reversed.p == found.p
    assert compare.reaching(2.0, 0.0, 4.0, degrees=3).p == pytest.approx(0.05)
    assert np.isnan(compare.reaching(2.0, 0.0, 4.0, degrees=0).p)


@pytest.mark.parametrize("level", [0.05, 0.01])
def test_p_from_two_intervals_over_seeds_is_on_the_safe_side(level: float) -> None:
    """Without a true difference, two methods with three seeds each are apart at most as often as the level says."""
    runs = 1500
    seeds = np.random.default_rng(11).normal(size=(runs, 2, 3))
    mean, half = seeds.mean(-1), student.isf(0.025, 2) * seeds.std(-1, ddof=1) / 3**0.5
    p = [
        found.p for (a, b), (c, d) in zip(mean.tolist(), half.tolist(), strict=True)
        if (found := compare.apart(a, (a - c, a + c), b, (b - d, b + d), degrees=2))
    ]  # fmt: skip
    assert len(p) == runs
    assert 0 < np.mean(np.array(p) < level) <= level + 2 * (level * (1 - level) / runs) ** 0.5


MNIST: dict[str, Any] = {"eps": 0.3, "step_size": 0.01, "steps": [10, 20, 40, 100]}
CIFAR: dict[str, Any] = {"eps": 8 / 255, "step_size": 2 / 255, "steps": [10, 20, 40, 100]}


def _robust(attack: dict[str, Any], accuracies: dict[str, float], *, seeds: int = 3) -> dict[str, Any]:
    """What ``attrib robust`` writes, with one accuracy under every attack, and every pair's difference sure."""
    columns = ("clean", "pgd-10", "pgd-100", "cw-100", "worst")
    models = [
        {
            "name": name, "n": 1000, "accuracies": dict.fromkeys(columns, value),
            "intervals": {column: [value - 0.001, value + 0.001] for column in columns}, "seeds": [
                {"accuracies": dict.fromkeys(columns, value + 0.002 * (k - 1))} for k in range(seeds)],
        } for name, value in accuracies.items()
    ]  # fmt: skip
    pairs = [
        {"a": a, "b": b, "attack": column, "difference": accuracies[a] - accuracies[b], "p": 1e-5,
         "ci": [accuracies[a] - accuracies[b] - 0.001, accuracies[a] - accuracies[b] + 0.001]}
        for a, b in combinations(accuracies, 2) for column in columns
    ]  # fmt: skip
    return {**attack, "models": models, "pairs": pairs}


@pytest.mark.parametrize(
    ("place", "paper", "robust", "expected"),
    [
        ("mnist-lenet", "aalp", _robust(MNIST, {"madry": 0.90}), None),
        ("mnist-lenet", "aalp", _robust(MNIST, {"madry": 0.89}), "3.5 points below the paper's Madry adv (92.5 %)"),
        ("mnist-lenet", "aalp", _robust(MNIST, {"pgd-at": 0.90}), None),
        ("mnist-lenet", "aalp", _robust(MNIST, {"alp": 0.95}), "no adversarially trained baseline"),
        ("mnist-lenet", "aalp", _robust({**MNIST, "eps": 0.2}, {"madry": 0.95}), "eps: 0.2, in the paper 0.3"),
        ("mnist-lenet", "aalp", _robust({**MNIST, "step_size": 0.02}, {"madry": 0.95}), "step size: 0.02"),
        ("mnist-lenet", "again", _robust(MNIST, {"pgd-at": 0.99}), "the paper's models are CIFAR-10, ResNet-18"),
        ("mnist-resnet32", "aalp", _robust(MNIST, {"madry": 0.99}), "the paper's models are MNIST, LeNet or"),
        ("mnist-lenet", "aalp", None, "robust.json is missing"),
        ("cifar10-resnet18", "again", _robust(CIFAR, {"pgd-at": 0.471}), None),
        ("cifar10-resnet18", "again", _robust(CIFAR, {"pgd-at": 0.469}), "with 30 epochs under PGD-50 (50.0 %)"),
    ],
)
def test_when_a_papers_claims_can_be_tested(
    place: str, paper: str, robust: dict[str, Any] | None, expected: str | None
) -> None:
    found = precondition.reasons(place, paper, robust, {"pgd-at": [{"epochs": 30}]})
    assert (expected is None) == (not found)
    assert expected is None or expected in found[0]


@pytest.mark.parametrize(
    ("card", "robust"),
    [
        ({"epochs": 30}, 50.0), ({"epochs": 10, "ema": 0.999}, 50.0), ({"epochs": 110}, 48.4),
        ({"epochs": 100, "ema": 0.999}, 55.3), ({"epochs": 200}, 52.7), ({}, 50.0),
    ],
)  # fmt: skip
def test_the_nearest_independent_figure(card: dict[str, Any], robust: float) -> None:
    assert precondition.nearest(shared.papers()["again"]["independent"], card)["robust"] == robust


def _write(place: Path, results: dict[str, dict[str, Any]], cards: dict[str, Any]) -> None:
    """A folder of results with these tasks."""
    place.mkdir(parents=True)
    done = {}
    for task, summary in results.items():
        (place / f"{task}.json").write_text(json.dumps(summary))
        models: dict[str, list[str]] = {each["name"]: [] for each in summary.get("models", [])}
        done[task] = {"models": models, "files": [f"{task}.json"], "images": 1000}
    (place / shared.MANIFEST).write_text(json.dumps(done))
    (place / "models.json").write_text(json.dumps(cards))


def _of(judged: list[tuple[claims.Claim, list[claims.Judged]]], source: str) -> list[list[str]]:
    """The verdicts on the claims of a source, a list per finding."""
    return [[str(v) for v in each.verdicts] for claim, found in judged if claim.source == source for each in found]


def test_claims_about_accuracy_are_judged_by_the_worst_of_two_attacks(tmp_path: Path) -> None:
    accuracies = {"madry": 0.91, "alp": 0.92, "trades": 0.94, "aalp": 0.93}
    cards = {name: [{"epochs": 5}] for name in accuracies}
    _write(tmp_path / "mnist-lenet", {"robust": _robust(MNIST, accuracies)}, cards)
    judged = claims.judged(tmp_path)
    assert _of(judged, "AALP, Table 2") == [["reproduced"]]
    assert _of(judged, "AALP, section 4.2") == [["contrary"]]
    assert "2 claims are tested" in " ".join(readme._power(judged, tmp_path).split())
    assert "s = 0.20 points, as the 4 methods" in " ".join(readme._power(judged, tmp_path).split())


@pytest.mark.parametrize(
    ("without", "expected"), [([0.02, 0.01, 0.03], "reproduced"), ([-0.02, -0.03, -0.01], "undecided")]
)
def test_coverage_is_judged_with_and_without_empty_maps(
    tmp_path: Path, without: list[float], expected: str
) -> None:  # fmt: skip
    names = ("raw", "again", "pgd-at")
    models = [
        {"name": name, "n": 1000, "asc": 0.5, "asc_ci": [0.49, 0.51], "empty": 100, "seeds": [0, 1, 2]}
        for name in names
    ]
    pairs = [
        {"a": a, "b": b, "images": "clean", "difference": 0.02, "ci": [0.01, 0.03], "p": 1e-5,
         "without_empty": {"difference": without[0], "ci": without[1:], "p": 1e-5}}
        for a, b in combinations(names, 2)
    ]  # fmt: skip
    span = {"map": "gradcam", "threshold": "mean", "models": models, "pairs": pairs}
    results = {"span": span, "robust": _robust(CIFAR, {"raw": 0.0, "pgd-at": 0.5, "again": 0.5})}
    _write(tmp_path / "cifar10-resnet18", results, {"pgd-at": [{"epochs": 30}]})
    found = _of(claims.judged(tmp_path), "AGAIN, Table 1")
    assert found[0] == [expected, expected]
    # 50 % is within a point of none of the three printed values.
    assert set(found[1]) == {"undecided", "contrary"}


@pytest.mark.parametrize(
    ("norms", "decay", "expected"),
    [
        ([0.25, 0.26, 0.24], 5e-4, "reproduced"), ([0.25, 0.26, 0.24], 0.0, "not tested"), ([0.25], 5e-4, "undecided"),
        ([0.32, 0.29, 0.34], 5e-4, "undecided"), ([0.45, 0.46, 0.44], 5e-4, "contrary"),
    ],
)  # fmt: skip
def test_weights_are_compared_over_seeds_and_only_with_weight_decay(
    tmp_path: Path, norms: list[float], decay: float, expected: str
) -> None:
    alp = [0.35, 0.36, 0.34][: len(norms)]
    _write(tmp_path / "mnist-lenet", {}, {name: [{"weight decay": decay}] for name in ("alp", "aalp-gd")})
    kept = {"models": [{"name": "alp", "norms": alp}, {"name": "aalp-gd", "norms": norms}]}
    (tmp_path / "mnist-lenet" / "contrib-weights.json").write_text(json.dumps(kept))
    (found,) = judge_aalp.weights(shared.Panel(tmp_path / "mnist-lenet", "here", ["alp", "aalp-gd"]), {})
    assert [str(verdict) for verdict in verdicts.decide([found.parts])[0]] == [expected]
    if len(norms) > 1:
        assert found.parts[0].answers[0] is not None
        assert found.parts[0].answers[0].p == pytest.approx(ttest_ind(alp, norms).pvalue)


def _history(place: Path, ends: dict[str, tuple[float, float]], *, warmup: float) -> shared.Panel:
    """A run of ALP with three saved epochs: at the first, the losses are far off."""
    epochs = [
        {"epoch": epoch, "sets": {kind: {"n": 9, "alp": value[k], "alp_ci": [value[k] - 0.05, value[k] + 0.05]}
                                  for kind, value in {name: (9.0, *pair) for name, pair in ends.items()}.items()}}
        for k, epoch in enumerate((1, 2, 3))
    ]  # fmt: skip
    attack = {"eps": 0.3, "step_size": 0.01, "steps": 40}
    _write(place, {"sets-epochs": {"attack": attack, "epochs": {"epochs": epochs}}},
           {"alp": [{"epochs": 3, "eps warmup": warmup}]})  # fmt: skip
    return shared.Panel(place, "here", ["alp"], "sets-epochs")


@pytest.mark.parametrize(
    ("inconsistent", "consistent", "expected"),
    [
        ((0.2, 0.9), (0.5, 0.1), ["tendency for it", "tendency for it"]),
        ((0.2, 0.9), (0.1, 0.5), ["tendency for it", "tendency against it"]),
        ((0.2, 0.25), (0.5, 0.1), ["undecided", "tendency for it"]),
    ],
)
def test_a_claim_about_a_history_is_judged_by_its_ends_at_full_radius(
    tmp_path: Path, inconsistent: tuple[float, float], consistent: tuple[float, float], expected: list[str]
) -> None:
    ends = {"inconsistent": inconsistent, "consistent": consistent}
    panel = _history(tmp_path / "mnist-lenet", ends, warmup=0.3)
    (found,) = judge_training.rising_loss(panel, panel.json())
    assert [str(verdict) for verdict in verdicts.decide([found.parts])[0]] == expected
    assert f"{inconsistent[1] - inconsistent[0]:+.3f}" in found.parts[0].words
    panel = _history(tmp_path / "never" / "mnist-lenet", ends, warmup=0.9)
    (never,) = judge_training.rising_loss(panel, panel.json())
    assert "fewer than two saved epochs of ALP at full eps" in never.parts[0].missing
