import io
import json
import re
import zlib
from base64 import b64decode
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Out
from PIL import Image
from results_by_hand import IMAGES, SIZE, ByHand, by_hand, coverage_of

import attrib
from attrib.analyses.result import Result
from attrib.models.several import models_of, with_short_names
from attrib.pages import compute, words
from attrib.pages import images as browsing
from attrib.pages import render as pages
from attrib.pages.images import Coded, coded, decoded
from attrib.pages.keys import key_line
from attrib.search import Seen, examples
from attrib.thresholds import RULES

OWN = ("data:", "#")
"""What an address in a self-contained page begins with."""


class Page(HTMLParser):
    """The elements of a page, its scripts, and whether every element was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self.opened: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input", "wbr"):
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.opened[-1] if self.opened else ""
        if inside == "script":
            self.scripts.append((self.elements[-1][1], data))
        elif inside == "style":
            self.styles.append(data)
        else:
            self.text += data

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]


def embedded(page: Page) -> dict[str, Any]:
    """What the page's script reads."""
    (text,) = [text for attributes, text in page.scripts if attributes.get("type") == "application/json"]
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ByHand:
    return by_hand(tmp_path_factory.mktemp("by-hand"))


@pytest.fixture(scope="module")
def page(results: ByHand) -> Page:
    return Page(results.page())


def test_page_is_whole(page: Page) -> None:
    assert page.opened == []
    ids = page.ids()
    assert len(set(ids)) == len(ids)
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert {f"#{name}" for name in ids} >= set(links)
    for tag, attributes in page.elements:
        assert tag != "img" or attributes["alt"]


def test_page_needs_nothing_else(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "#").startswith(OWN), (tag, attributes)
    sources = "".join(page.styles) + "".join(text for _, text in page.scripts)
    assert "@import" not in sources
    assert "url(" not in sources
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest|import\(", sources)


def test_everything_is_said(page: Page) -> None:
    for said in (
        "ASC %", "31.25", "24 images", "fingerprint 0123456789ab", "no layer was found", "attrib report --ckpt a.pt",
        "plain: a doubt about span.", "lr", "not computed", "no difference in coverage was found",
    ):  # fmt: skip
        assert said in page.text.replace("\u00a0", " "), said


def test_numbers_are_told_from_words() -> None:
    for cell in ("31.25", "–", "< 0.001", "+1.5 to −2.0", "0.10 (0.05 to 0.20)", "2.96e-05", "254.0 of 500", "1,000"):
        assert pages.NUMBER.match(cell), cell
    for cell in ("gradcam", "a − b", "↑ higher", "4x4", "0.679 random order"):
        assert not pages.NUMBER.match(cell), cell


def test_columns_of_numbers_are_aligned_at_their_right(page: Page) -> None:
    cells = [attributes.get("class") for tag, attributes in page.elements if tag == "td"]
    # By hand: rows of a name, a number and a text; the first table follows the two rows of three cells at the top.
    assert cells[6:12] == ["text", None, "text"] * 2


def test_names_that_hold_html_are_harmless(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    text = by_hand(tmp_path, names=(evil, "b & <b>c")).page()
    page = Page(text)
    assert "<script>alert" not in text
    assert not [attributes for _, attributes in page.elements if "onerror" in attributes]
    assert evil in page.text
    assert embedded(page)["models"] == [evil, "b & <b>c"]


def test_parts_may_be_missing(results: ByHand) -> None:
    about = results.about | {"missing": {"images": "no layer for Grad-CAM"}}
    page = Page(pages.render(about, {}))
    assert "no layer for Grad-CAM" in page.text
    assert not page.scripts


def test_embedded_maps_are_the_maps_at_8_bits(results: ByHand, page: Page) -> None:
    data = embedded(page)
    code = np.frombuffer(zlib.decompress(b64decode(data["maps"])), np.uint8).reshape(2, 2, IMAGES, SIZE, SIZE)
    maps = decoded(Coded(code, np.array(data["low"], np.float32), np.array(data["high"], np.float32)))
    exact = results.rows("span")["coverage"].to_numpy().reshape(2, 2, IMAGES)
    assert np.abs(coverage_of(maps) - exact).max() <= 2 / SIZE**2  # a pixel or two next to the threshold
    assert data["sets"][1] == results.rows("sets").query("model == 'robust'")["set"].tolist()


def test_sets_without_a_file_are_those_of_the_predictions(results: ByHand, page: Page) -> None:
    found = browsing.payload(results.images(), models=("plain", "robust"), classes=("a", "b", "c"), sets=None)
    assert found["sets"] == embedded(page)["sets"]


def test_of_several_seeds_the_first_is_browsed(results: ByHand, page: Page) -> None:
    table = results.rows("sets")
    both = pd.concat([table.assign(seed=1, set="clean-wrong"), table])
    found = browsing.payload(results.images(), models=("plain", "robust"), classes=(), sets=both)
    assert found["sets"] == embedded(page)["sets"]


def test_coding_loses_half_a_step_at_most() -> None:
    maps = np.random.default_rng(1).gamma(0.3, size=(50, 8, 8))
    back = decoded(coded(maps))
    span = np.ptp(maps, axis=(1, 2))[:, None, None]
    root = np.sqrt((maps - maps.min((1, 2), keepdims=True)) / span)
    assert (np.abs(back - maps) <= span * ((root + 0.5 / 255) ** 2 - root**2) + 1e-6).all()
    constant = coded(np.full((1, 4, 4), 0.3))
    assert constant.low == constant.high == np.float32(0.3)


def test_large_maps_and_pictures_are_made_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browsing, "MAP_BYTES", 2500)
    monkeypatch.setattr(browsing, "PICTURE_BYTES", 4000)
    generator = np.random.default_rng(0)
    images = {
        "index": np.arange(2), "label": np.zeros(2, int), "image": generator.integers(0, 256, (2, 32, 32, 3), np.uint8),
        "adversarial": generator.integers(0, 256, (1, 2, 32, 32, 3), np.uint8),
        "prediction": np.zeros((1, 2, 2), int), **coded(generator.random((1, 2, 2, 32, 32)))._asdict(),
    }  # fmt: skip
    found = browsing.payload(images, models=("m",), classes=("c",), sets=None)
    assert found["size"] == [16, 16]
    assert found["fullSize"] == [32, 32]
    assert len(b64decode(found["maps"])) <= 2500
    assert sum(len(b64decode(sheet.partition(",")[2])) for sheet in found["sheets"]) <= 4000
    # Halving takes means, so the mean over the image stays.
    assert browsing._halved(np.arange(16.0).reshape(1, 4, 4)).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]


