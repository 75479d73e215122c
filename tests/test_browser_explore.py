"""The explorer in JupyterLab, in a real browser: the controls change the display, and the console has no errors."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
import torch

import attrib

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

pytest.importorskip("jupyterlab")

CODE = """
import attrib
attrib.explore({"one": "one.pt", "two": "two.pt"}, attrib.dataset("glyphs", limit=20))
"""
NOISE = ("favicon.ico", ".map -", "service-worker.js", "/lab/api/news", "/api/translations/")
"""What JupyterLab itself says: icons, source maps, translations and news that are not there."""
WAIT = 90.0
"""Seconds; a kernel on a busy machine takes its time."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook that explores two small models beside it."""
    place = tmp_path_factory.mktemp("lab")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        model = attrib.build("lenet", num_classes=10, input_shape=(3, 32, 32))
        ckpt = attrib.Checkpoint(
            arch="lenet", arch_kwargs={}, num_classes=10, input_shape=(3, 32, 32), data="glyphs", method="standard",
            hyper={}, epoch=1, metrics={}, weights=model.state_dict(),
        )  # fmt: skip
        attrib.save(ckpt, place / f"{name}.pt")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE.strip())])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, place / "explore.ipynb")
    settings = place / ".jupyter" / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    # Without the question whether one would like to hear news.
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    return place


@pytest.fixture(scope="module")
def lab(folder: Path) -> Iterator[str]:
    """A JupyterLab on a port of its own choice, with settings of its own; its address."""
    own = folder / ".jupyter"
    places = {
        "JUPYTER_CONFIG_DIR": own / "config", "JUPYTER_DATA_DIR": own / "data", "JUPYTER_RUNTIME_DIR": own / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": own / "settings", "JUPYTERLAB_WORKSPACES_DIR": own / "workspaces",
        "IPYTHONDIR": own / "ipython",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port=0",
        "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=",
        f"--ServerApp.root_dir={folder}",
    ]  # fmt: skip
    said = folder / ".jupyter" / "log.txt"
    environment = os.environ | {name: str(path) for name, path in places.items()}
    with said.open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    try:
        until = monotonic() + WAIT
        while True:
            try:
                (started,) = (own / "runtime").glob("jpserver-*.json")
                address = str(json.loads(started.read_text())["url"]).rstrip("/")
                urllib.request.urlopen(f"{address}/api", timeout=5).close()
                break
            except (ValueError, urllib.error.URLError, ConnectionError, TimeoutError):  # not yet, or not whole
                assert server.poll() is None, said.read_text()[-2000:]
                assert monotonic() < until, said.read_text()[-2000:]
                sleep(0.3)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def test_the_explorer_in_jupyterlab(browser: "Chrome", lab: str, folder: Path, tmp_path: Path) -> None:
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select, WebDriverWait

    def wait(found: Any) -> Any:
        # While the page is being built, parts are not there yet, hidden, or replaced the moment after.
        passing = (WebDriverException, StopIteration)
        return WebDriverWait(browser, WAIT, ignored_exceptions=passing).until(lambda _: found())

    def labelled(css: str, text: str) -> "WebElement":
        return next(part for part in browser.find_elements(By.CSS_SELECTOR, css) if part.text.strip() == text)

    def words() -> str:
        found = browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea .widget-html-content")
        return found[-1].text if found else ""

    def settled(pattern: str) -> str:
        """The words once they match and nothing is computed any more."""
        return str(wait(lambda: words() if re.search(pattern, words()) and "computing" not in words() else ""))

    def coverages(text: str) -> list[str]:
        return re.findall(r"[\d.]+ %", text)

    def run() -> bool:
        """Run the one cell by Ctrl+Enter; nothing happens as long as the kernel is not connected."""
        cell = browser.find_element(By.CSS_SELECTOR, ".jp-CodeCell .cm-content")
        cell.click()
        cell.send_keys(Keys.CONTROL, Keys.ENTER)
        sleep(3)
        return browser.find_element(By.CSS_SELECTOR, ".jp-InputArea-prompt").text.strip() != "[ ]:"

    browser.set_window_size(1250, 1150)
    browser.get_log("browser")
    browser.get(f"{lab}/lab/tree/explore.ipynb")
    wait(run)
    first = settled(r"image 0 of 20 \(glyphs test\)")
    assert len(coverages(first)) == 4  # of two models, and their floors
    picture = wait(lambda: browser.find_element(By.CSS_SELECTOR, ".jp-OutputArea img.widget-image"))
    wait(lambda: int(picture.get_property("naturalWidth") or 0) > 500)
    box = browser.find_element(By.CSS_SELECTOR, ".jp-OutputArea .widget-vbox")
    browser.execute_script("arguments[0].scrollIntoView()", box)

    wait(lambda: labelled(".jp-OutputArea button", "next ▶")).click()
    second = settled(r"image 1 of 20")
    assert coverages(second) != coverages(first)

    dropdowns = ".widget-dropdown select"
    rule = wait(lambda: next(s for s in browser.find_elements(By.CSS_SELECTOR, dropdowns) if "Otsu" in s.text))
    Select(rule).select_by_visible_text("above t × maximum")
    third = settled(r"max:0\.3")
    slider = wait(lambda: browser.find_element(By.CSS_SELECTOR, ".widget-slider .noUi-handle"))
    slider.send_keys(Keys.ARROW_RIGHT)
    fourth = settled(r"max:0\.31")
    assert len({*map(str, (coverages(second), coverages(third), coverages(fourth)))}) == 3

    def select(containing: str, option: str) -> None:
        found = wait(lambda: next(s for s in browser.find_elements(By.CSS_SELECTOR, dropdowns) if containing in s.text))
        Select(found).select_by_visible_text(option)

    assert "PGD-10 within 8/255" not in fourth
    select("clean beside attacked", "clean beside attacked")
    both = settled(r"two, attacked")
    assert "PGD-10 within 8/255" in both
    assert both.count(", attacked") == 2
    wait(lambda: labelled(".widget-checkbox label", "map over the image")).click()
    select("the last stage", "stages.0")
    wait(lambda: coverages(words()) != coverages(both))
    select("the prediction", "3")
    select("smoothgrad", "smoothgrad")
    wait(lambda: labelled(".widget-label", "sigma").is_displayed())
    select("turned by the attack", "turned by the attack")
    settled(r"\d of \d+ chosen|not one of the 0 chosen")
    select("turned by the attack", "disagreement: models whose coverage differs most")
    settled(r"1 of 20 chosen")
    wait(lambda: labelled(".jp-OutputArea button", "save figure")).click()
    assert settled(r"Saved as explore-\d+-smoothgrad-attacked\.pdf and explore-\d+-smoothgrad-attacked\.png")
    assert len(list(folder.glob("explore-*-smoothgrad-attacked.*"))) == 2

    browser.save_screenshot(str(tmp_path / "explore.png"))
    messages = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not [message for message in messages if not any(noise in message for noise in NOISE)], json.dumps(messages)
