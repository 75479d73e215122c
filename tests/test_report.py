import io
import json
import re
import subprocess
import sys
import zlib
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from results_by_hand import IMAGES, SIZE, coverage_of, write_results

import attrib
from attrib import cli, report, report_images, report_words
from attrib.models.checkpoint import Checkpoint
from attrib.report import NUMBER, render
from attrib.report_images import Coded, coded, decoded
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
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("by-hand")
    write_results(place)
    return place


@pytest.fixture(scope="module")
def page(by_hand: Path) -> Page:
    return Page(render(by_hand))


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
        "plain: a doubt about span.", "lr", "not computed", "No difference can be told",
    ):  # fmt: skip
        assert said in page.text.replace("\u00a0", " "), said


def test_numbers_are_told_from_words() -> None:
    for cell in ("31.25", "–", "< 0.001", "+1.5 to −2.0", "0.10 (0.05 to 0.20)", "2.96e-05", "254.0 of 500", "1,000"):
        assert NUMBER.match(cell), cell
    for cell in ("gradcam", "a − b", "↑ higher", "4x4", "0.679 random order"):
        assert not NUMBER.match(cell), cell


def test_columns_of_numbers_are_aligned_at_their_right(page: Page) -> None:
    cells = [attributes.get("class") for tag, attributes in page.elements if tag == "td"]
    # By hand: rows of a name, a number and a text; the first table follows the two rows of three cells at the top.
    assert cells[6:12] == ["text", None, "text"] * 2


def test_names_that_hold_html_are_harmless(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    write_results(tmp_path, names=(evil, "b & <b>c"))
    text = render(tmp_path)
    page = Page(text)
    assert "<script>alert" not in text
    assert not [attributes for _, attributes in page.elements if "onerror" in attributes]
    assert evil in page.text
    assert embedded(page)["models"] == [evil, "b & <b>c"]


def test_parts_may_be_missing(tmp_path: Path) -> None:
    write_results(tmp_path)
    for part in ("span", "robust", "sets"):
        (tmp_path / part / "made.json").unlink()
    about = json.loads((tmp_path / "report.json").read_text())
    about["missing"]["images"] = "no layer for Grad-CAM"
    (tmp_path / "report.json").write_text(json.dumps(about))
    page = Page(render(tmp_path))
    assert "no layer for Grad-CAM" in page.text
    assert not page.scripts


def test_folders_without_results_are_errors(tmp_path: Path) -> None:
    with pytest.raises(attrib.InputError, match="attrib report makes one"):
        render(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(attrib.InputError, match="make it anew"):
        render(tmp_path)


def test_embedded_maps_are_the_maps_at_8_bits(by_hand: Path, page: Page) -> None:
    data = embedded(page)
    code = np.frombuffer(zlib.decompress(b64decode(data["maps"])), np.uint8).reshape(2, 2, IMAGES, SIZE, SIZE)
    maps = decoded(Coded(code, np.array(data["low"], np.float32), np.array(data["high"], np.float32)))
    table = pd.read_csv(by_hand / "span" / "span.csv")
    exact = table["coverage"].to_numpy().reshape(2, 2, IMAGES)
    assert np.abs(coverage_of(maps) - exact).max() <= 2 / SIZE**2  # a pixel or two next to the threshold
    assert data["sets"][1] == pd.read_csv(by_hand / "sets" / "sets.csv").query("model == 'robust'")["set"].tolist()


def test_sets_without_a_file_are_those_of_the_predictions(by_hand: Path, page: Page) -> None:
    with np.load(by_hand / "images" / "images.npz") as arrays:
        found = report_images.payload(arrays, models=("plain", "robust"), classes=("a", "b", "c"), sets=None)
    assert found["sets"] == embedded(page)["sets"]


def test_of_several_seeds_the_first_is_browsed(by_hand: Path, page: Page, tmp_path: Path) -> None:
    table = pd.read_csv(by_hand / "sets" / "sets.csv")
    other = table.assign(seed=1, set="clean-wrong")
    pd.concat([other, table.assign(seed=0)]).to_csv(tmp_path / "sets.csv", index=False)
    with np.load(by_hand / "images" / "images.npz") as arrays:
        found = report_images.payload(arrays, models=("plain", "robust"), classes=(), sets=tmp_path / "sets.csv")
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
    monkeypatch.setattr(report_images, "MAP_BYTES", 2500)
    monkeypatch.setattr(report_images, "PICTURE_BYTES", 4000)
    generator = np.random.default_rng(0)
    images = {
        "index": np.arange(2), "label": np.zeros(2, int), "image": generator.integers(0, 256, (2, 32, 32, 3), np.uint8),
        "adversarial": generator.integers(0, 256, (1, 2, 32, 32, 3), np.uint8),
        "prediction": np.zeros((1, 2, 2), int), **coded(generator.random((1, 2, 2, 32, 32)))._asdict(),
    }  # fmt: skip
    found = report_images.payload(images, models=("m",), classes=("c",), sets=None)
    assert found["size"] == [16, 16]
    assert found["fullSize"] == [32, 32]
    assert len(b64decode(found["maps"])) <= 2500
    assert sum(len(b64decode(sheet.partition(",")[2])) for sheet in found["sheets"]) <= 4000
    # Halving takes means, so the mean over the image stays.
    assert report_images._halved(np.arange(16.0).reshape(1, 4, 4)).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]


@pytest.mark.parametrize(("longest", "kind"), [(16383, "webp"), (39, "png")])
def test_figures_are_embedded_without_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int, kind: str
) -> None:
    monkeypatch.setattr(report, "LONGEST_WEBP", longest)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "span.png")
    head, _, content = report._figure(tmp_path / "span.png")["src"].partition(",")
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
    found = report_images.payload(images, models=list("abcde"), classes=("c",), sets=None)
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