@pytest.mark.parametrize(("longest", "kind"), [(16383, "webp"), (39, "png")])
def test_figures_are_embedded_without_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int, kind: str
) -> None:
    monkeypatch.setattr(pages, "LONGEST_WEBP", longest)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "span.png")
    head, _, content = pages._figure(tmp_path / "span.png")["src"].partition(",")
    assert head == f"data:image/{kind};base64"
    with Image.open(io.BytesIO(b64decode(content))) as shown:
        np.testing.assert_array_equal(np.asarray(shown.convert("RGB")), pixels)


def test_five_models_and_200_images_stay_below_10_mb() -> None:
    # The worst that there is: noise, which nothing compresses.
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 256, (5, 2, 200, 64, 64), np.uint8)
    images = {
        "index": np.arange(200), "label": np.zeros(200, int),
        "image": generator.integers(0, 256, (200, 64, 64, 3), np.uint8),
        "adversarial": generator.integers(0, 256, (5, 200, 64, 64, 3), np.uint8),
        "prediction": np.zeros((5, 2, 200), int), "code": codes,
        "low": np.zeros((5, 2, 200), np.float32), "high": np.ones((5, 2, 200), np.float32),
    }  # fmt: skip
    found = browsing.payload(images, models=list("abcde"), classes=("c",), sets=None)
    # The figures and tables of five models take up to 2.5 MB more.
    assert len(json.dumps(found)) < 7_500_000


def pair(a: str, b: str, difference: float, p: float) -> dict[str, Any]:
    ci = [difference - 0.01, difference + 0.01]
    return {"a": a, "b": b, "images": "clean", "difference": difference, "ci": ci, "p": p / 3, "p_holm": p}


