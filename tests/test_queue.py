"""quarter/: the order of the queue, its ledger, and its estimates."""

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attrib.errors import InputError
from attrib.models import checkpoint
from figures import models
from figures.models import Row
from quarter import budget, commands, ledger, queue, rates, schedule
from quarter.rates import Rate
from quarter.schedule import Job, epoch_seconds, next_job
from train.__main__ import parse


def random_job(draw: random.Random) -> Job:
    seconds = draw.uniform(1, 60)
    small = draw.random() < 0.6
    return Job(small, seconds, draw.uniform(0, seconds) if small else seconds)


@pytest.mark.parametrize("seed", range(30))
def test_schedule_by_its_properties(seed: int) -> None:
    """With a clock of its own: large jobs are alone and end in time, and nothing that fits is passed over."""
    draw = random.Random(seed)
    waiting = [random_job(draw) for _ in range(draw.randint(1, 15))]
    slots, now, deadline = draw.randint(1, 4), 0.0, draw.uniform(10, 300)
    running: list[tuple[float, Job]] = []  # when it ends
    while True:
        left = [job._replace(seconds=end - now) for end, job in running]
        position = next_job(waiting, left, remaining=deadline - now, slots=slots)
        if position is not None:
            job = waiting[position]
            assert job.least <= deadline - now
            assert len(running) < slots
            if not job.small:
                assert not running
                assert now + job.seconds <= deadline
            for earlier in waiting[:position]:
                # Passed over: it does not fit, or will not once those running are done.
                latest = max([end - now for end, _ in running], default=0.0)
                assert earlier.least > deadline - now or (not earlier.small and latest + earlier.least > deadline - now)
            running.append((now + job.seconds, waiting.pop(position)))
            assert all(job.small for _, job in running) or len(running) == 1
        elif running:
            running.sort()
            now = running.pop(0)[0]
        else:
            assert all(job.least > deadline - now for job in waiting)
            break


def test_a_large_job_is_waited_for_only_while_it_fits() -> None:
    large, small = Job(False, 50, 50), Job(True, 5, 1)
    busy = [Job(True, 20, 0)]
    assert next_job([large, small], [], remaining=60, slots=2) == 0
    assert next_job([large, small], busy, remaining=80, slots=2) is None
    assert next_job([large, small], busy, remaining=60, slots=2) == 1
    assert next_job([small, large], [large], remaining=1000, slots=2) is None


def write_log(run: Path, *seconds: float) -> None:
    run.mkdir(parents=True, exist_ok=True)
    records = [{"epoch": epoch, "seconds": value, "clean": 0.5} for epoch, value in enumerate(seconds, 1)]
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_seconds_per_epoch_come_from_what_is_nearest(tmp_path: Path) -> None:
    row, other = Row("cifar10-resnet18", "again", ()), Row("cifar10-resnet18", "trades", (), (), 1)
    assert epoch_seconds(row, tmp_path, {}) is None
    measured = {"cifar10-resnet18": Rate(10.0, "graph", 5.0)}
    assert epoch_seconds(row, tmp_path, measured) == pytest.approx(10 * schedule.COST["again"])
    write_log(tmp_path / other.key, 90, 6, 6.2, 5.8)  # the first epoch compiles
    expected = 6 / schedule.cost("trades") * schedule.COST["again"]
    assert epoch_seconds(row, tmp_path, measured) == pytest.approx(expected)
    write_log(tmp_path / row.key, 90)
    assert epoch_seconds(row, tmp_path, measured) == pytest.approx(expected)
    write_log(tmp_path / row.key, 90, 7)
    assert epoch_seconds(row, tmp_path, measured) == 7


def test_the_fastest_engine_at_the_recipes_batch_size_is_used(tmp_path: Path) -> None:
    def entry(place: str, engine: str, seconds: float, own: bool) -> dict[str, Any]:
        return {"place": place, "engine": engine, "seconds": seconds, "recipe_batch": own, "start": 3}

    file = tmp_path / "rates.json"
    assert rates.read(file) == {}
    found = [entry("a", "eager", 9, True), entry("a", "graph", 5, True), entry("a", "compiled", 2, False)]
    file.write_text(json.dumps({"rates": [*found, entry("b", "graph", 1, True)]}))
    assert rates.read(file) == {"a": Rate(5, "graph", 3), "b": Rate(1, "graph", 3)}


