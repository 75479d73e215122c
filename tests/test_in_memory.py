"""Data in memory, in users' formats: columns, rows, loaders, Hugging Face data sets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

import attrib
from attrib.data import wrap
from attrib.errors import InputError

IMAGES = torch.rand(5, 3, 6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, 1, 1, 0])


class Named(Dataset[Any]):
    """Rows of a name to each part."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, at: int) -> dict[str, Any]:
        return {"id": f"row {at}", "pixel_values": IMAGES[at], "labels": int(LABELS[at])}


class Stream(IterableDataset[Any]):
    """Tuples one after the other, without a length."""

    def __iter__(self) -> Any:
        return iter([(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)])


loader: Any = DataLoader
GIVEN: dict[str, Any] = {
    "columns": {"images": IMAGES, "labels": LABELS},
    "columns of arrays": {"img": IMAGES.permute(0, 2, 3, 1).numpy(), "fine_label": LABELS.numpy().astype(np.int16)},
    "channels last": (IMAGES.permute(0, 2, 3, 1), LABELS),
    "labels as a column": (IMAGES, LABELS.numpy().astype(np.uint8)[:, None]),
    "labels in a list": (IMAGES, LABELS.tolist()),
    "rows": Named(),
    "batches of columns": loader(Named(), batch_size=3),
    "batches of rows": loader(Named(), batch_size=3, collate_fn=list),
    "batches of tuples": loader(Stream(), batch_size=2, collate_fn=list),
    "single items": loader(Named(), batch_size=None),
    "a stream": Stream(),
    "a stream's batches": loader(Stream(), batch_size=2),
    "workers": loader(Named(), batch_size=2, num_workers=2),
}


@pytest.mark.parametrize("name", GIVEN)
def test_images_and_labels(name: str) -> None:
    data: Any = attrib.dataset(GIVEN[name])
    assert torch.equal(data.images, IMAGES)
    assert data.labels.tolist() == LABELS.tolist()
    assert "\n" not in repr(data)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32, np.uint16, np.int32])
def test_labels_of_every_whole_type(kind: Any) -> None:
    labels: Any = LABELS.numpy().astype(kind) if isinstance(kind, type) else LABELS.to(kind)
    data: Any = attrib.dataset((IMAGES, labels))
    assert (data.labels.dtype, data.labels.tolist()) == (torch.int64, LABELS.tolist())


@pytest.mark.parametrize("labels", [LABELS > 0, (LABELS > 0).numpy(), (LABELS > 0).tolist()])
def test_labels_that_are_true_or_false(labels: Any) -> None:
    data: Any = attrib.dataset((IMAGES, labels))
    assert data.labels.tolist() == [0, 1, 1, 1, 0]


def test_a_normalisation_that_was_undone_leaves_the_range_by_rounding() -> None:
    mean, std = 0.4914, 0.247
    images = (torch.tensor([0.0, 1.0]).expand(1, 3, 2, 2) - mean) / std * std + mean - 1e-7
    assert images.min() < 0
    assert attrib.dataset(images).shape == (3, 2, 2)
    with pytest.raises(InputError, match="undo a normalisation"):
        attrib.dataset(images - 0.01)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.rand(3, 8, 8), r"image\[None\]"),
        (np.zeros((9, 8, 3), np.uint8), r"image\[None\]"),
        (torch.rand(0, 3, 8, 8), "at least one image, got none"),
        ({"train": Named(), "test": Named()}, r"data\['test'\]"),
        ((IMAGES, ["cat"] * 5), "one per image, got str"),
        ((IMAGES, [0, 1, None, 1, 0]), "one per image, got NoneType"),
        (IMAGES.mul(255).long(), "expected uint8, or floats in"),
        (IMAGES * 2 - 1, "undo a normalisation"),
    ],
)
def test_what_may_be_meant_in_two_ways_is_one_line(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        attrib.dataset(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [Named(), loader(Named(), batch_size=1), [Image.new("RGB", (6, 4))] * 5, Stream()])
def test_more_than_memory_holds_is_refused_unless_few_are_asked_for(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 72 if isinstance(data, list) else IMAGES[0].nbytes
    monkeypatch.setattr(wrap, "LARGEST", 2 * limit)
    with pytest.raises(InputError, match="--limit"):
        attrib.dataset(data)
    assert len(attrib.dataset(data, limit=2)) == 2


def test_pictures_are_upright(tmp_path: Path) -> None:
    sideways = Image.Exif()
    sideways[0x0112] = 8  # to be turned by 90 degrees counterclockwise
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "1.webp", exif=sideways, lossless=True)
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "2.png")
    data: Any = attrib.dataset([Image.open(tmp_path / name) for name in ("1.webp", "2.png")])
    assert data.shape == (3, 6, 4)
    assert torch.equal(data.images[0], data.images[1])


