"""Several seeds behind one name: every command gives the mean over the files, with intervals over seeds."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torch import Tensor, nn

import attrib
from attrib import stats

COMMANDS = {
    "span": ("--attack", "fgsm"),
    "maps": ("--map", "gradient", "--images", 2),
    "contrib": (),
    "fc": (),
    "robust": ("--steps", "1,2", "--precision", "fp32"),
    "sets": ("--attack", "fgsm", "--precision", "fp32"),
    "check": ("--attack", "fgsm", "--curve-steps", 2, "--stages", 2, "--precision", "fp32"),
    "relate": ("--attack", "fgsm", "--precision", "fp32"),
}
"""As little work as shows it; sets and relate need no random start."""
NO_MEANS = ("seed", "index", "of", "layers", "features", "n_a", "n_b", "correct", "stood", "mean_broken", "mean_stood")
"""Numbers that are none, and, of conditions that a file need not meet, means that are taken over those that do."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, untrained: Any) -> Path:
    """a.pt, b.pt and c.pt: seeds of one method; wide.pt, cifar.pt: none of them; same.pt: a copy of a.pt."""
    folder = tmp_path_factory.mktemp("place")
    for seed, name in enumerate("abc"):
        untrained(folder / f"{name}.pt", seed)
    untrained(folder / "wide.pt", arch="resnet32")
    untrained(folder / "cifar.pt", data="cifar10")
    shutil.copy(folder / "a.pt", folder / "same.pt")
    return folder


def numbers(value: Any, at: str = "") -> dict[str, float]:
    """Every number that is a mean, under its path: no interval, no p."""
    if isinstance(value, int | float | None):
        return {at: np.nan if value is None else value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found: dict[str, float] = {}
    for key, item in items:
        name = str(key)
        if not name.endswith(("ci", "intervals", "p", "p_holm", "seeds")) and name not in NO_MEANS:
            found |= numbers(item, f"{at}/{name}")
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_s_numbers_are_the_means_of_its_files(run: Any, place: Path, tmp_path: Path, command: str) -> None:
    limit = () if command == "fc" else ("--limit", 14)
    given = (command, *limit, *COMMANDS[command])
    done = run(
        *given, "--ckpt", f"one={place}/c.pt", "--ckpt", f"at={place}/a.pt,{place}/b.pt", "--out", tmp_path
    )  # fmt: skip
    assert done.status == 0, done.err
    summary = json.loads((tmp_path / f"{command}.json").read_text())
    table = pd.read_csv(tmp_path / f"{command}.csv")
    alone, entry = summary["models"]
    assert "seeds" not in alone
    assert (alone["name"], alone["checkpoint"]) == ("one", f"{place}/c.pt")
    assert (entry["name"], entry["checkpoint"]) == ("at", [f"{place}/a.pt", f"{place}/b.pt"])
    assert table.groupby("model")["seed"].unique().apply(list).to_dict() == {"at": [0, 1], "one": [0]}
    for position, name in enumerate("ab"):
        single = json.loads(run(*given, "--ckpt", place / f"{name}.pt", "--json").out)["models"][0]
        seed = entry["seeds"][position]
        assert seed["fingerprint"] == attrib.load(place / f"{name}.pt")[1].fingerprint == entry["fingerprint"][position]
        one, other = (numbers({k: v for k, v in found.items() if k != "name"}) for found in (seed, single))
        assert one == pytest.approx(other, nan_ok=True, rel=1e-5, abs=1e-7)
    means = numbers(entry)
    assert len(means) > 3 or command == "maps"
    of_seeds = [numbers(seed) for seed in entry["seeds"]]
    for at, value in means.items():
        values = np.array([seed[at] for seed in of_seeds], float)
        if not np.isnan(values).all():
            assert value == pytest.approx(np.nanmean(values), rel=1e-6, abs=1e-9), at
    if command not in ("maps", "fc"):
        assert "t intervals over seeds and images" in " ".join(done.out.split())
    if command != "maps":
        assert "which assumes that both spread alike" in " ".join(done.out.split())
    # What the interval of a statistic that is no mean is of.
    assert ("of the difference corrected for its bias from noise" in " ".join(done.out.split())) == (
        command == "contrib"
    )
    with Image.open(tmp_path / f"{command}.png") as picture:
        assert picture.width > 300


def test_intervals_and_p_are_those_of_the_statistics_module(run: Any, place: Path, tmp_path: Path) -> None:
    given = ("--ckpt", f"x={place}/c.pt,{place}/wide.pt", "--ckpt", f"y={place}/a.pt,{place}/b.pt")
    done = run("span", *given, "--limit", 20, "--out", tmp_path)
    assert (done.status, "one architecture" in done.err) == (2, True)
    done = run("span", "--ckpt", f"x={place}/c.pt", *given[2:], "--limit", 20, "--out", tmp_path, "--save-maps")
    assert done.status == 0, done.err
    assert "compares methods" in " ".join(done.out.split())
    table = pd.read_csv(tmp_path / "span.csv")
    summary = json.loads((tmp_path / "span.json").read_text())
    x, y = (
        np.array([rows["coverage"] for _, rows in table[table["model"] == name].groupby("seed")]) for name in ("x", "y")
    )
    assert (len(x), len(y)) == (1, 2)
    assert summary["models"][1]["asc_ci"] == pytest.approx(stats.interval(y, within=(0, 1)))
    assert summary["models"][0]["asc_ci"] == pytest.approx(stats.interval(x[0]))
    expected = stats.paired(x, y, within=(-1, 1))
    (pair,) = summary["pairs"]
    assert (pair["difference"], *pair["ci"], pair["p"]) == pytest.approx(tuple(expected))
    with np.load(tmp_path / "span-y-seed1.npz") as saved, np.load(tmp_path / "span-x.npz") as other:
        assert saved["map"].shape == other["map"].shape == (20, 32, 32)
        assert saved["span"].mean((1, 2)) == pytest.approx(y[1], abs=1e-6)


def test_a_difference_in_coverage_stays_within_100_points() -> None:
    """Of two seeds that cover 10 and 90 %: t(1) is 12.7."""
    models = [nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)) for _ in range(3)]

    def cover(model: nn.Module, image: Tensor, _label: Tensor) -> Tensor:
        covered = image.new_zeros(image.shape[0], *image.shape[2:])
        covered[:, : 3 if model is models[0] else 28] = 1
        return covered

    result = attrib.Span(map=cover, floor=0).run({"x": models[:2], "y": models[2]}, attrib.dataset("glyphs", limit=4))
    (pair,) = result.summary["pairs"]
    assert pair["difference"] == pytest.approx((3 - 28) / 2 / 32)
    assert pair["ci"] == pair["without_empty"]["ci"] == [-1, 1]


