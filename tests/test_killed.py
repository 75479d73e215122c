"""Runs that a signal stops or kills: finished batches stay, and the same command completes the result."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_train import TINY
from test_train import run as train

from attrib.analyses import ANALYSES
from attrib.analyses.span import Span

ROOT = Path(__file__).parents[1]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handlers of signals, put back as they were."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_an_analysis_as_ctrl_c_does(
    number: int, run: Any, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, calls = Span.measure, 0

    def signalled(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), number)
        return measure(*arguments)

    monkeypatch.setattr(Span, "measure", signalled)
    given = ("span", models / "a.pt", "--limit", "6", "--batch-size", "2", "--floor", "0", "--out", tmp_path)
    stopped = run(*given)
    assert stopped.err == "attrib: error: interrupted; the same command continues where it stopped\n"
    assert (stopped.status, stopped.out) == (130, "")
    assert [path.name.startswith(".span-") for path in tmp_path.iterdir()] == [True]
    assert run(*given).status == 0
    assert calls == 4  # the first batch was kept


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_training_as_ctrl_c_does(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("train.loop.train_epoch", lambda *_, **__: os.kill(os.getpid(), number))
    assert train("standard", *TINY, "--out", str(tmp_path)) == 130
    assert capsys.readouterr().err == "train: interrupted; the same command continues after the last finished epoch\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["attrib", "train"])
def test_ctrl_c_while_modules_are_imported(module: str, tmp_path: Path) -> None:
    for name in ("typer", "torch"):  # the first that attrib and train import
        (tmp_path / f"{name}.py").write_text("raise KeyboardInterrupt\n")
    path = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, cwd=ROOT, env=path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (130, "", 1)
    assert "interrupted; nothing was written" in done.stderr


KILLED = """
import os, signal, sys
from attrib import cli
from attrib.analyses import run, span
from attrib.pages import compute, render

for line in sys.stdin.read().splitlines():
    if (child := os.fork()) == 0:
        fsync, left = os.fsync, [4]
        def dying(handle):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(handle)
        os.fsync = dying
        sys.argv = ["attrib", *line.split("|")]
        cli.main()
    os.waitpid(child, 0)
"""
"""Every command in a process of its own, which is killed as it writes its fourth file."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, untrained: Callable[..., Path]) -> dict[str, list[str]]:
    """The commands, which were killed in the middle of their work, by name."""
    place = tmp_path_factory.mktemp("killed")
    model = untrained(tmp_path_factory.mktemp("run") / "epoch-1.pt")
    lines = {}
    for name in (*ANALYSES, "report"):
        out = str(place / name / "page.html" if name == "report" else place / name)
        few = [] if name == "fc" else ["--limit", "3"]
        lines[name] = [name, str(model.parent if name == "evolve" else model), *few, "--device", "cpu", "--out", out]
    text = "\n".join("|".join(line) for line in lines.values())
    subprocess.run(
        [sys.executable, "-c", KILLED], cwd=ROOT, input=text, text=True, check=True, capture_output=True, timeout=300
    )
    return lines


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", [*ANALYSES, "report"])
def test_a_killed_command_leaves_nothing_half_written(name: str, killed: dict[str, list[str]], run: Any) -> None:
    line = killed[name]
    out = Path(line[-1]) if name != "report" else Path(line[-1]).with_name("page-results") / "span"
    assert not (out / f"{name}.json").exists()
    assert list(out.glob(".attrib-*"))
    assert run(*line).status == 0
    left = out.iterdir() if name == "report" else out.rglob("*")
    assert not [path for path in left if path.name.startswith(".")]
    if name != "report":
        assert {path.name for path in out.iterdir()} == set(json.loads((out / f"{name}.json").read_text())["files"])


LOADS = """
import multiprocessing, sys
from pathlib import Path
import torch
from attrib.data.pictures import Pictures
pictures = Pictures(tuple(Path(sys.argv[1]).glob("*.png")), (224, 224))
batches = pictures.batches(torch.arange(80).split(10))
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc who lives")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor reads pictures without workers")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for number in range(80):
        Image.fromarray(noise.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / f"{number}.png")
    command = [sys.executable, "-c", LOADS, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        workers = parent.stdout.readline().split()
        assert len(workers) >= 2
        time.sleep(1)  # until the pipes are full
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while alive := [pid for pid in workers if _lives(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
