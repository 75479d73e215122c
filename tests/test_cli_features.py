"""The commands contrib and fc as a user runs them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import attrib
from attrib import inference, parallel
from attrib.features import high_contribution, last_layer, scale_free_contribution

ROOT = Path(__file__).resolve().parents[1]
QUANTITIES = {"contribution": "C", "relevance": "R", "scale_free": "C_scale_free"}
STATISTICS = ("mean", "gini", "participation_ratio", "high")

OWN = """
from torch import nn

def body():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU()), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

def small():
    return nn.Sequential(*body(), nn.Linear(4, 10))

def mlp():
    return nn.Sequential(*body(), nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 10)))

def convolutional():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 10, 1), nn.Flatten())

def seven():
    return nn.Sequential(*body(), nn.Linear(4, 7))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, untrained: Any) -> Path:
    """a.pt and b.pt: lenets; wide.pt: 64 features; cifar.pt: other class names; five.pt: 5 classes; mine.py."""
    folder = tmp_path_factory.mktemp("place")
    for seed, (name, arch, data, classes) in enumerate(
        [
            ("a", "lenet", "glyphs", 10), ("b", "lenet", "glyphs", 10), ("wide", "resnet32", "glyphs", 10),
            ("cifar", "lenet", "cifar10", 10), ("five", "lenet", "unknown", 5),
        ]
    ):  # fmt: skip
        untrained(folder / f"{name}.pt", seed, arch=arch, data=data, classes=classes)
    (folder / "mine.py").write_text(OWN)
    return folder


@pytest.fixture
def run(run: Any, monkeypatch: pytest.MonkeyPatch, place: Path) -> Any:
    """Run the command in the folder ``place``; returns status, stdout, stderr."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("ATTRIB_DATA", raising=False)
    return run


def values_of(entry: dict[str, Any]) -> list[float]:
    """All numbers of a model's entry, in a fixed order."""
    return [
        number
        for quantity in QUANTITIES
        for value in entry[quantity].values()
        for number in (value if isinstance(value, list) else [value])
    ]


def test_contrib_says_what_the_notebook_s_way_says(run: Any, place: Path, tmp_path: Path) -> None:
    status, out, err = run(
        "contrib", "--ckpt", "first=a.pt", "--ckpt", "b.pt", "--limit", 60, "--batch-size", 17, "--json",
        "--out", tmp_path,
    )  # fmt: skip
    assert status == 0
    assert all("is the model trained?" in line for line in err.splitlines())  # they are not
    summary = json.loads(out)
    assert summary == json.loads((tmp_path / "contrib.json").read_text())
    assert [entry["name"] for entry in summary["models"]] == ["first", "b"]
    table, images = pd.read_csv(tmp_path / "contrib.csv"), pd.read_csv(tmp_path / "contrib-images.csv")
    assert table.columns[:6].tolist() == ["model", "seed", "images", "feature", "C", "R"]
    batch = next(attrib.dataset("glyphs", limit=60).batches(60))
    for entry, path in zip(summary["models"], ("a.pt", "b.pt"), strict=True):
        model, _ = attrib.load(place / path)
        mine = table[table["model"] == entry["name"]]
        rows = images[images["model"] == entry["name"]]
        right = (model(batch.image).argmax(1) == batch.label).numpy()
        assert rows["index"].tolist() == list(range(60))
        assert rows["correct"].tolist() == right.tolist()
        assert entry["n"] == 60
        assert entry["features"] == len(mine) == 500
        assert entry["accuracy"] == pytest.approx(right.mean())
        by_hand = (attrib.contribution, attrib.relevance, scale_free_contribution)
        for (quantity, column), measure in zip(QUANTITIES.items(), by_hand, strict=True):
            expected = measure(model, batch.image, batch.label).double()
            np.testing.assert_allclose(mine[column], expected.mean(0), rtol=1e-4, atol=1e-9)
            np.testing.assert_allclose(rows[column], expected.mean(1), rtol=1e-4)
            np.testing.assert_allclose(mine[f"{column}_correct"], expected[right].mean(0), rtol=1e-4, atol=1e-9)
            numbers, written = entry[quantity], torch.tensor(mine[column].to_numpy(float))
            assert numbers["gini"] == pytest.approx(float(attrib.gini(written)), abs=1e-9)
            assert numbers["participation_ratio"] == pytest.approx(float(attrib.participation_ratio(written)))
            assert numbers["high"] == int(high_contribution(written, multiple=summary["multiple"]))
            assert numbers["mean"] == pytest.approx(mine[column].mean()) == pytest.approx(rows[column].mean())
            assert numbers["mean_correct"] == pytest.approx(rows.loc[rows["correct"], column].mean())
            assert numbers["mean_ci"][0] < numbers["mean"] < numbers["mean_ci"][1]
    for pair in summary["pairs"]:
        first, second = (entry[pair["of"]][pair["statistic"]] for entry in summary["models"])
        assert pair["difference"] == pytest.approx(first - second)
        assert pair["ci"][0] <= pair["ci"][1]
        assert 0 < pair["p"] <= pair["p_holm"] <= 1
    assert len(summary["pairs"]) == len(QUANTITIES) * len(STATISTICS)
    for suffix in ("tex", "pdf", "png"):
        assert (tmp_path / f"contrib.{suffix}").stat().st_size > 0
    assert not list(tmp_path.glob(".*"))


