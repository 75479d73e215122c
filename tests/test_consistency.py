"""Sets and losses, against a loop over images in plain Python floats."""

import math

import numpy as np
import pytest
import torch

from attrib import stats
from attrib.consistency import MEANS, SETS, LogitPairs, alp_loss, logit_pairs, summary
from attrib.errors import InputError
from attrib.plots.sets import COLOURS


def slow(clean: list[float], adversarial: list[float], label: int) -> dict[str, float]:
    """Every quantity of one image by its definition."""

    def of(logits: list[float]) -> tuple[int, float]:
        weights = [math.exp(z - max(logits)) for z in logits]
        return logits.index(max(logits)), weights[label] / sum(weights)

    said, p = of(clean)
    said_adversarial, p_adversarial = of(adversarial)
    name = "clean-wrong" if said != label else "consistent" if said_adversarial == label else "inconsistent"
    alp = sum((a - b) ** 2 for a, b in zip(clean, adversarial, strict=True))
    ce = -math.log(p), -math.log(p_adversarial)
    return {
        "membership": SETS.index(name), "prediction": said, "prediction_adversarial": said_adversarial,
        "probability_clean": p, "probability_adversarial": p_adversarial, "ce_clean": ce[0], "ce_adversarial": ce[1],
        "ce_sum": sum(ce), "alp": alp, "alp_share": alp / (sum(ce) + alp),
    }  # fmt: skip


