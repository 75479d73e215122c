"""Accuracy under attack: the analysis through Python, then the features of the command alone."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import attrib
from attrib import accuracy as library
from attrib import stats
from attrib.analyses.measured import Files
from attrib.analyses.radii import parse_eps
from attrib.analyses.result import Result
from attrib.analyses.robust import Robustness
from attrib.analyses.training_images import training_images
from attrib.data import Dataset, glyphs
from attrib.errors import Stopped
from attrib.models.checkpoint import Checkpoint
from attrib.models.specs import Model
from train.config import Config
from train.loop import _split

pytestmark = pytest.mark.usefixtures("undrawn")

ATTACKS = ["clean", "fgsm", "pgd-4", "pgd-8", "cw-4", "cw-8", "worst"]
USUAL = Robustness(eps=0.02, step_size=0.005, steps=(4, 8), precision="fp32")


class Small(nn.Module):
    """Fast, and after a fit to faint patterns better than chance."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 10))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.scale * self.body(x)
        return logits


class Detached(Small):
    """No gradient reaches the image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


@pytest.fixture(scope="module")
def easy() -> Dataset:
    """200 images of faint patterns, one per class, in noise: a linear model knows them, a small attack breaks some."""
    generator = np.random.default_rng(0)
    patterns = generator.choice([-1, 1], (10, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    labels = np.arange(200) % 10
    strength = generator.uniform(2, 12, (200, 1, 1, 1))
    images = 128 + strength * patterns[labels] + generator.normal(0, 20, (200, 32, 32, 3))
    pixels = torch.from_numpy(images.clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2)
    return Dataset("easy", "all", tuple("abcdefghij"), pixels, torch.from_numpy(labels))


def first(data: Dataset, count: int) -> Dataset:
    assert isinstance(data.images, Tensor)
    return replace(data, images=data.images[:count], labels=data.labels[:count])


@pytest.fixture(scope="module")
def weights(easy: Dataset) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Small()
    (batch,) = easy.batches(200)
    descent = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(100):
        descent.zero_grad()
        nn.functional.cross_entropy(model(batch.image), batch.label).backward()
        descent.step()
    return model.state_dict()


@pytest.fixture
def made(weights: dict[str, Tensor]) -> Callable[..., Small]:
    """A fitted model of some class."""

    def make(kind: type[Small] = Small, *arguments: float) -> Small:
        with torch.random.fork_rng():
            model = kind(*arguments)
        model.load_state_dict(weights)
        return model

    return make


def same(result: Result, other: Result) -> bool:
    """Whether two results hold the same numbers."""
    return result.rows.equals(other.rows) and result.summary == other.summary


def test_rows_and_summary_are_what_the_library_and_the_statistics_give(
    made: Callable[..., Small], easy: Dataset
) -> None:
    with torch.random.fork_rng():
        models = {"fitted": made(), "new": Small()}
    result = USUAL.run(models, first(easy, 50), batch_size=20)
    assert list(result.rows) == [
        "model", "seed", "split", "index", "label", "attack", "eps", "prediction", "correct", "margin", "via",
        "gradient",
    ]  # fmt: skip
    (batch,) = first(easy, 50).batches(50)
    correct: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        expected = library.attacked(
            model, batch.image, batch.label, eps=0.02, step_size=0.005, steps=(4, 8), index=batch.index
        ) | {"clean": library.evaluate(model, batch.image, batch.label)}  # fmt: skip
        own = result.rows[result.rows["model"] == name]
        assert own["index"].is_monotonic_increasing
        correct[name] = {at: (outcome.prediction == batch.label).numpy() for at, outcome in expected.items()}
        for attack, outcome in expected.items():
            rows = own[own["attack"] == attack]
            assert rows["prediction"].tolist() == outcome.prediction.tolist()
            assert rows["correct"].tolist() == correct[name][attack].tolist()
            assert rows["margin"].tolist() == pytest.approx((-outcome.margin).tolist(), abs=1e-4)
        correct[name]["worst"] = correct[name]["pgd-8"] & correct[name]["cw-8"]
        entry = result[name]
        assert (list(entry["accuracies"]), entry["n"], entry["attacked"]) == (ATTACKS, 50, ["logits"])
        assert entry["accuracies"] == {at: pytest.approx(correct[name][at].mean()) for at in ATTACKS}
        assert entry["intervals"] == {at: pytest.approx(stats.share_interval(correct[name][at])) for at in ATTACKS}
    assert result["fitted"]["accuracies"]["clean"] > 0.8 > result["fitted"]["accuracies"]["pgd-8"] > 0.1
    assert [pair["attack"] for pair in result.summary["pairs"]] == ATTACKS
    for pair in result.summary["pairs"]:
        expected_pair = stats.paired_shares(*(correct[name][pair["attack"]] for name in models))
        assert (pair["difference"], *pair["ci"], pair["p"]) == pytest.approx(tuple(expected_pair))
    assert result.pairs["p_holm"].tolist() == pytest.approx(stats.holm(result.pairs["p"].to_numpy()).tolist())
    latex = result.to_latex()
    assert r"model & clean \% & FGSM \% & PGD-4 \% & PGD-8 \% & CW-4 \% & CW-8 \% & worst \% \\" in latex
    low, high = result["new"]["intervals"]["worst"]
    assert rf"& {100 * low:.2f} to {100 * high:.2f} \\" in latex
    assert "eps 0.02, step 0.005" in latex
    assert f"{100 * result['new']['accuracies']['cw-8']:.2f}" in str(result)


def test_worst_counts_images_right_under_both_longest_attacks(models: Path) -> None:
    """Recomputed from the rows, per seed and over them, for the pair and for the gap."""
    a, b = models / "a.pt", models / "b.pt"
    weak = Robustness(eps=0.001, step_size=0.0005, steps=(2, 4), gap=True)
    result = weak.run({"two": [a, b], "one": a}, attrib.dataset("glyphs", limit=60))
    longest = result.rows[result.rows["attack"].isin(["pgd-4", "cw-4"])]
    both = longest.groupby(["split", "model", "seed", "index"])["correct"].all()

    def share(split: str, *key: Any) -> float:
        return float(both.loc[(split, *key)].mean())

    for name in ("two", "one"):
        assert result[name]["accuracies"]["worst"] == pytest.approx(share("test", name))
        assert result[name]["gap"]["train"]["worst"] == pytest.approx(share("train", name))
    seeds = [seed["accuracies"]["worst"] for seed in result["two"]["seeds"]]
    assert seeds == pytest.approx([share("test", "two", seed) for seed in (0, 1)])
    pair = result.pairs.set_index("attack").loc["worst"]
    assert pair["difference"] == pytest.approx(share("test", "two") - share("test", "one"))
    assert result["two"]["accuracies"]["worst"] > 0
    # On answers that have nothing to do with each other no attack stands for both.
    rows = result.rows[result.rows["model"] == "one"].assign(correct=np.random.default_rng(0).random(60 * 12) < 0.7)
    of = {key: each["correct"].to_numpy() for key, each in rows.groupby(["split", "attack"])}
    for split in ("test", "train"):
        (found,) = weak.correct(Files([], [rows], [], []), split=split, eps=0.001)["worst"]
        assert found.tolist() == (of[split, "pgd-4"] & of[split, "cw-4"]).tolist()


def test_a_sweep_has_its_curve_and_starts_at_the_clean_accuracy(made: Callable[..., Small], easy: Dataset) -> None:
    sweep = Robustness(eps=np.linspace(0, 8 / 255, 3).tolist(), steps=(5,))
    result = sweep.run(made(), first(easy, 60))
    (entry,) = result.summary["models"]
    assert [point["eps"] for point in entry["sweep"]] == pytest.approx([0, 4 / 255, 8 / 255])
    assert [point["step_size"] for point in entry["sweep"]] == pytest.approx([0, 1 / 255, 2 / 255])
    assert len(set(entry["sweep"][0]["accuracies"].values())) == 1
    falling = [point["accuracies"]["pgd-5"] for point in entry["sweep"]]
    assert falling == sorted(falling, reverse=True) != [falling[0]] * 3
    assert entry["accuracies"] == entry["sweep"][-1]["accuracies"]
    alone = Robustness(eps=4 / 255, step_size=1 / 255, steps=(5,)).run(made(), first(easy, 60))
    assert alone.summary["models"][0]["accuracies"] == entry["sweep"][1]["accuracies"]
    assert result.summary["eps"] == pytest.approx(8 / 255)
    assert list(result.figures) == ["robust", "robust-eps"]
    assert "Accuracy by radius" in str(result)
    fixed = replace(sweep, step_size=0.004).run(made(), first(easy, 60))
    assert {point["step_size"] for point in fixed.summary["models"][0]["sweep"]} == {0.004}


def test_the_gap_is_that_of_two_runs_at_the_largest_radius(made: Callable[..., Small]) -> None:
    test, train = (attrib.dataset("glyphs", split=split, limit=60) for split in ("test", "train"))
    result = Robustness(eps=(0.0, 8 / 255), steps=(3,), gap=True).run(made(), test)
    one, other = (Robustness(eps=8 / 255, steps=(3,)).run(made(), data) for data in (test, train))
    entry, accuracies = result.summary["models"][0], other.summary["models"][0]["accuracies"]
    assert entry["accuracies"] == one.summary["models"][0]["accuracies"]
    assert entry["gap"]["train"] == accuracies
    for name, difference in entry["gap"]["difference"].items():
        low, high = entry["gap"]["intervals"][name]
        assert low <= difference <= high
        assert difference == pytest.approx(accuracies[name] - entry["accuracies"][name])
    assert set(result.rows.query("split == 'train'")["eps"]) == {0.0, 8 / 255}
    assert (result.rows.query("split == 'train' and eps == 0")["attack"] == "clean").all()
    assert result.table["gap_clean"].item() == entry["gap"]["difference"]["clean"]
    assert "generalisation gap" in str(result)


def test_the_gap_leaves_out_what_a_run_held_out(easy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training images of a checkpoint are those that its training says it trained on; of others, all."""
    monkeypatch.setitem(glyphs.COUNTS, "train", 300)  # fewer are faster
    test = attrib.dataset("glyphs", limit=150)

    def trained(**hyper: Any) -> Model:
        ckpt = Checkpoint(
            arch="lenet", arch_kwargs={}, num_classes=10, input_shape=(3, 32, 32), data="glyphs", method="standard",
            hyper=hyper, epoch=1, metrics={}, weights={},
        )  # fmt: skip
        return Model("a", "a.pt", "", checkpoint=ckpt)

    def positions(*models: Model) -> list[int]:
        data, taken = training_images(models, test)
        assert (data.split, taken is None) == ("train", False)
        return list(map(int, taken if taken is not None else ()))

    elsewhere = Model("b", "my:model", "")
    assert positions(elsewhere) == list(range(150))
    seeds = [{"holdout": 40, "seed": seed, "limit": 180} for seed in (0, 1)]
    kept = []
    for hyper in seeds:
        config = Config(method="standard", data="glyphs", arch="lenet", holdout=40, seed=hyper["seed"], limit=180)
        fit, held_out = _split(attrib.dataset("glyphs", split="train", limit=180), config)
        assert len(held_out) == 36  # at most a fifth
        kept.append(set(fit.tolist()))
    assert positions(trained(**seeds[0])) == sorted(kept[0])
    assert positions(*(trained(**hyper) for hyper in seeds), elsewhere) == sorted(kept[0] & kept[1])[:150]
    with pytest.raises(attrib.InputError, match="gap: expected training images that every model was trained on"):
        positions(trained(holdout=1, seed=0, limit=2))
    with pytest.raises(attrib.InputError, match="which easy is not"):
        training_images([elsewhere], easy)
    with pytest.raises(attrib.InputError, match=r"attrib\.dataset"):
        training_images([elsewhere], replace(easy, split="test"))