def test_contrib_depends_on_neither_batch_size_nor_the_other_models(run: Any) -> None:
    one = json.loads(run("contrib", "--ckpt", "a.pt", "--limit", 40, "--json")[1])
    two = json.loads(run("contrib", "--ckpt", "b.pt", "--ckpt", "a.pt", "--limit", 40, "--batch-size", 9, "--json")[1])
    assert values_of(two["models"][1]) == pytest.approx(values_of(one["models"][0]), rel=1e-4)
    other = json.loads(run("contrib", "--ckpt", "a.pt", "--limit", 40, "--seed", 1, "--json")[1])
    assert other["models"][0]["contribution"]["gini"] == pytest.approx(one["models"][0]["contribution"]["gini"])
    assert other["models"][0]["contribution"]["gini_ci"] != one["models"][0]["contribution"]["gini_ci"]


def test_contrib_of_the_same_model_twice_differs_by_nothing(run: Any) -> None:
    summary = json.loads(run("contrib", "--ckpt", "a=a.pt", "--ckpt", "again=a.pt", "--limit", 20, "--json")[1])
    for pair in summary["pairs"]:
        assert (pair["difference"], pair["ci"], pair["p"]) == (0, [0, 0], 1)


def test_contrib_measures_adversarial_images_beside_the_clean(run: Any, tmp_path: Path) -> None:
    given = ("--ckpt", "b.pt", "--limit", 6, "--attack", "pgd", "--steps", 2)
    status, out, _ = run("contrib", *given, "--out", tmp_path)
    assert status == 0
    assert "pgd eps 0.03137" in out
    (entry,) = json.loads((tmp_path / "contrib.json").read_text())["models"]
    assert entry["attacked"]["contribution"]["mean"] > entry["contribution"]["mean"]
    assert set(pd.read_csv(tmp_path / "contrib.csv")["images"]) == {"clean", "pgd"}
    still = json.loads(run("contrib", "--ckpt", "a.pt", *given, "--eps", 0, "--json")[1])
    for entry in still["models"]:
        assert values_of(entry["attacked"]) == values_of(entry)
    assert {pair["images"] for pair in still["pairs"]} == {"clean", "pgd"}


def test_one_image_has_no_interval(run: Any) -> None:
    entry = json.loads(run("contrib", "--ckpt", "a.pt", "--limit", 1, "--json")[1])["models"][0]
    assert entry["n"] == 1
    assert entry["contribution"]["gini"] > 0
    assert entry["contribution"]["gini_ci"] == [None, None]
    assert run("contrib", "--ckpt", "a.pt", "--ckpt", "b.pt", "--limit", 1)[0] == 0


def test_models_of_one_s_own(run: Any) -> None:
    given = ("contrib", "--data", "glyphs", "--limit", 8, "--json")
    small = json.loads(run(*given, "--model", "mine:small", "--size", 32)[1])["models"][0]
    assert (small["features"], small["name"]) == (4, "small")
    assert json.loads(run(*given, "--model", "mine:mlp", "--fc", "2")[1])["models"][0]["features"] == 4
    assert json.loads(run(*given, "--model", "mine:mlp")[1])["models"][0]["features"] == 6
    status, _, err = run(*given, "--model", "mine:small", "--ckpt", "wide.pt")
    assert status == 0
    assert "different numbers of features (wide 64, small 4)" in err


