"""The report in a real browser: its tables and controls, against pandas and the library."""

from base64 import b64decode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from results_by_hand import IMAGES, SIZE, ByHand, by_hand

import attrib
from attrib.pages.images import Coded, decoded

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

NAMES = ("plain", "</script><b>robust")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ByHand:
    return by_hand(tmp_path_factory.mktemp("browser"), names=NAMES)


@pytest.fixture
def page(browser: "Chrome", results: ByHand, tmp_path: Path) -> "Iterator[Chrome]":
    """The report, freshly opened; the console must stay silent."""
    browser.get_log("browser")
    opened(browser, results, tmp_path)
    yield browser
    emulated(browser, "setEmulatedMedia", {"features": []})
    emulated(browser, "clearDeviceMetricsOverride", {})
    assert browser.get_log("browser") == []


def opened(browser: "Chrome", results: ByHand, place: Path) -> None:
    (place / "report.html").write_text(results.page())
    browser.get((place / "report.html").as_uri())
    wait(browser, "return document.querySelectorAll('#grid li').length > 0")
    browser.execute_script("document.querySelectorAll('details').forEach((each) => { each.open = true; })")


def wait(browser: "Chrome", script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(script))


def emulated(page: "Chrome", what: str, settings: dict[str, object]) -> None:
    """Another kind of screen, until the test is over."""
    page.execute_cdp_cmd(f"Emulation.{what}", settings)


def choose(page: "Chrome", selector: str, text: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(page.find_element("css selector", selector)).select_by_visible_text(text)


def slide(page: "Chrome", t: float) -> None:
    page.execute_script(
        "const slider = document.getElementById('level'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input', {bubbles: true}))", t,
    )  # fmt: skip


def shown(page: "Chrome") -> list[int]:
    """The indices of the visible images, in their order."""
    found: list[str] = page.execute_script(
        "return [...document.querySelectorAll('#grid li')].filter((item) => item.offsetParent !== null)"
        ".map((item) => item.firstChild.dataset.index)"
    )
    return [int(index) for index in found]


def covered(page: "Chrome") -> pd.Series:
    """Every image's coverage as the page has it."""
    found: list[list[str]] = page.execute_script(
        "return [...document.querySelectorAll('.thumb')].map((thumb) => [thumb.dataset.index, thumb.dataset.coverage])"
    )
    return pd.Series({int(index): float(coverage) for index, coverage in found}).sort_index()


def focused(page: "Chrome") -> "WebElement":
    return page.switch_to.active_element


def browsed_maps(results: ByHand, *, model: int, kind: int = 0) -> NDArray[np.float32]:
    """The embedded maps (N,H,W)."""
    images = results.images()
    maps: NDArray[np.float32] = decoded(Coded(images["code"], images["low"], images["high"]))[model, kind]
    return maps


def coverage_in_library(
    results: ByHand, rule: str, *, model: int, kind: int = 0
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Coverage of the embedded maps as attrib has it."""
    maps = torch.from_numpy(browsed_maps(results, model=model, kind=kind))
    return attrib.coverage(attrib.span(maps, threshold=rule)).double().numpy()


def alike(results: ByHand, rule: str, *, model: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The share of each map's pixels that have the least value of its span."""
    maps = browsed_maps(results, model=model)
    spans = attrib.span(torch.from_numpy(maps), threshold=rule).numpy()
    least = np.where(spans, maps, np.inf).min((1, 2), keepdims=True)
    return np.asarray((maps == least).mean((1, 2)))


def test_names_are_shown_and_not_run(page: "Chrome") -> None:
    assert NAMES[1] in page.find_element("css selector", ".glance").text
    assert NAMES[1] in page.find_element("id", "finds").text


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ("right, also under attack", ["consistent"]),
        ("turned by the attack", ["inconsistent"]),
        ("wrong", ["clean-wrong"]),
        ("right on the clean image", ["consistent", "inconsistent"]),
    ],
)
def test_what_is_found_is_what_pandas_counts(page: "Chrome", results: ByHand, choice: str, kept: list[str]) -> None:
    sets = results.rows("sets").pivot(index="index", columns="model", values="set")
    wanted = sets.index[sets[NAMES[1]].isin(kept)]
    choose(page, finds(NAMES[1]), f"{choice} ({len(wanted)})")
    assert shown(page) == wanted.tolist()
    consistent = sets[NAMES[0]] == "consistent"
    choose(page, finds(NAMES[0]), f"right, also under attack ({consistent.sum()})")
    both = sets.index[sets[NAMES[1]].isin(kept) & consistent]
    assert shown(page) == both.tolist()
    assert page.find_element("id", "count").text.startswith(f"{len(both)} of {IMAGES} images")
    for name in NAMES:
        choose(page, finds(name), f"all ({IMAGES})")
    any_model = sets.index[sets.isin(kept).any(axis=1)]
    choose(page, finds("any model"), f"{choice} ({len(any_model)})")
    assert shown(page) == any_model.tolist()


def finds(name: str) -> str:
    """The selector of the control that finds images by what they are under a model."""
    return f"#finds label:nth-of-type({1 + ['any model', *NAMES].index(name)}) select"