def test_worst_and_restarts_leave_no_more_standing(made: Callable[..., Small], easy: Dataset) -> None:
    (plain,) = USUAL.run(made(), first(easy, 100)).summary["models"]
    for options in ({"worst": True}, {"restarts": 3}, {"worst": True, "restarts": 2}):
        result = replace(USUAL, **options).run(made(), first(easy, 100))
        (entry,) = result.summary["models"]
        assert all(entry["accuracies"][name] <= value for name, value in plain["accuracies"].items())
    assert "worst of 2 random starts; broken is what any step breaks" in " ".join(str(result).split())


def test_a_result_is_the_same_for_any_batch_size_and_once_loaded(
    made: Callable[..., Small], easy: Dataset, tmp_path: Path
) -> None:
    models = {"NA": made(), "again": made()}
    result = USUAL.run(models, first(easy, 60), out=tmp_path)
    assert same(result, USUAL.run(models, first(easy, 60)))
    other = USUAL.run(models, first(easy, 60), batch_size=7)
    pd.testing.assert_frame_equal(result.rows, other.rows, rtol=1e-4, atol=1e-5)
    assert set(result.pairs["difference"]) == {0.0}  # it is the same model
    assert set(result.pairs["p"]) == {1.0}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "robust-figures.tex", "robust.csv", "robust.json", "robust.pdf", "robust.png", "robust.tex",
    ]  # fmt: skip
    loaded = Result.load(tmp_path)
    assert loaded.analysis == result.analysis
    assert loaded.table.equals(result.table)
    assert loaded.pairs.equals(result.pairs)
    assert (list(loaded.figures), loaded.to_latex()) == (["robust"], result.to_latex())
    assert "<table" in loaded._repr_html_()
    (row,) = result.table.query("name == 'NA'").to_dict("records")
    assert [row["accuracy_fgsm_low"], row["accuracy_fgsm_high"]] == result["NA"]["intervals"]["fgsm"]
    one = USUAL.run(made(), first(easy, 1), out=tmp_path)  # one image has no interval
    assert list(Result.load(tmp_path).figures) == ["robust"]
    assert np.isnan(one.table["accuracy_fgsm_low"].item())


