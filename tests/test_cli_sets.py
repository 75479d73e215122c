"""``attrib sets``: its numbers equal those by hand, whole or in pieces; its files."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import attrib
from attrib.analyses.options import Attack
from attrib.analyses.sets import Sets
from attrib.consistency import MEANS, SETS, logit_pairs
from train.config import Config
from train.loop import train

ROOT = Path(__file__).resolve().parents[1]
SHORT = ("--eps", "8/255", "--step-size", "0.02", "--steps", 3, "--precision", "fp32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs that has learned a little, so that both sets have images: its folder."""
    out = tmp_path_factory.mktemp("runs") / "standard"
    config = Config(
        method="standard", data="glyphs", arch="lenet", limit=1500, holdout=100, batch_size=50, epochs=3,
        optimizer="adam", lr=3e-3, weight_decay=0, precision="fp32", steps=1, save_every=1,
    )  # fmt: skip
    train(config, out, device="cpu")
    return out


def test_csv_and_summary_are_what_the_library_gives_by_hand(
    run: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sets, "figures", lambda *_: {})
    last, first = trained / "epoch-3.pt", trained / "epoch-1.pt"
    done = run(
        "sets", "--ckpt", f"last={last}", "--ckpt", f"first={first}", "--limit", 150, *SHORT, "--out", tmp_path,
        "--json",
    )  # fmt: skip
    assert done.status == 0
    (line,) = done.err.splitlines()
    assert line.startswith("attrib: warning: first: clean accuracy")  # after one epoch still no better than chance
    summary = json.loads(done.out)
    saved = json.loads((tmp_path / "sets.json").read_text())
    assert set(saved.pop("files")) == {path.name for path in tmp_path.iterdir()}
    assert {name: saved[name] for name in summary} == summary
    assert summary.keys() >= {"data", "split", "attack", "seed", "precision", "models", "pairs", "epochs", "versions"}
    assert summary["attack"] == {"name": "pgd", "eps": 8 / 255, "step_size": 0.02, "steps": 3, "precision": "fp32"}
    table = pd.read_csv(tmp_path / "sets.csv")
    assert list(table.columns[:6]) == ["model", "seed", "index", "label", "set", "prediction"]

    for entry, path in zip(summary["models"], (last, first), strict=True):
        assert entry.keys() == {"name", "checkpoint", "fingerprint", "n", "accuracy", "adversarial_accuracy", "sets"}
        rows = table[table["model"] == entry["name"]].reset_index(drop=True)
        model, _ = attrib.load(path)
        (batch,) = attrib.dataset("glyphs", limit=150).batches(150)
        adversarial = attrib.pgd(
            model, batch.image, batch.label, index=batch.index, eps=8 / 255, step_size=0.02, steps=3
        )
        with torch.no_grad():
            expected = logit_pairs(model(batch.image), model(adversarial), batch.label)
        assert rows["index"].tolist() == list(range(150))
        assert rows["set"].tolist() == [SETS[position] for position in expected.membership.tolist()]
        for name in expected._fields[1:]:
            np.testing.assert_allclose(rows[name], getattr(expected, name), rtol=1e-3, atol=1e-5, err_msg=name)

        assert tuple(entry["sets"]) == SETS
        assert entry["accuracy"] == (rows["prediction"] == rows["label"]).mean()
        assert entry["adversarial_accuracy"] == (rows["prediction_adversarial"] == rows["label"]).mean()
        for kind, found in entry["sets"].items():
            inside = rows[rows["set"] == kind]
            assert found["n"] == len(inside)
            assert found["share"] == pytest.approx(len(inside) / 150)
            for name in MEANS:
                assert found[name] == pytest.approx(inside[name].mean()), name
                low, high = found[f"{name}_ci"]
                assert low <= found[name] <= high
            total = inside["alp"] + inside["ce_sum"]
            assert found["alp_share_of_total"] == pytest.approx(inside["alp"].sum() / total.sum())
    assert min(found["n"] for found in summary["models"][0]["sets"].values()) > 5  # nothing above was vacuous

    assert [(pair["a"], pair["b"], pair["set"]) for pair in summary["pairs"]] == [
        ("last", "first", "consistent"), ("last", "first", "inconsistent"),
    ]  # fmt: skip
    for pair in summary["pairs"]:
        shares = [entry["sets"][pair["set"]]["share"] for entry in summary["models"]]
        assert pair["difference"] == pytest.approx(shares[0] - shares[1])
        assert pair["ci"][0] <= pair["difference"] <= pair["ci"][1]
        assert 0 < pair["p"] <= 1


