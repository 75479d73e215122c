"""Users' pictures and data: without labels, in unusual folders, in tensors, loaders and rows."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from own_pictures import Linear, fit, save
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import attrib
from attrib.analyses.fitting import batch_size_for
from attrib.data import Dataset
from attrib.errors import InputError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures of 40x30 in a folder without class folders."""
    place = tmp_path / "photos"
    place.mkdir()
    for position in range(5):
        noise = np.random.default_rng(position).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(noise).save(place / f"{position}.png")
    return place


def test_a_folder_without_class_folders_explains_the_prediction(photos: Path, models: Path) -> None:
    data = attrib.dataset(f"folder:{photos}")
    assert (data.labels, data.classes, repr(data)) == (
        None, (), f"Dataset(folder:{photos}: 5 images of 3x30x40, unlabelled)",
    )  # fmt: skip
    assert next(data.batches(2)).label is None
    result = attrib.Span(floor=5).run({"a": models / "a.pt"}, data)
    assert result["a"]["accuracy"] is None
    assert result.summary["target"] == "prediction"
    assert "unlabelled, class explained: prediction" in str(result)
    # The same as with the predictions as labels, at the model's size.
    module, _ = attrib.load(models / "a.pt")
    (batch,) = attrib.dataset(f"folder:{photos}", size=32).batches(5)
    maps = attrib.gradcam(module, batch.image, module(batch.image).argmax(1))
    assert result["a"]["asc"] == pytest.approx(float(attrib.coverage(attrib.span(maps)).mean()), abs=1e-6)
    assert (result.rows["label"] == -1).all()


def test_robust_counts_predictions_that_stay(photos: Path, models: Path) -> None:
    result = attrib.Robustness(steps=(2,), eps=0.1).run({"a": models / "a.pt"}, f"folder:{photos}")
    module, _ = attrib.load(models / "a.pt")
    (batch,) = attrib.dataset(f"folder:{photos}", size=32).batches(5)
    prediction = module(batch.image).argmax(1)
    moved = attrib.fgsm(module, batch.image, prediction, eps=0.1)
    stays = float((module(moved).argmax(1) == prediction).double().mean())
    assert result["a"]["accuracies"] | {"clean": 1.0} == result["a"]["accuracies"]
    assert result["a"]["accuracies"]["fgsm"] == pytest.approx(stays)
    assert result["a"]["accuracy"] is None
    assert "do not change" in str(result)


def test_models_of_different_classes_each_explain_their_prediction(models: Path) -> None:
    """A model of three classes beside one of ten: the same as each alone."""
    images, few = torch.rand(4, 3, 32, 32), attrib.model(Linear(3), classes=["cat", "dog", "emu"])
    given = {"few": few, "a": models / "a.pt"}
    for analysis in (attrib.Maps(map="gradient", images=4), attrib.Robustness(steps=(1,), eps=0.1)):
        both = analysis.run(given, images)
        for name, model in given.items():
            alone = analysis.run({name: model}, images).rows
            assert both.rows.query(f"model == '{name}'").reset_index(drop=True).equals(alone)
    assert set(attrib.Maps(map="gradient").run(given, images).rows.query("model == 'few'")["prediction"]) <= {
        "cat", "dog", "emu",
    }  # fmt: skip
    with pytest.raises(InputError, match="the same number of classes, got 3 and 10"):
        attrib.Span(map="gradient").run(given, (images, torch.arange(4)))


@pytest.mark.parametrize("name", ["sets", "contrib", "relate", "report"])
def test_what_needs_labels_says_so(name: str, photos: Path, models: Path, run: Callable[..., Any]) -> None:
    assert "needs labels" in run(name, photos, "--ckpt", models / "a.pt").refused()


