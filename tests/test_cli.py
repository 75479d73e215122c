import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import attrib
from attrib import spans


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, untrained: Any) -> Path:
    """a.pt and b.pt: lenets; wide.pt: another grid; grey.pt, five.pt: for other data."""
    place = tmp_path_factory.mktemp("models")
    others: dict[str, dict[str, Any]] = {
        "a": {}, "b": {}, "wide": {"arch": "resnet32"}, "grey": {"channels": 1}, "five": {"classes": 5},
        "cifar": {"data": "cifar10"},
    }  # fmt: skip
    for seed, (name, options) in enumerate(others.items(), start=1):
        untrained(place / f"{name}.pt", seed, **options)
    return place


def test_span_json_is_one_object_with_the_keys_of_the_design(run: Any, models: Path) -> None:
    done = run("span", "--ckpt", f"first={models}/a.pt", "--ckpt", models / "b.pt", "--limit", 30, "--json")
    assert (done.status, done.err) == (0, "")
    summary = json.loads(done.out)
    assert summary.keys() >= {"data", "split", "map", "threshold", "models", "pairs"}
    assert [entry["name"] for entry in summary["models"]] == ["first", "b"]
    for entry in summary["models"]:
        assert entry.keys() >= {"name", "checkpoint", "n", "accuracy", "asc", "asc_ci", "curve_area", "empty"}
        assert entry["n"] == 30
        assert entry["asc_ci"][0] <= entry["asc"] <= entry["asc_ci"][1]
    (pair,) = summary["pairs"]
    assert (pair["a"], pair["b"]) == ("first", "b")
    difference = summary["models"][0]["asc"] - summary["models"][1]["asc"]
    assert pair["difference"] == pytest.approx(difference, abs=1e-6)
    assert pair["ci"][0] <= difference <= pair["ci"][1]
    assert 0 < pair["p"] <= 1


