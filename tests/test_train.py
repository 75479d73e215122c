import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import attrib
from attrib.data import Batch, dataset
from attrib.errors import InputError
from train import __main__ as command
from train import read_recipes, train
from train.augment import augment
from train.config import Config, read_recipe
from train.epoch import learning_rate

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "--data", "glyphs", "--arch", "lenet", "--limit", "600", "--holdout", "100", "--batch-size", "50", "--optimizer",
    "adam", "--lr", "2e-3", "--weight-decay", "0", "--steps", "2", "--step-size", "0.02", "--precision", "fp32",
]  # fmt: skip


def run(*arguments: str) -> int:
    """The command line in this process; its exit status."""
    before = sys.argv
    sys.argv = ["train", *arguments]
    try:
        return command.main()
    finally:
        sys.argv = before


def weights(path: Path) -> dict[str, torch.Tensor]:
    return attrib.load(path)[1].weights


def same(a: Path, b: Path) -> bool:
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pgd-at")
    assert run("pgd-at", *TINY, "--epochs", "3", "--save-every", "1", "--out", str(out)) == 0
    return out


def test_a_run_leaves_what_the_design_says(finished: Path) -> None:
    log = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in log] == [1, 2, 3]
    model, ckpt = attrib.load(finished / "model.pt")
    assert (ckpt.method, ckpt.data, ckpt.arch) == ("pgd-at", "glyphs", "lenet")
    best = max(log, key=lambda record: (record["robust"], record["clean"]))
    assert ckpt.epoch == best["epoch"]
    assert ckpt.metrics == {"holdout_clean": best["clean"], "holdout_robust": best["robust"]}
    assert ckpt.hyper["lr"] == 2e-3
    assert same(finished / "model.pt", finished / f"epoch-{ckpt.epoch}.pt")
    assert not model.training