def test_pictures_are_positional_and_the_figure_names_the_class(
    photos: Path, models: Path, run: Callable[..., Any], tmp_path: Path
) -> None:
    out = run("maps", photos / "0.png", photos / "1.png", "--ckpt", models / "a.pt", "--out", tmp_path / "out")
    assert out.status == 0
    result = attrib.Result.load(tmp_path / "out")
    titles = [axes.get_title() for axes in result.plot().axes if axes.get_title()]
    assert titles[::2] == ["0", "1"]  # the files' stems
    assert list(result.tables()[0].frame["file"]) == ["0.png", "1.png"]
    for title, row in zip(titles[1::2], result.summary["images"], strict=True):
        assert title == f"{row['prediction']}\n{100 * row['probability']:.1f} %"
    assert "in the figure maps each map has a scale of its own" in result.tables()[0].caption
    assert (
        "name the data once" in run("maps", photos / "0.png", "--ckpt", models / "a.pt", "--data", "glyphs").refused()
    )
    for place in (photos, f"folder:{photos}"):
        assert f"5 images of folder:{photos}, unlabelled" in " ".join(run("span", place, models / "a.pt").out.split())
    assert "found nothing" in run("maps", photos / "no.png", "--ckpt", models / "a.pt").refused()


@pytest.mark.parametrize("analysis", [attrib.Maps(images=3), attrib.Span(floor=0), attrib.Robustness(steps=(1,))])
def test_rows_name_the_files(analysis: Any, tmp_path: Path, models: Path) -> None:
    for name in ("1/b.png", "0/a.png", "1/a.png"):
        save(tmp_path / name)
    data = attrib.dataset(f"folder:{tmp_path}", classes=[str(number) for number in range(10)])
    rows = analysis.run({"a": models / "a.pt"}, data, batch_size=2).rows
    named = [f"{tmp_path}/{name}" for name in ("0/a.png", "1/a.png", "1/b.png")]
    assert rows["file"].tolist() == [named[position] for position in rows["index"]]
    assert "file" not in analysis.run({"a": models / "a.pt"}, attrib.dataset("glyphs", limit=4)).rows


def test_the_class_explained_by_name_and_number(models: Path, run: Callable[..., Any]) -> None:
    data = attrib.dataset("glyphs", limit=4)
    module, _ = attrib.load(models / "a.pt")
    (batch,) = data.batches(4)
    expected = attrib.gradcam(module, batch.image, torch.full((4,), 7))
    for target in (7, "7"):
        result = attrib.Span(target=target, floor=0).run({"a": models / "a.pt"}, data)
        asc = float(attrib.coverage(attrib.span(expected)).mean())
        assert result["a"]["asc"] == pytest.approx(asc, abs=1e-6)
        assert "class explained: 7" in str(result)
    arguments = ("span", "--ckpt", models / "a.pt", "--data", "glyphs", "--limit", 2, "--target")
    assert "0..9, got 10" in run(*arguments, "10").refused()
    assert "by its name or number, got 'dg'" in run(*arguments, "dg").refused()


def test_hidden_folders_and_files_are_left_out_below(tmp_path: Path) -> None:
    for name in (
        "a/1.png",
        "a/.cache/2.png",
        "a/__MACOSX/3.png",
        "a/._1.png",
        "b/deep/.ipynb_checkpoints/4.png",
        "b/5.png",
    ):
        save(tmp_path / name)
    (tmp_path / "a/Thumbs.db").write_bytes(b"x")
    assert len(attrib.dataset(f"folder:{tmp_path}")) == 2


@pytest.mark.parametrize(
    "names", [("training", "testing"), ("train", "validation"), ("Train", "valid"), ("train", "dev")]
)
def test_splits(names: tuple[str, str], tmp_path: Path) -> None:
    save(tmp_path / names[0] / "a/1.png")
    for number in range(2):
        save(tmp_path / names[1] / f"a/{number}.png")
    assert [len(attrib.dataset(f"folder:{tmp_path}", split=split)) for split in ("train", "test")] == [1, 2]