@pytest.mark.parametrize("stop_at", [2, 8])
def test_an_interrupted_run_continues(
    made: Callable[..., Small], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Stopped in the test images, and, at the eighth of ten batches, in the training images."""
    analysis, models = Robustness(steps=(3,), gap=True), {"a": made(), "NA": made(Small, 0.5)}
    data = attrib.dataset("glyphs", limit=50)
    expected = analysis.run(models, data, batch_size=10)
    attacked, calls = library.attacked, 0

    def counted(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 * stop_at:  # the second model of the batch
            raise KeyboardInterrupt
        return attacked(*arguments, **settings)

    monkeypatch.setattr(library, "attacked", counted)
    with pytest.raises(Stopped, match="the same command continues where it stopped"):
        analysis.run(models, data, batch_size=10, out=tmp_path)
    assert len(list(tmp_path.glob(".robust-*"))) == 1
    assert same(analysis.run(models, data, batch_size=10, out=tmp_path), expected)
    assert calls == 2 * stop_at + 2 * (10 - stop_at + 1)  # only what was missing
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("kind", "scale", "words"),
    [(Small, 1e6, "gradient of the loss is zero on"), (Detached, 1, "is zero on 80 of 80"), (Small, 0, "commonest")],
)
def test_what_an_expert_would_object_to(
    made: Callable[..., Small], easy: Dataset, kind: type[Small], scale: float, words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    result = USUAL.run({"mine": made(kind, scale)}, first(easy, 80))
    assert any(line.startswith("mine: ") and words in line for line in result.warnings)
    assert f"attrib: warning: {result.warnings[0]}" in capsys.readouterr().err


def test_steps_too_short_are_told(made: Callable[..., Small], easy: Dataset) -> None:
    result = Robustness(eps=0.3, step_size=0.01, steps=(10,)).run(made(), first(easy, 10))
    assert "10 steps of 0.01 cannot reach the edge of eps 0.3" in result.warnings[0]


def test_a_gated_model_says_which_attacks_count(tmp_path: Path, untrained: Any) -> None:
    paths = ["logits", "combined", "head 1", "head 2"]
    gated = untrained(tmp_path / "gated.pt", arch="resnet32", gated=True)
    result = Robustness(steps=(2,)).run(gated, attrib.dataset("glyphs", limit=6))
    assert result["gated"]["attacked"] == paths
    words = f"gated is gated: the worst, image by image, of attacks on {', '.join(paths)}"
    assert words in " ".join(str(result).split())
    assert words in result.to_latex()
    assert set(result.rows.query("attack == 'pgd-2'")["via"]) <= set(paths)


def test_autoattack_is_a_column(made: Callable[..., Small], easy: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("pyautoattack")
    # At this radius its first part breaks every image, and the others have nothing left to do.
    result = Robustness(eps=0.4, steps=(2,), autoattack=True).run(made(), first(easy, 4), out=tmp_path)
    assert result.summary["autoattack"] == {"version": "standard", "parts": ["apgd-ce", "apgd-t", "fab-t", "square"]}
    assert result.summary["models"][0]["accuracies"]["autoattack"] == 0
    assert set(result.rows.query("attack == 'autoattack'")["via"]) <= {"clean", "apgd-ce"}
    assert not list(tmp_path.glob(".*"))


def test_autoattack_below_four_classes_says_what_ran(easy: Dataset) -> None:
    pytest.importorskip("pyautoattack")
    three = replace(first(easy, 4), classes=("a", "b", "c"), labels=torch.tensor([0, 1, 2, 0]))
    model = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(3, 3))
    result = Robustness(eps=0.5, steps=(2,), autoattack=True).run(model, three)
    words = "(apgd-ce, fab-t, square), without apgd-t, which needs four classes"
    assert words in " ".join(str(result).split())


def test_options_take_one_number_or_several() -> None:
    assert Robustness(eps=[0.1, 0, 0.1], steps=[4, 2]).options().items() >= {"eps": [0.0, 0.1], "steps": [2, 4]}.items()
    assert (Robustness(eps=[0.1]).eps, Robustness(steps=[3, 3]).steps) == (0.1, (3,))
    assert parse_eps("0:8/255:3") == pytest.approx((0, 4 / 255, 8 / 255))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"eps": 2}, "eps: expected a number in"), ({"eps": ["x"]}, "eps: expected a number or several"),
        ({"steps": ()}, "steps: expected"), ({"steps": 2.5}, "steps: expected"), ({"step_size": -1}, "step_size: exp"),
    ]  # fmt: skip
    for options, words in wrong:
        with pytest.raises(attrib.InputError, match=words):
            Robustness(**options)


def test_two_processes_give_what_one_gives(run: Any, models: Path, tmp_path: Path, two_processes: Any) -> None:
    given = ("--ckpt", models / "a.pt", f"b={models}/b.pt", "--eps", "0:0.002:2", "--steps", "1,2", "--gap")
    command = ("robust", *given, "--limit", 50, "--batch-size", 8, "--json", "--out")
    two = two_processes(*command, tmp_path / "two")
    assert json.loads(run(*command, tmp_path / "one").out) == two
    tables = [(tmp_path / name / "robust.csv").read_text() for name in ("one", "two")]
    assert tables[0] == tables[1]


BAD = [
    ((), "nothing to look at"),
    (("A", "--steps", "ten"), "--steps: expected numbers"),
    (("A", "--steps", "0,5"), "--steps: expected at least 1"),
    (("A", "--eps", "8"), "--eps: expected a number in [0,1]"),
    (("A", "--eps", "0:0.1"), "--eps: expected a radius or FROM:TO:COUNT"),
    (("A", "--eps", "0:0.1:1"), "--eps: expected a radius or FROM:TO:COUNT"),
    (("A", "--eps", "0.1:0:3"), "--eps: expected a sweep from a smaller"),
    (("A", "--step-size", "x"), "--step-size: expected a number"),
    (("A", "--restarts", "0"), "--restarts: expected at least 1"),
    (("A", "--batch-size", "0"), "--batch-size: expected at least 1"),
    (("A", "--gap", "--split", "train"), "--gap: compares"),
    (("A", "--gap", "--data", "npz:easy.npz"), "into training and test images, which npz:easy.npz is not"),
    (("A", "--precision", "fp8"), "precision: expected one of auto, fp32, bf16"),
    (("A", "--device", "tpu"), "device: expected auto"),
    (("A", "--out", "easy.npz"), "out (--out): expected a folder, found a file at"),
    (("A", "--ckpt", "missing.pt"), "no such file"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments[-2:]) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_status_2(
    run: Any, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("easy.npz", images=np.zeros((4, 32, 32, 3), np.uint8), labels=np.arange(4), classes=list("abcdefghij"))
    given = [str(models / "a.pt") if each == "A" else each for each in arguments]
    assert words in run("robust", *given, *(("--data", "glyphs") if "--data" not in given else ())).refused(warned=True)


def test_a_missing_package_is_named(run: Any, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    assert "pip install attrib[autoattack]" in run("robust", models / "a.pt", "--autoattack").refused()
