"""The floor of ASC in ``attrib span``: the JSON and every printed ASC show the library's numbers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attrib
from attrib import floor, stats

OWN = Path(__file__).with_name("own_models.py")
KEYS = {"asc_floor", "asc_floor_ci", "asc_floor_range", "asc_floor_empty"}


def test_the_floor_is_the_library_s(run: Any, models: Path, tmp_path: Path) -> None:
    given = ("span", "--limit", 10, "--floor", 8, "--map", "eq6", "--threshold", "otsu", "--seed", 5)
    done = run(*given, "--ckpt", f"at={models}/a.pt,{models}/b.pt", "--ckpt", models / "wide.pt", "--out", tmp_path)
    assert done.status == 0, done.err
    summary = json.loads((tmp_path / "span.json").read_text())
    assert summary["floor"] == {"images": 8, "networks": 3}
    data = attrib.dataset("glyphs", limit=10)
    for entry, name in zip(summary["models"], ("a", "wide"), strict=True):
        model, _ = attrib.load(models / f"{name}.pt")
        expected = attrib.asc_floor(model, data, map="eq6", threshold="otsu", images=8, seed=5)
        assert (entry["asc_floor"], *entry["asc_floor_range"]) == pytest.approx(expected, abs=1e-6)
        values = [
            floor.random_coverage(model, data, map="eq6", threshold="otsu", images=8, seed=5 + k) for k in range(3)
        ]
        assert entry["asc_floor_ci"] == pytest.approx(stats.interval(np.array(values, float), within=(0, 1)), abs=1e-6)
        assert entry["asc_floor_empty"] == np.mean([(value == 0).numpy() for value in values])
        low, high = entry["asc_floor_range"]
        for shown in (f"{100 * entry['asc_floor']:.2f}", f"({100 * low:.2f}", f"{100 * high:.2f})"):
            assert shown in done.out.split()
        latex = (tmp_path / "span.tex").read_text()
        assert f"{100 * entry['asc_floor']:.2f}" in latex
        assert "mean of 3 re-initialisations" in latex  # its range is in no column
    at = summary["models"][0]
    assert all({key: seed[key] for key in KEYS} == {key: at[key] for key in KEYS} for seed in at["seeds"])
    assert "mean (range) of 3 re-initialisations, first 8 clean images" in " ".join(done.out.split())


def test_no_floor_is_left_out(run: Any, models: Path) -> None:
    given = ("span", "--ckpt", models / "a.pt", "--limit", 6, "--floor", 0)
    summary = json.loads(run(*given, "--json").out)
    assert summary["floor"] is None
    assert not KEYS & summary["models"][0].keys()
    assert "floor" not in run(*given).out
    assert "--floor: expected at least 0" in run(*given[:-1], -1).refused()


def test_what_has_no_floor_has_null(run: Any, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "mine.npz", map=np.random.default_rng(0).random((6, 32, 32)))
    alone = run("span", "--maps", tmp_path / "mine.npz", "--data", "glyphs", "--limit", 6)
    assert (alone.status, alone.err) == (0, "")
    assert "floor" not in alone.out
    shutil.copy(OWN, tmp_path / "own_bare.py")
    monkeypatch.chdir(tmp_path)
    given = ("--model", "own_bare:bare", "--map", "gradient", "--data", "glyphs", "--limit", 6)
    done = run("span", *given, "--ckpt", models / "a.pt", "--maps", tmp_path / "mine.npz", "--json")
    assert done.status == 0, done.err
    found = {entry["name"]: entry for entry in json.loads(done.out)["models"]}
    assert [found[name]["asc_floor"] is None for name in ("a", "bare", "mine")] == [False, True, True]
    assert all(found[name].keys() >= KEYS for name in found)
    (line,) = [line for line in done.err.splitlines() if "floor" in line]
    expected = "bare: no floor of ASC can be measured: model: Sequential has no parameters to randomise"
    assert line == f"attrib: warning: {expected}"


def test_two_processes_measure_the_floor_that_one_does(run: Any, models: Path, two_processes: Any) -> None:
    given = ("span", "--ckpt", models / "a.pt", "--ckpt", models / "b.pt", "--limit", 12, "--json")
    one, two = json.loads(run(*given).out)["models"], two_processes(*given)["models"]
    for key in KEYS - {"asc_floor_empty"}:
        assert [entry[key] for entry in two] == [pytest.approx(entry[key], abs=1e-6) for entry in one]
