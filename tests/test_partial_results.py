"""What partial results are kept under: not the device, so that another machine can go on; but the precision."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attrib import cli, results
from attrib.cli.common import AttackSettings
from attrib.cli.explain import How

COMMANDS: dict[str, tuple[object, ...]] = {
    "span": ("--attack", "pgd", "--steps", 1),
    "maps": ("--attack", "fgsm", "--images", 2),
    "contrib": ("--attack", "fgsm"),
    "sets": ("--attack", "fgsm"),
    "check": ("--attack", "fgsm", "--curve-steps", 1, "--stages", 1),
    "relate": ("--attack", "fgsm"),
    "evolve": ("--attack", "fgsm", "--images", 1),
    "robust": ("--steps", 1),
}
KEPT = ("check", "robust")
"""The commands that keep partial results, beside those that are analyses."""


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, untrained: Callable[..., Path]) -> Path:
    """The folder of a run with one saved epoch."""
    place = tmp_path_factory.mktemp("saved")
    untrained(place / "epoch-1.pt")
    return place


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_results_name_the_precision_and_keys_name_no_device(
    name: str, run: Any, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described: list[str] = []
    to_json = results.to_json

    def recording(summary: Any) -> str:
        text = to_json(summary)
        described.append(text)
        return text

    monkeypatch.setattr(results, "to_json", recording)
    monkeypatch.setattr("attrib.analyses.run.to_json", recording)
    given = (run_folder,) if name == "evolve" else ("--ckpt", run_folder / "epoch-1.pt")
    done = run(
        name,
        *given,
        *COMMANDS[name],
        "--limit",
        4,
        "--device",
        "cpu",
        "--precision",
        "bf16",
        "--out",
        tmp_path,
        "--json",
    )
    assert done.status == 0, done.err
    summary = json.loads(done.out)
    assert summary["precision"] == "bf16"
    if name != "robust":
        assert summary["attack"]["precision"] == "bf16"
    keys = [key for text in described if "batch_size" in (key := json.loads(text))]
    assert len(keys) == (name in KEPT or cli.COMMANDS[name][0].startswith("attrib.analyses"))
    for key in keys:
        text = json.dumps({part: value for part, value in key.items() if part != "versions"})
        assert "cpu" not in text.replace(str(run_folder), "")
        assert "bf16" in text


def test_the_key_is_the_same_on_every_device_and_another_for_another_precision() -> None:
    attack = AttackSettings("pgd", 0.1, 0.05, 3)
    here, there = (
        How("gradcam", "label", attack, 0, "fp32", torch.device(device)).key() for device in ("cpu", "cuda:1")
    )
    assert here == there
    assert here != How("gradcam", "label", attack, 0, "bf16", torch.device("cpu")).key()


@pytest.mark.parametrize("fast", [True, False])
def test_auto_counts_as_what_it_stands_for(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in bfloat16 and in float32 must not be joined into one result."""
    monkeypatch.setattr("attrib.inference.has_fast_bf16", lambda _: fast)
    auto = How("smoothgrad", "label", None, 0, "auto", torch.device("cpu"))
    assert auto.key() == auto._replace(precision="bf16" if fast else "fp32").key()
    assert auto._replace(map="gradcam").map_precision() == "fp32"
