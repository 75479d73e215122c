"""Several processes give the results of one: gloo on the CPU, started by torchrun as a user would."""

import json
from pathlib import Path

import pytest
import torch
from torchrun import torchrun

import attrib
from attrib.data.glyphs import render
from attrib.parallel import World
from train.attack import eager_ascent
from train.config import Config
from train.epoch import Settings
from train.loop import _split, evaluate

COMMON = [
    "--data", "glyphs", "--arch", "lenet", "--limit", "180", "--holdout", "30", "--batch-size", "30", "--optimizer",
    "sgd", "--lr", "0.05", "--steps", "2", "--step-size", "0.02", "--precision", "fp32", "--epochs", "2",
]  # fmt: skip

LOSS = """
import sys, torch
from attrib.data import Batch
from attrib.data.glyphs import render
from attrib.models.architectures import build
from train.attack import pgd_attack
from train.config import Config
from train.epoch import LossModule
from train.methods import loss_of
from attrib.parallel import shard, world
from train.parallel import synchronised

with world("cpu") as here:
    image, label, _ = render(torch.arange(12), seed=0, split="train")
    mine = shard(torch.arange(12), here)
    batch = Batch((image[mine] / 255).double(), label[mine], mine, None)
    attack = pgd_attack(eps=0.1, step_size=0.05, steps=2, seed=0, epoch=1, precision="fp32")
    for method in sys.argv[2:]:
        options = {"guided_dropout": True} if method == "standard" else {}
        config = Config(method=method, data="glyphs", arch="lenet", **options)
        loss = loss_of(config, progress=0.5, generator=torch.Generator())
        torch.manual_seed(0)
        model = build("lenet", num_classes=10, input_shape=(3, 32, 32)).double()
        module = synchronised(LossModule(model), here)
        module(loss, batch, attack).backward()
        if here.rank == 0:
            torch.save([p.grad for p in model.parameters()], f"{sys.argv[1]}/{method}.pt")
"""


@pytest.mark.parametrize("processes", [2, 3])
def test_gradients_equal_those_of_one_process_on_the_joined_batch(processes: int, tmp_path: Path) -> None:
    """LeNet has no batch norm; Guided Dropout's mask (aalp, standard) is one for all processes."""
    methods = ["standard", "pgd-at", "alp", "aalp", "trades", "mart"]
    script = tmp_path / "loss.py"
    script.write_text(LOSS)
    for count in (1, processes):
        (tmp_path / str(count)).mkdir()
        torchrun(count, str(script), str(tmp_path / str(count)), *methods)
    for method in methods:
        alone, joined = (torch.load(tmp_path / str(count) / f"{method}.pt") for count in (1, processes))
        assert any(gradient.abs().max() > 0 for gradient in alone)
        for one, other in zip(alone, joined, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)


def test_a_run_in_two_processes_ends_where_one_ends_and_either_resumes_the_other(tmp_path: Path) -> None:
    torchrun(1, "-m", "train", "pgd-at", *COMMON, "--out", str(tmp_path / "one"))
    torchrun(2, "-m", "train", "pgd-at", *COMMON, "--out", str(tmp_path / "two"))
    image = render(torch.arange(20), seed=0)[0] / 255
    one, two = (attrib.load(tmp_path / name / "model.pt") for name in ("one", "two"))
    torch.testing.assert_close(one[0](image), two[0](image), rtol=1e-3, atol=1e-3)
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for alone, joined in zip(*logs, strict=True):
        assert (alone["epoch"], alone["clean"], alone["robust"]) == (joined["epoch"], joined["clean"], joined["robust"])
        assert alone["loss"] == pytest.approx(joined["loss"], rel=1e-3)
    before = (tmp_path / "two" / "model.pt").stat().st_mtime_ns
    torchrun(1, "-m", "train", "pgd-at", *COMMON, "--out", str(tmp_path / "two"))
    assert (tmp_path / "two" / "model.pt").stat().st_mtime_ns == before


def test_what_two_processes_log_is_of_the_model_that_they_save(tmp_path: Path) -> None:
    """Batch norm's running statistics are each process's own while it trains."""
    config = Config(
        method="pgd-at", data="glyphs", arch="resnet9", limit=100, holdout=40, batch_size=20, epochs=1, steps=1,
        step_size=0.02, precision="fp32",
    )  # fmt: skip
    changed = ["--limit", "100", "--holdout", "40", "--batch-size", "20", "--epochs", "1", "--steps", "1"]
    torchrun(2, "-m", "train", "pgd-at", "--arch", "resnet9", "--data", "glyphs", *changed, "--step-size", "0.02",
             "--precision", "fp32", "--out", str(tmp_path))  # fmt: skip
    model, ckpt = attrib.load(tmp_path / "model.pt")
    assert ckpt.hyper == config.as_dict()
    data = attrib.dataset("glyphs", split="train", limit=100)
    alone = Settings(World(0, 1, torch.device("cpu")), "fp32", "eager", eager_ascent)
    found = evaluate(model, data, _split(data, config)[1], config, alone)
    (logged,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert found == (logged["clean"], logged["robust"])


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="multiple of the 2 processes"):
        torchrun(2, "-m", "train", "pgd-at", *COMMON, "--batch-size", "31", "--out", str(tmp_path))


@pytest.mark.parametrize("command", ["span", "contrib"])
def test_two_processes_write_the_bytes_that_one_writes(command: str, tmp_path: Path) -> None:
    """At one batch size and number of threads; sums over images are the same in whatever order they are made."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = attrib.build("lenet", num_classes=10, input_shape=(3, 32, 32))
    made = attrib.Checkpoint(
        arch="lenet", arch_kwargs={"mean": [0.0] * 3, "std": [1.0] * 3}, num_classes=10, input_shape=(3, 32, 32),
        data="glyphs", method="standard", hyper={}, epoch=1, metrics={}, weights=model.state_dict(),
    )  # fmt: skip
    attrib.save(made, tmp_path / "a.pt")
    given = ["--ckpt", f"a={tmp_path}/a.pt", "--ckpt", f"b={tmp_path}/a.pt", "--limit", "45", "--batch-size", "10"]
    for count in (1, 2):
        out = str(tmp_path / str(count))
        torchrun(count, "-m", "attrib.cli", command, *given, "--attack", "fgsm", "--device", "cpu", "--out", out)
    names = (f"{command}.json", f"{command}.csv")
    one, two = ([(tmp_path / str(count) / name).read_bytes() for name in names] for count in (1, 2))
    assert one == two
