"""The class of a folder: by name, number or WordNet id, or unlabelled with a warning."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from own_pictures import Linear, fit, save

import attrib
from attrib.analyses.fitting import fitted
from attrib.data.matching import by_wordnet_id, matched, read_classes
from attrib.errors import InputError


def test_class_folders_are_matched_by_name(tmp_path: Path) -> None:
    for name in ("Tiger_Cat", "zebra"):
        save(tmp_path / name / "1.png")
    names = ("zebra", "dog", "tabby, tabby cat", "tiger cat")
    data, warned = fit(attrib.dataset(f"folder:{tmp_path}"), Linear(4), names)
    assert (data.labels.tolist(), data.folders, data.classes, warned) == (
        [3, 0],
        {"Tiger_Cat": 3, "zebra": 0},
        names,
        [],
    )
    again, _ = fit(data, Linear(4), names)
    assert again.labels.tolist() == [3, 0]
    (tmp_path / "names.txt").write_text("\n".join(names))
    data, _ = fit(attrib.dataset(f"folder:{tmp_path}", classes=tmp_path / "names.txt"), Linear(4))
    assert data.labels.tolist() == [3, 0]
    data, warned = fit(attrib.dataset(f"folder:{tmp_path}"), Linear(4))
    assert not data.labelled
    assert "taken as unlabelled" in warned[0]
    with pytest.raises(InputError, match="expected 3 names"):
        fit(attrib.dataset(f"folder:{tmp_path}", classes=names), Linear(3))


@pytest.mark.parametrize(
    ("folders", "names", "labels", "words"),
    [
        # As many as the model's classes, but one is called otherwise: in their order, with a word.
        (("bird", "car", "ship"), ("bird", "automobile", "ship"), [0, 1, 2], "taken in their order: bird is bird"),
        (("ship", "bird", "automobile"), ("bird", "automobile", "ship"), [1, 0, 2], ""),
        (("2", "0", "1"), ("bird", "automobile", "ship"), [0, 1, 2], "from 0: 0 is bird"),
        (("0", "1", "2"), None, [0, 1, 2], ""),
        (("1", "3"), ("bird", "cat", "deer", "dog"), [1, 3], "from 0: 1 is cat"),
        (("1", "3"), ("1", "2", "3", "4"), [0, 2], ""),
        (("1", "4"), ("bird", "cat", "deer", "dog"), None, "none is called 1, 4: taken as unlabelled"),
        (("bird", "lion"), ("bird", "cat", "deer", "dog"), None, "none is called lion: taken as unlabelled"),
    ],
)
def test_folders_that_are_called_otherwise(
    folders: tuple[str, ...], names: tuple[str, ...] | None, labels: list[int] | None, words: str, tmp_path: Path
) -> None:
    for name in folders:
        save(tmp_path / name / "1.png")
    data, warned = fit(attrib.dataset(f"folder:{tmp_path}"), Linear(len(names or folders)), names)
    assert (None if data.labels is None else data.labels.tolist()) == labels
    assert any(words in warning for warning in warned) if words else not warned
    if names:
        assert data.classes == names or "taken in" in words


@pytest.mark.parametrize(
    ("folders", "given", "warns"),
    [
        (("cat", "dog"), None, True),  # fewer than the classes: alone, the nameless model would see no labels
        (("bird", "cat", "dog", "emu"), None, True),  # in another order than the names
        ((), None, True),  # without labels: the predictions get the names
        (("3", "1"), None, False),  # by position, as for the nameless model alone
        (("cat", "dog"), ("emu", "dog", "cat", "bird"), False),
    ],
)
def test_names_of_another_model_are_not_taken_silently(
    folders: tuple[str, ...], given: tuple[str, ...] | None, warns: bool, tmp_path: Path
) -> None:
    for name in folders or ("",):
        save(tmp_path / name / "1.png")
    names = ("emu", "dog", "cat", "bird")
    mine, raw = attrib.model(Linear(4), name="mine"), attrib.model(Linear(4), name="raw", classes=names)
    data = attrib.dataset(f"folder:{tmp_path}", classes=given)
    warned: list[str] = []
    both = fitted(data, [mine, raw], torch.device("cpu"), warned.append)
    borrowed = [each for each in warned if "in the order of raw's classes (emu, dog, cat, ...)" in each]
    assert len(borrowed) == warns
    assert all(each.startswith("mine: the class names are unknown") for each in borrowed)
    assert both.classes == names
    if folders and not warns and given is None:
        alone, _ = fit(data, Linear(4))
        assert both.labels.tolist() == alone.labels.tolist()


def test_models_that_name_their_classes_differently(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "1.png")
    a, b = (attrib.model(Linear(2), name=name, classes=names) for name, names in {"a": AB, "b": AB[::-1]}.items())
    with pytest.raises(InputError, match=r"differently: class 0 is cat of a, dog of b; .* one by one, or put one into"):
        attrib.Span(floor=0).run([a, b], f"folder:{tmp_path}")


AB = ("cat", "dog")


def test_a_name_of_several_classes_is_the_reason(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save(tmp_path / name / "1.png")
    data, (warned,) = fit(attrib.dataset(f"folder:{tmp_path}"), Linear(10), ("cat",) * 10)
    assert not data.labelled
    assert "several of them are called cat: taken as unlabelled" in warned


def test_more_folders_than_classes(tmp_path: Path) -> None:
    for name in ("bird", "lion", "ship"):
        save(tmp_path / name / "1.png")
    with pytest.raises(InputError, match="3 classes; leave out the folders that are no class of the model"):
        attrib.Span().run({"m": Linear(2)}, f"folder:{tmp_path}")


def ids(count: int) -> list[str]:
    """WordNet ids, in order."""
    return [f"n{2_000_000 + 37 * number:08}" for number in range(count)]


def test_wordnet_ids_say_their_order_or_timm_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert by_wordnet_id(ids(1000)[::-1], 1000) == list(range(1000))[::-1]
    assert by_wordnet_id(ids(1000), 1001) == list(range(1, 1001))  # behind a class "background"
    assert by_wordnet_id(["cat", *ids(1)], 1000) is None
    for name in (ids(1000)[7], ids(1000)[3]):
        save(tmp_path / name / "1.png")
    monkeypatch.setitem(sys.modules, "timm.data", None)
    data, (warned,) = fit(attrib.dataset(f"folder:{tmp_path}"), Linear(1000))
    assert not data.labelled
    assert "(--classes FILE) or install timm" in warned

    stub = SimpleNamespace(
        infer_imagenet_subset=lambda known: {1000: "imagenet-1k"}.get(known["num_classes"]),
        ImageNetInfo=lambda subset: SimpleNamespace(label_names=lambda: ids({"imagenet-1k": 1000}[subset])),
    )
    monkeypatch.setitem(sys.modules, "timm.data", stub)
    data, warnings = fit(attrib.dataset(f"folder:{tmp_path}"), Linear(1000))
    assert (data.labels.tolist(), warnings) == ([3, 7], [])
    assert by_wordnet_id(ids(2), 999) is None


def test_timm_knows_imagenets_ids() -> None:
    info = pytest.importorskip("timm.data", reason="timm is not installed").ImageNetInfo("imagenet-1k")
    assert by_wordnet_id(["n01443537", "n01440764"], 1000) == [1, 0]
    assert info.label_names() == sorted(info.label_names())


def test_names_of_classes(tmp_path: Path) -> None:
    assert matched(["n00000002", "n00000001"], ["n00000001 cat", "n00000002 dog"]) == [1, 0]
    assert matched(["cat", "CAT"], ["cat", "dog"]) is None
    assert matched(["maillot"], ["maillot", "maillot", "dog"]) is None
    (tmp_path / "index.json").write_text('{"0": ["n00000001", "cat"], "1": ["n00000002", "dog"]}')
    assert matched(["dog"], read_classes(tmp_path / "index.json")) == [1]
    with pytest.raises(InputError, match="found nothing at"):
        read_classes(tmp_path / "nowhere.txt")


def test_info_says_which_class_each_folder_is(tmp_path: Path, untrained: Any, run: Any) -> None:
    for name in ("Horse", "bird"):
        save(tmp_path / "animals" / name / "1.png", (32, 32))
    path = untrained(tmp_path / "model.pt", data="cifar10")
    place = f"folder:{tmp_path}/animals"
    known = json.loads(run("info", place, path, "--json").out)
    assert known["data"][0]["folders"] == {"Horse": {"class": 7, "name": "horse"}, "bird": {"class": 2, "name": "bird"}}
    assert known["checkpoints"][0]["path"] == str(path)
    alone = run("info", tmp_path / "animals")
    assert [line.split() for line in alone.out.splitlines() if "orse" in line] == [["Horse", "0", "Horse"]]
