"""The analyses of the last layer, Contributions and LastLayer, through Python; the errors of their commands."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import attrib
from attrib import inference
from attrib.analyses.contrib import QUANTITIES, STATISTICS, Contributions
from attrib.analyses.fc import LastLayer
from attrib.analyses.options import Attack
from attrib.analyses.result import Result
from attrib.errors import InputError, Stopped
from attrib.features import high_contribution, last_layer, scale_free_contribution
from attrib.plots.fc import valid_picture

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
    """a.pt and b.pt: lenets; wide.pt: 64 features; cifar.pt, five.pt: other classes; run; maps.npz; mine.py."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "run").mkdir()
    for seed, (name, arch, data, classes) in enumerate(
        [
            ("a", "lenet", "glyphs", 10), ("b", "lenet", "glyphs", 10), ("wide", "resnet32", "glyphs", 10),
            ("cifar", "lenet", "cifar10", 10), ("five", "lenet", "unknown", 5),
        ]
    ):  # fmt: skip
        untrained(folder / f"{name}.pt", seed, arch=arch, data=data, classes=classes)
    untrained(folder / "run" / "epoch-1.pt")
    np.savez(folder / "maps.npz", map=np.zeros((3, 32, 32), np.float32), index=np.arange(3))
    (folder / "mine.py").write_text(OWN)
    return folder


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Everything runs in the folder ``place``."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("ATTRIB_DATA", raising=False)


def values_of(entry: dict[str, Any]) -> list[float]:
    """All numbers of a model's entry, in a fixed order."""
    numbers = [number for quantity in QUANTITIES for number in entry[quantity].values()]
    return [end for number in numbers for end in (number if isinstance(number, list) else [number])]


def check_saved(result: Result, out: Path) -> None:
    """What a result shows, and that what was saved of it says the same and can be drawn again."""
    loaded = Result.load(out)
    assert loaded.table.equals(result.table)
    assert loaded.figures.keys() == result.figures.keys() == {result.analysis.name}
    assert str(loaded) == str(result)
    assert loaded.to_latex() == result.to_latex() == (out / f"{result.analysis.name}.tex").read_text()
    assert "tabular" in result.to_latex()
    assert "<table" in result._repr_html_()
    columns = ["a", "b", "quantity", "difference", "low", "high", "p", "p_holm"]
    assert result.pairs.columns[: len(columns)].tolist() == columns
    for name in result.pairs["quantity"]:  # the quantity is a column of the models' table
        pair, values = result.pairs[result.pairs["quantity"] == name].iloc[0], result.table.set_index("name")[name]
        assert pair["difference"] == pytest.approx(values[pair["a"]] - values[pair["b"]])
    for suffix in ("pdf", "png"):
        assert (out / f"{result.analysis.name}.{suffix}").stat().st_size > 0
    assert not list(out.glob(".*"))


def test_contributions_are_those_of_the_functions(tmp_path: Path) -> None:
    data = attrib.dataset("glyphs", limit=60)
    result = Contributions().run({"first": "a.pt", "b": "b.pt"}, data, batch_size=17, out=tmp_path)
    assert all("is the model trained?" in warning for warning in result.warnings)  # they are not
    check_saved(result, tmp_path)
    table, images = pd.read_csv(tmp_path / "contrib.csv"), pd.read_csv(tmp_path / "contrib-images.csv")
    assert table.columns[:6].tolist() == ["model", "seed", "images", "feature", "C", "R"]
    batch = next(data.batches(60))
    for name, path in (("first", "a.pt"), ("b", "b.pt")):
        model, entry = attrib.load(path)[0], result[name]
        features, rows = table[table["model"] == name], images[images["model"] == name]
        right = (model(batch.image).argmax(1) == batch.label).numpy()
        assert rows["index"].tolist() == list(range(60))
        assert rows["correct"].tolist() == right.tolist()
        assert (entry["n"], entry["features"], len(features)) == (60, 500, 500)
        assert entry["accuracy"] == pytest.approx(right.mean())
        by_hand = (attrib.contribution, attrib.relevance, scale_free_contribution)
        for (quantity, column), measure in zip(QUANTITIES.items(), by_hand, strict=True):
            expected = measure(model, batch.image, batch.label).double()
            np.testing.assert_allclose(features[column], expected.mean(0), rtol=1e-4, atol=1e-9)
            np.testing.assert_allclose(rows[column], expected.mean(1), rtol=1e-4)
            np.testing.assert_allclose(features[f"{column}_correct"], expected[right].mean(0), rtol=1e-4, atol=1e-9)
            numbers, written = entry[quantity], torch.tensor(features[column].to_numpy(float))
            assert numbers["gini"] == pytest.approx(float(attrib.gini(written)), abs=1e-9)
            assert numbers["participation_ratio"] == pytest.approx(float(attrib.participation_ratio(written)))
            assert numbers["high"] == int(high_contribution(written, multiple=2))
            assert numbers["mean"] == pytest.approx(features[column].mean()) == pytest.approx(rows[column].mean())
            assert numbers["mean_correct"] == pytest.approx(rows.loc[rows["correct"], column].mean())
            assert numbers["mean_ci"][0] < numbers["mean"] < numbers["mean_ci"][1]
    pairs = result.pairs
    assert len(pairs) == len(QUANTITIES) * len(STATISTICS)
    assert (pairs["low"] <= pairs["high"]).all()
    assert ((pairs["p"] > 0) & (pairs["p"] <= pairs["p_holm"]) & (pairs["p_holm"] <= 1)).all()