def models(*values: float) -> list[dict[str, Any]]:
    return [
        {"name": name, "n": 100, "asc": value, "asc_ci": [value - 0.01, value + 0.01], "empty": 0, "accuracy": 0.9}
        for name, value in zip("abc", values, strict=False)
    ]


def test_the_answer_begins_with_the_object_where_masks_are_known() -> None:
    entries = models(0.3, 0.4)
    span = {"models": entries, "pairs": [pair("a", "b", -0.1, 0.001)]}
    for entry, share in zip(entries, (0.9, 0.834), strict=True):
        assert len(answer(span)) == 1  # not before every model has one
        entry["object_covered"] = share
    looks, uses = answer(span)
    assert plain(looks) == "The span covers 90.0 % (a) and 83.4 % (b) of the object."
    assert plain(uses).startswith("Of these files, b uses more")


def test_a_difference_is_real_where_its_p_value_says_so() -> None:
    span = {"models": models(0.3, 0.4), "pairs": [pair("a", "b", -0.1, 0.001)]}
    (said,) = answer(span)
    assert plain(said) == "Of these files, b uses more of the image (40.0 %) than a (30.0 %)."
    # As the table has it: a − b, with signs.
    expected = "Difference a − b: −10.00 points (95 % CI −11.00 to −9.00, p = 0.001 with Holm's correction)."
    assert expected in said.numbers.replace("\u00a0", " ")
    span["pairs"] = [pair("a", "b", -0.1, 0.06)]
    (said,) = answer(span)
    assert plain(said) == "Of these files, no difference in coverage was found between b and a (40.0 and 30.0 %)."


def test_a_difference_that_rests_on_empty_maps_is_not_called_real() -> None:
    rest = {"n": 90, "difference": 0.01, "ci": [-0.01, 0.03], "p": 0.1, "p_holm": 0.3}
    span = {"models": models(0.4, 0.3), "pairs": [pair("a", "b", 0.1, 0.001) | {"without_empty": rest}]}
    (said,) = answer(span)
    assert plain(said) == (
        "Of these files, no difference in coverage was found between a and b (40.0 and 30.0 %)."
        " a and b differ only if empty maps count as covering nothing."
    )
    rest |= {"p_holm": 0.001, "ci": [0.005, 0.015]}
    assert plain(answer(span)[0]) == "Of these files, a uses more of the image (40.0 %) than b (30.0 %)."
    rest["difference"] = -0.01  # the other way round
    assert "only if empty maps" in plain(answer(span)[0])
    several = {
        "models": models(0.4, 0.3, 0.2),
        "pairs": [*span["pairs"], pair("a", "c", 0.2, 0.001), pair("b", "c", 0.1, 0.001)],
    }
    assert plain(answer(several)[0]) == (
        "Of these files, a and b use more of the image (40.0 and 30.0 %) than c (20.0 %); between a and b no difference"
        " was found. a and b differ only if empty maps count as covering nothing."
    )


def plain(paragraph: words.Paragraph) -> str:
    return paragraph.answer.replace("\u00a0", " ")


def answer(span: Any, robust: Any = None, relation: Any = None) -> list[words.Paragraph]:
    return words.answer(span, robust, check=None, relation=relation)


@pytest.mark.parametrize(
    ("p", "expected"),
    [  # of a and b, a and c, b and c: as stored, and not corrected again
        ((0.04, 0.003, 0.04), "a uses most of the image (40.0 %), then b (30.0 %), then c (20.0 %)."),
        (
            (0.06, 0.003, 0.04),
            "a and b use more of the image (40.0 and 30.0 %) than c (20.0 %); between a and b no difference was found.",
        ),
        (
            (0.04, 0.003, 0.06),
            "a uses more of the image (40.0 %) than b and c (30.0 and 20.0 %);"
            " between b and c no difference was found.",
        ),
        (
            (0.06, 0.003, 0.06),
            "a uses more of the image (40.0 %) than c (20.0 %); between the others no difference was found.",
        ),
        ((0.5, 0.6, 0.7), "no difference in coverage was found between a, b and c (40.0, 30.0 and 20.0 %)."),
    ],
)
def test_the_answer_says_which_models_differ(p: tuple[float, float, float], expected: str) -> None:
    pairs = [pair(*names, 0.1, each) for names, each in zip((("a", "b"), ("a", "c"), ("b", "c")), p, strict=True)]
    (said,) = answer({"models": models(0.4, 0.3, 0.2), "pairs": pairs})
    assert plain(said) == f"Of these files, {expected}"
    assert ("a − b: +10.00 points (p" in said.numbers) == (p[0] > 0.05)
    seeds = [entry | {"seeds": []} for entry in models(0.4, 0.3, 0.2)]
    (said,) = answer({"models": seeds, "pairs": pairs})
    assert plain(said) == (f"N{expected[1:]}" if min(p) > 0.05 else expected)