def test_span_equals_the_notebook_s_way(run: Any, models: Path, tmp_path: Path) -> None:
    """The CSV holds what section 6 of the design computes by hand."""
    assert (
        run("span", "--ckpt", models / "a.pt", "--limit", 40, "--threshold", "max:0.3", "--out", tmp_path).status == 0
    )
    table = pd.read_csv(tmp_path / "span.csv")
    model, _ = attrib.load(models / "a.pt")
    for batch in attrib.dataset("glyphs", limit=40).batches(40):
        maps = attrib.gradcam(model, batch.image, batch.label)
        expected = attrib.coverage(attrib.span(maps, threshold="max:0.3"))
        np.testing.assert_allclose(table["coverage"], expected.numpy(), atol=2 / 1024)
        assert batch.mask is not None
        np.testing.assert_allclose(table["pointing"], spans.pointing(maps, batch.mask).numpy(), atol=1e-6)
        assert table["label"].tolist() == batch.label.tolist()
        assert table["prediction"].tolist() == model(batch.image).argmax(1).tolist()
    for name in ("span.json", "span.tex", "span.pdf", "span.png", "span-coverage.pdf", "span-coverage.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert r"\toprule" in (tmp_path / "span.tex").read_text()


@pytest.mark.parametrize("map_name", ["gradcam", "smoothgrad"])
def test_results_depend_on_neither_batch_size_nor_the_other_models(
    run: Any, models: Path, tmp_path: Path, map_name: str
) -> None:
    common = ("--limit", 60, "--map", map_name)
    run("span", "--ckpt", models / "a.pt", *common, "--batch-size", 60, "--out", tmp_path / "one")
    run(
        "span",
        "--ckpt",
        models / "b.pt",
        "--ckpt",
        models / "a.pt",
        *common,
        "--batch-size",
        7,
        "--out",
        tmp_path / "two",
    )
    one = pd.read_csv(tmp_path / "one" / "span.csv")
    two = pd.read_csv(tmp_path / "two" / "span.csv")
    two = two[two["model"] == "a"].reset_index(drop=True)
    assert (one["coverage"] - two["coverage"]).abs().max() <= 2 / 1024
    assert abs(one["coverage"].mean() - two["coverage"].mean()) <= 1e-4


def test_the_same_seed_prints_the_same(run: Any, models: Path) -> None:
    command = (
        "span",
        "--ckpt",
        models / "a.pt",
        "--ckpt",
        models / "b.pt",
        "--limit",
        25,
        "--json",
        "--map",
        "smoothgrad",
    )
    first = run(*command).out
    assert run(*command).out == first
    assert run(*command, "--seed", 1).out != first


def test_attack_measures_both_kinds_of_images(run: Any, models: Path) -> None:
    done = run(
        "span", "--ckpt", models / "a.pt", "--limit", 20, "--attack", "pgd", "--eps", "8/255", "--steps", 3, "--json"
    )
    entry = json.loads(done.out)["models"][0]
    assert entry["attacked"]["accuracy"] <= entry["accuracy"]
    assert 0 < entry["attacked"]["iou_with_clean"] <= 1
    still = run(
        "span", "--ckpt", models / "a.pt", "--limit", 20, "--attack", "pgd", "--eps", "0", "--steps", 3, "--json"
    )
    entry = json.loads(still.out)["models"][0]
    assert entry["attacked"]["iou_with_clean"] == 1
    assert entry["attacked"]["asc"] == entry["asc"]


def test_maps_saved_can_be_measured_again(run: Any, models: Path, tmp_path: Path) -> None:
    run("span", "--ckpt", models / "a.pt", "--limit", 30, "--save-maps", "--out", tmp_path)
    with np.load(tmp_path / "span-a.npz") as saved:
        assert saved["map"].shape == saved["span"].shape == (30, 32, 32)
        assert saved["index"].tolist() == list(range(30))
    again = run("span", "--maps", tmp_path / "span-a.npz", "--data", "glyphs", "--limit", 30, "--json")
    entry = json.loads(again.out)["models"][0]
    first = json.loads((tmp_path / "span.json").read_text())["models"][0]
    assert entry["asc"] == pytest.approx(first["asc"])
    assert entry["accuracy"] is None
    assert not list(tmp_path.glob(".*"))


def test_different_grids_are_warned_about(run: Any, models: Path) -> None:
    done = run("span", "--ckpt", models / "a.pt", "--ckpt", models / "wide.pt", "--limit", 12, "--json")
    assert done.status == 0
    assert "different grids (a 10x10, wide 8x8)" in done.err
    assert len(json.loads(done.out)["pairs"]) == 1


def test_a_command_that_is_stopped_says_whether_anything_was_written(
    run: Any, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    given = ("span", "--ckpt", models / "a.pt", "--limit", 5, "--out", tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("attrib.plot.map_grid", stop)
        stopped = run(*given)
    assert (stopped.status, stopped.out) == (130, "")
    assert stopped.err == "attrib: error: interrupted; some files are written, and some are not\n"
    monkeypatch.setattr("attrib.cli.span.explain", stop)
    stopped = run(*given)
    assert (stopped.status, stopped.out) == (130, "")
    assert stopped.err == "attrib: error: interrupted; nothing was written\n"


def test_span_shows_the_attacked_images_beside_the_clean(run: Any, models: Path, tmp_path: Path) -> None:
    given = ("--limit", 20, "--attack", "fgsm", "--out", tmp_path)
    assert run("span", "--ckpt", models / "a.pt", "--ckpt", models / "b.pt", *given).status == 0
    with np.load(tmp_path / "span-examples.npz") as saved:
        assert saved["attacked_map"].shape == saved["attacked_span"].shape == saved["map"].shape == (2, 4, 32, 32)
        change = np.abs(saved["attacked_image"] - saved["image"])
        assert 0 < change.max() <= 8 / 255 + 1e-6
        assert (saved["attacked_image"][0] != saved["attacked_image"][1]).any()  # each model is attacked by itself
        table = pd.read_csv(tmp_path / "span.csv")
        rows = table[(table["model"] == "b") & (table["images"] == "fgsm")].set_index("index").loc[saved["index"]]
        np.testing.assert_allclose(saved["attacked_span"][1].mean((1, 2)), rows["coverage"], atol=1e-6)


def test_a_difference_that_rests_on_empty_maps_says_so(run: Any, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    maps = draw.random((2, 60, 32, 32)) ** 2
    maps[1, ::3] = 0.3
    for name, of_model in zip("ab", maps, strict=True):
        np.savez(tmp_path / f"{name}.npz", index=np.arange(60), map=of_model)
    files = [f"--maps={tmp_path / name}.npz" for name in "ab"]
    done = run("span", *files, "--data", "glyphs", "--limit", 60, "--json")
    (pair,) = json.loads(done.out)["pairs"]
    covered = (maps > maps.mean((2, 3), keepdims=True)).mean((2, 3))
    covered[1, ::3] = 0
    held = covered[1] > 0
    assert (pair["n"], pair["without_empty"]["n"]) == (60, 40)
    assert pair["difference"] == pytest.approx((covered[0] - covered[1]).mean(), abs=1e-6)
    assert pair["without_empty"]["difference"] == pytest.approx((covered[0] - covered[1])[held].mean(), abs=1e-6)
    assert pair["p"] < 0.05 < pair["without_empty"]["p"]
    (line,) = done.err.splitlines()
    assert "a − b, clean images: the difference in coverage rests on empty maps" in line
    assert "on the 40 images where neither model's is empty" in line


def test_maps_command(run: Any, models: Path, tmp_path: Path) -> None:
    done = run(
        "maps", "--ckpt", models / "a.pt", "--ckpt", models / "b.pt", "--images", 3, "--map", "gradient",
        "--attack", "fgsm", "--out", tmp_path,
    )  # fmt: skip
    assert done.status == 0
    with Image.open(tmp_path / "maps.png") as picture:
        assert picture.width > 300
    assert (tmp_path / "maps.pdf").read_bytes().startswith(b"%PDF")
    table = pd.read_csv(tmp_path / "maps.csv")
    assert len(table) == 6
    with np.load(tmp_path / "maps-b.npz") as saved:
        chosen = table[table["model"] == "b"]
        assert saved["index"].tolist() == chosen["index"].tolist()
        np.testing.assert_allclose(saved["map"].max((1, 2)), chosen["highest"], rtol=1e-5)
    picked = run("maps", "--ckpt", models / "a.pt", "--index", "5,2", "--json")
    assert [row["index"] for row in json.loads(picked.out)["images"]] == [2, 5]


def test_info(run: Any, models: Path) -> None:
    done = run("info", models / "a.pt", "--ckpt", models / "wide.pt", "--json")
    cards = json.loads(done.out)["checkpoints"]
    assert [card["architecture"] for card in cards] == ["lenet", "resnet32"]
    assert cards[0]["fingerprint"] == attrib.load(models / "a.pt")[1].fingerprint
    assert "lr=0.1" in run("info", models / "a.pt").out


OUTSIDE = """
import torch
from torch import nn

def small():
    body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(inplace=True))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

def fully_convolutional():
    return nn.Sequential(nn.Conv2d(3, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))

def fails():
    raise ValueError("no weights")

number = 3

class Blind(nn.Sequential):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)

def blind():
    return Blind(*small())

def broken():
    model = small()
    nn.init.constant_(model[-1].weight, float("nan"))
    return model

def softmax():
    return nn.Sequential(small(), nn.Softmax(1))
"""


def test_a_model_of_one_s_own(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(OUTSIDE)
    monkeypatch.chdir(tmp_path)
    given = ("--model", "own:small", "--data", "glyphs", "--limit", 10, "--json")
    for extra in ((), ("--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2"), ("--size", 48), ("--layer", "0")):
        done = run("span", *given, *extra)
        assert done.status == 0, done.err
        assert json.loads(done.out)["models"][0]["name"] == "small"
    flat = run("span", *given[2:], "--model", "own:flat", "--map", "gradient")
    assert flat.status == 0, flat.err
    assert json.loads(flat.out)["models"][0]["layer"] is None


def test_probabilities_in_the_place_of_logits_are_warned_of(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_soft.py").write_text(OUTSIDE)
    monkeypatch.chdir(tmp_path)
    given = ("--data", "glyphs", "--limit", 10, "--json")
    assert "softmax returns probabilities" in run("span", "--model", "own_soft:softmax", *given).err
    assert "probabilities" not in run("span", "--model", "own_soft:small", *given).err


COMMANDS_OF_ONE_S_OWN: dict[str, tuple[object, ...]] = {
    "span": ("--limit", 8), "maps": ("--images", 2), "contrib": ("--limit", 8), "fc": (), "sets": ("--limit", 8),
    "robust": ("--limit", 8, "--steps", 1),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS_OF_ONE_S_OWN)
def test_results_say_what_a_model_of_one_s_own_was_fed(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (tmp_path / "own_fed.py").write_text(OUTSIDE)
    monkeypatch.chdir(tmp_path)

    def entry(*extra: object) -> dict[str, Any]:
        given = (command, "--model", "own_fed:small", "--data", "glyphs", *COMMANDS_OF_ONE_S_OWN[command])
        with torch.random.fork_rng():
            torch.manual_seed(0)  # of the model's weights
            done = run(*given, *extra, "--json")
        assert done.status == 0, done.err
        found: dict[str, Any] = json.loads(done.out)["models"][0]
        return found

    normalised = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
    bare, fed, resized = entry(), entry(*normalised), entry("--size", 40)
    assert bare["input"] == {"mean": None, "std": None, "size": None}
    assert fed["input"] == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "size": None}
    assert resized["input"] == {"mean": None, "std": None, "size": [40, 40]}
    assert len(bare["fingerprint"]) == len(fed["fingerprint"]) == 12
    assert bare["fingerprint"] == entry()["fingerprint"] != fed["fingerprint"]
    # The ReLU is the last to return the map, and overwrites the convolution's; fc looks at no layer.
    assert bare["layer"] == fed["layer"] == (None if command == "fc" else "1")


@pytest.mark.parametrize("command", [("span",), ("contrib",), ("sets", "--attack", "fgsm")], ids=lambda given: given[0])
def test_a_model_no_better_than_chance_is_told(
    run: Any, models: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    images = np.zeros((60, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "black.npz", images=images, labels=np.arange(60) % 10)
    np.savez(tmp_path / "one.npz", images=images, labels=np.zeros(60, np.int64), classes=list("abcdefghij"))

    def doubts(data: str, limit: int) -> list[str]:
        done = run(*command, "--ckpt", models / "a.pt", "--data", f"npz:{tmp_path}/{data}", "--limit", limit, "--json")
        assert done.status == 0, done.err
        assert json.loads(done.out)["split"] == "all"
        return [line for line in done.err.splitlines() if "chance" in line]

    expected = "attrib: warning: a: clean accuracy 10.0% is no better than chance (10.0%); is the model trained?"
    assert doubts("black.npz", 60) == [expected]
    assert doubts("black.npz", 40) == []  # too few images to say so
    assert doubts("one.npz", 60) == []  # nothing is better than naming the one class that there is


def test_data_that_is_not_split_is_not_called_a_test_set(run: Any, models: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "ten.npz", images=np.zeros((10, 32, 32, 3), np.uint8), labels=np.arange(10))
    given = ("span", "--ckpt", models / "a.pt", "--limit", 10, "--out", tmp_path)
    assert "10 test images of glyphs," in " ".join(run(*given).out.split())
    assert "10 test images of glyphs," in (tmp_path / "span.tex").read_text()
    whole = run(*given, "--data", f"npz:{tmp_path}/ten.npz")
    assert "mean, 10 images of npz:" in " ".join(whole.out.split())


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/attrib-was-here",)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, models: Path, untrained: Any) -> Path:
    """A folder of things that are not what they should be."""
    place = tmp_path_factory.mktemp("bad")
    (place / "page.pt").write_text("<!DOCTYPE html><html>404</html>")
    (place / "code.pt").write_bytes(pickle.dumps(Malicious()))
    whole = (models / "a.pt").read_bytes()
    (place / "half.pt").write_bytes(whole[: len(whole) // 2])
    torch.save(attrib.load(models / "a.pt")[1].weights, place / "bare.pt")
    (place / "empty").mkdir()
    (place / "no-pictures" / "cat").mkdir(parents=True)
    for name in ("cat", "dog"):
        (place / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(place / "pictures" / name / "1.png")
    (place / "one" / "cat").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(place / "one" / "cat" / "1.png")
    (place / "pictures" / "dog" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    np.savez(place / "grey.npz", images=np.zeros((4, 32, 32), np.uint8), labels=np.arange(4))
    np.savez(place / "ten.npz", images=np.zeros((10, 32, 32, 3), np.uint8), labels=np.arange(10))
    np.savez(place / "maps.npz", map=np.zeros((3, 5, 5), np.float32))
    np.savez(place / "few.npz", map=np.zeros((3, 32, 32), np.float32))
    np.savez(place / "halves.npz", map=np.zeros((3, 32, 32), np.float32), index=np.array([0.2, 0.7, 1.1]))
    np.savez(place / "twice.npz", map=np.zeros((3, 32, 32), np.float32), index=np.array([0, 1, 1]))
    (place / "nothing.npz").touch()
    (place / "file").write_text("in the way")
    (place / "own_bad.py").write_text(OUTSIDE)
    untrained(place / "two.pt", 6, data="pictures", classes=2)
    return place


A = ("--ckpt", "{models}/a.pt")
BAD = [
    (("span",), "nothing to look at"),
    (("span", "--ckpt", "{bad}/missing.pt"), "no such file"),
    (("span", "--ckpt", "{bad}/page.pt"), "HTML"),
    (("span", "--ckpt", "{bad}/code.pt"), "refused"),
    (("span", "--ckpt", "{bad}/half.pt"), "truncated"),
    (("span", "--ckpt", "{bad}/empty"), "directory"),
    (("span", "--ckpt", "{bad}/bare.pt"), "--arch"),
    (("span", "--ckpt", "{bad}/bare.pt", "--arch", "resnet18", "--data", "glyphs"), "weights don't fit resnet18"),
    (("span", "--ckpt", "{bad}/bare.pt", "--arch", "vgg"), "expected one of lenet"),
    (("span", "--ckpt", "{models}/five.pt"), "10 classes"),
    (("span", "--ckpt", "{models}/a.pt", "--data", "npz:{bad}/grey.npz"), "grey"),
    (("span", "--ckpt", "a={models}/a.pt", "--ckpt", "a={models}/b.pt"), "two models are called 'a'"),
    (("span", *A, "--ckpt", "{models}/cifar.pt"), "trained on different data (a on glyphs, cifar on cifar10)"),
    (("span", *A, "--attack", "fgsm", "--steps", "3"), "belong to pgd and cw"),
    (("span", *A, "--data", "imagenet"), "expected one of glyphs"),
    (("span", *A, "--data", "folder:{bad}/empty"), "one folder per class"),
    (("span", *A, "--data", "folder:{bad}/no-pictures"), "no pictures"),
    (("span", *A, "--data", "folder:{bad}/nowhere"), "found nothing"),
    (("span", "--ckpt", "{bad}/two.pt", "--data", "folder:{bad}/pictures", "--size", "32"), "dog/2.png"),
    (("span", *A, "--data", "cifar100", "--data-root", "{bad}/empty"), "cifar"),
    (("span", *A, "--limit", "0"), "limit: expected at least 1"),
    (("span", *A, "--limit", "many"), "--limit"),
    (("span", *A, "--split", "dev"), "split: expected train or test"),
    (("span", *A, "--data", "npz:{bad}/ten.npz", "--split", "train"), "--split train: npz:"),
    (("span", "--model", "own_bad:small", "--data", "folder:{bad}/one", "--split", "train"), "is not split into"),
    (("span", *A, "--attack", "pgd", "--eps", "-0.1"), "--eps: expected a number in [0,1]"),
    (("span", *A, "--attack", "pgd", "--eps", "8"), "--eps: expected a number in [0,1]"),
    (("span", *A, "--attack", "pgd", "--steps", "0"), "--steps: expected at least 1"),
    (("span", *A, "--attack", "deepfool"), "--attack: expected fgsm, pgd or cw"),
    (("span", *A, "--eps", "0.1"), "need --attack"),
    (("span", *A, "--map", "lime"), "--map: expected one of gradient"),
    (("span", *A, "--threshold", "max:2"), "threshold: expected mean"),
    (("span", *A, "--threshold", "median"), "threshold: expected mean"),
    (("span", *A, "--target", "fake"), "--target: expected one of label, prediction"),
    (("span", *A, "--device", "tpu"), "device: expected auto"),
    (("span", *A, "--precision", "fp8"), "precision: expected auto, fp32 or bf16"),
    (("span", *A, "--layer", "stages.9"), "stages.1"),
    (("span", *A, "--batch-size", "0"), "--batch-size: expected at least 1"),
    (("span", *A, "--out", "{bad}/file"), "cannot write to the folder"),
    (("span", *A, "--out", "{bad}/file/below"), "cannot write to the folder"),
    (("span", *A, "--save-maps"), "--save-maps needs --out"),
    (("span", *A, "--speed", "3"), "--speed"),
    (("span", "--maps", "{bad}/maps.npz", "--data", "glyphs", "--limit", "3"), "32x32, got 5x5"),
    (("span", "--maps", "{bad}/few.npz", "--data", "glyphs", "--limit", "9"), "no map for 6 of the 9 images"),
    (("span", "--maps", "{bad}/ten.npz", "--data", "glyphs"), "it has no 'map'"),
    (("span", "--maps", "{bad}/page.pt", "--data", "glyphs"), "cannot be read"),
    (("span", "--maps", "{bad}/gone.npz", "--data", "glyphs"), "no such file"),
    (("span", "--maps", "{bad}/nothing.npz", "--data", "glyphs"), "cannot be read"),
    (("span", "--maps", "{bad}/halves.npz", "--data", "glyphs"), "whole numbers, each once, got float64"),
    (("span", "--maps", "{bad}/twice.npz", "--data", "glyphs"), "whole numbers, each once, got int64"),
    (("span", *A, "--seed", "-1"), "--seed"),
    (("span", "--model", "own_bad:small"), "--data is needed"),
    (("span", "--model", "own_bad:fails", "--data", "glyphs"), "no weights"),
    (("span", "--model", "own_bad:number", "--data", "glyphs"), "int"),
    (("span", "--model", "own_bad:nothing", "--data", "glyphs"), "nothing"),
    (("span", "--model", "no_such_module:small", "--data", "glyphs"), "no_such_module"),
    (("span", "--model", "own_bad", "--data", "glyphs"), "package.module:factory"),
    (("span", "--model", "own_bad.py:small", "--data", "glyphs"), "my_code:build for my_code.py"),
    (("span", "--model", "own_bad:small", "--data", "{bad}/pictures"), "did you mean folder:{bad}/pictures?"),
    (("span", "--model", "own_bad:small", "--data", "{bad}/ten.npz"), "did you mean npz:{bad}/ten.npz?"),
    (("span", "--model", "own_bad:small", "--data", "glyphs", "--layer", "4"), "got an output without height"),
    (("check", "--model", "own_bad:small", "--data", "glyphs", "--layer", "2", "--map", "eq6"), "got one of 1x1"),
    (("maps", "--model", "own_bad:small", "--data", "glyphs", "--layer", "0"), "smoothgrad looks at no layer"),
    (("span", "--model", "own_bad:blind", "--data", "glyphs"), "Blind gives no gradient to explain"),
    (("robust", "--model", "own_bad:broken", "--data", "glyphs"), "expected finite logits, got NaN"),
    (("fc", "--model", "own_bad:small", "--mean", "123,1,1", "--std", "58,1,1", "--data", "glyphs"), "divide"),
    (("span", "--model", "own_bad:flat", "--data", "glyphs"), "--layer"),
    (("span", "--model", "own_bad:small", "--mean", "a,b", "--std", "1,1", "--data", "glyphs"), "--mean: expected num"),
    (("span", "--model", "own_bad:small", "--mean", "0,0", "--std", "1,1,1", "--data", "glyphs"), "mean"),
    (("span", "--model", "own_bad:small", "--mean", "0,0", "--std", "1,1", "--data", "glyphs"), "the 3 channels of"),
    (("fc", "--model", "own_bad:small", "--mean", "0", "--std", "1", "--data", "glyphs"), "small: --mean, --std:"),
    (("span", "--model", "own_bad:small", "--mean", "0,0,0", "--data", "glyphs"), "go together: --std is missing"),
    (("span", "--model", "own_bad:small", "--std", "1,1,1", "--data", "glyphs"), "go together: --mean is missing"),
    (("span", "--model", "own_bad:small", "--data", "folder:{bad}/one"), "(1 class: make a folder for every class"),
    (("span", "--model", "own_bad:small", "--model", "own_bad:small"), "with --model NAME=MODULE:FACTORY"),
    (("span", *A, "--model", "a=own_bad:small"), "with --ckpt NAME=PATH or --model NAME=MODULE:FACTORY"),
    (("maps", *A, "--images", "0"), "--images: expected at least 1"),
    (("maps", *A, "--index", "99999999"), "--index: expected positions in"),
    (("maps", *A, "--index", "x"), "--index: expected positions"),
    (("maps", *A, "--threshold", "max:2"), "threshold: expected mean"),
    (("maps",), "nothing to look at"),
    (("info",), "name at least one checkpoint"),
    (("info", "{bad}/missing.pt"), "no such file"),
    (("nonsense",), "nonsense"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_status_2(
    run: Any, models: Path, bad: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(bad)
    monkeypatch.delenv("ATTRIB_DATA", raising=False)
    before = sorted(bad.rglob("*"))
    done = run(*(argument.format(models=models, bad=bad) for argument in arguments))
    assert done.status == 2
    assert done.out == ""
    (line,) = [line for line in done.err.splitlines() if "warning" not in line]
    assert line.startswith("attrib: error: ")
    assert words.format(bad=bad) in line
    assert "Traceback" not in done.err
    assert [path for path in sorted(bad.rglob("*")) if "__pycache__" not in str(path)] == [
        path for path in before if "__pycache__" not in str(path)
    ]
    assert not Path("/tmp/attrib-was-here").exists()


def test_the_script_itself(models: Path) -> None:
    script = Path(sys.executable).with_name("attrib")
    done = subprocess.run([script, "info", models / "a.pt"], capture_output=True, text=True, check=True)
    assert "architecture" in done.stdout
    wrong = subprocess.run([script, "info", models / "c.pt"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