def test_a_run_from_python_is_that_of_the_command(finished: Path, tmp_path: Path) -> None:
    config, _ = command.parse(["pgd-at", *TINY, "--epochs", "3", "--save-every", "1", "--out", str(tmp_path)])
    finished_run = train(config, str(tmp_path))
    assert finished_run.path == tmp_path / "model.pt"
    assert same(finished_run.path, finished / "model.pt")
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [[record[name] for name in ("loss", "robust")] for record in finished_run.history] == [
        [record[name] for name in ("loss", "robust")] for record in log
    ]
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(finished_run.model(image), attrib.load(finished / "model.pt")[0](image), rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", [["--optimizer", "adam"], ["--optimizer", "sgd", "--lr", "0.02"]])
def test_it_learns(optimizer: list[str], tmp_path: Path) -> None:
    size = ["--limit", "3000", "--holdout", "300", "--epochs", "5"]
    assert run("standard", *TINY, *size, *optimizer, "--out", str(tmp_path)) == 0
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["clean"] > 0.5  # chance is 0.1


def test_the_same_seed_gives_the_same_bits_and_another_does_not(finished: Path, tmp_path: Path) -> None:
    for seed in ("0", "1"):
        out = tmp_path / seed
        assert run("pgd-at", *TINY, "--epochs", "3", "--save-every", "1", "--seed", seed, "--out", str(out)) == 0
        assert same(finished / "epoch-3.pt", out / "epoch-3.pt") == (seed == "0")


KILLED = """
import os, signal, sys, threading
from train import loop
from train.__main__ import main

save = loop.save

def save_once(*arguments):
    save(*arguments)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()

loop.save = save_once
main()
"""
"""A run that is killed in the middle of its second epoch."""


def test_a_killed_run_resumes_to_the_same_bits(finished: Path, tmp_path: Path) -> None:
    """SIGKILL after the first epoch, at no particular moment; the same command again."""
    given = ["pgd-at", *TINY, "--epochs", "3", "--save-every", "1", "--out", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, "-c", KILLED, *given], cwd=ROOT, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    line = [sys.executable, "-m", "train", *given]
    resumed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    assert "continuing after epoch" in resumed.stderr
    for name in ("epoch-3.pt", "model.pt"):
        assert same(finished / name, tmp_path / name)
    log = [json.loads(line)["epoch"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log == [1, 2, 3]


@pytest.mark.parametrize("options", [[], ["--no-last"]])
def test_a_run_cut_by_its_time_limit_continues_to_the_same_bits(
    finished: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The clock stands still: one epoch is tried, a second one would take as long as the first."""
    given = ["pgd-at", *TINY, "--epochs", "3", "--save-every", "1", *options, "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: 100.0)
        assert run(*given, "--until", "100.001") == 3
    assert "stopped after epoch 1 of 3" in capsys.readouterr().err
    assert (tmp_path / "last.pt").exists()
    assert run(*given, "--until", str(time.time() + 1000)) == 0
    for name in ("epoch-3.pt", "model.pt"):
        assert same(finished / name, tmp_path / name)
    assert run(*given) == 0
    assert "all epochs are done" in capsys.readouterr().err


def test_without_time_for_an_epoch_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pgd-at", *TINY, "--until", "0", "--out", str(tmp_path)) == 3
    assert "stopped after epoch 0 of 10: --until has passed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_state_starts_over_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from train import loop

    given = ["standard", *TINY, "--limit", "120", "--epochs", "2", "--no-last", "--out", str(tmp_path)]
    train_epoch = loop.train_epoch

    def interrupted(*arguments: Any, epoch: int) -> float:
        if epoch == 2:
            raise KeyboardInterrupt
        return train_epoch(*arguments, epoch=epoch)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_epoch", interrupted)
        assert run(*given) == 130
    assert "starts over, since --no-last keeps no state" in capsys.readouterr().err
    assert run(*given) == 0
    assert "left no last.pt to continue from; it starts over" in capsys.readouterr().err
    with pytest.raises(InputError, match="is the state of a training run"):
        attrib.load(tmp_path / "last.pt")


def test_warnings_of_training_come_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hopeless = ["--limit", "120", "--epochs", "6", "--lr", "1e-9", "--awp", "0.005"]
    assert run("standard", *TINY, *hopeless, "--out", str(tmp_path)) == 0
    error = capsys.readouterr().err
    assert error.count("at chance for 3 epochs") == 1
    assert error.count("--awp never acts: it begins with epoch 10, and the run ends with epoch 6") == 1
    assert error.count("24 images are held out to choose the best epoch, not 100 (--holdout)") == 1


def test_a_finished_run_does_nothing_and_fresh_starts_over(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "model.pt").stat().st_mtime_ns
    arguments = ("pgd-at", *TINY, "--epochs", "3", "--save-every", "1", "--out", str(finished))
    assert run(*arguments) == 0
    assert "all epochs are done" in capsys.readouterr().err
    assert (finished / "model.pt").stat().st_mtime_ns == before
    assert run(*arguments, "--fresh") == 0
    assert (finished / "model.pt").stat().st_mtime_ns > before


def test_other_options_do_not_continue_a_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pgd-at", *TINY, "--epochs", "4", "--save-every", "1", "--out", str(finished)) == 2
    assert "epochs was 3, now 4" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", "glyphs", "--arch", "lenet", "--limit", "600", "--holdout", "100"]
    options += ["--precision", "fp32", "--out", str(tmp_path)]
    assert run("standard", *options, "--lr", "1e6", "--optimizer", "sgd", "--epochs", "2") == 2
    error = capsys.readouterr().err
    assert "no longer finite in epoch" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*.pt"))


def test_options_override_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('data = "mnist"\narch = "lenet"\nlr = 1\nbatch-size = 64\n')
    config, _ = command.parse(["pgd-at", "--recipe", str(recipe), "--lr", "0.5", "--out", "x"])
    assert (config.data, config.lr, config.batch_size, config.eps) == ("mnist", 0.5, 64, 0.3)


@pytest.mark.parametrize("path", sorted((ROOT / "train" / "recipes").glob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_is_valid(path: Path) -> None:
    recipe = read_recipe(path)
    config = Config(**{"method": "pgd-at", "data": "glyphs", "arch": "resnet32"} | recipe)
    # What is compared must not depend on whether a machine has fast bfloat16; a method leaves the choice to the data's.
    assert ("precision" in recipe) == ("arch" in recipe)
    assert config.precision in (("fp32", "bf16") if "arch" in recipe else ("auto",))


def test_recipes_combine_by_name(tmp_path: Path) -> None:
    config, _ = command.parse(["--recipe", "cifar10-resnet32", "--recipe", "aalp-gd", "--out", str(tmp_path)])
    assert (config.method, config.guided_dropout, config.arch, config.lr) == ("alp", True, "resnet32", 1e-5)
    assert config == Config(**read_recipes("cifar10-resnet32", "aalp-gd"))


def test_every_method_takes_a_step(tmp_path: Path) -> None:
    """Two epochs of a few steps each; whether a method learns takes longer than a test may."""
    size = ["--limit", "150", "--holdout", "30", "--batch-size", "50", "--epochs", "2", "--ema", "0.9"]
    gated = ("again", "again-own", "again-no-hff", "again-release")
    for recipe in ("raw-gd", "adv-gd", "alp", "aalp-gd", "aalp-sw", "aalp", "trades", "mart", "pgd-at-smooth",
                   "pgd-at-smooth-ramp", "pgd-at-awp", "again-logit", "again-logit-plain", "again-trades",
                   *gated):  # fmt: skip
        extra = ["--awp-from", "2"] if recipe in ("again-release", "pgd-at-awp") else []
        extra += ["--arch", "resnet32"] if recipe in gated else []
        assert run("--recipe", recipe, *TINY, *size, *extra, "--out", str(tmp_path / recipe)) == 0
        model, ckpt = attrib.load(tmp_path / recipe / "model.pt")
        assert model(torch.rand(2, 3, 32, 32)).isfinite().all()
        assert ("gated" in ckpt.arch_kwargs) == (recipe in gated)


def test_what_stands_for_the_papers_and_what_is_compared() -> None:
    """The release is alpha 0.6 with AWP and nothing else; a control differs from its method in the method alone."""
    base = {"data": "cifar10", "arch": "resnet18"}
    release, awp = (Config(**base | read_recipe(Path(name))) for name in ("again-release", "pgd-at-awp"))
    assert (release.form, release.gates, release.alpha) == ("gate", "true", 0.6)
    assert (release.ramp, release.fusion, release.awp, release.awp_from) == (False, False, 0.005, 10)
    assert (awp.method, awp.awp, awp.awp_from) == ("pgd-at", release.awp, release.awp_from)
    logit, plain, smooth, ramp = (
        Config(**base | read_recipe(Path(name)))
        for name in ("again-logit", "again-logit-plain", "pgd-at-smooth", "pgd-at-smooth-ramp")
    )
    assert (logit.ramp, logit.fusion, plain.ramp, plain.fusion) == (True, True, False, False)
    assert (smooth.smoothing_ramp, ramp.smoothing_ramp) == (False, True)
    assert smooth.label_smoothing == ramp.label_smoothing == pytest.approx(1 - logit.alpha)
    own, again = (Config(**base | read_recipe(Path(name))).as_dict() for name in ("again-own", "again"))
    assert own == again | {"gates": "own"}


BAD = [
    (["standard", *TINY, "--adaptive"], "--adaptive: belongs to alp, got it with standard"),
    (["again", *TINY, "--base", "trades"], "expected --form logit"),
    (["again", *TINY], "arch: expected one of resnet8"),
    (["again", *TINY, "--form", "logit", "--gates", "own"], "--gates own: expected --form gate"),
    (["pgd-at", *TINY, "--gates", "own"], "--gates: belongs to again"),
    (["pgd-at", *TINY, "--smoothing-ramp"], "--smoothing-ramp: expected --label-smoothing above 0"),
    (["trades", *TINY, "--smoothing-ramp"], "--smoothing-ramp: belongs to pgd-at"),
    (["again", *TINY, "--alpha", "1.5"], "--alpha: expected a number in [0, 1]"),
    (["pgd-at", *TINY, "--batch-size", "1000"], "--batch-size: expected at most the 500"),
    ([*TINY], "a METHOD is required"),
    (["pgd-at", *TINY, "--seed", "-1"], "--seed: expected a number in [0, "),
    (["pgd-at", *TINY, "--seed", "99999999999999999999999"], "--seed: expected a number in [0, "),
    (["nonsense", *TINY], "invalid choice: 'nonsense'"),
    (["pgd-at", *TINY, "--arch", "vgg"], "invalid choice: 'vgg'"),
    (["pgd-at", *TINY, "--data", "imagenet"], "expected one of glyphs"),
    (["pgd-at", *TINY, "--eps", "-0.1"], "--eps: expected a number in"),
    (["pgd-at", *TINY, "--eps", "nan"], "--eps: expected a number in"),
    (["pgd-at", *TINY, "--lr", "0"], "--lr: expected a number > 0"),
    (["pgd-at", *TINY, "--epochs", "0"], "--epochs: expected at least 1"),
    (["pgd-at", *TINY, "--limit", "0"], "--limit: expected at least 2"),
    (["pgd-at", *TINY, "--steps", "x"], "invalid int value"),
    (["pgd-at", *TINY, "--until", "now + 60"], "expected seconds since 1970"),
    (["pgd-at", *TINY, "--until", "nan"], "expected seconds since 1970"),
    (["pgd-at", *TINY, "--engine", "graph", "--device", "cpu"], "--engine graph: expected a GPU"),
    (["pgd-at", *TINY, "--speed", "3"], "unrecognized arguments"),
    (["pgd-at", "--arch", "lenet"], "--data is required"),
    (["pgd-at", *TINY, "--device", "tpu"], "device: expected auto"),
    (["pgd-at", *TINY, "--recipe", "missing.toml"], "expected a TOML file at missing.toml, got nothing"),
    (["pgd-at", "--recipe", "{tmp}/unknown.toml"], "unknown key 'speed'"),
    (["pgd-at", "--recipe", "{tmp}/broken.toml"], "expected TOML in"),
    (["pgd-at", "--recipe", "{tmp}/deep.toml"], "expected TOML in"),
    (["pgd-at", *TINY, "--lr", "inf"], "--lr: expected a number in [0, 1000000.0], got inf"),
    *(
        (["pgd-at", *TINY, f"--{name}", str(10**30)], f"--{name}: expected a number in [")
        for name in ("epochs", "batch-size", "limit", "holdout", "save-every")
    ),
    (["pgd-at", "--recipe", "{tmp}/type.toml"], "expected epochs to be int"),
    (["pgd-at", *TINY, "--out", ""], "--out: expected a path, got ''"),
    (["pgd-at", *TINY, "--out", "~nosuchuser/run"], "--out: expected a path, got '~nosuchuser/run'; there is no such"),
    (["pgd-at", *TINY, "--data-root", ""], "--data-root: expected a path, got ''"),
    (["pgd-at", *TINY, "--device", "cpu:9"], "device: expected auto"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_options_are_one_line_and_status_2(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "unknown.toml").write_text("speed = 3")
    (tmp_path / "broken.toml").write_text("epochs = = 3")
    (tmp_path / "deep.toml").write_text("epochs = " + "[" * 100_000)
    (tmp_path / "type.toml").write_text('epochs = "three"')
    given = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    assert run("--out", str(tmp_path / "out"), *given) == 2
    error = capsys.readouterr().err
    assert error.startswith("train: error: ")
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_data_of_the_same_name_does_not_continue_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("standard", "--data", f"npz:{tmp_path / 'd.npz'}", "--arch", "lenet", "--epochs", "1", "--batch-size", "8")
    for seed, status in ((0, 0), (1, 2)):
        images = np.random.default_rng(seed).integers(0, 256, (16, 32, 32, 3), np.uint8)
        np.savez(tmp_path / "d.npz", images=images, labels=np.arange(16) % 10)
        assert run(*given, "--holdout", "8", "--out", str(tmp_path / "run")) == status
    assert "other images or labels than npz:" in capsys.readouterr().err


RECORD = {"epoch": 1, "clean": 0.5, "robust": 0.5, "seconds": 1.0}
BROKEN: list[Any] = [
    b"not a run", b"\x80\x02Nr\xff\xff\xff\x7f.", [], {"config": 5}, {"config": {}, "history": 5},
    *({"config": {}, "history": [record]}
      for record in (5, RECORD | {"clean": "a"}, RECORD | {"epoch": 2}, {"epoch": 1})),
]  # fmt: skip


@pytest.mark.parametrize("content", BROKEN, ids=str)
def test_a_broken_last_pt_is_named(content: Any, tmp_path: Path) -> None:
    last = tmp_path / "last.pt"
    last.write_bytes(content) if isinstance(content, bytes) else torch.save(content, last)
    config = Config(method="standard", data="glyphs", arch="lenet", limit=300)
    with pytest.raises(InputError, match="not a run that can be continued"):
        train(config, tmp_path)


def test_schedules() -> None:
    assert [learning_rate("step", p) for p in (0, 0.49, 0.5, 0.74, 0.99)] == [1, 1, 0.1, 0.1, 0.01]
    assert learning_rate("onecycle", 0.3) == pytest.approx(1)
    cycle = [learning_rate("onecycle", p / 100) for p in range(100)]
    assert max(cycle) == cycle[30]
    assert all(0 < rate <= 1 for rate in cycle)


def test_augmentation_is_a_crop_of_the_padded_image_or_its_mirror() -> None:
    image = torch.rand(40, 3, 6, 5)
    index = torch.arange(40)
    batch = Batch(image, torch.zeros(40, dtype=torch.long), index, None)
    draw = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    moved = augment(batch, draw, pad=2, flip=True).image
    flipped = set()
    for before, after in zip(image, moved, strict=True):
        padded = torch.nn.functional.pad(before, (2, 2, 2, 2))
        crops = {
            (top, left, mirror): padded[:, top : top + 6, left : left + 5].flip(-1)
            if mirror
            else padded[:, top : top + 6, left : left + 5]
            for top in range(5)
            for left in range(5)
            for mirror in (False, True)
        }
        found = [key for key, crop in crops.items() if torch.equal(crop, after)]
        assert len(found) == 1
        flipped.add(found[0])
    assert {mirror for _, _, mirror in flipped} == {False, True}
    assert len({(top, left) for top, left, _ in flipped}) > 10
    alone = augment(Batch(image[7:8], batch.label[:1], index[7:8], None), draw[7:8], pad=2, flip=True)
    assert torch.equal(alone.image, moved[7:8])


def test_held_out_images_are_never_trained_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from train import epoch, loop

    seen: set[int] = set()
    held: set[int] = set()

    def watch_training(batch: Batch, draw: Tensor, *, pad: int, flip: bool) -> Batch:
        seen.update(batch.index.tolist())
        return augment(batch, draw, pad=pad, flip=flip)

    evaluate = loop.evaluate

    def watch_evaluation(*arguments: object) -> tuple[float, float]:
        positions = arguments[2]
        assert isinstance(positions, torch.Tensor)
        held.update(positions.tolist())
        return evaluate(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(epoch, "augment", watch_training)
    monkeypatch.setattr(loop, "evaluate", watch_evaluation)
    train(Config(method="standard", data="glyphs", arch="lenet", limit=300, holdout=50, epochs=1), tmp_path)
    assert len(held) == 50
    assert seen
    assert not seen & held
    assert seen | held <= set(range(len(dataset("glyphs", split="train", limit=300))))
