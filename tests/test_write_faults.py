"""A full disk, or a limit on file size: one line, status 2, nothing half-written, and the same command continues.

A limit on file size simulates a full disk where that suffices. Otherwise a small tmpfs is used, if root can mount it.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_train import TINY
from test_train import run as train

from attrib.analyses import ANALYSES

ROOT = Path(__file__).parents[1]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Inside, writing beyond the size fails with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, untrained: Callable[..., Path]) -> Path:
    """The folder of a run with one saved epoch."""
    return untrained(tmp_path_factory.mktemp("saved") / "epoch-1.pt").parent


@pytest.mark.parametrize("size", [0, 3000])
@pytest.mark.parametrize("name", [*ANALYSES, "report"])
def test_a_full_disk_is_one_line_and_the_earlier_result_stays(
    name: str, size: int, run: Any, saved: Path, tmp_path: Path
) -> None:
    given = (saved if name == "evolve" else saved / "epoch-1.pt", "--device", "cpu")
    few = () if name == "fc" else ("--limit", "3")
    out = ("--out", tmp_path / "page.html" if name == "report" else tmp_path)
    old = tmp_path / f"{name}.json"
    old.write_text('{"models": [{"name": "earlier"}]}')
    with files_of_at_most(size):
        done = run(name, *given, *few, *out)
    assert "File too large" in done.err.splitlines()[-1]
    assert (done.status, "Traceback" in done.err, old.is_file()) == (2, False, True)
    left = {path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".part"} - {old}
    assert not left or name == "report"  # whose analyses are results of their own
    assert not list(tmp_path.rglob(".attrib*"))


@pytest.mark.parametrize("size", [0, 3000, 3_000_000])
def test_training_on_a_full_disk(size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3 MB: between model.pt and last.pt."""
    line = ("standard", *TINY, "--limit", "200", "--epochs", "1", "--out", str(tmp_path))
    with files_of_at_most(size):
        assert train(*line) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("File too large")
    assert not list(tmp_path.glob(".attrib*"))
    assert train(*line) == 0
    assert (tmp_path / "last.pt").stat().st_size > 3_000_000 > (tmp_path / "model.pt").stat().st_size


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB; tests that need it are skipped where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system takes root, and the right to mount it")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_maps_that_do_not_fit_on_the_disk(run: Any, models: Path, small_disk: Path) -> None:
    """1,000 maps take 5 MB. In mapped memory they would end the process."""
    done = run("span", models / "a.pt", "--data", "glyphs", "--limit", "1000", "--floor", "0", "--save-maps",
               "--out", small_disk)  # fmt: skip
    assert "No space left on device" in done.refused(warned=True)


def test_curves_that_do_not_fit_on_the_disk(
    tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    place, filling = tmp_path / "run", small_disk / "filling"
    place.mkdir()
    (place / "tensorboard").symlink_to(small_disk)
    filling.write_bytes(bytes(2**20))
    options = ("--limit", "200", "--holdout", "40", "--epochs", "2", "--tensorboard")
    line = ("standard", *TINY, *options, "--out", str(place))
    assert train(*line) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(f"train: error: cannot write {place}/tensorboard/events.out.tfevents.000001: No space")
    filling.unlink()
    assert train(*line) == 0
    log = [json.loads(text) for text in (place / "log.jsonl").read_text().splitlines()]
    curves = accumulator.EventAccumulator(str(place / "tensorboard")).Reload()
    for name in ("loss", "clean", "robust", "images_per_s"):
        points = [(point.step, point.value) for point in curves.Scalars(name)]
        assert points == [(record["epoch"], pytest.approx(record[name])) for record in log]


@pytest.mark.parametrize("arguments", [("info", "{models}/a.pt"), ("zoo",)])
def test_an_output_that_takes_nothing(arguments: tuple[str, ...], models: Path) -> None:
    command = [sys.executable, "-m", "attrib", *(argument.format(models=models) for argument in arguments)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "attrib: error: cannot write the output: No space left on device\n",
    )