def test_folders_called_by_numbers_come_by_number(tmp_path: Path) -> None:
    for name in ("2", "10", "9"):
        save(tmp_path / name / "1.png")
    data = attrib.dataset(f"folder:{tmp_path}")
    assert data.classes == ("2", "9", "10")
    assert "order of the numbers" in data.notes[0]


def test_one_picture_of_another_size_among_many_decides(tmp_path: Path) -> None:
    for number in range(150):
        save(tmp_path / f"a/{number:03}.png", (9, 9) if number == 77 else (8, 8))
    assert attrib.dataset(f"folder:{tmp_path}").shape == (3, 224, 224)


def test_pictures_are_upright_and_sized_as_such(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 8  # to be turned by 90 degrees counterclockwise
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a/1.tiff", exif=exif)
    data = attrib.dataset(f"folder:{tmp_path}")
    assert data.shape == (3, 16, 8)
    (batch,) = data.batches(1)
    assert torch.equal(batch.image[0, 0], torch.from_numpy(np.rot90(pixels[..., 0]).copy()) / 255)


def test_grey_models_get_grey_pictures_and_dark_ones_are_warned_of(tmp_path: Path) -> None:
    save(tmp_path / "a.png", value=1)
    data, warned = fit(attrib.dataset(tmp_path / "a.png"), Linear(3, channels=1))
    assert data.shape == (1, 8, 8)
    assert data.classes == ("0", "1", "2")
    assert "1/255" in warned[0]


class Rows(list[dict[str, Any]]):
    """Rows as a Hugging Face data set has them."""

    features = {"image": None, "label": SimpleNamespace(names=["cat", "dog", "eel"])}  # noqa: RUF012


def test_whatever_holds_images_is_a_data_set() -> None:
    images, labels = torch.rand(6, 3, 5, 4), torch.arange(6) % 3
    loader: Any = DataLoader
    given: Any
    data: Any
    turned = images.permute(0, 2, 3, 1).numpy()
    rows = Rows({"image": Image.fromarray(np.full((5, 4, 3), n, np.uint8)), "label": n % 3} for n in range(6))
    before = torch.get_rng_state()
    for given in (
        (images, labels), (turned, labels.numpy().astype(np.uint8)), TensorDataset(images, labels),
        loader(TensorDataset(images, labels), batch_size=4),
        loader(TensorDataset(images, labels), batch_size=4, shuffle=True),
    ):  # fmt: skip
        data = attrib.dataset(given)
        assert torch.equal(data.images, images)
        assert torch.equal(data.labels, labels)
        assert data.numbered
    assert torch.equal(torch.get_rng_state(), before)
    for given in (images, turned, TensorDataset(images), loader(images, batch_size=4)):
        data = attrib.dataset(given, limit=5)
        assert torch.equal(data.images, images[:5])
        assert data.labels is None
    data = attrib.dataset(rows)
    assert (data.classes, data.labels.tolist()) == (("cat", "dog", "eel"), labels.tolist())
    assert data.images[:, 0, 0, 0].tolist() == list(range(6))
    assert attrib.dataset(Rows({**row, "label": -1} for row in rows)).labels is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.rand(2, 3, 4, 4) * 255, "divide by 255"),
        ((torch.rand(2, 3, 4, 4), torch.rand(2, 5)), "one-hot"),
        ((torch.rand(2, 3, 4, 4), torch.zeros(3, dtype=torch.long)), "a label for each"),
        ([torch.rand(3, 4, 4), torch.rand(3, 5, 5)], "one shape"),
        ([{"text": "no image"}], "under one of the keys"),
        ([], "at least one"),
        (3, "got int"),
    ],
)
def test_what_is_no_data_is_one_line(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        attrib.dataset(given)
    assert "\n" not in str(caught.value)


def test_labels_below_the_models_classes_are_no_error() -> None:
    images = torch.rand(4, 3, 8, 8)
    result = attrib.Span(floor=0).run({"m": Linear(10)}, (images, torch.tensor([0, 1, 2, 1])))
    assert result["m"]["accuracy"] is not None


@pytest.mark.parametrize("source", ["numbered", "unlabelled", "named", "folders", "names"])
def test_names_that_are_not_one_per_logit(source: str, tmp_path: Path) -> None:
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    for name in "ab":
        save(tmp_path / name / "0.png")
    data = {
        "numbered": (images, labels),
        "unlabelled": images,
        "named": Dataset("own", "all", tuple("abcd"), images, labels),
        "folders": f"folder:{tmp_path}",
        "names": attrib.dataset(images, classes=list("abcd")),
    }[source]
    model = attrib.model(Linear(4), classes=["a", "b"], name="m")
    with pytest.raises(InputError, match=r"^m: classes: expected 4 names, one per class of the model, got 2$"):
        attrib.Span(map="gradient", floor=0).run(model, data)


@pytest.mark.parametrize(("classes", "ordered"), [(None, True), (["dog", "cat"], False), (["cat", "cow"], True)])
def test_the_causes_of_an_accuracy_at_chance(classes: list[str] | None, ordered: bool, tmp_path: Path) -> None:
    for position in range(60):
        save(tmp_path / ("cat" if position % 3 else "dog") / f"{position}.png")
    model = attrib.model(Linear(2), classes=classes, name="m")
    for data, asks in (
        (f"folder:{tmp_path}", ordered),
        ((torch.full((60, 3, 8, 8), 0.5), torch.arange(60) % 2), False),
    ):
        warnings = attrib.Span(map="gradient", floor=0).run(model, data).warnings
        (said,) = (
            line for line in warnings if "is not significantly better than always naming the commonest class (" in line
        )
        assert "mean (--mean) and std (--std)" in said
        assert ("are the class folders in the order of the model's classes, which classes" in said) == asks


def test_cifar10c(tmp_path: Path) -> None:
    place = tmp_path / "CIFAR-10-C"
    place.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), np.uint8)
    np.save(place / "fog.npy", images)
    np.save(place / "labels.npy", np.arange(10) % 10)
    data: Any = attrib.dataset("cifar10c:fog:3", root=tmp_path)
    assert torch.equal(data.images, torch.from_numpy(images[4:6].transpose(0, 3, 1, 2)))
    assert (data.labels.tolist(), data.classes[5]) == ([4, 5], "dog")
    for name, words in (("fog:6", "from 1 to 5"), ("snow:1", "expected one of fog")):
        with pytest.raises(InputError, match=words):
            attrib.dataset(f"cifar10c:{name}", root=tmp_path)


