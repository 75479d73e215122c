"""Fixtures of several test files."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from forked import Forks
    from selenium.webdriver import Chrome

# Tests run side by side, each on one thread; set before anything imports torch, and inherited by subprocesses.
os.environ["OMP_NUM_THREADS"] = "1"
# pytest-xdist sets it to the width of its own terminal, to which tables printed in a test would be fitted.
os.environ.pop("COLUMNS", None)


ROOT = Path(__file__).resolve().parents[1]


class Out(NamedTuple):
    """What a run of the command printed, and its exit status."""

    status: int
    out: str
    err: str

    def refused(self, *, warned: bool = False) -> str:
        """The line that says what is wrong: alone on stderr (warned: but for warnings), none on stdout, status 2."""
        assert (self.status, self.out) == (2, "")
        (line,) = [line for line in self.err.splitlines() if not (warned and "warning" in line)]
        assert line.startswith("attrib: error: ")
        return line


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Out]:
    """Run ``attrib`` with some arguments, in this process."""
    from attrib import cli

    def run_once(*arguments: object) -> Out:
        monkeypatch.setattr(sys, "argv", ["attrib", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Out(stopped.value.code, printed.out, printed.err)

    return run_once


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are saved as a black pixel, since drawing them takes most of the time."""
    monkeypatch.setattr("attrib.plots.base.drawn", black_pixel)


def black_pixel(_figure: object, _suffix: str) -> bytes:
    """A PNG, for ``attrib.plots.base.drawn``."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def forks() -> "Iterator[Forks]":
    """Runs commands in processes of their own, without importing torch in each."""
    from forked import Forks

    started = Forks()
    yield started
    started.close()


@pytest.fixture
def two_processes(forks: "Forks") -> Callable[..., Any]:
    """Run ``attrib`` with some arguments in two gloo processes, as under torchrun; returns the JSON it prints."""
    return forks.run_pair


@pytest.fixture(scope="session")
def untrained() -> Callable[..., Path]:
    """Write a checkpoint of a model as it is made, another one for every seed; returns its path."""
    import torch

    import attrib

    def write(
        path: Path, seed: int = 0, *, arch: str = "lenet", data: str = "glyphs", classes: int = 10, channels: int = 3,
        gated: bool = False,
    ) -> Path:  # fmt: skip
        extra = {"gated": True} if gated else {}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = attrib.build(arch, num_classes=classes, input_shape=(channels, 32, 32), gated=gated)
        arguments: dict[str, Any] = {"mean": [0.0] * channels, "std": [1.0] * channels, **extra}
        made = attrib.Checkpoint(
            arch=arch, arch_kwargs=arguments, num_classes=classes, input_shape=(channels, 32, 32), data=data,
            method="standard", hyper={"lr": 0.1}, epoch=1, metrics={"holdout_clean": 0.5}, weights=model.state_dict(),
        )  # fmt: skip
        attrib.save(made, path)
        return path

    return write


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, untrained: Callable[..., Path]) -> Path:
    """a.pt and b.pt: lenets; wide.pt: another grid; grey.pt, five.pt: for other data."""
    place = tmp_path_factory.mktemp("models")
    others: dict[str, dict[str, Any]] = {
        "a": {}, "b": {}, "wide": {"arch": "resnet32"}, "grey": {"channels": 1}, "five": {"classes": 5},
        "cifar": {"data": "cifar10"},
    }  # fmt: skip
    for seed, (name, options) in enumerate(others.items(), start=1):
        untrained(place / f"{name}.pt", seed, **options)
    return place


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real MNIST and CIFAR-10; tests that need it are skipped where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    place = Path(os.environ.get("ATTRIB_DATA") or beside)
    if not (place / "mnist").is_dir() or not (place / "cifar-10-batches-bin").is_dir():
        pytest.skip(f"no mnist and cifar-10-batches-bin in {place}; set ATTRIB_DATA to their folder")
    return place


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Chrome]":
    """A headless Chromium (Debian's packages chromium and chromium-driver) that goes nowhere by itself.

    One for each module, since a page that was left open goes on speaking, as JupyterLab's when its server has gone.
    Its console is kept: ``browser.get_log("browser")`` returns what has been said since the last call. Tests that need
    it are skipped where it is not installed.
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
    if not chromium.exists() or not driver.exists():
        pytest.skip(f"no {chromium} and {driver}; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(chromium)
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}", "window-size=1200,900", "force-device-scale-factor=1",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(driver)))
    yield opened
    opened.quit()
