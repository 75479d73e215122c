"""``attrib evolve``: every epoch's numbers equal the library's; one run, two runs, and its files."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import attrib
from attrib import stats
from attrib.analyses import evolve
from attrib.analyses.evolve import Evolution
from attrib.analyses.measured import Context
from attrib.analyses.options import Attack
from attrib.analyses.relate import Relation
from attrib.analyses.result import Result
from attrib.errors import Stopped
from attrib.models.several import models_of
from train.config import Config
from train.loop import train

SHORT = Attack("pgd", step_size=4 / 255, steps=2)
ENDS = ["difference", "low", "high", "p"]


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


def test_every_epoch_is_what_the_library_gives_by_hand(runs: Path) -> None:
    data = attrib.dataset("glyphs", limit=60)
    result = Evolution(attack=SHORT, precision="fp32").run(runs / "standard", data, batch_size=25, device="cpu")
    assert not result.warnings
    log = [json.loads(line)["loss"] for line in (runs / "standard" / "log.jsonl").read_text().splitlines()]
    features, table = result.frames["contrib"], result.rows
    assert table[["run", "epoch"]].to_numpy().tolist() == [["standard", 1], ["standard", 2], ["standard", 3]]
    (batch,) = data.batches(60)
    for row, entry in enumerate(result.summary["runs"][0]["epochs"]):
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
    # The table of models has the last epoch.
    assert result.table[["name", "epoch", "asc"]].to_numpy().tolist() == [["standard", 3, entry["asc"]]]


def test_two_runs_with_pictures(runs: Path, tmp_path: Path) -> None:
    data = attrib.dataset("glyphs", limit=30)
    models = {"one": runs / "standard", "other": runs / "other"}
    result = Evolution(attack=SHORT).run(models, data, device="cpu", out=tmp_path)
    table = pd.read_csv(tmp_path / "evolve.csv")
    assert table.groupby("run", sort=False)["epoch"].apply(list).to_dict() == {"one": [1, 2, 3], "other": [1, 2]}
    assert table.loc[table["run"] == "other", "train_loss"].isna().all()
    for name in ("evolve", "evolve-contrib", "evolve-maps"):
        assert (tmp_path / f"{name}.pdf").stat().st_size > 0
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 600
    assert r"\toprule" in (tmp_path / "evolve.tex").read_text()
    assert not list(tmp_path.glob(".*"))
    arrays = result.arrays["maps"]
    assert arrays["map"].shape[:2] == (5, 5)  # three epochs and two, five images
    assert len(set(arrays["index"].tolist())) == 5

    again = Result.load(tmp_path)
    assert again.table.equals(result.table)
    assert str(again) == str(result)
    assert again.figures.keys() == {"evolve", "evolve-contrib", "evolve-maps"}
    assert "<table" in again._repr_html_()


def test_the_last_epochs_of_two_runs_are_compared_image_by_image(runs: Path) -> None:
    data = attrib.dataset("glyphs", limit=20)
    models = {"one": runs / "standard", "other": runs / "other"}
    evolution = Evolution(map="gradient", attack=Attack("fgsm")).run(models, data, device="cpu")
    rows = Relation(map="gradient", attack=Attack("fgsm")).run(models, data, device="cpu").rows
    one, other = (rows.query("model == @run and epoch == @last") for run, last in (("one", 3), ("other", 2)))
    pairs = evolution.pairs.set_index("quantity")
    for quantity, column in (("loss", "loss"), ("asc", "coverage")):
        paired = stats.paired(one[column].to_numpy(), other[column].to_numpy())
        assert pairs.loc[[quantity], ENDS].to_numpy()[0] == pytest.approx(np.array(paired))
    accuracies = [rows["correct"].to_numpy() for rows in (one, other)]
    assert pairs.loc["accuracy", "p"] == pytest.approx(stats.paired_shares(*accuracies).p)
    last = {run["name"]: run["epochs"][-1] for run in evolution.summary["runs"]}
    assert pairs.loc["gini", "difference"] == pytest.approx(last["one"]["gini"] - last["other"]["gini"])
    assert (pairs["p"] <= pairs["p_holm"]).all()


def test_a_stopped_analysis_continues(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evolution, "figures", lambda *_: {})
    data, pgd, left = attrib.dataset("glyphs", limit=20), attrib.pgd, 3

    def evolve(out: Path) -> None:
        Evolution(attack=SHORT, images=2).run(runs / "other", data, batch_size=10, device="cpu", out=out)

    def stopping(*arguments: Any, **named: Any) -> torch.Tensor:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return pgd(*arguments, **named)

    evolve(tmp_path / "whole")
    monkeypatch.setattr("attrib.attack.pgd", stopping)
    with pytest.raises(Stopped):  # in the second of two batches
        evolve(tmp_path / "pieces")
    left = 2  # what that batch needs
    evolve(tmp_path / "pieces")
    for name in ("evolve.csv", "evolve.json", "evolve-contrib.csv"):
        assert (tmp_path / "pieces" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with (
        np.load(tmp_path / "whole" / "evolve-maps.npz") as whole,
        np.load(tmp_path / "pieces" / "evolve-maps.npz") as a,
    ):
        assert all((whole[name] == a[name]).all() for name in whole.files)


def test_two_processes_give_what_one_gives(run: Any, runs: Path, two_processes: Any) -> None:
    given = ("evolve", runs / "other", "--limit", 25, "--batch-size", 10, "--steps", 2, "--precision", "fp32", "--json")
    one, two = json.loads(run(*given, "--device", "cpu").out), two_processes(*given)
    (alone,), (joined,) = one["runs"], two["runs"]
    for entry, other in zip(alone["epochs"], joined["epochs"], strict=True):
        assert entry.keys() == other.keys()
        for name, value in entry.items():
            if isinstance(value, float | list):
                assert other[name] == pytest.approx(value, rel=1e-3), name


def test_at_most_six_epochs_are_drawn_and_only_their_maps_are_kept(runs: Path) -> None:
    assert evolve.evenly_spaced([1, 2, 3]) == [1, 2, 3]
    shown = evolve.evenly_spaced(list(range(1, 51)))
    assert (len(shown), shown[0], shown[-1]) == (6, 1, 50)
    (batch,) = (data := attrib.dataset("glyphs", limit=4)).batches(4)
    first, *_ = models_of(runs / "other", device="cpu")
    epochs = tuple(replace(first, epoch=number) for number in range(1, 51))
    context = Context(torch.device("cpu"), data, 4, shown=(0,), models=epochs)
    analysis = Evolution(map="gradient", attack=Attack("fgsm")).resolved(data)
    with first.opened(context.device) as opened:
        kept = [len(analysis.measure(replace(opened, epoch=number), batch, context).examples) for number in (1, 2, 50)]
    assert kept == [1, 0, 1]


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
    (("{bad}/nowhere",), "nowhere, found nothing"),
    (("{bad}/empty",), "no epoch-*.pt"),
    ((), "nothing to look at"),
    (("{bad}/good", "--attack", "none"), "--attack: expected fgsm, pgd or cw"),
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


def test_commands_and_plots_need_no_torch_before_they_run() -> None:
    modules = "attrib.plots.evolve, attrib.plots.relate, attrib.analyses.evolve, attrib.analyses.relate, attrib.relate"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
