"""The analysis ``Checks``: its numbers equal those of the functions, whole or in batches; its files."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import attrib
from attrib import faithfulness, randomisation, spans, stats
from attrib.analyses.check import CHECKS, CURVES, Checks
from attrib.analyses.options import Attack
from attrib.analyses.result import Result
from attrib.plots.check import cascade_and_curves

short = partial(Checks, attack=Attack("pgd", step_size=4 / 255, steps=2), curve_steps=4, precision="fp32")


@pytest.fixture
def run(run: Any) -> Any:
    return partial(run, "check")


@pytest.fixture(scope="module")
def two(models: Path) -> Result:
    """Two lenets on 15 images."""
    return short().run({"first": models / "a.pt", "b": models / "b.pt"}, attrib.dataset("glyphs", limit=15))


def test_every_check_has_its_line(two: Result) -> None:
    for entry in two.summary["models"]:
        assert [line["check"] for line in entry["checks"]] == [check.key for check in CHECKS]
        for line in entry["checks"]:
            assert line["n"] <= entry["n"] == 15
            assert line["ci"][0] <= line["value"] <= line["ci"][1]
            assert line["margin_ci"][0] <= line["margin"] <= line["margin_ci"][1]
        assert [stage["lowest"] for stage in entry["cascade"]] == ["fc", "pool.2", "stages.1.0", "stages.0.0"]
        assert {name: len(curve) for name, curve in entry["curves"].items()} == dict.fromkeys(CURVES, 5)
    control = {line["check"]: line["value"] for line in two.summary["control"]["checks"]}
    assert control.keys() == {"similarity", "ssim", "inside", "pointing"}
    assert (control["similarity"], control["ssim"]) == pytest.approx((1, 1))


def test_tables_and_differences_are_those_of_the_rows(two: Result) -> None:
    rows = dict(iter(two.rows.groupby("model")))
    assert two.pairs["quantity"].tolist() == [f"{check.key}_margin" for check in CHECKS]
    for check, (_, pair) in zip(CHECKS, two.pairs.iterrows(), strict=True):
        margins = [rows[name][check.value].to_numpy(float) - rows[name][check.control] for name in ("first", "b")]
        expected = stats.paired(*margins)
        assert (pair["difference"], pair["low"], pair["high"], pair["p"]) == pytest.approx(tuple(expected))
        np.testing.assert_allclose(
            two.table[check.key], [rows[name][check.value].mean() for name in ("first", "b")], rtol=1e-5
        )
        np.testing.assert_allclose(two.table[f"{check.key}_margin"], [margin.mean() for margin in margins], rtol=1e-5)
    assert (two.pairs["p_holm"] >= two.pairs["p"]).all()


def test_the_rows_are_those_of_the_functions_in_batches_of_any_size(models: Path, tmp_path: Path) -> None:
    analysis, data = short(threshold="max:0.3", baseline="black"), attrib.dataset("glyphs", limit=20)
    result = analysis.run({"a": models / "a.pt"}, data, out=tmp_path)
    table = result.rows
    model, _ = attrib.load(models / "a.pt")
    (batch,) = data.batches(20)
    image, label, index, mask = batch
    assert mask is not None
    maps = attrib.gradcam(model, image, label)
    span = attrib.span(maps, threshold="max:0.3")
    *_, last = randomisation.cascade(model, image)
    dropped = faithfulness.span_deletion(model, image, label, span, index=index, baseline="black")
    curve = faithfulness.insertion(model, image, label, maps, steps=4, baseline="black")
    adversarial = attrib.pgd(model, image, label, index=index, eps=8 / 255, step_size=4 / 255, steps=2)
    expected = {
        "similarity": randomisation.spearman(maps, attrib.gradcam(last.model, image, label)),
        "insertion": faithfulness.area(curve, 1024), "insertion_3": curve[:, 3],
        "drop": dropped.span, "drop_random": dropped.random, "drop_moved": dropped.moved,
        "inside": spans.inside(span, mask), "pointing": spans.pointing(maps, mask),
        "iou": spans.iou(span, attrib.span(attrib.gradcam(model, adversarial, label), threshold="max:0.3")),
    }  # fmt: skip
    for name, values in expected.items():
        np.testing.assert_allclose(table[name], values.double().numpy(), atol=1e-5, err_msg=name)
    assert table["index"].tolist() == index.tolist()
    again = analysis.run({"a": models / "a.pt"}, data, batch_size=7).rows
    pd.testing.assert_frame_equal(table, again, atol=0.02, rtol=0)  # a pixel of a span may turn with the batch
    assert {path.name for path in tmp_path.iterdir()} == {
        f"check{end}" for end in (".csv", ".json", ".tex", "-figures.tex", ".pdf", ".png")
    }
    loaded = Result.load(tmp_path)
    assert loaded.table.equals(result.table)
    assert loaded.to_latex() == (tmp_path / "check.tex").read_text()
    assert list(loaded.figures) == ["check"]
    assert "↓ lower" in str(loaded)


def test_without_masks_or_an_attack_their_lines_are_left_out(models: Path) -> None:
    (batch,) = attrib.dataset("glyphs", limit=10).batches(10)
    analysis = Checks(attack=None, map="gradient", target="prediction", stages=2, curve_steps=2)
    result = analysis.run(models / "a.pt", (batch.image, torch.arange(10)))
    (entry,) = result.summary["models"]
    kept = {line["check"] for line in entry["checks"]}
    assert kept == {"similarity", "floor", "ssim", "insertion", "deletion", "span_vs_random", "span_vs_moved"}
    assert [stage["layers"] for stage in entry["cascade"]] == [1, 4]


def test_a_model_whose_maps_are_all_empty(tmp_path: Path) -> None:
    linear = nn.Linear(3072, 10)
    nn.init.zeros_(linear.weight)
    analysis = Checks(attack=None, map="gradient", curve_steps=2)
    result = analysis.run(
        {"flat": nn.Sequential(nn.Flatten(), linear)}, attrib.dataset("glyphs", limit=4), out=tmp_path
    )
    assert result.table["similarity"].isna().all()  # what is constant has no rank correlation
    assert "floor" not in result.table
    loaded = Result.load(tmp_path)
    assert loaded["flat"]["cascade"][0]["similarity"] is None
    assert list(loaded.figures) == ["check"]


def test_the_figure_has_as_much_room_for_each_layer_s_name(two: Result) -> None:
    summary = json.loads(json.dumps(two.summary))
    for entry in summary["models"]:  # as if they had 60 layers: the first stage is near none at all
        for stage, layers in zip(entry["cascade"], (1, 21, 40, 60), strict=True):
            stage.update(layers=layers, of=60)
    left = cascade_and_curves(summary, title="").axes[0]
    names = ["none", "fc", "pool.2", "stages.1.0", "stages.0.0"]
    assert [label.get_text() for label in left.get_xticklabels()] == names
    assert left.get_xticks() == pytest.approx([0, 25, 50, 75, 100])
    assert left.lines[0].get_xdata() == pytest.approx(left.get_xticks())
    summary["models"][1]["cascade"][0]["lowest"] = "head"  # other names: the share of the layers stands below
    left = cascade_and_curves(summary, title="").axes[0]
    assert left.lines[0].get_xdata() == pytest.approx([0, 100 / 60, 35, 200 / 3, 100])
    assert "layers re-initialised" in left.get_xlabel()


def test_two_processes_print_what_one_does(run: Any, models: Path, two_processes: Any) -> None:
    given = ["--ckpt", models / "a.pt", "--limit", 12, "--batch-size", 6, "--steps", 2, "--curve-steps", 4, "--json"]
    assert two_processes("check", *given) == json.loads(run(*given, "--device", "cpu").out)


BAD = [
    ((), "nothing to look at"),
    (("--ckpt", "{models}/a.pt", "--map", "lime"), "--map: expected one of gradient"),
    (("--ckpt", "{models}/a.pt", "--threshold", "max:2"), "threshold: expected mean"),
    (("--ckpt", "{models}/a.pt", "--baseline", "blur"), "--baseline: expected one of mean, black"),
    (("--ckpt", "{models}/a.pt", "--attack", "deepfool"), "--attack: expected fgsm, pgd or cw"),
    (("--ckpt", "{models}/a.pt", "--attack", "none", "--eps", "0.1"), "need --attack"),
    (("--ckpt", "{models}/a.pt", "--stages", "0"), "--stages: expected at least 1"),
    (("--ckpt", "{models}/a.pt", "--curve-steps", "2000", "--limit", "5"), "--curve-steps: expected 1 to 1024"),
    (("--ckpt", "{models}/a.pt", "--batch-size", "0"), "--batch-size: expected at least 1"),
    (("--ckpt", "{models}/d.pt"), "no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_input_is_one_line_and_status_2(run: Any, models: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in run(*(argument.format(models=models) for argument in arguments)).refused()