def test_empty_maps_are_found(page: "Chrome") -> None:
    choose(page, finds(NAMES[0]), "empty map (1)")
    assert shown(page) == [3]
    choose(page, finds(NAMES[1]), "empty map (0)")
    assert shown(page) == []


def test_disagreement_is_the_largest_difference_of_coverage(page: "Chrome", results: ByHand) -> None:
    rows = results.rows("span").query("images == 'clean'").pivot(index="index", columns="model", values="coverage")
    choose(page, "#sort", "disagreement: models whose coverage differs most")
    exact = (rows.max(axis=1) - rows.min(axis=1)).loc[shown(page)]
    assert len(exact) == IMAGES
    assert (exact.diff().dropna() <= 8 / SIZE**2).all()
    assert page.find_element("css selector", "#grid .facts i").text == f"Δ {100 * exact.iloc[0]:.1f} %"


def test_filter_by_class_keeps_what_pandas_counts(page: "Chrome", results: ByHand) -> None:
    labels = results.rows("sets").query("model == 'plain'").set_index("index")["label"]
    choose(page, "#class-filter", "one")
    assert shown(page) == labels.index[labels == 1].tolist()


@pytest.mark.parametrize("model", [0, 1])
def test_sorting_by_coverage_is_the_order_of_pandas(page: "Chrome", results: ByHand, model: int) -> None:
    choose(page, "#model", NAMES[model])
    assert shown(page) == list(range(IMAGES))
    table = results.rows("span").query("images == 'clean'")
    exact = table[table["model"] == NAMES[model]].set_index("index")["coverage"]
    found = covered(page)
    assert (found - exact).abs().max() <= 2 / SIZE**2
    choose(page, "#sort", "coverage, lowest first")
    assert shown(page) == found.sort_values(kind="stable").index.tolist()
    assert (exact.loc[shown(page)].diff().dropna() >= -4 / SIZE**2).all()
    choose(page, "#sort", "coverage, highest first")
    assert shown(page) == (-found).sort_values(kind="stable").index.tolist()


@pytest.mark.parametrize(
    "rule", ["mean", "max:0.0", "max:0.3", "max:0.75", "otsu", "mass:0.2", "mass:0.9", "quantile:0.8"]
)
def test_thresholds_are_those_of_the_library(page: "Chrome", results: ByHand, rule: str) -> None:
    choose(page, "#model", NAMES[0])
    name, _, parameter = rule.partition(":")
    choose(page, "#rule", {"max": "max:t", "mass": "mass:q", "quantile": "quantile:q"}.get(name, name))
    if parameter:
        slide(page, float(parameter))
        assert page.find_element("id", "level-value").text == f"{float(parameter):.2f}"
    found, exact = covered(page), coverage_in_library(results, rule, model=0)
    # The library takes the first of the pixels that tie with mass's last, the page all of them.
    ties = alike(results, rule, model=0) if name == "mass" else np.zeros(IMAGES)
    assert np.all(found - exact >= -1 / SIZE**2)
    assert np.all(found - exact <= ties + 1 / SIZE**2)
    assert found[3] == 0  # a constant map
    assert page.find_element("id", "level").is_displayed() == bool(parameter)


@pytest.mark.parametrize(("rule", "choice", "level"), [("otsu", "otsu", None), ("mass:0.5", "mass", "0.5")])
def test_the_page_starts_at_the_rule_of_the_tables(
    browser: "Chrome", results: ByHand, tmp_path: Path, rule: str, choice: str, level: str | None
) -> None:
    opened(browser, results._replace(about=results.about | {"threshold": rule}), tmp_path)
    assert browser.find_element("id", "rule").get_attribute("value") == choice
    if level:
        assert browser.find_element("id", "level").get_attribute("value") == level


def test_an_image_opens_with_every_models_maps_and_escape_closes_it(page: "Chrome", results: ByHand) -> None:
    from selenium.webdriver.common.keys import Keys

    detail = page.find_element("id", "detail")
    assert not detail.is_displayed()
    page.find_element("css selector", ".thumb[data-index='5']").click()
    assert detail.is_displayed()
    assert page.find_element("id", "detail-title").text.startswith("Image 5: ")
    models = detail.find_elements("css selector", "#detail-models article")
    assert [model.find_element("css selector", "h3").text for model in models] == list(NAMES)
    for m, model in enumerate(models):
        assert len(model.find_elements("css selector", "canvas")) == 4
        for k, covers in enumerate(model.find_elements("css selector", ".covers")):
            found = float(covers.get_attribute("data-coverage") or "nan")
            assert abs(found - coverage_in_library(results, "mean", model=m, kind=k)[5]) <= 1 / SIZE**2
    focused(page).send_keys(Keys.ARROW_RIGHT)
    assert page.find_element("id", "detail-title").text.startswith("Image 6: ")
    choose(page, "#scale", "each map its own")
    focused(page).send_keys(Keys.ESCAPE)
    assert not detail.is_displayed()
    assert focused(page).get_attribute("data-index") == "6"