def logits(count: int, classes: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clean and adversarial logits and labels; enough noise for every set to be there."""
    generator = torch.Generator().manual_seed(seed)
    clean = 3 * torch.randn(count, classes, generator=generator)
    label = torch.where(torch.rand(count, generator=generator) < 0.8, clean.argmax(1), 0)
    return clean, clean + 2 * torch.randn(count, classes, generator=generator), label


@pytest.mark.parametrize("classes", [2, 10])
def test_every_quantity_equals_a_loop_over_images(classes: int) -> None:
    clean, adversarial, label = logits(60, classes)
    found = logit_pairs(clean, adversarial, label)
    assert set(found.membership.tolist()) == {0, 1, 2}
    for row in range(60):
        expected = slow(clean[row].tolist(), adversarial[row].tolist(), int(label[row]))
        assert found._fields == tuple(expected)
        for name, value in expected.items():
            assert float(getattr(found, name)[row]) == pytest.approx(value, rel=1e-10, abs=1e-13), name


def test_sets_partition_the_images_and_nothing_changes_without_an_attack() -> None:
    clean, adversarial, label = logits(500, 5)
    found = summary(logit_pairs(clean, adversarial, label))
    assert sum(entry["n"] for entry in found.values()) == 500
    assert sum(entry["share"] for entry in found.values()) == pytest.approx(1)
    still = logit_pairs(clean, clean, label)
    assert not (still.membership == SETS.index("inconsistent")).any()
    assert not still.alp.any()
    assert not still.alp_share.any()
    empty = summary(still)["inconsistent"]
    assert (empty["n"], empty["share"]) == (0, 0)
    assert empty["share_ci"] == pytest.approx(
        [0, 1.96**2 / (500 + 1.96**2)], rel=1e-4
    )  # Wilson: none of 500 is not never
    assert math.isnan(empty["alp"])
    assert math.isnan(empty["alp_share_of_total"])


def test_alp_loss_of_a_small_step_is_that_of_the_jacobian() -> None:
    """Eq. 2: for a linear model it is |J dx|^2, whatever the step."""
    generator = torch.Generator().manual_seed(1)
    jacobian = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    x, step = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    expected = torch.stack([(jacobian @ dx).square().sum() for dx in step])
    torch.testing.assert_close(alp_loss(x @ jacobian.T, (x + step) @ jacobian.T), expected)


def test_a_sure_answer_still_costs_something() -> None:
    """exp(-30) is far below what float32 resolves beside 1, and is there nevertheless."""
    z = torch.tensor([[30.0, 0.0]])
    assert logit_pairs(z, z, torch.tensor([0])).ce_clean.item() == pytest.approx(math.exp(-30), rel=1e-3)


def test_summary_is_the_means_of_the_sets_with_their_intervals() -> None:
    pairs = logit_pairs(*logits(400, 5))
    found = summary(pairs)
    assert tuple(found) == SETS == tuple(COLOURS)
    for position, entry in enumerate(found.values()):
        inside = (pairs.membership == position).numpy()
        assert entry["n"] == inside.sum()
        assert entry["share"] == pytest.approx(inside.mean())
        for name in MEANS:
            values = getattr(pairs, name).numpy()[inside]
            assert entry[name] == pytest.approx(values.mean())
            assert entry[f"{name}_ci"] == list(stats.interval(values))
        alp, total = pairs.alp.numpy()[inside], (pairs.ce_sum + pairs.alp).numpy()[inside]
        assert entry["alp_share_of_total"] == pytest.approx(alp.sum() / total.sum())
        # The delta method's interval, which for this many images is close to the bootstrap's.
        residual = (alp - entry["alp_share_of_total"] * total) / total.mean()
        half = 1.96 * residual.std() / math.sqrt(len(alp))
        low, high = entry["alp_share_of_total_ci"]
        assert low < entry["alp_share_of_total"] < high
        assert high - low == pytest.approx(2 * half, rel=0.15)
    again = summary(LogitPairs(*(values.clone() for values in pairs)))
    assert again == found
    assert summary(pairs, seed=1) != found


def test_images_that_cost_nothing_have_no_alp_share() -> None:
    z = torch.tensor([[1000.0, 0.0]]).repeat(3, 1)
    entry = summary(logit_pairs(z, z, torch.zeros(3, dtype=torch.int64)))["consistent"]
    assert entry["alp_share"] == entry["alp_share_of_total"] == 0
    assert entry["alp_share_of_total_ci"] == [0, 0]
    one_costs = z + torch.tensor([[0.0, 0], [0, 0], [1, 0]])
    entry = summary(logit_pairs(z, one_costs, torch.zeros(3, dtype=torch.int64)))["consistent"]
    assert entry["alp_share_of_total"] == 1
    assert entry["alp_share_of_total_ci"] == [0, 1]  # a resample without that image costs nothing


@pytest.mark.parametrize(
    ("clean", "adversarial", "label", "words"),
    [
        ((3, 5), (3, 4), (3,), r"adversarial: expected floats of shape \(3,5\), got torch.float32 \(3, 4\)"),
        ((3, 5), (2, 5), (3,), r"adversarial: expected floats of shape \(3,5\)"),
        ((5,), (5,), (5,), r"clean: expected floats of shape \(N,K\)"),
        ((3, 5), (3, 5), (2,), r"label: expected integers of shape \(3,\), got torch.int64 \(2,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    clean: tuple[int, ...], adversarial: tuple[int, ...], label: tuple[int, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        logit_pairs(torch.zeros(clean), torch.zeros(adversarial), torch.zeros(label, dtype=torch.int64))


def test_summary_of_seeds() -> None:
    """Means of the files' own numbers; of the same file twice, about the intervals of one."""
    generator = torch.Generator().manual_seed(7)
    label = torch.randint(3, (200,), generator=generator)
    files = []
    for _ in range(3):
        clean = 2 * torch.randn(200, 3, generator=generator) + 3 * torch.eye(3)[label]
        files.append(logit_pairs(clean, clean + 2 * torch.randn(200, 3, generator=generator), label))
    each, together, twice = [summary(one) for one in files], summary(*files), summary(files[0], files[0])
    for kind in SETS:
        for name in ("n", "share", *MEANS, "alp_share_of_total"):
            assert together[kind][name] == pytest.approx(np.mean([found[kind][name] for found in each])), name
            if name == "n":
                continue
            low, high = together[kind][f"{name}_ci"]
            assert low <= together[kind][name] <= high
            one = each[0][kind][f"{name}_ci"]
            assert twice[kind][f"{name}_ci"] == pytest.approx(one, abs=0.2 * (one[1] - one[0])), name