def test_a_difference_is_real_where_its_p_value_says_so() -> None:
    span = {"models": models(0.3, 0.4), "pairs": [pair("a", "b", -0.1, 0.001)]}
    (said,) = answer(span)
    assert said.answer == (
        "The file b uses more of the image than the file a, and the difference between these files is real."
    )
    assert "10.0 points (95 % CI 9.0 to 11.0, p = 0.001 with Holm's correction)" in said.numbers.replace("\u00a0", " ")
    span["pairs"] = [pair("a", "b", -0.1, 0.06)]
    (said,) = answer(span)
    assert said.answer == "No difference can be told between the file b and the file a."


def test_a_difference_that_rests_on_empty_maps_is_not_called_real() -> None:
    rest = {"n": 90, "difference": 0.01, "ci": [-0.01, 0.03], "p": 0.1, "p_holm": 0.3}
    span = {"models": models(0.4, 0.3), "pairs": [pair("a", "b", 0.1, 0.001) | {"without_empty": rest}]}
    (said,) = answer(span)
    assert said.answer == (
        "The file a uses more of the image than the file b only if empty maps count as covering nothing."
    )
    rest |= {"p_holm": 0.001, "ci": [0.005, 0.015]}
    assert answer(span)[0].answer == (
        "The file a uses more of the image than the file b, and the difference between these files is real."
    )
    rest["difference"] = -0.01  # the other way round
    assert "only if empty maps" in answer(span)[0].answer
    several = {
        "models": models(0.4, 0.3, 0.2),
        "pairs": [*span["pairs"], pair("a", "c", 0.2, 0.001), pair("b", "c", 0.1, 0.001)],
    }
    assert answer(several)[0].answer == "2 of 3 differences between these files are real."


def answer(span: Any, robust: Any = None, relation: Any = None) -> list[report_words.Paragraph]:
    return report_words.answer(span, robust, check=None, relation=relation)


def test_several_pairs_are_judged_by_the_stored_corrected_p() -> None:
    pairs = [pair("a", "b", 0.1, 0.04), pair("a", "c", 0.2, 0.003), pair("b", "c", 0.1, 0.04)]
    (said,) = answer({"models": models(0.4, 0.3, 0.2), "pairs": pairs})
    assert said.answer == "All 3 differences between these files are real."  # and not corrected again
    pairs[0]["p_holm"] = pairs[2]["p_holm"] = 0.06
    (said,) = answer({"models": models(0.4, 0.3, 0.2), "pairs": pairs})
    assert said.answer == "1 of 3 differences between these files are real."
    assert "a and b (10.0 points" in said.numbers
    pairs = [pair("a", "b", 0.1, 0.5), pair("a", "c", 0.1, 0.6)]
    (said,) = answer({"models": models(0.4, 0.3, 0.3), "pairs": pairs})
    assert said.answer == "None of the 2 differences between these files can be told from chance."