def test_large_images_come_in_small_batches() -> None:
    small, large = (attrib.dataset(torch.zeros(1, 3, side, side)) for side in (32, 512))
    assert batch_size_for(250, small) == 250
    assert 1 <= batch_size_for(250, large) < 10
    enlarging = [attrib.model(Linear(2), size=512), attrib.model(Linear(2))]
    assert batch_size_for(250, small, enlarging) == batch_size_for(250, large)


def test_dollars_in_names_are_no_formula(models: Path, tmp_path: Path) -> None:
    result = attrib.Span(floor=0).run({"cost $\\frac$": models / "a.pt"}, attrib.dataset("glyphs", limit=4))
    assert (tmp_path / "span.png") in result.save(tmp_path)


def test_dollars_in_names_of_classes_are_no_formula(models: Path, tmp_path: Path) -> None:
    classes = tuple(f"$ {number} \\sqrt $_$^" for number in range(10))
    data = attrib.dataset("glyphs", limit=4)
    data = Dataset("cost $\\over$ $", "all", classes, data.images, data.labels)
    for analysis in (attrib.Maps(map="gradient", overlay=True), attrib.Sets(), attrib.LastLayer()):
        assert (tmp_path / f"{analysis.name}.json") in analysis.run({"a": models / "a.pt"}, data).save(tmp_path)