def test_contributions_depend_on_neither_batch_size_nor_the_other_models() -> None:
    data = attrib.dataset("glyphs", limit=40)
    one = Contributions().run("a.pt", data)["a"]
    two = Contributions().run(["b.pt", "a.pt"], data, batch_size=9)["a"]
    assert values_of(two) == pytest.approx(values_of(one), rel=1e-4)
    other = Contributions(seed=1).run("a.pt", data)["a"]
    assert other["contribution"]["gini"] == pytest.approx(one["contribution"]["gini"])
    assert other["contribution"]["gini_ci"] != one["contribution"]["gini_ci"]


def test_the_same_model_twice_differs_by_nothing() -> None:
    result = Contributions().run({"a": "a.pt", "again": "a.pt"}, attrib.dataset("glyphs", limit=20))
    assert result.pairs[["difference", "low", "high", "p"]].drop_duplicates().values.tolist() == [[0, 0, 0, 1]]


def test_adversarial_images_beside_the_clean() -> None:
    data = attrib.dataset("glyphs", limit=6)
    result = Contributions(attack=Attack("pgd", steps=2)).run("b.pt", data)
    assert "PGD eps 8/255" in str(result)
    assert result["b"]["attacked"]["contribution"]["mean"] > result["b"]["contribution"]["mean"]
    assert set(result.frames[""]["images"]) == set(result.rows["images"]) == {"clean", "pgd"}
    still = Contributions(attack=Attack("pgd", eps=0, steps=2)).run(["a.pt", "b.pt", "wide.pt"], data)
    for entry in still.summary["models"]:
        np.testing.assert_array_equal(values_of(entry["attacked"]), values_of(entry))
    pairs = still.pairs[["images", "of", "statistic"]]
    assert pairs.drop_duplicates().values.tolist() == pairs.iloc[::3].values.tolist()  # statistic by statistic
    assert pairs["images"].tolist() == ["clean"] * 36 + ["pgd"] * 36


def test_one_image_has_no_interval(tmp_path: Path) -> None:
    result = Contributions().run(["a.pt", "b.pt"], attrib.dataset("glyphs", limit=1), out=tmp_path)
    assert result["a"]["contribution"]["gini"] > 0
    assert np.isnan(result["a"]["contribution"]["gini_ci"]).all()
    check_saved(result, tmp_path)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, measure = attrib.dataset("glyphs", limit=40), Contributions.measure
    seen: list[int] = []

    def stopping(self: Contributions, model: Any, batch: Any, context: Any) -> Any:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(len(batch.index))
        return measure(self, model, batch, context)

    expected = Contributions().run("a.pt", data, batch_size=9)
    monkeypatch.setattr(Contributions, "measure", stopping)
    with pytest.raises(Stopped):
        Contributions().run("a.pt", data, batch_size=9, out=tmp_path)
    seen[:] = [0] * 4
    again = Contributions().run("a.pt", data, batch_size=9, out=tmp_path)
    assert seen[4:] == [9, 4]
    assert again.rows.equals(expected.rows)
    assert values_of(again["a"]) == pytest.approx(values_of(expected["a"]), rel=1e-9)


