"""``attrib relate`` and its statistics: against scipy, loops, and what the library gives by hand."""

import doctest
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from attrib.cli.relate import MEASURES
from scipy.stats import spearmanr

import attrib
from attrib import relate
from attrib.models.checkpoint import Checkpoint
from train.config import Config
from train.loop import train

SHORT = ("--steps", 2, "--step-size", "4/255", "--precision", "fp32", "--device", "cpu")


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


def test_csv_and_summary_are_what_the_library_gives_by_hand(run: Any, trained: Path, tmp_path: Path) -> None:
    given = ("relate", "--ckpt", trained / "model.pt", "--run", f"way={trained}", "--limit", 90, *SHORT)
    done = run(*given, "--batch-size", 40, "--out", tmp_path, "--json")
    assert (done.status, done.err) == (0, "")
    summary = json.loads(done.out)
    assert summary == json.loads((tmp_path / "relate.json").read_text())
    table = pd.read_csv(tmp_path / "relate.csv")
    rows = table[table["epoch"].isna()].reset_index(drop=True)
    assert rows["index"].tolist() == list(range(90))
    assert len(table) == 3 * 90

    model, _ = attrib.load(trained / "model.pt")
    (batch,) = attrib.dataset("glyphs", limit=90).batches(90)
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

    (entry,) = summary["models"]
    right = rows["correct"]
    broken, stood = rows[right & (rows["margin_adversarial"] <= 0)], rows[right & (rows["margin_adversarial"] > 0)]
    assert min(len(broken), len(stood)) > 5  # nothing below is vacuous
    assert (entry["broken"], entry["stood"], entry["note"]) == (len(broken), len(stood), None)
    for measure in MEASURES:
        found = entry[measure]
        assert found["broken"]["difference"] == pytest.approx(broken[measure].mean() - stood[measure].mean())
        assert found["margin"]["rho"] == pytest.approx(spearmanr(rows[measure], rows["margin_adversarial"]).statistic)
        assert found["broken"]["p"] <= found["broken"]["p_holm"] <= 1
        points = [point[measure] for point in summary["across"]["points"]]
        assert points[0] == pytest.approx(rows[measure].mean())
    assert [(point["name"], point["epoch"]) for point in summary["across"]["points"]] == [
        ("standard", None), ("way", 1), ("way", 2),
    ]  # fmt: skip
    assert "3 models" in summary["across"]["note"]
    for suffix in ("csv", "json", "tex", "pdf", "png"):
        assert (tmp_path / f"relate.{suffix}").stat().st_size > 0
    assert not list(tmp_path.glob(".*"))


def test_without_an_attack_no_image_is_broken(run: Any, trained: Path, tmp_path: Path) -> None:
    done = run("relate", "--run", trained, "--limit", 30, "--eps", 0, *SHORT, "--out", tmp_path)
    assert done.status == 0, done.err
    assert "no broken images" in done.out
    (entry,) = json.loads((tmp_path / "relate.json").read_text())["models"]
    assert (entry["epoch"], entry["broken"], entry["note"]) == (2, 0, "no broken images")
    assert entry["coverage"]["broken"]["difference"] is None
    assert entry["span_iou"]["margin"]["rho"] is None  # 1 on every image


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    place = tmp_path_factory.mktemp("bad")
    (place / "empty").mkdir()
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
    (("--run", "{bad}/empty", "--run", "{bad}/empty"), "two runs are called 'empty'"),
    ((*A, "--ckpt", "{bad}/other.pt"), "trained on different data"),
    ((*A, "--attack", "none"), "--attack: expected fgsm, pgd or cw"),
    ((*A, "--threshold", "median"), "threshold: expected"),
    ((*A, "--map", "lime"), "--map: expected one of"),
    ((*A, "--batch-size", "0"), "--batch-size: expected at least 1"),
    ((*A, "--precision", "fp8"), "precision: expected auto, fp32 or bf16"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_status_2(run: Any, bad: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in run("relate", *(argument.format(bad=bad) for argument in arguments)).refused()
