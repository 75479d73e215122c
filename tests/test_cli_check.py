"""``attrib check``: its keys, the same whole or in pieces, and its files."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import attrib
from attrib import faithfulness, randomisation, spans
from attrib.cli import check as command
from attrib.plots.check import cascade_and_curves

SHORT = ("--steps", 2, "--step-size", "4/255", "--curve-steps", 4, "--precision", "fp32")


@pytest.fixture
def run(run: Any) -> Any:
    return partial(run, "check")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, untrained: Any) -> Path:
    """a.pt, b.pt and c.pt: lenets as they are made."""
    place = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("abc"):
        untrained(place / f"{name}.pt", seed)
    return place


def test_json_is_one_object_with_its_keys(run: Any, models: Path) -> None:
    done = run("--ckpt", f"first={models}/a.pt", "--ckpt", models / "b.pt", "--limit", 15, "--json", *SHORT)
    assert (done.status, done.err) == (0, "")
    summary = json.loads(done.out)
    assert summary.keys() == {
        "data", "split", "map", "threshold", "target", "baseline", "attack", "seed", "precision", "fractions", "models",
        "control", "versions",
    }  # fmt: skip
    assert [entry["name"] for entry in summary["models"]] == ["first", "b"]
    for entry in summary["models"]:
        assert [line["check"] for line in entry["checks"]] == [line.key for line in command.CHECKS]
        for line in entry["checks"]:
            assert line["better"] in ("higher", "lower")
            assert line["n"] <= entry["n"] == 15
            assert line["ci"][0] <= line["value"] <= line["ci"][1]
            assert line["margin_ci"][0] <= line["margin"] <= line["margin_ci"][1]
        assert [stage["lowest"] for stage in entry["cascade"]] == ["fc", "pool.2", "stages.1.0", "stages.0.0"]
        assert {name: len(curve) for name, curve in entry["curves"].items()} == dict.fromkeys(command.CURVES, 5)
    control = {line["check"]: line["value"] for line in summary["control"]["checks"]}
    assert control.keys() == {"similarity", "ssim", "inside", "pointing"}
    assert (control["similarity"], control["ssim"]) == pytest.approx((1, 1))


def test_the_rows_are_those_of_the_functions_in_batches_of_any_size(run: Any, models: Path, tmp_path: Path) -> None:
    given = ("--ckpt", models / "a.pt", "--limit", 20, "--threshold", "max:0.3", "--baseline", "black", *SHORT)
    done = run(*given, "--out", tmp_path)
    assert done.status == 0
    assert "↓ lower" in done.out
    table = pd.read_csv(tmp_path / "check.csv")
    model, _ = attrib.load(models / "a.pt")
    (batch,) = attrib.dataset("glyphs", limit=20).batches(20)
    image, label, index, mask = batch
    assert mask is not None
    maps = attrib.gradcam(model, image, label)
    span = attrib.span(maps, threshold="max:0.3")
    *_, last = randomisation.cascade(model, image)
    dropped = faithfulness.span_deletion(model, image, label, span, index=index, baseline="black")
    curve = faithfulness.insertion(model, image, label, maps, steps=4, baseline="black")
    attack = {"eps": 8 / 255, "step_size": 4 / 255, "steps": 2}
    adversarial = attrib.pgd(model, image, label, index=index, **attack)  # type: ignore[arg-type]
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
    for name in ("check.json", "check.tex", "check.pdf", "check.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert "higher" in (tmp_path / "check.tex").read_text()
    assert not list(tmp_path.glob(".*"))
    run(*given, "--out", tmp_path, "--batch-size", 7)
    again = pd.read_csv(tmp_path / "check.csv")
    pd.testing.assert_frame_equal(table, again, atol=0.02, rtol=0)  # a pixel of a span may turn with the batch


def test_without_masks_or_an_attack_their_lines_are_left_out(run: Any, models: Path, tmp_path: Path) -> None:
    (batch,) = attrib.dataset("glyphs", limit=10).batches(10)
    images = (batch.image * 255).round().byte().permute(0, 2, 3, 1).numpy()
    # Ten images of ten classes, so that the data has as many as the model.
    np.savez(tmp_path / "bare.npz", images=images, labels=np.arange(10))
    done = run(
        "--ckpt", models / "a.pt", "--data", f"npz:{tmp_path}/bare.npz", "--attack", "none", "--map", "gradient",
        "--target", "prediction", "--stages", 2, "--curve-steps", 2, "--json",
    )  # fmt: skip
    assert done.status == 0, done.err
    (entry,) = json.loads(done.out)["models"]
    left = {line["check"] for line in entry["checks"]}
    assert left == {"similarity", "floor", "ssim", "insertion", "deletion", "span_vs_random", "span_vs_moved"}
    assert [stage["layers"] for stage in entry["cascade"]] == [1, 4]


def test_the_figure_has_as_much_room_for_each_layer_s_name(run: Any, models: Path) -> None:
    summary = json.loads(run("--ckpt", models / "a.pt", "--ckpt", models / "b.pt", "--limit", 8, "--json", *SHORT).out)
    for entry in summary["models"]:  # as if they had 60 layers: the first stage is near none at all
        for stage, layers in zip(entry["cascade"], (1, 21, 40, 60), strict=True):
            stage.update(layers=layers, of=60)
    figure = cascade_and_curves(summary, title="")
    left = figure.axes[0]
    assert [label.get_text() for label in left.get_xticklabels()] == [
        "none",
        "fc",
        "pool.2",
        "stages.1.0",
        "stages.0.0",
    ]
    assert left.get_xticks() == pytest.approx([0, 25, 50, 75, 100])
    assert left.lines[0].get_xdata() == pytest.approx(left.get_xticks())
    summary["models"][1]["cascade"][0]["lowest"] = "head"  # other names: the share of the layers stands below
    left = cascade_and_curves(summary, title="").axes[0]
    assert left.lines[0].get_xdata() == pytest.approx([0, 100 / 60, 35, 200 / 3, 100])
    assert "layers re-initialised" in left.get_xlabel()


def test_two_processes_print_what_one_does(run: Any, models: Path, two_processes: Any) -> None:
    given = ["--ckpt", models / "a.pt", "--limit", 12, "--batch-size", 6, "--json", *SHORT]
    assert two_processes("check", *given) == json.loads(run(*given).out)


BAD = [
    ((), "nothing to look at"),
    (("--ckpt", "{models}/a.pt", "--map", "lime"), "--map: expected one of gradient"),
    (("--ckpt", "{models}/a.pt", "--threshold", "max:2"), "threshold: expected mean"),
    (("--ckpt", "{models}/a.pt", "--baseline", "blur"), "--baseline: expected one of mean, black"),
    (("--ckpt", "{models}/a.pt", "--attack", "deepfool"), "--attack: expected one of fgsm, pgd, cw, none"),
    (("--ckpt", "{models}/a.pt", "--attack", "none", "--eps", "0.1"), "need --attack"),
    (("--ckpt", "{models}/a.pt", "--stages", "0"), "--stages: expected at least 1"),
    (("--ckpt", "{models}/a.pt", "--curve-steps", "2000", "--limit", "5"), "steps: expected 1 to 1024"),
    (("--ckpt", "{models}/a.pt", "--batch-size", "0"), "--batch-size: expected at least 1"),
    (("--ckpt", "{models}/d.pt"), "no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_input_is_one_line_and_status_2(run: Any, models: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in run(*(argument.format(models=models) for argument in arguments)).refused()