def test_files_pictures_and_tables(run: Any, trained: Path, tmp_path: Path) -> None:
    done = run("sets", "--ckpt", trained / "epoch-3.pt", "--limit", 80, *SHORT, "--out", tmp_path)
    assert done.status == 0, done.err
    for name in ("sets.csv", "sets.json", "sets.tex", "sets-shares.tex", "sets.pdf", "sets-examples.pdf"):
        assert (tmp_path / name).stat().st_size > 0
        assert str(tmp_path / name) in done.out
    assert not list(tmp_path.glob(".*"))
    assert "inconsistent" in done.out
    assert "95 % bootstrap intervals" in done.out
    for name in ("sets", "sets-examples"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 600
    assert r"\toprule" in (tmp_path / "sets.tex").read_text()

    table = pd.read_csv(tmp_path / "sets.csv").set_index("index")
    with np.load(tmp_path / "sets-examples.npz") as saved:
        for s, kind in enumerate(saved["set"]):
            index = saved["index"][0, s]
            rows = table.loc[index]
            assert (rows["set"] == kind).all()
            assert rows["label"].is_unique
            probability = saved["probability"][0, s]  # (E, view, class)
            np.testing.assert_allclose(probability[:, 0, 0], rows["probability_clean"], rtol=1e-3)
            np.testing.assert_allclose(probability[:, 1, 0], rows["probability_adversarial"], rtol=1e-3)
            # An attack that succeeded is surer of its class than of the true one, and one that failed is not.
            assert ((probability[:, 1, 1] > probability[:, 1, 0]) == (kind == "inconsistent")).all()
            change = np.abs(saved["image"][0, s, :, 1] - saved["image"][0, s, :, 0])
            assert 0 < change.max() <= 8 / 255 + 1e-6


def test_without_an_attack_nothing_is_inconsistent(run: Any, trained: Path, tmp_path: Path) -> None:
    done = run(
        "sets", "--run", trained, "--limit", 40, "--eps", 0, "--steps", 2, "--out", tmp_path, "--json",
    )  # fmt: skip
    assert done.status == 0, done.err
    summary = json.loads(done.out)
    (entry,) = summary["models"]
    assert entry["name"] == "standard"
    assert entry["accuracy"] == entry["adversarial_accuracy"] == entry["sets"]["consistent"]["share"]
    assert entry["sets"]["inconsistent"]["n"] == 0
    assert entry["sets"]["inconsistent"]["alp"] is None
    assert entry["sets"]["consistent"]["alp"] == 0
    assert {at["sets"]["consistent"]["alp"] for at in summary["epochs"]["epochs"]} == {0}
    for name in ("sets", "sets-examples", "sets-epochs"):  # one of the examples' halves is empty
        for suffix in ("pdf", "png"):
            assert (tmp_path / f"{name}.{suffix}").stat().st_size > 0


def test_epochs_of_a_run_in_the_sets_of_the_last(
    run: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sets, "figures", lambda *_: {})
    done = run("sets", "--run", trained, "--limit", 60, *SHORT, "--out", tmp_path)
    assert done.status == 0, done.err
    assert "epoch 3" in done.out
    found = json.loads((tmp_path / "sets.json").read_text())
    history = pd.read_csv(tmp_path / "sets-epochs.csv")
    assert list(history.columns) == ["epoch", "index", "label", "set", "alp"]
    assert len(history) == 3 * 60
    table = pd.read_csv(tmp_path / "sets.csv")
    for number in (1, 2, 3):
        assert history.loc[history["epoch"] == number, "set"].tolist() == table["set"].tolist()
    last = history[history["epoch"] == 3]
    np.testing.assert_allclose(last["alp"], table["alp"])
    epochs = found["epochs"]
    assert (epochs["fixed_at"], [entry["epoch"] for entry in epochs["epochs"]]) == (3, [1, 2, 3])
    for entry in epochs["epochs"]:
        for kind, mean in entry["sets"].items():
            rows = history[(history["epoch"] == entry["epoch"]) & (history["set"] == kind)]
            assert (mean["n"], mean["alp"]) == (len(rows), pytest.approx(rows["alp"].mean()))
    # An epoch on its own is what the run says of it.
    model, _ = attrib.load(trained / "epoch-1.pt")
    (batch,) = attrib.dataset("glyphs", limit=60).batches(60)
    adversarial = attrib.pgd(model, batch.image, batch.label, index=batch.index, eps=8 / 255, step_size=0.02, steps=3)
    with torch.no_grad():
        alp = logit_pairs(model(batch.image), model(adversarial), batch.label).alp
    np.testing.assert_allclose(history.loc[history["epoch"] == 1, "alp"], alp, rtol=1e-3)


def test_the_answer_depends_on_the_seed_and_not_on_the_batch_size(
    run: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sets, "figures", lambda *_: {})  # which takes most of the time
    given = ("sets", "--ckpt", trained / "model.pt", "--limit", 45, *SHORT)
    tables = {}
    for name, extra in {"whole": ("--batch-size", 45), "parts": ("--batch-size", 7), "other": ("--seed", 1)}.items():
        assert run(*given, *extra, "--out", tmp_path / name).status == 0
        tables[name] = pd.read_csv(tmp_path / name / "sets.csv")
    assert tables["whole"].iloc[:, :7].equals(tables["parts"].iloc[:, :7])
    np.testing.assert_allclose(tables["whole"]["alp"], tables["parts"]["alp"], rtol=1e-3, atol=1e-6)
    assert not np.allclose(tables["whole"]["alp"], tables["other"]["alp"], rtol=1e-3)


def test_a_stopped_command_continues(run: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("sets", "--run", trained, "--limit", 30, "--batch-size", 10, *SHORT)
    monkeypatch.setattr(Sets, "figures", lambda *_: {})
    assert run(*given, "--out", tmp_path / "whole").status == 0
    images = Attack.images
    left = 0

    def stopping(*arguments: Any, **named: Any) -> torch.Tensor:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return images(*arguments, **named)

    monkeypatch.setattr(Attack, "images", stopping)
    # Three batches of four models (three of them epochs): stopped in the middle of the first and of the last batch,
    # and not; at the end come the examples of two sets. Whole batches are not done again.
    done = []
    for left in (2, 4 + 4 + 3, 4 + 2):  # noqa: B007  # read in stopping
        done.append(run(*given, "--out", tmp_path / "pieces").status)
    assert done == [130, 130, 0]
    assert left == 0
    for name in ("sets.csv", "sets.json", "sets-epochs.csv"):
        assert (tmp_path / "pieces" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "pieces").glob(".*"))


def test_two_processes_give_what_one_gives(run: Any, trained: Path, two_processes: Any) -> None:
    given = ["--limit", 50, "--batch-size", 16, *SHORT, "--json"]
    alone = json.loads(run("sets", "--run", trained, *given).out)
    # torchrun takes --run for an option of its own, so there is a second name.
    one, two = (dict(numbers(found)) for found in (alone, two_processes("sets", "--run-dir", trained, *given)))
    assert len(one) > 100
    assert two == pytest.approx(one, rel=1e-3, abs=1e-6, nan_ok=True)


def numbers(value: Any, at: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a JSON object, under its path."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(item, f"{at}/{key}")
    elif isinstance(value, int | float):
        yield at, value


@pytest.mark.parametrize("attack", [("fgsm",), ("cw", "--steps", 2)])
def test_other_attacks(run: Any, trained: Path, attack: tuple[object, ...]) -> None:
    done = run("sets", "--ckpt", trained / "model.pt", "--limit", 30, "--attack", *attack)
    assert done.status == 0, done.err
    assert f"{str(attack[0]).upper()} eps 8/255" in done.out
    assert ("steps" in done.out) == (attack[0] == "cw")


def test_a_gated_model_is_warned_about(run: Any, tmp_path: Path, untrained: Any) -> None:
    path = untrained(tmp_path / "gated.pt", arch="resnet32", gated=True)
    done = run("sets", "--ckpt", path, "--limit", 5, "--attack", "fgsm", "--json")
    assert done.status == 0, done.err
    assert "gated is gated" in done.err
    json.loads(done.out)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, trained: Path, untrained: Any) -> Path:
    """Folders that are not runs."""
    place = tmp_path_factory.mktemp("bad")
    for name in ("empty", "broken", "grey"):
        (place / name).mkdir()
    (place / "broken" / "epoch-1.pt").write_text("no checkpoint")
    untrained(place / "grey" / "epoch-1.pt", channels=1)
    (place / "file").write_text("in the way")
    (place / "model.pt").write_bytes((trained / "model.pt").read_bytes())
    return place


A = ("--ckpt", "{bad}/model.pt")
BAD = [
    ((), "nothing to look at"),
    (("--run", "{bad}/nowhere"), "nowhere, found nothing"),
    (("--run", "{bad}/file"), "found a file"),
    (("--run", "{bad}/empty"), "--save-every 1"),
    (("--run", "{bad}/broken"), "epoch-1.pt"),
    ((*A, "--run", "{bad}/broken"), "epoch-1.pt"),
    ((*A, "--run", "{bad}/grey"), "grey (1 channel)"),
    (("--ckpt", "{bad}/missing.pt"), "no such file"),
    ((*A, "--attack", "deepfool"), "--attack: expected fgsm, pgd or cw"),
    ((*A, "--attack", "fgsm", "--steps", "3"), "belong to pgd and cw"),
    ((*A, "--eps", "8"), "--eps: expected a number in [0,1]"),
    ((*A, "--steps", "0"), "--steps: expected at least 1"),
    ((*A, "--batch-size", "0"), "--batch-size: expected at least 1"),
    ((*A, "--precision", "fp8"), "--precision: expected one of auto, fp32, bf16"),
    ((*A, "--data", "cifar100", "--data-root", "{bad}/empty"), "cifar"),
    ((*A, "--out", "{bad}/file"), "out (--out): expected a folder, found a file at"),
    ((*A, *A), "two models are called 'bad"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_status_2(
    run: Any, bad: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(bad)
    monkeypatch.delenv("ATTRIB_DATA", raising=False)
    before = sorted(bad.rglob("*"))
    assert words in run("sets", *(argument.format(bad=bad) for argument in arguments)).refused(warned=True)
    assert sorted(bad.rglob("*")) == before


def test_the_plots_need_no_torch() -> None:
    code = "import sys, attrib.plots.sets, attrib.analyses.sets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