def test_two_models_are_ordered_only_where_both_differences_are_real() -> None:
    span: dict[str, Any] = {"models": models(0.4, 0.3), "pairs": [pair("a", "b", 0.1, 0.001)]}
    known = [{"clean": 0.9, "worst": accuracy} for accuracy in (0.2, 0.5)]
    robust = {
        "eps": 0.1, "steps": [20], "pairs": [pair("a", "b", -0.3, 0.001) | {"attack": "worst"}],
        "models": [
            {"name": name, "accuracies": accuracies, "intervals": {attack: [0, 1] for attack in accuracies}}
            for name, accuracies in zip("ab", known, strict=True)
        ],
    }  # fmt: skip
    assert "is not the more robust one; two are too few" in answer(span, robust)[2].answer
    span["pairs"][0]["p_holm"] = 0.3
    assert len(answer(span, robust)) == 2


def check_line(
    key: str, better: str, low: float | None, high: float | None, control: str = "random order"
) -> dict[str, Any]:
    return {
        "check": key, "says": f"{key} area", "control_is": control, "better": better, "value": 0.3, "control": 0.25,
        "margin_ci": [low, high],
    }  # fmt: skip


def test_the_checks_that_fail_are_named() -> None:
    lines = [
        check_line("insertion", "higher", 0.1, 0.2), check_line("deletion", "lower", -0.1, 0.2),
        check_line("pointing", "higher", None, None), check_line("ssim", "lower", -0.9, -0.8, "edge detector"),
    ]  # fmt: skip
    check = {"models": [{"name": "a", "checks": lines}]}
    (said,) = words.answer(None, None, check=check, relation=None)
    assert said.answer == "The maps of the file a fail some of their checks."
    assert "a 1 of 2 (failed: deletion area against random order)" in said.numbers
    assert key_line("check", check) == "checks passed: a 1 of 2"


@pytest.mark.parametrize("floor_of_b", [(-0.1, 0.2), (0.1, 0.2)], ids=["fails", "passes"])
def test_a_model_s_count_does_not_depend_on_its_neighbours(floor_of_b: tuple[float, float]) -> None:
    a, b = (
        {"name": name, "checks": [check_line("insertion", "higher", 0.1, 0.2), check_line("floor", "higher", *ends)]}
        for name, ends in (("a", (-0.1, 0.2)), ("b", floor_of_b))
    )
    of_b = "2 of 2" if floor_of_b[0] > 0 else "1 of 2"
    assert key_line("check", {"models": [a]}) == "checks passed: a 1 of 2"
    assert key_line("check", {"models": [a, b]}) == f"checks passed: a 1 of 2, b {of_b}"
    (said,) = words.answer(None, None, check={"models": [a, b]}, relation=None)
    assert said.answer.startswith("The maps of the file" + ("s a and b fail" if of_b == "1 of 2" else " a fail"))
    assert f"a 1 of 2 (failed: floor area against random order), b {of_b}" in said.numbers


