"""Two runs in one folder: the second is refused while the first writes, and replaces its result afterwards."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_train import TINY
from test_train import run as train

from attrib.analyses import ANALYSES
from attrib.files import TEMPORARY, atomic, folder, locked

pytestmark = pytest.mark.usefixtures("undrawn")

HOLDS = """
import sys
from pathlib import Path
from attrib.files import atomic, locked
with locked(Path(sys.argv[1])), atomic(Path(sys.argv[1], "half.csv")):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of tmp_path, in the middle of writing a file."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    path = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("name", [*ANALYSES, "report", "train"])
def test_a_second_run_is_refused_and_names_the_owner(
    name: str, holder: subprocess.Popen[str], run: Any, models: Path, tmp_path: Path, untrained: Callable[..., Path],
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    before = sorted(tmp_path.iterdir())
    if name == "train":
        assert train("standard", *TINY, "--out", str(tmp_path)) == 2
        message = capsys.readouterr().err
    elif name == "report":
        page = tmp_path_factory.mktemp("page") / "page.html"
        message = run(name, models / "a.pt", "--out", page, "--results", tmp_path).refused()
        assert not list(page.parent.iterdir())
    else:
        given = untrained(tmp_path_factory.mktemp("saved") / "epoch-1.pt").parent if name == "evolve" else ""
        message = run(name, given or models / "a.pt", "--out", tmp_path).refused()
    assert f"{tmp_path} is written to by process {holder.pid} on {platform.node()}, since 20" in message
    assert sorted(tmp_path.iterdir()) == before


def test_a_dead_process_owns_nothing_and_its_temporary_files_go(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    (left,) = tmp_path.glob(f"{TEMPORARY}*")
    with locked(folder(tmp_path)):
        assert not left.exists()
        with atomic(tmp_path / "whole.csv") as temporary:
            assert folder(tmp_path)
            assert temporary.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["whole.csv"]


def test_a_later_result_replaces_the_earlier_one_as_a_whole(run: Any, models: Path, tmp_path: Path) -> None:
    (tmp_path / "span-notes.pdf").touch()
    common = ("--data", "glyphs", "--limit", "4", "--floor", "0", "--out", tmp_path)
    assert "replaced" not in run("span", f"two={models / 'a.pt'},{models / 'b.pt'}", *common, "--save-maps").err
    earlier = set(tmp_path.glob("*.npz"))
    again = run("span", f"one={models / 'b.pt'}", *common, "--save-maps")
    assert f"attrib: warning: {tmp_path}: the earlier result of span (two) is replaced\n" in again.err
    assert {path.name for path in earlier} == {"span-examples.npz", "span-two-seed0.npz", "span-two-seed1.npz"}
    assert {path.name for path in tmp_path.glob("*.npz")} == {"span-examples.npz", "span-one.npz"}
    # A result may be of the earlier one's maps.
    assert run("span", "--maps", f"it={tmp_path / 'span-one.npz'}", *common).status == 0
    assert {tmp_path / "span-one.npz", tmp_path / "span-notes.pdf"} < set(tmp_path.iterdir())