def test_predictions_are_the_deployed_models_in_every_precision() -> None:
    """Of an untrained model, whose logits nearly tie, bfloat16 predicts other classes."""
    data = attrib.dataset("glyphs", limit=100)
    predicted = Contributions(precision="bf16").run("a.pt", data).rows["prediction"].tolist()
    model, batch = attrib.load("a.pt")[0], next(data.batches(100))
    assert predicted == inference.logits(model, batch.image).argmax(1).tolist()
    assert predicted != last_layer(model, batch.image, batch.label, precision="bf16").prediction.tolist()


def test_contributions_of_models_from_outside(run: Any) -> None:
    data = attrib.dataset("glyphs", limit=8)
    done = run("contrib", "mine:small", "--data", "glyphs", "--limit", 8, "--size", 32, "--json")
    assert [(entry["name"], entry["features"]) for entry in json.loads(done.out)["models"]] == [("small", 4)]
    assert Contributions(fc="2").run("mine:mlp", data)["mlp"]["features"] == 4
    assert Contributions().run("mine:mlp", data)["mlp"]["features"] == 6
    result = Contributions().run(["mine:small", "wide.pt"], data)
    assert any("different numbers of features (small 4, wide 64)" in warning for warning in result.warnings)


@pytest.mark.parametrize("rule", ["mean", "class-mean", "absolute"])
def test_last_layer_counts_what_valid_values_marks(tmp_path: Path, rule: str) -> None:
    result = LastLayer(rule=rule).run({"first": "a.pt", "b": "b.pt"}, out=tmp_path)
    assert result.warnings == []
    check_saved(result, tmp_path)
    assert result.summary["rule"] == rule
    assert result.rows.columns.tolist() == ["model", "seed", "class", "valid", "total"]
    counts = []
    for entry, path in zip(result.summary["models"], ("a.pt", "b.pt"), strict=True):
        mask = attrib.valid_values(attrib.load(path)[0].get_submodule("fc").weight, rule=rule)  # type: ignore[arg-type]
        counts.append(mask.sum(1).tolist())
        rows = result.rows[result.rows["model"] == entry["name"]]
        assert entry["valid"] == counts[-1] == rows["valid"].tolist()
        assert entry["valid_mean"] == pytest.approx(rows["valid"].mean())
        assert entry["valid_share"] == pytest.approx(float(mask.double().mean()))
        assert rows["total"].unique().tolist() == [entry["features"]] == [500]
        assert tuple(rows["class"]) == tuple(entry["classes"]) == attrib.dataset("glyphs", limit=1).classes
        assert np.array_equal(result.arrays[""][f"valid_{len(counts) - 1}"], mask)
    (pair,) = result.summary["pairs"]
    assert pair["difference"] == pytest.approx(np.mean(counts[0]) - np.mean(counts[1]))
    assert pair["more"] == sum(a > b for a, b in zip(*counts, strict=True))
    assert np.isnan(pair["p"])
    with Image.open(tmp_path / "fc.png") as picture:
        assert 800 < picture.width < 1100
    # Symmetric numbers lie above their mean as often as below; their absolute values do not.
    symmetric = np.random.default_rng(0).normal(size=(200, 500))
    if rule == "absolute":
        assert result.summary["expected_symmetric"] is None
        assert "symmetric" not in str(result)
        symmetric = np.abs(symmetric)
        assert (symmetric > symmetric.mean()).mean() == pytest.approx(0.425, abs=0.01)
    else:
        share = (symmetric > symmetric.mean()).mean()
        assert result.summary["expected_symmetric"] == 0.5 == pytest.approx(share, abs=0.01)
        assert re.search("symmetric +50.0", str(result))
    assert "of these files only" in result.to_latex()
    assert "of this file only: another training run can differ" in str(LastLayer(rule=rule).run("a.pt"))