def test_the_accuracy_under_both_attacks_is_quoted() -> None:
    accuracies = [
        {"clean": 0.9, "pgd-10": 0.1, "pgd-20": 0.5, "cw-20": 0.42, "worst": 0.4},
        {"clean": 0.9, "pgd-10": 0, "pgd-20": 0.26, "cw-20": 0.3, "worst": 0.25},
    ]
    robust = {
        "eps": 0.1, "steps": [10, 20], "pairs": [pair("a", "b", 0.15, 0.001) | {"attack": "worst"}],
        "models": [
            {"name": name, "accuracies": known, "intervals": {attack: [0, 1] for attack in known}, "seeds": [{}, {}]}
            for name, known in zip("ab", accuracies, strict=True)
        ],
    }  # fmt: skip
    (said,) = answer(None, robust)
    assert plain(said) == "a withstands the attack better (40.0 %) than b (25.0 %)."
    assert said.numbers.startswith(
        "Accuracy under the worst of PGD-20 and CW-20, image by image (L-infinity, eps 0.1): a 40.0"
    )
    assert [line.robust for line in words.glance(None, robust, names="ab")] == [0.4, 0.25]
    key = "accuracy under the worst of PGD-20 and CW-20: a 40.0 %, b 25.0 %"
    assert key_line("robust", robust).replace("\u00a0", " ") == key


def test_the_page_tells_its_two_attacks_apart(page: Page) -> None:
    text = " ".join(page.text.split())
    assert "attack of maps and sets: PGD-40, of accuracies: the worst of PGD-40 and CW-40, eps 0.3" in text


def test_what_is_said_of_one_file_is_not_said_of_its_method() -> None:
    """Every sentence that names a model calls it a file, unless it has several seeds."""
    span: dict[str, Any] = {"models": models(0.4, 0.3), "pairs": [pair("a", "b", 0.1, 0.001)]}
    sentences = [answer(span)[0].answer, *words.cautions(span)]
    assert all("file" in sentence for sentence in sentences)
    assert "Each model is one file. Intervals are over images and hold for this file only" in sentences[1]
    span["models"][0]["seeds"] = [{}, {}]
    assert plain(answer(span)[0]) == "a uses more of the image (40.0 %) than the file b (30.0 %)."
    assert words.cautions(span)[0].startswith("b is one file.")
    assert "compares files" not in words.cautions(span)[0]
    span["models"][1]["seeds"] = [{}, {}]
    assert plain(answer(span)[0]) == "a uses more of the image (40.0 %) than b (30.0 %)."
    assert words.cautions(span) == []
    assert words.cautions({"models": models(0.4), "pairs": []})[0].startswith("a is one file.")


def test_the_floor_stands_beside_the_asc(tmp_path: Path) -> None:
    results = by_hand(tmp_path)
    span = results.parts["span"].result.summary
    first, second = span["models"]
    second |= {"asc_floor": None, "asc_floor_range": None}
    first |= {"asc_floor": 0.2, "asc_floor_range": [0.19, 0.21]}
    assert first["asc"] > 0.21
    page = Page(results.page())
    text = " ".join(page.text.replace("\u00a0", " ").split())
    assert "· floor 20.0 % (19.0 to 21.0 %)" in text
    assert "range of three draws): plain 20.0 % (19.0 to 21.0 %)." in text
    marks = [attributes for tag, attributes in page.elements if tag == "i" and attributes.get("class") == "floor"]
    assert [mark["style"] for mark in marks] == ["left: 20.00%"]
    assert "What 2 model files look at" in text
    first["asc_floor_range"] = [0.1, 0.9]
    second |= {key: first[key] for key in ("asc_floor", "asc_floor_range")}
    assert "20.0\u00a0% (10.0 to 90.0\u00a0%) for every model." in answer(span)[0].numbers


def test_a_single_model_and_images_without_intervals_are_described_too() -> None:
    one = models(0.3)
    one[0]["asc_ci"] = [None, None]
    (said,) = answer({"models": one, "pairs": []})
    assert said.numbers.replace("\u00a0", " ") == "Attribution span coverage of the clean images (ASC): a 30.0 %. "


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        ([-0.2, -0.1], "in the file a (less coverage, more robust)."),
        ([0.1, 0.2], "in the file a (more coverage, more robust)."),
        ([-0.1, 0.1], "in no model."),
    ],
)
def test_a_relation_is_one_at_the_same_clean_margin(ends: list[float], says: str) -> None:
    known = {"margin": {"rho": 0.5}, "partial": {"rho": sum(ends) / 2, "ci": ends}}
    unknown = {"margin": {"rho": None}, "partial": {"rho": None, "ci": [None, None]}}
    entries = [{"name": "a", "coverage": known}, {"name": "b", "coverage": unknown}]
    (said,) = answer(None, relation={"models": entries})
    assert said.answer == f"Among images of the same clean margin, coverage goes with robustness {says}"
    assert "a +0.50, and" in said.numbers
    assert "b" not in said.numbers.partition(": ")[2].split()
    (said,) = answer(None, relation={"models": entries[1:]})
    assert "cannot show" in said.answer
    both = {"models": [entries[0], {"name": "c", "coverage": known}]}
    assert says.replace("the file a", "the files a and c") in answer(None, relation=both)[0].answer