def test_a_rate_is_scaled_to_the_whole_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 s for 2,000 images and 0.5 s of evaluation: 49,000 images take 49.5 s."""

    def fake(row: Row, *, device: str, runs: Path, engine: str | None = None) -> list[str]:
        record = {"epoch": 2, "images_per_s": 1000.0, "seconds": rates.IMAGES / 1000 + 0.5}
        log = runs / row.key / "log.jsonl"
        code = f"import pathlib; p = pathlib.Path({str(log)!r}); p.parent.mkdir(parents=True);"
        return [sys.executable, "-c", f"{code} p.write_text({json.dumps(record)!r})", device, engine or ""]

    row = Row("cifar10-resnet32", "pgd-at", ("cifar10-resnet32-fast", "pgd-at"))
    config = models.config(row)
    monkeypatch.setattr(commands, "training", fake)
    monkeypatch.setattr(models, "config", lambda _: config)
    entry = rates.measure(row, device="cpu", engine=None)
    assert entry["seconds"] == pytest.approx(49.5)
    assert entry["recipe_batch"]
    assert not rates.measure(row, device="cpu", engine=None, batch_size=512)["recipe_batch"]


# The queue itself, with commands that take no time


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, untrained: Callable[..., Path], tmp_path: Path) -> dict[str, int]:
    """Commands that only write what training and analysis leave; statuses of those that are to fail, by name."""
    model = untrained(tmp_path / "model.pt")
    statuses: dict[str, int] = {}

    def python(code: str) -> list[str]:
        return [sys.executable, "-S", "-c", "import os, shutil, sys\n" + code]

    def training(row: Row, *, device: str, runs: Path = Path("runs"), until: float | None = None,
                 engine: str | None = None) -> list[str]:  # fmt: skip
        run, log = runs / row.key, json.dumps({"epoch": 1, "seconds": 2.5})
        status = statuses.get(row.name, 0)
        code = f"print({device!r}, {until}, {engine!r})\n" + ("sys.exit(1)\n" if status == 1 else "")
        code += f"open({str(run / 'log.jsonl')!r}, 'w').write({log!r})\n"
        return python(f"{code}shutil.copy({str(model)!r}, {str(run / 'model.pt')!r}); sys.exit({status})")

    def analyses(row: Row, *, results: Path, **_: object) -> dict[str, list[str]]:
        found = {}
        for name in ("robust", "span-gradcam"):
            file = results / row.key / name / f"{name.partition('-')[0]}.json"
            text = json.dumps({"models": [{"accuracies": {"clean": 0.5}}]})
            write = f"os.makedirs({str(file.parent)!r}, exist_ok=True); open({str(file)!r}, 'w').write({text!r})\n"
            found[name] = python(f"{write}sys.exit({statuses.get(f'{row.name} {name}', 0)})")
        return found

    real = models.config
    monkeypatch.setattr(commands, "training", training)
    monkeypatch.setattr(commands, "analyses", analyses)
    monkeypatch.setattr(models, "config", lambda row: real(row) if row.recipes else one_epoch)
    monkeypatch.setattr(queue, "START_SECONDS", 0.1)
    return statuses


class OneEpoch:
    """A configuration, as far as the queue looks at it."""

    epochs = 1
    precision = "fp32"


one_epoch: Any = OneEpoch()


def settings(place: Path, **changes: Any) -> queue.Settings:
    usual: dict[str, Any] = {
        "device": "cpu", "gpu": False, "device_name": "cpu test", "runs": place / "runs", "results": place / "results",
        "jobs": 2, "deadline": time.time() + 60, "limit": None, "ledger": place / "ledger.json", "rates": {},
    }  # fmt: skip
    return queue.Settings(**usual | changes)


def test_a_failed_run_stops_no_other_and_finished_ones_are_in_the_ledger(
    fake: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [Row("glyphs-lenet", name, ()) for name in ("good", "bad", "cut", "unanalysed")]
    wanted += [
        Row("glyphs-lenet", "good", (), (), 2),
        Row("glyphs-resnet9", "large", ()),
        Row("x", "y", ("no-recipe",)),
    ]
    fake |= {"bad": 1, "cut": queue.STOPPED, "unanalysed span-gradcam": 1}
    report = queue.Queue(wanted, settings(tmp_path)).run()
    assert sorted(report.finished) == ["glyphs-lenet/good", "glyphs-lenet/good-seed2", "glyphs-resnet9/large"]
    assert report.stopped == ["glyphs-lenet/cut"]
    assert sorted(report.failed) == ["glyphs-lenet/bad", "glyphs-lenet/unanalysed: span-gradcam", "x/y"]
    assert report.left == []
    assert "3 finished, 1 stopped by the budget, 0 left, 3 failed" in report.counts()
    entries = ledger.read(tmp_path / "ledger.json")
    keys = {(entry["recipe"], entry["seed"]) for entry in entries}
    # What failed in the last of its analyses is trained and measured all the same.
    assert keys == {
        ("glyphs-lenet/good", 0), ("glyphs-lenet/good", 2), ("glyphs-resnet9/large", 0), ("glyphs-lenet/unanalysed", 0)
    }  # fmt: skip
    model = checkpoint.read(tmp_path / "runs/glyphs-lenet/good/model.pt")
    assert entries[0].keys() == ledger.KEYS
    assert entries[0] | {"recipe": "", "seed": 0} == {
        "recipe": "", "seed": 0, "fingerprint": model.fingerprint, "device": "cpu test", "precision": "fp32",
        "seconds": 2.5, "accuracies": {"clean": 0.5},
    }  # fmt: skip
    capsys.readouterr()

    # On this machine what failed is done again, the analysis of a run in the ledger too.
    fake.clear()
    report = queue.Queue(wanted[:4], settings(tmp_path)).run()
    assert sorted(report.finished) == [f"glyphs-lenet/{name}" for name in ("bad", "cut", "good", "unanalysed")]
    assert (tmp_path / "results/glyphs-lenet/unanalysed/span-gradcam/span.json").exists()
    (tmp_path / "ledger.json").write_text(json.dumps(entries))
    capsys.readouterr()

    # The next machine has the ledger and takes what is left.
    again = queue.Queue(wanted, settings(tmp_path, runs=tmp_path / "runs2", results=tmp_path / "results2")).run()
    assert sorted(again.finished) == ["glyphs-lenet/bad", "glyphs-lenet/cut"]
    assert "glyphs-lenet/good: in the ledger already" in capsys.readouterr().out


@pytest.mark.usefixtures("fake")
def test_what_is_trained_is_only_analysed(tmp_path: Path) -> None:
    wanted = [Row("glyphs-lenet", "good", ())]
    queue.Queue(wanted, settings(tmp_path)).run()
    log = tmp_path / "runs/glyphs-lenet/good/train.log"
    assert log.read_text().startswith("cpu ")
    log.unlink()
    shutil.rmtree(tmp_path / "results")
    assert queue.Queue(wanted, settings(tmp_path)).run().finished == ["glyphs-lenet/good"]
    assert (tmp_path / "results/glyphs-lenet/good/robust/robust.json").exists()
    assert not log.exists()


@pytest.mark.usefixtures("fake")
def test_nothing_starts_that_does_not_fit_and_what_runs_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [Row("glyphs-resnet9", "large", ()), Row("glyphs-lenet", "small", ())]
    known = {"glyphs-resnet9": Rate(100.0, None, 0.0), "glyphs-lenet": Rate(100.0, None, 0.0)}
    report = queue.Queue(wanted, settings(tmp_path, rates=known)).run()
    assert report.left == ["glyphs-resnet9/large", "glyphs-lenet/small"]

    def endless(row: Row, **_: object) -> list[str]:
        return [sys.executable, "-S", "-c", "import time; time.sleep(60)", row.key]

    monkeypatch.setattr(commands, "training", endless)
    monkeypatch.setattr(queue, "GRACE_SECONDS", 0.0)
    report = queue.Queue(wanted, settings(tmp_path, deadline=time.time() + 1)).run()
    assert report.failed == ["glyphs-resnet9/large"]


@pytest.mark.usefixtures("fake")
def test_small_networks_run_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits until the other has begun, which only ends if both run at a time."""

    def meet(row: Row, **_: object) -> list[str]:
        own, other = (tmp_path / name for name in (row.name, "b" if row.name == "a" else "a"))
        code = f"open({str(own)!r}, 'w')\nwhile not os.path.exists({str(other)!r}): time.sleep(0.01)"
        return [sys.executable, "-S", "-c", f"import os, time\n{code}"]

    monkeypatch.setattr(commands, "training", meet)
    monkeypatch.setattr(commands, "analyses", lambda *_, **__: {})
    wanted = [Row("glyphs-lenet", name, ()) for name in "ab"]
    report = queue.Queue(wanted, settings(tmp_path)).run()
    assert sorted(report.finished) == ["glyphs-lenet/a", "glyphs-lenet/b"]


