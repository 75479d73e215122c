"""``attrib evolve``: every epoch's numbers are what the library gives by hand; one run, two runs, and its files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import attrib
from attrib.cli import common
from attrib.cli import evolve as command
from train.config import Config
from train.loop import train

SHORT = ("--steps", 2, "--step-size", "4/255", "--precision", "fp32", "--device", "cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two runs: standard/ with three epochs and a log, other/ with two and none."""
    place = tmp_path_factory.mktemp("runs")
    for name, epochs, seed in (("standard", 3, 0), ("other", 2, 1)):
        config = Config(
            method="standard", data="glyphs", arch="lenet", limit=700, holdout=100, batch_size=50, epochs=epochs,
            optimizer="adam", lr=3e-3, weight_decay=0, precision="fp32", steps=1, save_every=1, seed=seed,
        )  # fmt: skip
        train(config, place / name, device="cpu")
    (place / "other" / "log.jsonl").unlink()
    return place


def test_every_epoch_is_what_the_library_gives_by_hand(
    run: Any, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_draw", lambda *_: [])
    done = run("evolve", runs / "standard", "--limit", 60, "--batch-size", 25, *SHORT, "--out", tmp_path, "--json")
    assert (done.status, done.err) == (0, "")
    summary = json.loads(done.out)
    assert summary == json.loads((tmp_path / "evolve.json").read_text())
    log = [json.loads(line)["loss"] for line in (runs / "standard" / "log.jsonl").read_text().splitlines()]
    features = pd.read_csv(tmp_path / "evolve-contrib.csv")
    table = pd.read_csv(tmp_path / "evolve.csv")
    assert table[["run", "epoch"]].to_numpy().tolist() == [["standard", 1], ["standard", 2], ["standard", 3]]
    (batch,) = attrib.dataset("glyphs", limit=60).batches(60)
    for row, entry in enumerate(summary["runs"][0]["epochs"]):
        model, _ = attrib.load(runs / "standard" / f"epoch-{entry['epoch']}.pt")
        adversarial = attrib.pgd(model, batch.image, batch.label, eps=8 / 255, step_size=4 / 255, steps=2)
        with torch.no_grad():
            z, z_adversarial = model(batch.image), model(adversarial)
        c = attrib.contribution(model, batch.image, batch.label).double().mean(0)
        expected = {
            "accuracy": (z.argmax(1) == batch.label).double().mean(),
            "robust_accuracy": (z_adversarial.argmax(1) == batch.label).double().mean(),
            "loss": F.cross_entropy(z, batch.label), "loss_adversarial": F.cross_entropy(z_adversarial, batch.label),
            "asc": attrib.coverage(attrib.span(attrib.gradcam(model, batch.image, batch.label))).mean(),
            "participation_ratio": attrib.participation_ratio(c), "gini": attrib.gini(c),
        }  # fmt: skip
        for name, value in expected.items():
            assert entry[name] == pytest.approx(float(value), rel=1e-3, abs=1e-6), name
            low, high = entry[f"{name}_ci"]
            assert low < high
            assert (table.loc[row, name], table.loc[row, f"{name}_low"]) == pytest.approx((entry[name], low))
        assert entry["train_loss"] == log[row]
        np.testing.assert_allclose(features.loc[features["epoch"] == entry["epoch"], "C"], c, rtol=1e-3, atol=1e-9)


def test_two_runs_with_pictures(run: Any, runs: Path, tmp_path: Path) -> None:
    done = run("evolve", f"one={runs / 'standard'}", runs / "other", "--limit", 30, *SHORT, "--out", tmp_path)
    assert done.status == 0, done.err
    table = pd.read_csv(tmp_path / "evolve.csv")
    assert table.groupby("run", sort=False)["epoch"].apply(list).to_dict() == {"one": [1, 2, 3], "other": [1, 2]}
    assert table.loc[table["run"] == "other", "train_loss"].isna().all()
    for name in ("evolve", "evolve-contrib", "evolve-maps"):
        assert (tmp_path / f"{name}.pdf").stat().st_size > 0
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 600
    assert r"\toprule" in (tmp_path / "evolve.tex").read_text()
    assert not list(tmp_path.glob(".*"))
    with np.load(tmp_path / "evolve-maps.npz") as saved:
        assert saved["map"].shape[:2] == (5, 5)  # three epochs and two, five images
        assert len(set(saved["index"].tolist())) == 5


@pytest.mark.filterwarnings("ignore:The 'float_precision' argument:DeprecationWarning")
def test_a_stopped_command_continues(run: Any, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_draw", lambda *_: [])
    given = ("evolve", runs / "other", "--limit", 20, "--batch-size", 10, *SHORT)
    assert run(*given, "--out", tmp_path / "whole").status == 0
    attacked, left = common.attacked, 3

    def stopping(*arguments: Any, **named: Any) -> torch.Tensor:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return attacked(*arguments, **named)

    monkeypatch.setattr("attrib.cli.explain.attacked", stopping)
    stopped = run(*given, "--out", tmp_path / "pieces")  # in the second of two batches
    assert (stopped.status, stopped.out) == (130, "")
    assert "the same command continues where it stopped" in stopped.err
    left = 2  # what that batch needs
    assert run(*given, "--out", tmp_path / "pieces").status == 0
    for name in ("evolve.csv", "evolve.json", "evolve-contrib.csv"):
        assert (tmp_path / "pieces" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_two_processes_say_what_one_says(run: Any, runs: Path, two_processes: Any) -> None:
    given = ("evolve", runs / "other", "--limit", 25, "--batch-size", 10, *SHORT[:-2], "--json")
    one, two = json.loads(run(*given).out), two_processes(*given)
    (alone,), (joined,) = one["runs"], two["runs"]
    for entry, other in zip(alone["epochs"], joined["epochs"], strict=True):
        assert entry.keys() == other.keys()
        for name, value in entry.items():
            if isinstance(value, float | list):
                assert other[name] == pytest.approx(value, rel=1e-3), name


def test_at_most_six_epochs_are_drawn() -> None:
    assert command._shown([1, 2, 3]) == [1, 2, 3]
    shown = command._shown(list(range(1, 51)))
    assert (len(shown), shown[0], shown[-1]) == (6, 1, 50)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, runs: Path) -> Path:
    place = tmp_path_factory.mktemp("bad")
    for name in ("empty", "broken", "log", "cifar"):
        (place / name).mkdir()
    (place / "broken" / "epoch-1.pt").write_text("no checkpoint")
    for name in ("log", "cifar"):
        (place / name / "epoch-1.pt").write_bytes((runs / "other" / "epoch-1.pt").read_bytes())
    (place / "log" / "log.jsonl").write_text("no JSON\n")
    saved = torch.load(place / "cifar" / "epoch-1.pt", weights_only=True)
    torch.save(saved | {"data": "cifar10"}, place / "cifar" / "epoch-1.pt")
    (place / "good").symlink_to(runs / "standard")
    return place


BAD = [
    (("{bad}/nowhere",), "RUN_DIR: expected the folder of a training run, found nothing"),
    (("{bad}/empty",), "RUN_DIR: no epoch-*.pt"),
    (("{bad}/broken",), "epoch-1.pt"),
    (("{bad}/log",), "log.jsonl: expected one JSON object"),
    (("{bad}/good", "{bad}/good"), "two runs are called"),
    (("a={bad}/good", "b={bad}/good", "c={bad}/good"), "one or two run folders, got 3"),
    (("{bad}/good", "{bad}/cifar"), "trained on different data"),
    (("{bad}/good", "--images", "0"), "--images: expected at least 1"),
    (("{bad}/good", "--eps", "8"), "--eps: expected a number in [0,1]"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_status_2(run: Any, bad: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in run("evolve", *(argument.format(bad=bad) for argument in arguments)).refused()


def test_the_plots_need_no_torch() -> None:
    code = "import sys, attrib.plots.evolve, attrib.cli.evolve, attrib.relate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