def test_the_picture_shows_the_mask() -> None:
    mask = torch.rand(10, 500, generator=torch.Generator().manual_seed(0)).numpy() > 0.4
    figure = valid_picture([mask], models=["a"], classes=[list("0123456789")], title="t")
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    assert drawn.shape == (70, 72)
    for row, band in zip(mask, drawn.reshape(10, -1), strict=True):
        assert band[:500].astype(bool).tolist() == row.tolist()
        assert (band[500:] == 2).all()


def test_last_layer_names_classes_without_their_data() -> None:
    result = LastLayer().run(["cifar.pt", "five.pt"])
    assert result["cifar"]["classes"][:2] == ["airplane", "automobile"]
    assert result["five"]["classes"] == list("01234")
    assert result.pairs.empty
    assert "of 64" in str(LastLayer().run(["cifar.pt", "a.pt", "five.pt", "wide.pt"]))


def test_last_layer_of_many_classes_prints_the_means(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 31))
    result = LastLayer(fc="1").run({"many": module}, out=tmp_path)
    assert result.tables()[0].frame["class"].tolist() == ["mean", "mean %", "mean % if W were symmetric"]
    assert len(result.rows) == 31
    assert (tmp_path / "fc.tex").read_text().count(r"\\") > 31


def test_last_layer_of_models_from_outside(run: Any, tmp_path: Path) -> None:
    """Data whose classes are not the model's finds the layer too."""
    for place, (given, classes) in enumerate((
        (("mine:small", "--data", "glyphs"), 10), (("mine:small", "--fc", "2"), 10),
        (("mine:convolutional", "--fc", "2"), 10), (("mine:seven", "--data", "glyphs"), 7),
    )):  # fmt: skip
        status, out, err = run("fc", "--model", *given, "--json", "--out", tmp_path / str(place))
        assert (status, err) == (0, "")
        (entry,) = json.loads(out)["models"]
        assert (entry["features"], len(entry["valid"])) == (4, classes)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    assert LastLayer().run(module, attrib.dataset("glyphs", limit=1)).table["features"].tolist() == [3072]
    model, _ = attrib.load("a.pt")  # whose last layer is known
    assert LastLayer().run(model).table["valid_mean"].tolist() == LastLayer().run("a.pt").table["valid_mean"].tolist()
    with pytest.raises(InputError, match="the last layer is unknown"):
        LastLayer().run(module)


A = ("--ckpt", "a.pt")
FEW = ("--limit", "3")
BAD = [
    (("contrib", *A, "--multiple", "nan"), "--multiple: expected a number above 0"),
    (("contrib", *A, "--fc", "fc"), "--fc: expected a model that is not a checkpoint"),
    (("contrib", "--model", "mine:small"), "--data: expected the name of a data set"),
    (("contrib", "--model", "mine:small", "--data", "glyphs", "--fc", "9"), "--fc: Sequential has no '9'"),
    (("contrib", "--model", "mine:convolutional", "--data", "glyphs", *FEW), "linear layer"),
    (("contrib", "--model", "mine:seven", "--data", "glyphs", *FEW), "expected logits of shape (N,10)"),
    (("fc", "maps.npz"), "expected a model, got saved epochs or maps"),
    (("fc", "run"), "expected a model, got saved epochs or maps"),
    (("fc", *A, "--rule", "median"), "--rule: expected one of mean, class-mean, absolute"),
    (("fc", *A, "--fc", "fc"), "--fc: expected a model that is not a checkpoint"),
    (("fc", *A, "--data", "imagenet"), "expected one of glyphs"),
    (("fc", *A, "--limit", "3"), "--limit: no such option"),
    (("fc", *A, "--seed", "3"), "--seed: no such option"),
    (("fc", "--ckpt", "five.pt", "--data", "glyphs"), "10 classes"),
    (("fc", "--model", "mine:small"), "name it with fc (--fc NAME)"),
    (("fc", "--model", "mine:small", "--fc", "0.0"), "expected a last layer with a weight of shape (K,D), got Conv2d"),
    (("fc", "--model", "mine:small", "--fc", "1"), "a last layer with a weight of shape (K,D), got Sequential"),
    (("fc", "--model", "mine:small", "--fc", "head"), "--fc: Sequential has no 'head'"),
    (("fc", "--model", "mine:convolutional", "--data", "glyphs"), "linear layer"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_status_2(run: Any, arguments: tuple[str, ...], words: str) -> None:
    assert words in run(*arguments).refused()
