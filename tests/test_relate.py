"""``attrib relate`` and its statistics, against scipy, loops, and the library by hand."""

import doctest
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import attrib
from attrib import relate, stats
from attrib.analyses.evolve import Evolution
from attrib.analyses.options import Attack
from attrib.analyses.relate import MEASURES, Relation
from attrib.analyses.result import Result
from attrib.data import Dataset
from attrib.models.checkpoint import Checkpoint
from train.config import Config
from train.loop import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that has learned a little: its folder."""
    out = tmp_path_factory.mktemp("runs") / "standard"
    config = Config(
        method="standard", data="glyphs", arch="lenet", limit=1300, holdout=100, batch_size=50, epochs=2,
        optimizer="adam", lr=3e-3, weight_decay=0, precision="fp32", steps=1, save_every=1,
    )  # fmt: skip
    train(config, out, device="cpu")
    return out


def test_examples_of_the_docstrings() -> None:
    result = doctest.testmod(relate)
    assert (result.failed, result.attempted > 4) == (0, True)


def test_relations_of_seeds_are_means_with_intervals_over_seeds_and_images() -> None:
    draw = np.random.default_rng(3)
    margin = draw.normal(1, 1, 90) + draw.normal(0, 0.3, (3, 90))
    values, correct = margin + draw.normal(0, 2, (3, 90)), draw.random((3, 90)) < 0.8
    attacked = margin - 1 + draw.normal(0, 0.5, (3, 90))
    *each, method = relate.relations(values, margin, attacked, correct)
    for row, found in enumerate(each):
        assert found == relate.relation(values[row], margin[row], attacked[row], correct[row])
    for name in ("margin", "margin_correct", "partial"):
        rho = [found[name].rho for found in each]
        assert method[name].rho == pytest.approx(np.mean(rho))
        assert method[name].low < method[name].rho < method[name].high
        assert 0 < method[name].p <= 1
    assert method["broken"].difference == pytest.approx(np.mean([found["broken"].difference for found in each]))
    # Three files alike: no spread over seeds, and about the interval of one.
    x, y, z = (np.repeat(array[:1], 3, 0) for array in (values, margin, attacked))
    alike = relate.relations(x, y, z, np.repeat(correct[:1], 3, 0))[-1]
    for name in ("broken", "margin"):
        one = each[0][name]
        assert (alike[name].low, alike[name].high) == pytest.approx(
            (one.low, one.high), abs=0.15 * (one.high - one.low)
        )


@pytest.mark.parametrize(("models", "interval"), [(2, False), (3, False), (6, True)])
def test_few_models_have_no_interval(models: int, interval: bool) -> None:
    x = np.arange(models, dtype=float)
    y = x.copy()
    y[[0, -1]] = y[[-1, 0]]
    found = relate.across_models(x, y)
    assert np.isfinite(found.low) == interval
    assert np.isfinite(found.rho) == (models > 2)
    assert np.isnan(relate.across_models(x, x).low)  # in perfect order Fisher's z is infinite


def test_the_interval_over_models_holds_the_truth_also_of_few() -> None:
    draw = np.random.default_rng(0)
    for models, rho, count in ((5, 0.5, 100), (6, 0.7, 100), (12, 0.0, 50)):
        # Of normal numbers Spearman's correlation is 6/pi asin(r/2).
        r = 2 * np.sin(np.pi * rho / 6)
        hits = trials = 0
        for _ in range(count):
            x, y = draw.multivariate_normal([0, 0], [[1, r], [r, 1]], models).T
            found = relate.across_models(x, y)
            trials += not np.isnan(found.low)
            hits += found.low <= rho <= found.high
        assert 0.9 <= hits / trials <= 1


def test_the_interval_over_images_is_the_bootstrap_of_the_models_means() -> None:
    draw = np.random.default_rng(1)
    x = [draw.random((seeds, 60)) + 0.03 * number for number, seeds in enumerate((1, 2, 1, 3, 1))]
    y = [draw.random((len(rows), 60)) < 0.3 + 0.07 * number for number, rows in enumerate(x)]
    x[1][0, :20] = np.nan
    low, high = relate.order_over_images(x, [rows.astype(float) for rows in y])
    generator, slow = np.random.default_rng(9), []
    for _ in range(1500):
        rows = generator.integers(60, size=60)
        means = [[np.nanmean(each[:, rows], 1).mean() for each in side] for side in (x, y)]
        slow.append(spearmanr(*means).statistic)
    assert (low, high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.11)
    assert low < spearmanr(*([np.nanmean(each, 1).mean() for each in side] for side in (x, y))).statistic < high
    assert np.isnan(relate.order_over_images(x[:2], x[:2])).all()
    same = [np.ones((1, 60))] * 4
    assert np.isnan(relate.order_over_images(x[:4], same)).all()


SHORT = Attack("pgd", step_size=4 / 255, steps=2)
ENDS = ["difference", "low", "high", "p"]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return attrib.dataset("glyphs", limit=90)


def test_rows_and_summary_are_what_the_library_gives_by_hand(data: Dataset, trained: Path, tmp_path: Path) -> None:
    models = {"standard": trained / "model.pt", "way": trained}
    result = Relation(attack=SHORT, precision="fp32").run(models, data, batch_size=40, device="cpu", out=tmp_path)
    assert not result.warnings
    assert list(result.table["name"]) == ["standard"]
    assert len(result.rows) == 3 * 90
    rows = result.rows[result.rows["epoch"].isna()].reset_index(drop=True)
    assert rows["index"].tolist() == list(range(90))

    model, _ = attrib.load(trained / "model.pt")
    (batch,) = data.batches(90)
    adversarial = attrib.pgd(model, batch.image, batch.label, eps=8 / 255, step_size=4 / 255, steps=2)
    spans = [attrib.span(attrib.gradcam(model, image, batch.label)) for image in (batch.image, adversarial)]
    np.testing.assert_allclose(rows["coverage"], attrib.coverage(spans[0]), atol=2e-3)
    np.testing.assert_allclose(rows["span_iou"], attrib.iou(*spans), atol=2e-2)
    ratio = attrib.participation_ratio(attrib.contribution(model, batch.image, batch.label))
    np.testing.assert_allclose(rows["participation_ratio"], ratio, rtol=1e-3)
    with torch.no_grad():
        z = model(adversarial)
    expected = [float(z[n, y] - max(z[n, k] for k in range(10) if k != y)) for n, y in enumerate(batch.label.tolist())]
    np.testing.assert_allclose(rows["margin_adversarial"], expected, rtol=1e-3, atol=1e-3)

    entry, across = result["standard"], result.summary["across"]
    right = rows["correct"]
    broken, stood = rows[right & (rows["margin_adversarial"] <= 0)], rows[right & (rows["margin_adversarial"] > 0)]
    assert min(len(broken), len(stood)) > 5  # nothing below is vacuous
    assert (entry["broken"], entry["stood"], entry["note"]) == (len(broken), len(stood), None)
    for measure in MEASURES:
        parts = entry[measure]
        assert parts["broken"]["difference"] == pytest.approx(broken[measure].mean() - stood[measure].mean())
        assert parts["margin"]["rho"] == pytest.approx(spearmanr(rows[measure], rows["margin_adversarial"]).statistic)
        assert parts["broken"]["p"] <= parts["broken"]["p_holm"] <= 1
        assert across["points"][0][measure] == pytest.approx(rows[measure].mean())
    points = [(point["name"], point["epoch"]) for point in across["points"]]
    assert points == [("standard", None), ("way", 1), ("way", 2)]
    assert "3 models" in across["note"]
    for suffix in ("csv", "json", "tex", "pdf", "png"):
        assert (tmp_path / f"relate.{suffix}").stat().st_size > 0
    assert not list(tmp_path.glob(".*"))


def test_two_runs_are_compared_at_their_last_epochs_and_loaded_again(
    data: Dataset, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "epoch-1.pt").symlink_to(trained / "epoch-1.pt")
    runs = {"one": tmp_path / "first", "two": trained}
    analysis = Relation(map="gradient", attack=Attack("fgsm"), precision="fp32")
    result = analysis.run(runs, data, device="cpu", out=tmp_path)
    assert [(entry["name"], entry["epoch"]) for entry in result.summary["models"]] == [("one", 1), ("two", 2)]
    one, two = (result.rows.query("model == @run and epoch == @last") for run, last in (("one", 1), ("two", 2)))
    pairs = result.pairs.set_index("quantity")
    accuracies = [(rows["margin_adversarial"] > 0).to_numpy() for rows in (one, two)]
    expected = {
        "robust_accuracy": stats.paired_shares(*accuracies),
        **{measure: stats.paired(one[measure].to_numpy(), two[measure].to_numpy()) for measure in MEASURES},
    }
    for quantity, paired in expected.items():
        assert pairs.loc[[quantity], ENDS].to_numpy()[0] == pytest.approx(np.array(paired))
    rho = [spearmanr(rows["coverage"], rows["margin_adversarial"]).statistic for rows in (one, two)]
    assert pairs.loc["rho_coverage", "difference"] == pytest.approx(rho[0] - rho[1])
    assert list(pairs["p_holm"]) == list(stats.holm(pairs["p"].to_numpy()))

    again = Result.load(tmp_path)
    assert again.table.equals(result.table)
    assert str(again) == str(result)
    assert set(again.figures) == {"relate"}
    assert "tabular" in again.to_latex()
    assert "<table" in again._repr_html_()


def test_without_an_attack_no_image_is_broken(trained: Path, tmp_path: Path) -> None:
    images = attrib.dataset("glyphs", limit=30)
    result = Relation(attack=Attack("pgd", eps=0, steps=1)).run(trained, images, device="cpu", out=tmp_path)
    (entry,) = result.summary["models"]
    assert (entry["epoch"], entry["broken"], entry["note"]) == (2, 0, "all images are robust: the attack turned none")
    assert "all images are robust: the attack turned none" in str(result)
    assert np.isnan(entry["coverage"]["broken"]["difference"])
    assert np.isnan(entry["span_iou"]["margin"]["rho"])  # 1 on every image
    assert Result.load(tmp_path).figures.keys() == {"relate"}


def test_the_layer_and_the_last_layer_are_those_named(trained: Path) -> None:
    """A saved epoch's maps are at the layer named; the last layer of a network of one's own may be named as well."""
    images = attrib.dataset("glyphs", limit=12)
    model, _ = attrib.load(trained / "epoch-2.pt")
    analysis = Relation(layer="stages.0", attack=Attack("fgsm"))
    rows = analysis.run({"file": trained / "epoch-2.pt", "way": trained}, images, device="cpu").rows
    of_file, of_epoch = rows[rows["epoch"].isna()], rows[rows["epoch"] == 2]
    assert of_file["grid"].iloc[0] != "8x8"
    np.testing.assert_array_equal(of_file["coverage"], of_epoch["coverage"])
    own = Relation(map="gradient", fc="fc", attack=Attack("fgsm")).run({"own": model}, images, device="cpu").rows
    np.testing.assert_allclose(own["participation_ratio"], of_epoch["participation_ratio"])


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    place = tmp_path_factory.mktemp("bad")
    (place / "empty").mkdir()
    (place / "run").symlink_to(trained)
    (place / "model.pt").write_bytes((trained / "model.pt").read_bytes())
    model, ckpt = attrib.load(place / "model.pt")
    other = {field: getattr(ckpt, field) for field in ("arch", "arch_kwargs", "num_classes", "input_shape")}
    made = Checkpoint(
        **other, data="cifar10", method="standard", hyper={}, epoch=1, metrics={}, weights=model.state_dict()
    )
    attrib.save(made, place / "other.pt")
    return place


A = ("--ckpt", "{bad}/model.pt")
BAD = [
    ((), "nothing to look at"),
    (("--run", "{bad}/empty"), "--save-every 1"),
    (("--run", "{bad}/nowhere"), "found nothing"),
    (("--run", "{bad}/run", "--run", "{bad}/run"), "two runs are called 'standard'"),
    ((*A, "--ckpt", "{bad}/other.pt"), "trained on different data"),
    ((*A, "--attack", "none"), "--attack: expected fgsm, pgd or cw"),
    ((*A, "--threshold", "median"), "threshold: expected"),
    ((*A, "--map", "lime"), "--map: expected one of"),
    ((*A, "--batch-size", "0"), "--batch-size: expected at least 1"),
    ((*A, "--precision", "fp8"), "precision: expected"),
    ((*A, "--fc", "fc"), "--fc: expected a model that is not a checkpoint"),
    (("--run", "{bad}/model.pt"), "model.pt, found a file"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_status_2(run: Any, bad: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in run("relate", *(argument.format(bad=bad) for argument in arguments)).refused()


def test_the_floor_stands_beside_every_coverage(data: Dataset, trained: Path) -> None:
    models = {"standard": trained / "model.pt", "way": trained}
    given: dict[str, Any] = {"attack": SHORT, "threshold": "otsu", "precision": "fp32", "seed": 3}
    result = Relation(floor=8, **given).run(models, data, device="cpu")
    model, _ = attrib.load(trained / "model.pt")
    floor = attrib.asc_floor(model, data, threshold="otsu", images=8, seed=3)
    points = result.summary["across"]["points"]
    for entry in (result["standard"], *points):
        assert (entry["asc_floor"], *entry["asc_floor_range"]) == pytest.approx(floor, abs=1e-6)
    evolution = Evolution(floor=8, **given).run(trained, data, device="cpu")
    assert evolution.rows["asc_floor"].tolist() == pytest.approx([floor.asc] * (len(points) - 1), abs=1e-6)
    dotted = [line for axes in evolution.plot("evolve").axes for line in axes.lines if line.get_linestyle() == ":"]
    assert any(np.allclose(line.get_ydata(), 100 * floor.asc) for line in dotted)
    for found in (result, evolution):
        assert f"{100 * floor.asc:.2f} ({100 * floor.low:.2f} to {100 * floor.high:.2f})" in str(found)
        assert "first 8 clean images" in " ".join(str(found).split())
        analysis: Any = found.analysis
        without = replace(analysis, floor=0).run(models if found is result else trained, data, device="cpu")
        assert "floor" not in str(without).lower()
        assert not [name for name in (*without.table, *without.rows) if "floor" in name]


def test_what_is_robust_is_told_by_markers_and_not_by_colour_alone(data: Dataset, trained: Path) -> None:
    result = Relation(attack=SHORT, floor=0).run({"standard": trained / "model.pt"}, data, device="cpu")
    drawn: Any = result.plot().axes[0].collections
    shapes = {each.get_paths()[0].vertices.tobytes() for each in drawn}
    counts = [len(each.get_offsets()) for each in drawn]
    entry = result["standard"]
    assert counts == [entry["stood"], entry["broken"], len(data) - entry["correct"]]
    assert len(shapes) == len(drawn) == 3
    assert [bool(len(each.get_facecolor())) for each in drawn[:2]] == [True, False]