def test_pictures_of_several_sizes_are_cut_with_a_word() -> None:
    several = [Image.new("RGB", (9, 8), (40, 0, 0)), Image.new("RGB", (8, 9), (40, 0, 0))]
    given: Any
    for given in (several, (several, [0, 1]), {"image": several, "label": [1, 0]}):
        data = attrib.dataset(given)
        assert data.shape == (3, 224, 224)
        assert "224x224" in data.notes[0]
        data = attrib.dataset(given, size=5)
        assert (data.shape, data.notes) == ((3, 5, 5), ())
    for given in ([], ([], [])):
        with pytest.raises(InputError, match="at least one image, got none"):
            attrib.dataset(given)
    with pytest.raises(InputError, match="only pictures, as a folder's, are resized"):
        attrib.dataset(IMAGES, size=5)


def of_numbers(**columns: Any) -> Any:
    """A Hugging Face data set of six pictures, picture k being of colour 10 k."""
    datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed")
    pictures = [Image.new("RGB", (5, 4), (10 * number,) * 3) for number in range(6)]
    names = datasets.ClassLabel(names=["cat", "dog", "eel"])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    return datasets.Dataset.from_dict({"image": pictures, "label": [0, 1, 2] * 2, **columns}, features=features)


HUGGING_FACE: dict[str, Any] = {
    "as it is": lambda data: data,
    "tensors": lambda data: data.with_format("torch"),
    "arrays": lambda data: data.with_format("numpy"),
    "a stream": lambda data: data.to_iterable_dataset(),
    "a loader of rows": lambda data: loader(data, batch_size=4, collate_fn=list),
    "a loader of tensors": lambda data: loader(data.with_format("torch"), batch_size=4),
    "other columns": lambda data: data.rename_columns({"image": "img", "label": "fine_label"}),
}


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face(name: str) -> None:
    data: Any = attrib.dataset(HUGGING_FACE[name](of_numbers()))
    assert data.classes == ("cat", "dog", "eel")
    assert data.labels.tolist() == [0, 1, 2] * 2
    assert data.images[:, 1, 2, 3].tolist() == [0, 10, 20, 30, 40, 50]


def test_hugging_face_without_labels_and_with_a_name() -> None:
    rows = of_numbers()
    assert attrib.dataset(rows.remove_columns("label")).labels is None
    assert attrib.dataset(rows[:4]).labels.tolist() == [0, 1, 2, 0]
    rows.info.dataset_name = "animals"
    assert repr(attrib.dataset(rows, size=3)) == "Dataset(animals: 6 images of 3x3x3, 3 classes)"


class Brightness(torch.nn.Module):
    """Logits of three classes, which are 0, 12 and 40 bright."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = torch.nn.Parameter(torch.tensor([0.0, 12.0, 40.0]) / 255)

    def forward(self, x: Tensor) -> Tensor:
        return -((x.mean((1, 2, 3))[:, None] - self.levels) ** 2)


def test_an_analysis_takes_them() -> None:
    result = attrib.Span(map="gradient", floor=0).run({"m": Brightness()}, of_numbers())
    assert result.rows["label"].tolist() == [0, 1, 2] * 2
    assert result["m"]["accuracy"] == pytest.approx(3 / 6)  # pictures of 0, 10, ..., 50 are 0, 1, 1, 2, 2, 2