def test_a_process_without_images_adds_nothing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("contrib", "--ckpt", "a.pt", "--limit", 5, "--json")
    alone = run(*given)[1]
    monkeypatch.setattr(parallel, "gather", lambda part: [{}, part, {}])
    assert run(*given)[1] == alone


@pytest.mark.parametrize("rule", ["mean", "class-mean", "absolute"])
def test_fc_counts_what_valid_values_marks(run: Any, place: Path, tmp_path: Path, rule: str) -> None:
    status, out, err = run("fc", "--ckpt", "first=a.pt", "--ckpt", "b.pt", "--rule", rule, "--json", "--out", tmp_path)
    assert (status, err) == (0, "")
    summary = json.loads(out)
    assert summary == json.loads((tmp_path / "fc.json").read_text())
    assert summary["rule"] == rule
    table = pd.read_csv(tmp_path / "fc.csv")
    assert table.columns.tolist() == ["model", "seed", "class", "valid", "total"]
    counts = []
    for entry, path in zip(summary["models"], ("a.pt", "b.pt"), strict=True):
        mask = attrib.valid_values(attrib.load(place / path)[0].fc.weight, rule=rule)
        counts.append(mask.sum(1).tolist())
        mine = table[table["model"] == entry["name"]]
        assert entry["valid"] == counts[-1] == mine["valid"].tolist()
        assert entry["valid_mean"] == pytest.approx(mine["valid"].mean())
        assert entry["valid_share"] == pytest.approx(float(mask.double().mean()))
        assert mine["total"].unique().tolist() == [entry["features"]] == [500]
        assert tuple(mine["class"].astype(str)) == tuple(entry["classes"]) == attrib.dataset("glyphs", limit=1).classes
    (pair,) = summary["pairs"]
    assert pair["difference"] == pytest.approx(np.mean(counts[0]) - np.mean(counts[1]))
    assert pair["more"] == sum(a > b for a, b in zip(*counts, strict=True))
    with Image.open(tmp_path / "fc.png") as picture:
        assert 800 < picture.width < 1100
    assert (tmp_path / "fc.pdf").read_bytes().startswith(b"%PDF")
    assert r"\toprule" in (tmp_path / "fc.tex").read_text()
    printed = run("fc", "--ckpt", "a.pt", "--rule", rule)[1]
    # Symmetric numbers lie above their mean as often as below; their absolute values don't.
    symmetric = np.random.default_rng(0).normal(size=(200, 500))
    if rule == "absolute":
        assert summary["expected_symmetric"] is None
        assert "symmetric" not in printed
        symmetric = np.abs(symmetric)
        assert (symmetric > symmetric.mean()).mean() == pytest.approx(0.425, abs=0.01)
    else:
        assert summary["expected_symmetric"] == 0.5 == pytest.approx((symmetric > symmetric.mean()).mean(), abs=0.01)
        assert "50.0" in next(line for line in printed.splitlines() if "symmetric" in line)
    assert "of this file only: another training run can differ" in " ".join(printed.split())
    assert "of these files only" in (tmp_path / "fc.tex").read_text()


def test_fc_s_picture_shows_the_mask() -> None:
    from attrib.plots.fc import valid_picture

    mask = torch.rand(10, 500, generator=torch.Generator().manual_seed(0)).numpy() > 0.4
    figure = valid_picture([mask], models=["a"], classes=[list("0123456789")], title="t")
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    assert drawn.shape == (70, 72)
    for row, band in zip(mask, drawn.reshape(10, -1), strict=True):
        assert band[:500].astype(bool).tolist() == row.tolist()
        assert (band[500:] == 2).all()


def test_fc_names_classes_without_their_data(run: Any) -> None:
    summary = json.loads(run("fc", "--ckpt", "cifar.pt", "--ckpt", "five.pt", "--json")[1])
    cifar, five = (entry["classes"] for entry in summary["models"])
    assert cifar[:2] == ["airplane", "automobile"]
    assert five == list("01234")
    assert summary["pairs"] == []
    status, out, _ = run("fc", "--ckpt", "cifar.pt", "--ckpt", "a.pt", "--ckpt", "five.pt", "--ckpt", "wide.pt")
    assert status == 0
    assert "of 64" in out


