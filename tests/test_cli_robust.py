import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import attrib
from attrib import accuracy as library
from attrib.cli.robust import _training_images
from attrib.cli.robust_summary import rights_of
from attrib.cli.subjects import Subject
from attrib.models.checkpoint import Checkpoint
from train.config import Config
from train.loop import _split

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(run: Any) -> Any:
    return partial(run, "robust")


class Small(nn.Module):
    """Fast, and after a fit to glyphs better than chance."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 10))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


def easy() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """200 images of faint patterns, one per class, in noise: a linear model knows them, a small attack breaks some."""
    generator = np.random.default_rng(0)
    patterns = generator.choice([-1, 1], (10, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    labels = np.arange(200) % 10
    strength = generator.uniform(2, 12, (200, 1, 1, 1))
    images = 128 + strength * patterns[labels] + generator.normal(0, 20, (200, 32, 32, 3))
    return images.clip(0, 255).astype(np.uint8), labels


OWN = """
import torch
from tests.test_cli_robust import Small

def fitted(scale=1.0):
    model = Small()
    model.load_state_dict(torch.load("{weights}"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model

def saturated():
    return fitted(1e6)

class Detached(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = fitted()

    def forward(self, x):
        return self.inner(x).detach()

def untrained():
    torch.manual_seed(0)
    return Small()

def three():
    return torch.nn.Sequential(torch.nn.AvgPool2d(32), torch.nn.Flatten(), torch.nn.Linear(3, 3))
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose module yours.py makes models, to be the current one."""
    place = tmp_path_factory.mktemp("own")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Small()
    images, labels = easy()
    np.savez(place / "easy.npz", images=images, labels=labels)
    pixels, label = torch.from_numpy(images).permute(0, 3, 1, 2) / 255, torch.from_numpy(labels)
    descent = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(100):
        descent.zero_grad()
        nn.functional.cross_entropy(model(pixels), label).backward()
        descent.step()
    torch.save(model.state_dict(), place / "weights.pt")
    (place / "yours.py").write_text(OWN.format(weights=place / "weights.pt"))
    return place


@pytest.fixture(autouse=True)
def here(own: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(own)
    monkeypatch.syspath_prepend(str(ROOT))
    return own


FITTED = (
    "--model",
    "yours:fitted",
    "--data",
    "npz:easy.npz",
    "--eps",
    "0.02",
    "--step-size",
    "0.005",
    "--steps",
    "4,8",
)
BOTH = (*FITTED, "--model", "again=yours:fitted")


def accuracies(done: Any) -> list[dict[str, float]]:
    return [entry["accuracies"] for entry in json.loads(done.out)["models"]]


def test_json_is_one_object_with_the_keys_of_the_design(run: Any, tmp_path: Path) -> None:
    done = run(*BOTH, "--limit", 120, "--json", "--out", tmp_path)
    assert done.status == 0, done.err
    summary = json.loads(done.out)
    assert summary.keys() >= {"data", "split", "eps", "step_size", "steps", "models", "pairs"}
    assert (summary["data"], summary["split"], summary["eps"], summary["steps"]) == (
        "npz:easy.npz",
        "all",
        0.02,
        [4, 8],
    )
    names = ["clean", "fgsm", "pgd-4", "pgd-8", "cw-4", "cw-8", "worst"]
    for entry in summary["models"]:
        assert entry.keys() >= {"name", "checkpoint", "n", "accuracies", "intervals"}
        assert list(entry["accuracies"]) == list(entry["intervals"]) == names
        assert entry["n"] == 120
        for name, (low, high) in entry["intervals"].items():
            assert 0 <= low <= entry["accuracies"][name] <= high <= 1
    found = summary["models"][0]["accuracies"]
    assert found["clean"] > 0.8 > found["pgd-8"] > 0.1
    assert [pair["attack"] for pair in summary["pairs"]] == names
    assert {(pair["a"], pair["b"]) for pair in summary["pairs"]} == {("fitted", "again")}
    assert {(pair["difference"], pair["p"]) for pair in summary["pairs"]} == {(0.0, 1.0)}  # it is the same model
    assert json.loads((tmp_path / "robust.json").read_text()) == summary
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "robust.csv", "robust.json", "robust.pdf", "robust.png", "robust.tex",
    ]  # fmt: skip


def test_csv_holds_what_the_library_says(run: Any, here: Path, tmp_path: Path) -> None:
    done = run(*FITTED, "--limit", 50, "--out", tmp_path, "--batch-size", 20, "--precision", "fp32")
    assert done.status == 0
    table = pd.read_csv(tmp_path / "robust.csv")
    assert list(table) == [
        "model", "seed", "split", "index", "label", "attack", "eps", "prediction", "correct", "margin", "via",
        "gradient",
    ]  # fmt: skip
    model = Small()
    model.load_state_dict(torch.load(here / "weights.pt"))
    (batch,) = attrib.dataset("npz:easy.npz", limit=50).batches(50)
    row = library.attacked(
        model, batch.image, batch.label, eps=0.02, step_size=0.005, steps=(4, 8), index=batch.index
    ) | {"clean": library.evaluate(model, batch.image, batch.label)}  # fmt: skip
    assert set(table["attack"]) == set(row)
    for name, outcome in row.items():
        mine = table[table["attack"] == name]
        assert mine["index"].tolist() == list(range(50))
        assert mine["label"].tolist() == batch.label.tolist()
        assert mine["prediction"].tolist() == outcome.prediction.tolist()
        assert mine["correct"].tolist() == (outcome.prediction == batch.label).tolist()
        assert mine["margin"].tolist() == pytest.approx((-outcome.margin).tolist(), abs=1e-4)
        assert f"{100 * mine['correct'].mean():.2f}" in done.out
    latex = (tmp_path / "robust.tex").read_text()
    assert r"Data set & Method & Clean & FGSM & PGD4 & PGD8 & CW4 & CW8 & Worst \\" in latex
    assert r"\toprule" in latex


def test_worst_counts_images_right_under_both_longest_attacks(run: Any, models: Path, tmp_path: Path) -> None:
    """Recomputed from the rows of the CSV, per seed and over them, for the pair and for --gap."""
    first, second = models / "a.pt", models / "b.pt"
    command = ("--ckpt", f"two={first},{second}", "--ckpt", f"one={first}", "--data", "glyphs", "--limit", 60, "--gap")
    done = run(*command, "--eps", "0.001", "--step-size", "0.0005", "--steps", "2,4", "--out", tmp_path, "--json")
    assert done.status == 0, done.err
    summary = json.loads(done.out)
    table = pd.read_csv(tmp_path / "robust.csv")
    assert set(table["attack"]) == {"clean", "fgsm", "pgd-2", "pgd-4", "cw-2", "cw-4"}
    both = table[table["attack"].isin(["pgd-4", "cw-4"])].groupby(["split", "model", "seed", "index"])["correct"].all()

    def share(split: str, *key: Any) -> float:
        return float(both.loc[(split, *key)].mean())

    for entry in summary["models"]:
        mine = share("test", entry["name"])
        assert entry["accuracies"]["worst"] == pytest.approx(mine)
        assert entry["accuracies"]["worst"] <= min(entry["accuracies"]["pgd-4"], entry["accuracies"]["cw-4"])
        low, high = entry["intervals"]["worst"]
        assert low <= mine <= high
        assert entry["gap"]["train"]["worst"] == pytest.approx(share("train", entry["name"]))
    several = summary["models"][0]
    assert [seed["accuracies"]["worst"] for seed in several["seeds"]] == pytest.approx(
        [share("test", "two", seed) for seed in (0, 1)]
    )
    (pair,) = [pair for pair in summary["pairs"] if pair["attack"] == "worst"]
    assert pair["difference"] == pytest.approx(share("test", "two") - share("test", "one"))
    assert several["accuracies"]["worst"] > 0
    # On answers that have nothing to do with each other no attack stands for both.
    table["correct"] = np.random.default_rng(0).random(len(table)) < 0.7
    for key, right in rights_of(table, [2, 4]).items():
        if key.attack == "worst":
            rows = table[(table["split"] == key.split) & (table["model"] == key.model) & (table["seed"] == key.seed)]
            pgd, cw = (rows.loc[rows["attack"] == name, "correct"].tolist() for name in ("pgd-4", "cw-4"))
            assert right.tolist() == [a and b for a, b in zip(pgd, cw, strict=True)]


def test_a_sweep_has_its_curve_and_starts_at_the_clean_accuracy(run: Any, tmp_path: Path) -> None:
    sweep = ("--model", "yours:fitted", "--data", "npz:easy.npz", "--limit", 60, "--steps", 5, "--out", tmp_path)
    done = run(*sweep, "--eps", "0:8/255:3", "--json")
    summary = json.loads(done.out)
    (entry,) = summary["models"]
    assert [point["eps"] for point in entry["sweep"]] == pytest.approx([0, 4 / 255, 8 / 255])
    assert [point["step_size"] for point in entry["sweep"]] == pytest.approx([0, 1 / 255, 2 / 255])
    at_zero = entry["sweep"][0]["accuracies"]
    assert set(at_zero.values()) == {at_zero["clean"]}
    falling = [point["accuracies"]["pgd-5"] for point in entry["sweep"]]
    assert falling == sorted(falling, reverse=True)
    assert entry["accuracies"] == entry["sweep"][-1]["accuracies"]
    assert summary["eps"] == pytest.approx(8 / 255)
    for name in ("robust-eps.pdf", "robust-eps.png"):
        assert (tmp_path / name).stat().st_size > 0
    fixed = json.loads(run(*sweep, "--eps", "0:8/255:3", "--step-size", "0.004", "--json").out)
    assert {point["step_size"] for point in fixed["models"][0]["sweep"]} == {0.004}
    assert "Accuracy by radius" in run(*sweep, "--eps", "0:8/255:3").out


def test_the_gap_is_that_of_two_runs(run: Any) -> None:
    glyphs = ("--model", "yours:fitted", "--data", "glyphs", "--steps", 3)
    both = run(*glyphs, "--limit", 60, "--gap", "--json")
    (entry,) = json.loads(both.out)["models"]
    (test,), (train,) = (
        accuracies(run(*glyphs, "--limit", 60, "--split", split, "--json")) for split in ("test", "train")
    )
    assert entry["accuracies"] == test
    assert entry["gap"]["train"] == train
    for name, difference in entry["gap"]["difference"].items():
        low, high = entry["gap"]["intervals"][name]
        assert low <= difference <= high
        assert difference == pytest.approx(train[name] - test[name])
    assert "generalisation gap" in run(*glyphs, "--limit", 20, "--gap").out


def test_the_gap_leaves_out_what_a_run_held_out() -> None:
    """Training images of a checkpoint are those that its training says it trained on; of others, all."""
    test = attrib.dataset("glyphs", limit=150)

    def trained(**hyper: Any) -> Subject:
        ckpt = Checkpoint(
            arch="lenet", arch_kwargs={}, num_classes=10, input_shape=(3, 32, 32), data="glyphs", method="standard",
            hyper=hyper, epoch=1, metrics={}, weights={},
        )  # fmt: skip
        return Subject("a", "a", 0, "a.pt", Small(), None, ckpt)

    def positions(*subjects: Subject) -> list[int]:
        data, found = _training_images(test, list(subjects), root=None, size=None)
        assert data.split == "train"
        return [int(position) for position in found]

    elsewhere = Subject("b", "b", 0, "my:model", Small(), None, None)
    assert positions(elsewhere) == list(range(150))
    seeds = [{"holdout": 40, "seed": seed, "limit": 180} for seed in (0, 1)]
    kept = []
    for hyper in seeds:
        config = Config(method="standard", data="glyphs", arch="lenet", holdout=40, seed=hyper["seed"], limit=180)
        fit, held_out = _split(attrib.dataset("glyphs", split="train", limit=180), config)
        assert len(held_out) == 36  # at most a fifth
        kept.append(set(fit.tolist()))
    assert positions(trained(**seeds[0])) == sorted(kept[0])
    assert positions(*(trained(**hyper) for hyper in seeds), elsewhere) == sorted(kept[0] & kept[1])[:150]
    with pytest.raises(attrib.InputError, match="--gap: expected training images that every model was trained on"):
        positions(trained(holdout=1, seed=0, limit=2))


def test_worst_and_restarts_leave_no_more_standing(run: Any) -> None:
    (plain,) = accuracies(run(*FITTED, "--limit", 100, "--json"))
    for option in (("--worst",), ("--restarts", 3), ("--worst", "--restarts", 2)):
        done = run(*FITTED, "--limit", 100, *option, "--json")
        (found,) = accuracies(done)
        assert all(found[name] <= value for name, value in plain.items())
    assert "worst of 2 random starts; broken is what any step breaks" in " ".join(
        run(*FITTED, "--limit", 10, "--worst", "--restarts", 2).out.split()
    )


def test_same_seed_same_answer_whatever_the_batch_size(run: Any) -> None:
    first = run(*BOTH, "--limit", 60, "--json")
    assert run(*BOTH, "--limit", 60, "--json").out == first.out
    for one, other in zip(
        accuracies(first), accuracies(run(*BOTH, "--limit", 60, "--batch-size", 7, "--json")), strict=True
    ):
        assert one == pytest.approx(other, abs=1 / 60 + 1e-9)


@pytest.mark.parametrize("stop_at", [2, 8])
def test_an_interrupted_run_continues(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    """Stopped in the test images, and, at the eighth of ten batches, in --gap's training images."""
    both = ("--model", "yours:fitted", "--model", "NA=yours:untrained", "--data", "glyphs", "--steps", 3)
    command = (*both, "--limit", 50, "--batch-size", 10, "--gap", "--json")
    expected = run(*command).out
    attacked, calls = library.attacked, 0

    def counted(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 * stop_at:  # the second model of the batch
            raise KeyboardInterrupt
        return attacked(*arguments, **settings)

    monkeypatch.setattr(library, "attacked", counted)
    stopped = run(*command, "--out", tmp_path)
    assert (stopped.status, stopped.out) == (130, "")
    assert stopped.err.endswith("interrupted; the same command continues where it stopped\n")
    assert list(tmp_path.glob(".robust-*"))
    done = run(*command, "--out", tmp_path)
    assert calls == 2 * stop_at + 2 * (10 - stop_at + 1)  # only what was missing
    assert done.out == expected
    assert not list(tmp_path.glob(".*"))


def test_two_processes_give_what_one_gives(run: Any, here: Path, tmp_path: Path, two_processes: Any) -> None:
    command = (*BOTH, "--limit", 50, "--batch-size", 8, "--json", "--out")
    two = two_processes("robust", *command, tmp_path / "two", cwd=here)
    assert json.loads(run(*command, tmp_path / "one").out) == two
    tables = [(tmp_path / name / "robust.csv").read_text() for name in ("one", "two")]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("factory", "words"),
    [("saturated", "gradient of the loss is zero on"), ("Detached", "is zero on 80 of 80"), ("untrained", "chance")],
)
def test_what_an_expert_would_object_to(run: Any, factory: str, words: str) -> None:
    done = run("--model", f"yours:{factory}", *FITTED[2:], "--limit", 80, "--json")
    assert done.status == 0
    assert f"attrib: warning: {factory}: " in done.err
    assert words in done.err
    assert any(words in line for line in json.loads(done.out)["warnings"])


def test_steps_too_short_are_told(run: Any) -> None:
    done = run(*FITTED[:4], "--limit", 10, "--eps", "0.3", "--step-size", "0.01", "--steps", "10", "--json")
    assert "10 steps of 0.01 cannot reach the edge of eps 0.3" in done.err


PATHS = ["logits", "combined", "head 1", "head 2"]


def test_a_gated_model_says_which_attacks_count(run: Any, tmp_path: Path, untrained: Any) -> None:
    untrained(tmp_path / "gated.pt", arch="resnet32", gated=True)
    command = ("--ckpt", tmp_path / "gated.pt", "--limit", 6, "--steps", 2, "--out", tmp_path)
    assert json.loads(run(*command, "--json").out)["models"][0]["attacked"] == PATHS
    said = f"gated is gated: the worst, image by image, of attacks on {', '.join(PATHS)}"
    assert said in " ".join(run(*command).out.split())
    table = pd.read_csv(tmp_path / "robust.csv")
    assert set(table.loc[table["attack"] == "pgd-2", "via"]) <= set(PATHS)
    assert said in (tmp_path / "robust.tex").read_text()


def test_autoattack_is_a_column(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyautoattack")
    # At this radius its first part breaks every image, and the others have nothing left to do.
    command = (*FITTED[:4], "--limit", 4, "--eps", "0.4", "--steps", 2)
    done = run(*command, "--autoattack", "--out", tmp_path, "--json")
    summary = json.loads(done.out)
    assert summary["autoattack"] == {"version": "standard", "parts": ["apgd-ce", "apgd-t", "fab-t", "square"]}
    assert summary["models"][0]["accuracies"]["autoattack"] == 0
    table = pd.read_csv(tmp_path / "robust.csv")
    assert set(table.loc[table["attack"] == "autoattack", "via"]) <= {"clean", "apgd-ce"}
    assert not list(tmp_path.glob(".*"))


def test_autoattack_below_four_classes_says_what_ran(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyautoattack")
    (batch,) = attrib.dataset("glyphs", limit=4).batches(4)
    images = (batch.image * 255).byte().permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "three.npz", images=images, labels=np.array([0, 1, 2, 0]))
    done = run(
        "--model", "yours:three", "--data", f"npz:{tmp_path}/three.npz", "--eps", "0.5", "--steps", 2, "--autoattack"
    )  # fmt: skip
    assert done.status == 0, done.err
    said = " ".join(done.out.split())
    assert "(apgd-ce, fab-t, square), without apgd-t, which needs four classes" in said


BAD = [
    ((), "nothing to look at"),
    ((*FITTED, "--steps", "ten"), "--steps: expected numbers"),
    ((*FITTED, "--steps", "0,5"), "--steps: expected at least 1"),
    ((*FITTED, "--eps", "8"), "--eps: expected a number in [0,1]"),
    ((*FITTED, "--eps", "0:0.1"), "--eps: expected a radius or FROM:TO:COUNT"),
    ((*FITTED, "--eps", "0:0.1:1"), "--eps: expected a radius or FROM:TO:COUNT"),
    ((*FITTED, "--eps", "0.1:0:3"), "--eps: expected a sweep from a smaller"),
    ((*FITTED, "--step-size", "x"), "--step-size: expected a number"),
    ((*FITTED, "--restarts", "0"), "--restarts: expected at least 1"),
    ((*FITTED, "--batch-size", "0"), "--batch-size: expected at least 1"),
    ((*FITTED, "--gap", "--split", "train"), "--gap compares"),
    ((*FITTED, "--gap"), "into training and test images, which npz:easy.npz is not"),
    ((*FITTED, "--precision", "fp8"), "precision: expected auto, fp32 or bf16"),
    ((*FITTED, "--device", "tpu"), "device: expected auto"),
    ((*FITTED, "--out", "yours.py"), "cannot write to the folder"),
    ((*FITTED, "--ckpt", "missing.pt"), "no such file"),
    (("--model", "yours:three", "--data", "glyphs"), "expected logits of shape (N,10)"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments[-2:]) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_status_2(run: Any, arguments: tuple[str, ...], words: str) -> None:
    assert words in run(*arguments).refused()


def test_a_missing_package_is_named(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    done = run(*FITTED, "--autoattack")
    assert (done.status, done.out) == (2, "")
    assert "pip install attrib[autoattack]" in done.err
