"""Several gloo processes on the CPU give the results of one: started by torchrun as a user would, or forked."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import Out
from torchrun import torchrun

import attrib
from attrib.data.glyphs import render
from attrib.errors import INTERRUPTED, print_error
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
from attrib.parallel import leave, shard, world
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
leave(0)
"""


def test_gradients_equal_those_of_one_process_on_the_joined_batch(tmp_path: Path) -> None:
    """LeNet has no batch norm; Guided Dropout's mask (aalp, standard) is one for all processes."""
    methods = ["standard", "pgd-at", "alp", "aalp", "trades", "mart"]
    script = tmp_path / "loss.py"
    script.write_text(LOSS)
    for count in (1, 2, 3):
        (tmp_path / str(count)).mkdir()
        torchrun(count, str(script), str(tmp_path / str(count)), *methods)
    for method in methods:
        alone, *joined = (torch.load(tmp_path / str(count) / f"{method}.pt") for count in (1, 2, 3))
        assert any(gradient.abs().max() > 0 for gradient in alone)
        for gradients in joined:
            torch.testing.assert_close(gradients, alone, rtol=1e-9, atol=1e-12)


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


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("attrib", "span", "nosuch.pt"), "attrib: error: nosuch.pt: no such file"),
        (("train", "pgd-at", *COMMON, "--batch-size", "31", "--out", "."), "multiple of the 2 processes, got 31"),
    ],
    ids=["before processes meet", "after"],
)
def test_bad_input_is_one_line_of_all_processes(line: tuple[str, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as refused:
        torchrun(2, "-m", *line, cwd=tmp_path)
    (said,) = re.findall("^(?:attrib|train): .*", str(refused.value), re.MULTILINE)
    assert words in said


def test_of_several_processes_the_first_that_has_an_error_prints_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = dist.TCPStore("127.0.0.1", 0, is_master=True)
    for name, value in {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for line in ("a", "a", "b"):
        print_error(line, status=2)
    print_error("stopped, since another has failed", status=INTERRUPTED)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    for _ in range(2):
        print_error("stopped by the user", status=INTERRUPTED)
    assert capsys.readouterr().err.splitlines() == ["a", "b", "stopped by the user"]


RESTARTED = """
import os, signal, time, torch
from attrib.parallel import total, world

time.sleep(int(os.environ["TORCHELASTIC_RESTART_COUNT"]) * int(os.environ["RANK"]))  # rank 0 looks for rank 1 at once
with world("cpu") as here:
    if here.rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    together = total(torch.ones(1))
    if here.rank == 0:
        print(together.item())
"""


def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    """The addresses of the processes before it are not those of the processes now."""
    script = tmp_path / "killed.py"
    script.write_text(RESTARTED)
    assert torchrun(2, "--max-restarts", "1", str(script)) == "2.0\n"


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("command", ["span", "contrib"])
def test_two_processes_write_the_bytes_that_one_writes(
    command: str, tmp_path: Path, run: Callable[..., Out], two_processes: Callable[..., Any]
) -> None:
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
    given += ["--attack", "fgsm", "--json", "--out"]
    two = two_processes(command, *given, tmp_path / "2")
    assert json.loads(run(command, *given, tmp_path / "1", "--device", "cpu").out) == two
    names = (f"{command}.json", f"{command}.csv")
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