def test_ledger_merges_by_recipe_and_seed(tmp_path: Path) -> None:
    def entry(recipe: str, seed: int, seconds: float) -> ledger.Entry:
        return dict.fromkeys(ledger.KEYS, "x") | {"recipe": recipe, "seed": seed, "seconds": seconds}

    path = tmp_path / "ledger.json"
    ledger.merge(path, [entry("a", 0, 1), entry("a", 1, 1)])
    ledger.merge(path, [entry("b", 0, 2), entry("a", 1, 2)])
    assert [(e["recipe"], e["seed"], e["seconds"]) for e in ledger.read(path)] == [
        ("a", 0, 1),
        ("a", 1, 2),
        ("b", 0, 2),
    ]
    assert ledger.has(ledger.read(path), Row("x", "y", ())) is False
    path.write_text('[{"recipe": "a"}]')
    with pytest.raises(InputError, match="expected a list of runs"):
        ledger.read(path)


def test_commands_name_their_precision() -> None:
    places = {"device": "cuda", "runs": Path("runs"), "results": Path("results"), "limit": None}
    for gpu, attack in ((True, "bf16"), (False, "fp32")):
        for name, command in commands.analyses(Row("cifar10-resnet18", "again", ()), gpu=gpu, **places).items():  # type: ignore[arg-type]
            if name != "fc":  # runs no model
                exact = name.startswith(("span", "maps"))
                assert command[command.index("--precision") + 1] == ("fp32" if exact else attack)
            assert command[command.index("--out") + 1] == os.path.join("results/cifar10-resnet18/again", name)