def test_fc_of_models_of_one_s_own(run: Any, tmp_path: Path) -> None:
    for given in (("mine:small", "--data", "glyphs"), ("mine:small", "--fc", "2"), ("mine:convolutional", "--fc", "2")):
        status, out, err = run("fc", "--model", *given, "--json", "--out", tmp_path)
        assert (status, err) == (0, "")
        (entry,) = json.loads(out)["models"]
        assert (entry["features"], len(entry["valid"])) == (4, 10)


A = ("--ckpt", "a.pt")
FEW = ("--limit", "3")
BAD = [
    (("contrib",), "nothing to look at"),
    (("contrib", "--ckpt", "missing.pt"), "no such file"),
    (("contrib", *A, "--multiple", "0"), "--multiple: expected a number above 0"),
    (("contrib", *A, "--multiple", "nan"), "--multiple: expected a number above 0"),
    (("contrib", *A, "--batch-size", "0"), "--batch-size: expected at least 1"),
    (("contrib", *A, "--limit", "0"), "limit: expected at least 1"),
    (("contrib", *A, "--precision", "fp8"), "precision: expected auto"),
    (("contrib", *A, "--device", "tpu"), "device: expected auto"),
    (("contrib", *A, *FEW, "--attack", "deepfool"), "--attack: expected fgsm, pgd or cw"),
    (("contrib", *A, *FEW, "--eps", "0.1"), "need --attack"),
    (("contrib", *A, "--fc", "fc"), "--fc names the last layer of a --model"),
    (("contrib", *A, "--out", "mine.py"), "cannot write to the folder"),
    (("contrib", "--ckpt", "x=a.pt", "--ckpt", "x=b.pt"), "two models are called 'x'"),
    (("contrib", "--model", "mine:small"), "--data is needed"),
    (("contrib", "--model", "mine:small", "--data", "glyphs", "--fc", "9"), "--fc: Sequential has no '9'"),
    (("contrib", "--model", "mine:convolutional", "--data", "glyphs", *FEW), "linear layer"),
    (("contrib", "--model", "mine:seven", "--data", "glyphs", *FEW), "expected logits of shape (N,10)"),
    (("fc",), "nothing to look at"),
    (("fc", *A, "--rule", "median"), "--rule: expected one of mean, class-mean, absolute"),
    (("fc", *A, "--fc", "fc"), "--fc names the last layer of a --model"),
    (("fc", *A, "--data", "imagenet"), "expected one of glyphs"),
    (("fc", *A, "--limit", "3"), "--limit"),
    (("fc", "--ckpt", "five.pt", "--data", "glyphs"), "10 classes"),
    (("fc", "--model", "mine:small"), "--data NAME, or named with --fc"),
    (("fc", "--model", "mine:small", "--fc", "0.0"), "expected a last layer with a weight of shape (K,D), got Conv2d"),
    (("fc", "--model", "mine:small", "--fc", "1"), "a last layer with a weight of shape (K,D), got Sequential"),
    (("fc", "--model", "mine:small", "--fc", "head"), "--fc: Sequential has no 'head'"),
    (("fc", "--model", "mine:convolutional", "--data", "glyphs"), "linear layer"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_status_2(run: Any, arguments: tuple[str, ...], words: str) -> None:
    assert words in run(*arguments).refused()


def test_predictions_are_the_deployed_models_in_every_precision(run: Any, place: Path, tmp_path: Path) -> None:
    """Of an untrained model, whose logits nearly tie, bfloat16 predicts other classes."""
    limit = 100
    assert run("contrib", "--ckpt", "a.pt", "--limit", limit, "--precision", "bf16", "--out", tmp_path).status == 0
    predicted = pd.read_csv(tmp_path / "contrib-images.csv")["prediction"].to_numpy()
    model, _ = attrib.load(place / "a.pt")
    batch = next(attrib.dataset("glyphs", limit=limit).batches(limit))
    assert predicted.tolist() == inference.logits(model, batch.image).argmax(1).tolist()
    rounded = last_layer(model, batch.image, batch.label, precision="bf16").prediction
    assert predicted.tolist() != rounded.tolist()