ZOO = ("zoo:cifar10-resnet32-raw", "zoo:cifar10-resnet32-pgd-at")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (ZOO, ["raw", "pgd-at"]),
        ((*ZOO, "zoo:mnist-lenet-raw"), ["cifar10-resnet32-raw", "cifar10-resnet32-pgd-at", "mnist-lenet-raw"]),
        ({"cifar10-resnet32-mine": ZOO[0], "at": ZOO[1]}, ["cifar10-resnet32-mine", "at"]),
        ({"cifar10-resnet32-": ZOO[0], "cifar10-resnet32-at": ZOO[1]}, ["cifar10-resnet32-", "cifar10-resnet32-at"]),
        (ZOO[:1], ["cifar10-resnet32-raw"]),
        ([*ZOO, torch.nn.Flatten()], ["cifar10-resnet32-raw", "cifar10-resnet32-pgd-at", "Flatten"]),
    ],
)
def test_names_lose_the_data_and_architecture_that_all_share(given: Any, names: list[str]) -> None:
    loaded = models_of(list(given) if isinstance(given, tuple) else given, device="cpu")
    assert [model.name for model in with_short_names(loaded)] == names


def without_dates(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d [+-]\d{4}", "", text)


LIMITS = ("--limit", 20, "--images", 14, "--steps", 2)


def test_the_command_makes_a_page_with_every_part_and_computes_none_twice(
    models: Path, tmp_path: Path, run: Callable[..., Out], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)
    given = ("report", "a.pt", "--ckpt", "<b>=b.pt", *LIMITS)
    done = run(*given, "--out", tmp_path / "report.html")
    assert done.status == 0, done.err
    assert estimated(done) == ["span", "images", "robust", "sets", "contrib", "check", "relate"]
    assert done.out.splitlines()[-1] == str(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert "Not in this report" not in page.text
    command = " ".join(page.text.replace("'", "").split())
    assert "attrib span --ckpt a.pt --ckpt <b>=b.pt --data glyphs --limit 20 --attack pgd --steps 2 --out" in command
    assert sum(tag == "img" for tag, _ in page.elements) >= 7
    assert len(text) < 10_000_000
    assert_browsed(embedded(page), Result.load(tmp_path / "report-results" / "span").rows)

    again = run(*given, "--out", tmp_path / "report.html")
    said = again.out.splitlines()
    assert [line.partition(": ")[2] for line in said[:8]] == ["as computed before"] * 8
    assert [line in page.text for line in said[8:-1]] == [True] * 5  # the answers
    assert without_dates((tmp_path / "report.html").read_text()) == without_dates(text)
    places = ("--out", tmp_path / "other.html", "--results", tmp_path / "report-results")
    monkeypatch.setattr(compute, "FEW", 4)
    monkeypatch.setattr(compute, "LONG", 0)
    other = run(*given, "--threshold", "max:0.5", *places)
    fewer = r"with a limit of 4 images \(now 20\), less with fewer attack steps \(now 2\)"
    assert re.fullmatch(rf"shorter: about (< )?\d+ s {fewer}", other.out.splitlines()[1])
    kept = {line.partition(":")[0] for line in other.out.splitlines() if line.endswith("as computed before")}
    # Which images will be browsed is known when the spans are, and goes by them.
    assert kept == {"robust", "sets", "contrib", "fc"}
    assert estimated(other) == ["span", "images", "check", "relate"]


def estimated(done: Out) -> list[str]:
    """The analyses whose time the first line foretells."""
    begun, _, times = done.out.splitlines()[0].partition(" from a trial on a few images: ")
    assert re.fullmatch(r"about (< )?\d+ (s|min) on \w+,", begun)
    return re.findall(r"(\w+) (?:< )?\d+ (?:s|min)(?:, |$)", times)


def assert_browsed(data: dict[str, Any], rows: pd.DataFrame) -> None:
    """The maps to browse are those of ``span``, up to 8 bits."""
    assert data["models"] == ["a", "<b>"]
    wide = {name: rows.pivot(index=["model", "images"], columns="index", values=name) for name in Seen._fields}
    of_models = {
        name: np.stack([table.loc[model].loc[["clean", "pgd"]] for model in data["models"]])
        for name, table in wide.items()
    }
    seen = Seen(of_models["label"][0, 0], of_models["prediction"], of_models["coverage"])
    assert data["index"] == list(examples(seen, 14)) != list(range(14))
    code = np.frombuffer(zlib.decompress(b64decode(data["maps"])), np.uint8).reshape(2, 2, 14, 32, 32)
    maps = decoded(Coded(code, np.array(data["low"], np.float32), np.array(data["high"], np.float32)))
    for m, name in enumerate(data["models"]):
        for k, kind in enumerate(("clean", "pgd")):
            of_kind = rows[(rows["model"] == name) & (rows["images"] == kind)].set_index("index")
            covered = attrib.coverage(attrib.span(torch.from_numpy(maps[m, k]))).numpy()
            assert np.abs(covered - of_kind["coverage"].loc[data["index"]].to_numpy()).max() < 0.02
            assert of_kind["prediction"].loc[data["index"]].tolist() == data["prediction"][m][k]


def test_a_notebook_makes_the_same_page_and_leaves_out_what_cannot_be_computed(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))  # without feature maps
    data = attrib.dataset("glyphs", limit=12)
    settings = attrib.Report(limit=8, images=4, steps=(2,))
    page = settings.run({"a": models / "a.pt", "mine": module}, data, out=tmp_path / "page.html", device="cpu")
    assert page == tmp_path / "page.html"
    text = Page(page.read_text()).text
    parts = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line)
    left_out = {name for name, outcome in parts.items() if outcome.startswith("left out")}
    assert left_out == {"images", "span", "check", "relate"}
    assert text.count("Not in this report: mine: ") == 4
    assert "attrib.Robustness(" in text
    computed = sorted(path.parent.name for path in (tmp_path / "page-results").glob("*/made.json"))
    assert computed == ["contrib", "fc", "robust", "sets"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", 0], "--images: expected at least 1, got 0"),
        (["--threshold", "median"], "--threshold: expected mean"),
        (["--steps", "ten"], "--steps: expected numbers"),
        (["--attack", "none"], "--attack: expected fgsm, pgd or cw"),
        (["--map", "gradient", "--layer", "stages.0"], "layer belongs to the maps"),
        (["--out", "."], "--out: expected a file for the page"),
    ],
)
def test_bad_input_is_one_line(models: Path, run: Callable[..., Out], options: list[object], message: str) -> None:
    assert message in run("report", models / "a.pt", *options).refused()


def test_a_broken_record_of_a_part_is_none(tmp_path: Path) -> None:
    record = {"key": "k", "command": "attrib span", "date": "", "seconds": 1.5, "n": None, "seed": 0}
    changed = ({"seconds": "1"}, {"n": [1]}, {"command": None}, {"seed": 0.5}, {"key": "other"})
    path = tmp_path / "made.json"
    for text in ("", "[1]", "{}", *(json.dumps(record | change) for change in changed)):
        path.write_text(text)
        assert pages.read_record(path, "k") is None
    path.write_text(json.dumps(record))
    assert pages.read_record(path, "k") == {name: record[name] for name in record if name != "key"}


def test_the_page_has_a_function_for_every_threshold_rule() -> None:
    script = (Path(pages.__file__).parent / "templates/spans.js").read_text()
    table = script.split("const RULES = {")[1].split("\n  };")[0]
    taking = {m[1]: m[2].count(",") + 1 for m in re.finditer(r"^    (\w+)(?:: )?\(([^)]*)\)", table, re.MULTILINE)}
    assert taking == {name: 2 if rule.parameter else 1 for name, rule in RULES.items()}