def test_two_models_are_ordered_only_where_both_differences_are_real() -> None:
    span: dict[str, Any] = {"models": models(0.4, 0.3), "pairs": [pair("a", "b", 0.1, 0.001)]}
    known = [{"clean": 0.9, "pgd-20": accuracy} for accuracy in (0.2, 0.5)]
    robust = {
        "eps": 0.1, "steps": [20], "pairs": [pair("a", "b", -0.3, 0.001) | {"attack": "pgd-20"}],
        "models": [
            {"name": name, "accuracies": accuracies, "intervals": {attack: [0, 1] for attack in accuracies}}
            for name, accuracies in zip("ab", known, strict=True)
        ],
    }  # fmt: skip
    assert "is not the more robust one; two are too few" in answer(span, robust)[2].answer
    span["pairs"][0]["p_holm"] = 0.3
    assert len(answer(span, robust)) == 2


def test_the_checks_that_fail_are_named() -> None:
    lines = [
        {"says": "insertion area", "control_is": "random order", "better": "higher", "margin_ci": [0.1, 0.2]},
        {"says": "deletion area", "control_is": "random order", "better": "lower", "margin_ci": [-0.1, 0.2]},
        {"says": "pointing game", "control_is": "object's share", "better": "higher", "margin_ci": [None, None]},
    ]
    check = {"models": [{"name": "a", "checks": lines}]}
    (said,) = report_words.answer(None, None, check=check, relation=None)
    assert said.answer == "The maps of the file a fail some of their checks."
    assert "a 1 of 2 (all but deletion area against random order)" in said.numbers


def test_several_seeds_compare_methods_and_the_strongest_attack_is_quoted() -> None:
    accuracies = [
        {"clean": 0.9, "pgd-10": 0.1, "pgd-20": 0.5, "cw-20": 0.4},
        {"pgd-10": 0, "pgd-20": 0.2, "cw-20": 0.25},
    ]
    robust = {
        "eps": 0.1, "steps": [10, 20], "pairs": [pair("a", "b", 0.15, 0.001) | {"attack": "cw-20"}],
        "models": [
            {"name": name, "accuracies": known, "intervals": {attack: [0, 1] for attack in known}, "seeds": [{}, {}]}
            for name, known in zip("ab", accuracies, strict=True)
        ],
    }  # fmt: skip
    (said,) = answer(None, robust)
    assert said.answer == "a withstands the attack better than b, and the difference is real."
    assert said.numbers.startswith("Accuracy under CW-20 (L-infinity, eps 0.1): a 40.0")


def test_what_is_said_of_one_file_is_not_said_of_its_method() -> None:
    """Every sentence that names a model calls it a file, unless it has several seeds."""
    span: dict[str, Any] = {"models": models(0.4, 0.3), "pairs": [pair("a", "b", 0.1, 0.001)]}
    sentences = [answer(span)[0].answer, *report_words.cautions(span)]
    assert all("file" in sentence for sentence in sentences)
    assert "Each model is one file. Intervals are over images and hold for this file only" in sentences[1]
    span["models"][0]["seeds"] = [{}, {}]
    assert answer(span)[0].answer == "a uses more of the image than the file b, and the difference is real."
    assert report_words.cautions(span)[0].startswith("b is one file.")
    assert "compares files" not in report_words.cautions(span)[0]
    span["models"][1]["seeds"] = [{}, {}]
    assert answer(span)[0].answer == "a uses more of the image than b, and the difference is real."
    assert report_words.cautions(span) == []
    assert report_words.cautions({"models": models(0.4), "pairs": []})[0].startswith("a is one file.")