# The command


def reproduced(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["quarter.budget", *map(str, arguments)])
    return budget.main()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rehearse"], "expected --budget SECONDS"),
        (["--rehearse", "--budget", 60], "--ledger of its own"),
        (["--unpack", "nowhere"], "expected the parts of one archive"),
        (["--budget", 60, "--device", "cuda:77"], "device: expected"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[object], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduced(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("quarter.budget: error: ")
    assert message in line


def test_groups_are_printed_in_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduced(monkeypatch, "--dry-run", "--only", "C") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * len(models.TABLE2)
    assert all("--recipe mnist-lenet " in line for line in lines)


def test_a_budget_trains_analyses_and_packs(
    fake: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [Row("glyphs-lenet", name, ()) for name in ("good", "bad")]
    monkeypatch.setattr(budget, "chosen_rows", lambda _: wanted)
    fake["bad"] = 1
    places = ["--runs", tmp_path / "runs", "--results", tmp_path / "results", "--ledger", tmp_path / "ledger.json"]
    assert reproduced(monkeypatch, "--budget", 100, "--pack", tmp_path / "out", "--device", "cpu", *places) == 1
    last, failed = capsys.readouterr().out.splitlines()[:-3:-1]
    assert failed == "failed: glyphs-lenet/bad"
    assert last == "runs: 1 finished, 0 stopped by the budget, 0 left, 1 failed, 1 packed"
    summary = json.loads((tmp_path / "out" / "queue.json").read_text())
    assert summary["finished"] == ["glyphs-lenet/good"]
    assert summary["left_out"] == []
    assert "runs/glyphs-lenet/good/model.pt" in summary["packed"]
    assert "results/glyphs-lenet/good/robust/robust.json" in summary["packed"]
    home = ["--runs", tmp_path / "home", "--results", tmp_path / "home", "--ledger", tmp_path / "home.json"]
    assert reproduced(monkeypatch, "--unpack", tmp_path / "out", *home) == 0
    assert ledger.read(tmp_path / "home.json") == ledger.read(tmp_path / "ledger.json")


@pytest.mark.parametrize("row", commands.REHEARSAL)
def test_training_knows_the_options_of_the_queue(row: Row) -> None:
    command = commands.training(row, device="cuda", runs=Path("here"), until=12.7, engine="graph")
    config, options = parse(command[3:])
    assert (options.device, options.until, options.engine, options.no_last) == ("cuda", 12, "graph", not row.small)
    assert options.out == Path("here") / row.key
    assert config == models.config(row)