def test_a_file_whose_name_holds_a_comma(run: Any, place: Path, tmp_path: Path) -> None:
    for name, of in (("a,b.pt", "a.pt"), ("c.pt", "b.pt")):
        shutil.copy(place / of, tmp_path / name)
    cards = json.loads(run("info", "--ckpt", f"x={tmp_path}/a,b.pt,{tmp_path}/c.pt", "--json").out)["checkpoints"]
    assert [card["path"] for card in cards] == [f"{tmp_path}/a,b.pt", f"{tmp_path}/c.pt"]
    done = run("fc", "--ckpt", tmp_path / "a,b.pt", "--json")
    assert json.loads(done.out)["models"][0]["name"] == "a,b"


BAD = [
    ("at={p}/b.pt,{p}/a.pt,{p}/a.pt", "seeds 1 and 2 are one network"),
    ("at={p}/a.pt,{p}/same.pt", "seeds 0 and 1 are one network"),
    ("at={p}/a.pt,{p}/wide.pt", "expected seeds of one architecture, got lenet"),
    ("at={p}/b.pt,{p}/cifar.pt", "expected seeds of models trained on one data set, got glyphs"),
    ("{p}/a.pt,{p}/b.pt", "several seeds need a name of their own: NAME="),
    ("at={p}/a.pt,", "separated by single commas"),
    ("at={p}/a.pt,{p}/gone.pt", "gone.pt"),
]


@pytest.mark.parametrize(("ckpt", "words"), BAD, ids=[words for _, words in BAD])
def test_what_is_no_several_seeds_is_said_in_one_line(run: Any, place: Path, ckpt: str, words: str) -> None:
    assert words in run("span", "--ckpt", ckpt.format(p=place)).refused()


def test_two_names_are_not_the_same(run: Any, place: Path) -> None:
    done = run("span", "--ckpt", f"at={place}/a.pt,{place}/b.pt", "--ckpt", f"at={place}/c.pt")
    assert (done.status, done.out) == (2, "")
    assert "two models are called 'at'" in done.err


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("command", ["maps", "relate"])
def test_two_processes_say_what_one_says(
    run: Any, place: Path, tmp_path: Path, two_processes: Any, command: str
) -> None:
    given = (command, "--ckpt", f"at={place}/a.pt,{place}/b.pt", "--ckpt", f"c={place}/c.pt", *COMMANDS[command])
    given += ("--limit", 13, *(("--batch-size", 5) if command == "relate" else ("--images", 3)), "--json", "--out")
    two = two_processes(*given, tmp_path / "two")
    one = json.loads(run(*given, tmp_path / "one").out)
    assert numbers(two) == pytest.approx(numbers(one), rel=1e-4, abs=1e-6, nan_ok=True)
    assert len(numbers(one)) > 20 or command == "maps"
    tables = [pd.read_csv(tmp_path / name / f"{command}.csv") for name in ("one", "two")]
    pd.testing.assert_frame_equal(tables[0], tables[1], rtol=1e-4)
    if command == "maps":
        assert len(tables[0]) == 9
        with (
            np.load(tmp_path / "one" / "maps-at-seed1.npz") as alone,
            np.load(tmp_path / "two" / "maps-at-seed1.npz") as joined,
        ):
            assert alone["index"].tolist() == joined["index"].tolist()
            np.testing.assert_allclose(alone["map"], joined["map"], rtol=1e-4, atol=1e-6)
