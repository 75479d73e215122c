"""The analysis ``Maps``: the maps of the chosen images, their spans, and the figure."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attrib
from attrib.analyses.maps import Maps
from attrib.analyses.options import Attack
from attrib.analyses.result import Result
from attrib.errors import InputError


def test_the_maps_are_those_of_the_functions(models: Path, tmp_path: Path) -> None:
    data = attrib.dataset("glyphs", limit=40)
    seeds = {"a": models / "a.pt", "both": [models / "a.pt", models / "b.pt"]}
    analysis = Maps(map="gradient", attack=Attack("fgsm"), images=3, threshold="max:0.3", precision="fp32")
    result = analysis.run(seeds, data, out=tmp_path, batch_size=2)
    firsts = sorted(data.labels.tolist().index(label) for label in set(data.labels.tolist()))[:3]
    (batch,) = data.batches(3, order=torch.tensor(firsts))
    for name, file in (("a", "a.pt"), ("both-seed0", "a.pt"), ("both-seed1", "b.pt")):
        model, _ = attrib.load(models / file)
        adversarial = attrib.fgsm(model, batch.image, batch.label, eps=8 / 255)
        expected = attrib.gradient(model, adversarial, batch.label)
        arrays = result.arrays[name]
        assert arrays["index"].tolist() == firsts
        np.testing.assert_allclose(arrays["map"], expected.numpy(), rtol=1e-4, atol=1e-7)
        assert (arrays["span"] == attrib.span(expected, threshold="max:0.3").numpy()).mean() > 0.999
    examples = result.arrays["examples"]
    np.testing.assert_allclose(examples["image"][0], adversarial_of(models / "a.pt", batch)[0], atol=1e-6)
    np.testing.assert_array_equal(examples["map"][1], result.arrays["both-seed0"]["map"])
    rows = result.rows
    assert list(rows) == ["model", "seed", "index", "label", "prediction", "probability", "highest", "mean", "empty"]
    assert rows["index"].tolist() == firsts * 3
    assert rows["label"].tolist() == [data.classes[k] for k in batch.label] * 3
    with torch.no_grad():
        answers = model(adversarial).double().softmax(1)  # of the last file
    np.testing.assert_allclose(rows["probability"][6:], answers.amax(1), rtol=1e-4)
    np.testing.assert_allclose(rows["mean"][6:], expected.mean((1, 2)), rtol=1e-4)
    assert rows.to_dict("records") == result.summary["images"]
    assert result.table["mean"][1] == pytest.approx(rows["mean"][3:].mean())
    written = {path.name for path in tmp_path.iterdir()}
    maps = {f"maps-{name}.npz" for name in ("a", "both-seed0", "both-seed1", "examples")}
    assert written == {"maps.csv", "maps.json", "maps.pdf", "maps.png", "maps-figures.tex", *maps}
    loaded = Result.load(tmp_path)
    assert loaded.table.equals(result.table)
    assert loaded.to_text() == result.to_text()
    assert "both/1" not in loaded.to_latex()
    assert list(loaded.figures) == ["maps"]


def adversarial_of(path: Path, batch: Any) -> Any:
    """The images (N,H,W,3) after FGSM on the model."""
    model, _ = attrib.load(path)
    return attrib.fgsm(model, batch.image, batch.label, eps=8 / 255).permute(0, 2, 3, 1).numpy()


def test_positions_can_be_chosen(run: Any, models: Path) -> None:
    result = Maps(index=(5, 2, 5)).run(models / "a.pt", attrib.dataset("glyphs", limit=9))
    assert result.rows["index"].tolist() == [2, 5]
    assert result.pairs.empty
    done = run("maps", "--ckpt", models / "a.pt", "--index", "5,2", "--limit", 9)
    assert (done.status, done.out) == (0, result.to_text())


@pytest.mark.parametrize(("given", "words"), [
    ({"index": (3, 9)}, r"index: expected positions in 0\.\.8, got 3,9"), ({"index": ()}, "index: expected a list of"),
    ({"index": "3"}, "index: expected a list of"), ({"images": 0}, "images: expected at least 1, got 0"),
])  # fmt: skip
def test_bad_options(models: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Maps(**given).run(models / "a.pt", attrib.dataset("glyphs", limit=9))


def test_an_overlay_says_label_prediction_and_scale(models: Path) -> None:
    data = attrib.dataset("glyphs", limit=9)
    result = Maps(index=(0, 1, 2), overlay=True).run(models / "a.pt", data)
    figure = result.plot("maps-overlay")
    titles = [axes.get_title() for axes in figure.axes]
    for place, row in enumerate(result.summary["images"]):
        assert titles[2 * place] == f"{row['label']}\n#{place}"
        says = "says " * (row["prediction"] != row["label"])
        assert titles[2 * place + 1] == f"{says}{row['prediction']}\n{100 * row['probability']:.1f} %"
    assert any("says" in title for title in titles)
    assert figure.get_suptitle().startswith("a: Grad-CAM")
    assert figure.get_supxlabel() == "each map on its own scale"
    assert "in the figure maps-overlay each map has a scale of its own" in result.tables()[0].caption
    assert result.plot("maps").get_supxlabel() == ""
    assert "scale of its own" not in Maps(index=(0,)).run(models / "a.pt", data).tables()[0].caption