def test_a_map_lies_over_its_image_the_more_opaque_the_higher(page: "Chrome", results: ByHand) -> None:
    from selenium.webdriver.common.keys import Keys

    def drawn(what: str, canvas: str) -> NDArray[np.float64]:
        choose(page, "#show", what)
        return pixels_of(page, canvas)

    first = ".thumb[data-index='5'] canvas"
    image, heat, over = (drawn(what, first) for what in ("image", "map", "image and map"))
    values = np.maximum(browsed_maps(results, model=0)[5], 0)
    step = len(image) // SIZE
    opacity = 0.7 * np.sqrt(values / values.max()).repeat(step, 0).repeat(step, 1)[..., None]
    assert np.abs(over - (opacity * heat + (1 - opacity) * image)).max() <= 3
    page.find_element("css selector", ".thumb[data-index='5']").click()
    alone = pixels_of(page, "#detail-models canvas:last-child")
    toggle = page.find_element("id", "over")
    page.execute_script("arguments[0].focus()", toggle)
    toggle.send_keys(Keys.SPACE)
    laid_over = pixels_of(page, "#detail-models canvas:last-child")
    assert laid_over.shape == alone.shape
    assert (laid_over != alone).any()


def pixels_of(page: "Chrome", canvas: str) -> NDArray[np.float64]:
    """What is drawn on a canvas, (H,W,3)."""
    url: str = page.execute_script("return document.querySelector(arguments[0]).toDataURL()", canvas)
    return np.asarray(Image.open(BytesIO(b64decode(url.partition(",")[2]))).convert("RGB"), float)


def test_the_keyboard_alone_is_enough(page: "Chrome") -> None:
    from selenium.webdriver.common.keys import Keys

    rule = page.find_element("id", "rule")
    page.execute_script("arguments[0].focus()", rule)
    rule.send_keys(Keys.TAB)
    assert focused(page).get_attribute("data-index") == "0"
    focused(page).send_keys(Keys.ARROW_RIGHT)
    focused(page).send_keys(Keys.ARROW_DOWN)
    columns = page.execute_script(
        "return getComputedStyle(document.getElementById('grid')).gridTemplateColumns.split(' ').length"
    )
    below = int(focused(page).get_attribute("data-index") or -1)
    assert below == 1 + columns
    assert page.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    focused(page).send_keys(Keys.ENTER)
    assert page.find_element("id", "detail-title").text.startswith(f"Image {below}: ")
    focused(page).send_keys(Keys.ESCAPE)
    focused(page).send_keys(Keys.END)
    assert focused(page).get_attribute("data-index") == str(IMAGES - 1)
    # Tab leaves the grid instead of going through all its images.
    focused(page).send_keys(Keys.TAB)
    assert focused(page).get_attribute("data-index") is None


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_colours_follow_the_systems_and_stay_readable(page: "Chrome", scheme: str, dark: bool) -> None:
    emulated(page, "setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    for selector in ("body", "td", "aside", ".lead", "select", ".key", "figcaption"):
        ink, paper = page.execute_script(
            """
            const element = document.querySelector(arguments[0]);
            const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
            let behind = element;
            while (behind && numbers(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
            return [element, behind].map((one, at) => numbers(getComputedStyle(one)[at ? "backgroundColor" : "color"]));
            """,
            selector,
        )
        assert (luminance(paper) < 0.2) == dark, selector
        light, deep = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (light + 0.05) / (deep + 0.05) >= 4.5, selector  # WCAG AA


def luminance(colour: list[float]) -> float:
    """Relative luminance of an sRGB colour 0..255, as WCAG defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour[:3])]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("width", "mobile"), [(600, False), (390, True)])
def test_a_narrow_window_shows_all_of_it(page: "Chrome", width: int, mobile: bool) -> None:
    emulated(
        page, "setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": mobile}
    )
    # Nothing sticks out at the right, not even of what is closed at first, but in what scrolls by itself.
    sticking_out = page.execute_script(
        "return [...document.querySelectorAll('main *')].filter((part) => !part.closest('.scroll') &&"
        " part.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map((part) => part.outerHTML)"
    )
    assert sticking_out == []
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    page.find_element("css selector", ".thumb[data-index='2']").click()
    box = page.find_element("id", "detail").rect
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width


def test_the_answer_and_a_picture_are_open_and_the_rest_is_closed(
    browser: "Chrome", results: ByHand, tmp_path: Path
) -> None:
    opened(browser, results, tmp_path)
    browser.refresh()
    seen = [
        part.text for part in browser.find_elements("css selector", "h2, .reply, table, img") if part.is_displayed()
    ]
    assert seen[0] == "The answer"
    closed = browser.find_elements("css selector", "details.section:not([open]) > summary")
    assert len(closed) == 10
    assert len([img for img in browser.find_elements("css selector", "img") if img.is_displayed()]) == 1
    assert len([table for table in browser.find_elements("css selector", "table") if table.is_displayed()]) == 1
    assert f"ASC: {NAMES[0]} " in closed[1].text