def test_the_floor_stands_beside_the_asc(tmp_path: Path) -> None:
    write_results(tmp_path)
    path = tmp_path / "span" / "span.json"
    span = json.loads(path.read_text())
    first, second = span["models"]
    second |= {"asc_floor": None, "asc_floor_range": None}
    first |= {"asc_floor": 0.2, "asc_floor_range": [0.19, 0.21]}
    assert first["asc"] > 0.21
    path.write_text(json.dumps(span))
    page = Page(render(tmp_path))
    text = " ".join(page.text.replace("\u00a0", " ").split())
    assert "· floor 20.0 %" in text
    assert "range of three draws): plain 20.0 % (19.0 to 21.0 %)." in text
    marks = [attributes for tag, attributes in page.elements if tag == "i" and attributes.get("class") == "floor"]
    assert [mark["style"] for mark in marks] == ["left: 20.00%"]
    assert "random weights covers as much" not in text
    assert "What 2 model files look at" in text
    first["asc_floor_range"] = [0.1, 0.9]
    path.write_text(json.dumps(span))
    second |= {key: first[key] for key in ("asc_floor", "asc_floor_range")}
    assert "20.0\u00a0% (10.0 to 90.0\u00a0%) for every model." in answer(span)[0].numbers
    assert "lies within the range of its floor (10.0 to 90.0 %)" in Page(render(tmp_path)).text.replace("\u00a0", " ")


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
    assert "cannot be told" in said.answer


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two untrained lenets, a.pt and b.pt, and a report of them, made by the command."""
    place = tmp_path_factory.mktemp("computed")
    for seed, name in enumerate("ab"):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = attrib.build("lenet", num_classes=10, input_shape=(3, 32, 32))
        ckpt = Checkpoint(
            arch="lenet", arch_kwargs={"mean": [0.0] * 3, "std": [1.0] * 3}, num_classes=10, input_shape=(3, 32, 32),
            data="glyphs", method="standard", hyper={"lr": 0.1}, epoch=1, metrics={}, weights=model.state_dict(),
        )  # fmt: skip
        attrib.save(ckpt, place / f"{name}.pt")
    assert "span: " in run(place)
    return place


def run(place: Path, *options: str) -> str:
    """What the command prints."""
    line = [
        "report",
        "--ckpt",
        "a.pt",
        "--ckpt",
        "<b>=b.pt",
        "--limit",
        "12",
        "--images",
        "8",
        "--steps",
        "2",
        *options,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "attrib.cli", *line], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_makes_a_page_with_every_part(computed: Path) -> None:
    text = (computed / "report.html").read_text()
    page = Page(text)
    assert "Not in this report" not in page.text
    assert sum(tag == "img" for tag, _ in page.elements) >= 7
    assert len(text) < 10_000_000
    data = embedded(page)
    assert data["models"] == ["a", "<b>"]
    coverage = pd.read_csv(computed / "report-results" / "span" / "span.csv")
    code = np.frombuffer(zlib.decompress(b64decode(data["maps"])), np.uint8).reshape(2, 2, 8, 32, 32)
    maps = decoded(Coded(code, np.array(data["low"], np.float32), np.array(data["high"], np.float32)))
    for m, name in enumerate(data["models"]):
        for k, kind in enumerate(("clean", "pgd")):
            rows = coverage[(coverage["model"] == name) & (coverage["images"] == kind)].set_index("index")
            found = attrib.coverage(attrib.span(torch.from_numpy(maps[m, k]))).numpy()
            exact = rows["coverage"].loc[data["index"]].to_numpy()
            assert np.abs(found - exact).max() < 0.02
            assert rows["prediction"].loc[data["index"]].tolist() == data["prediction"][m][k]


def test_what_was_computed_is_used_again_unless_something_else_is_asked_for(computed: Path) -> None:
    said = run(computed, "--threshold", "max:0.5", "--out", "other.html", "--results", "report-results")
    again = {line.partition(":")[0] for line in said.splitlines() if line.endswith("as computed before")}
    assert again == {"images", "robust", "sets", "contrib", "fc"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "0"], "--images: expected at least 1, got 0"),
        (["--threshold", "median"], "threshold: expected mean"),
        (["--steps", "ten"], "--steps: expected numbers"),
        (["--attack", "none"], "--attack: expected one of fgsm, pgd, cw"),
        (["--out", "."], "--out: expected a file for the page"),
    ],
)
def test_bad_input_is_one_line(
    computed: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(computed)
    monkeypatch.setattr(sys, "argv", ["attrib", "report", "--ckpt", "a.pt", *options])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_the_page_has_a_function_for_every_threshold_rule() -> None:
    script = (Path(report.__file__).parent / "templates/report.js").read_text()
    table = script.split("const RULES = {")[1].split("\n  };")[0]
    taking = {m[1]: m[2].count(",") + 1 for m in re.finditer(r"^    (\w+)(?:: )?\(([^)]*)\)", table, re.MULTILINE)}
    assert taking == {name: 2 if rule.parameter else 1 for name, rule in RULES.items()}
