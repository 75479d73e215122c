"""The floor of ASC in ``attrib span``: the JSON and every printed ASC show the library's numbers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

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
        assert f"{100 * entry['asc_floor']:.2f} ({100 * low:.2f} to {100 * high:.2f})" in latex
        assert "mean (range) of 3 re-initialisations" in latex
    at, wide = summary["models"]
    reached = [
        entry["name"] for entry in (at, wide)
        if entry["asc_floor_range"][0] <= entry["asc"] <= entry["asc_floor_range"][1]
    ]  # fmt: skip
    assert warned(done.err) == ([floor_reached(", ".join(reached))] if reached else [])
    assert all({key: seed[key] for key in KEYS} == {key: at[key] for key in KEYS} for seed in at["seeds"])
    assert "mean (range) of 3 re-initialisations, first 8 clean images" in " ".join(done.out.split())


def warned(err: str) -> list[str]:
    return [line for line in err.splitlines() if "the range of its floor" in line]


def floor_reached(names: str) -> str:
    return f"attrib: warning: {names}: the ASC lies within the range of its floor, so random weights cover as much"


@pytest.mark.parametrize(("shares", "names"), [((0.5, 0.5), "low, high"), ((0.5, 0.9), "low"), ((0.1, 0.9), "")])
def test_coverage_within_the_range_of_its_floor_is_told(
    capsys: pytest.CaptureFixture[str], shares: tuple[float, float], names: str
) -> None:
    """Floors of 25, 50 and 75 % by construction: the map's share depends on a weight, and so on its random draws."""
    draws = iter([0.25, 0.5, 0.75] * len(shares))
    given = dict(zip(("low", "high"), shares, strict=True))

    def cover(model: nn.Module, image: Tensor, _label: Tensor) -> Tensor:
        known = [share for share in shares if model is opened[share]]
        covered = image.new_zeros(image.shape[0], *image.shape[2:])
        covered[:, : round(32 * (known[0] if known else next(draws)))] = 1
        return covered

    opened = {share: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)) for share in shares}
    models = {name: opened[share] for name, share in given.items()}
    attrib.Span(map=cover, floor=4).run(models, attrib.dataset("glyphs", limit=4))
    assert warned(capsys.readouterr().err) == ([floor_reached(names)] if names else [])


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
    (line,) = [line for line in done.err.splitlines() if "no floor" in line]
    expected = "bare: no floor of ASC can be measured: model: Sequential has no parameters to randomise"
    assert line == f"attrib: warning: {expected}"


def test_two_processes_measure_the_floor_that_one_does(run: Any, models: Path, two_processes: Any) -> None:
    given = ("span", "--ckpt", models / "a.pt", "--ckpt", models / "b.pt", "--limit", 12, "--json")
    one, two = json.loads(run(*given).out)["models"], two_processes(*given)["models"]
    for key in KEYS - {"asc_floor_empty"}:
        assert [entry[key] for entry in two] == [pytest.approx(entry[key], abs=1e-6) for entry in one]
