"""The arithmetic of the benches; their measurements are not tested."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from attrib.data import Batch
from bench import attack, epoch, estimate, families, maps, page, table_row, timing, train_step
from bench.peak import flops
from bench.timing import Seconds


def test_a_step_is_counted_forward_and_back_to_the_image() -> None:
    """A convolution: 2 x outputs x kernel, twice; a linear layer: 2 x inputs x outputs, twice."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 6 * 6, 5)).eval()
    batch = Batch(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), torch.arange(2), None)
    assert flops(model, batch) == 2 * (2 * 2 * 4 * 6 * 6 * 27 + 2 * 2 * 144 * 5)


def test_sides_take_turns() -> None:
    order = []
    sides = {name: lambda name=name: order.append(name) for name in "ab"}
    times = timing.in_turn(sides, rounds=3, device=torch.device("cpu"))
    assert "".join(order) == "abbaabba"
    assert [len(seconds) for seconds in times.values()] == [3, 3]


def test_the_ratio_is_of_medians() -> None:
    times = {
        "own": [Seconds(1, 2), Seconds(9, 2), Seconds(2, 2)],
        "peer": [Seconds(6, 1), Seconds(6, 9), Seconds(5, 8)],
    }
    row = timing.versus("it", times, target=2)
    assert row == {"what": "it", "attrib s": 2, "peer s": 6, "x by clock": 3, "x by CPU": 4, "target": ">= 2"}


def test_tables_are_markdown() -> None:
    rows: list[timing.Row] = [{"what": "a", "s": 0.01234}, {"what": "bc", "s": 1234.5, "more": 7}]
    assert timing.markdown(rows).splitlines() == [
        "| what |       s | more |",
        "| ---- | ------: | ---: |",
        "| a    | 0.01234 |      |",
        "| bc   |   1,234 |    7 |",
    ]


def test_the_page_takes_the_latest_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- estimate -->\nold\n<!-- / -->\nbetween\n<!-- none -->\n<!-- / -->\nafter\n")
    monkeypatch.setattr(page, "PAGES", (readme,))
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["estimate", "--out", str(tmp_path)])
    estimate.main()
    for _ in range(2):  # the marks stay
        page.main()
        found = readme.read_text()
        assert "old" not in found
        assert found.startswith("before\n<!-- estimate -->\n`python -m bench.estimate")
        assert "| 90 epochs, PGD-10 " in found
        assert "<!-- none -->\nnot measured yet\n<!-- / -->\nafter\n" in found


TINY: dict[ModuleType, list[str]] = {
    attack: ["--arch", "lenet", "--ckpt", "none.pt"],
    table_row: ["--arch", "lenet"],
    maps: ["--arch", "lenet", "--ckpt", "none.pt", "--images", "5", "--smooth-images", "2"],
    train_step: ["--arch", "lenet", "--engine", "eager"],
    epoch: ["--arch", "lenet", "--limit", "60", "--engine", "eager"],
}


@pytest.mark.parametrize("bench", TINY, ids=lambda bench: bench.__name__)
def test_a_bench_has_rows_for_each_batch_size_and_needs_no_peer(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU machine, which has neither torchattacks nor foolbox."""
    for module in (attack, table_row):
        monkeypatch.setattr(module, "find_spec", lambda _: None)
    monkeypatch.setattr(epoch, "HELD_OUT", 5)
    name = bench.__name__.removeprefix("bench.")
    monkeypatch.setattr("sys.argv", [
        name, *TINY[bench], "--batch-size", "2", "3", "--rounds", "1", "--device", "cpu", "--out", str(tmp_path)
    ])  # fmt: skip
    bench.main()
    rows: list[dict[str, Any]] = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
    for size in (2, 3):
        assert any(f"{size} images" in row["what"] or row["what"].endswith(f" {size}") for row in rows)
    assert all(row["attrib s"] > 0 for row in rows)
    assert all(("peer s" in row) == (bench in (maps, train_step)) for row in rows)


def test_a_gpu_has_batch_sizes_of_its_own() -> None:
    cli = timing.parser("", rounds=1)
    timing.add_batch_sizes(cli, cpu=64)
    assert timing.batch_sizes(cli.parse_args([]), torch.device("cuda")) == [128, 512]
    assert timing.batch_sizes(cli.parse_args([]), torch.device("cpu")) == [64]
    assert timing.batch_sizes(cli.parse_args(["--batch-size", "7", "9"]), torch.device("cuda")) == [7, 9]


def test_families_that_are_installed_agree_and_the_others_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    small = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    vit = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    monkeypatch.setattr(families, "NETWORKS", (
        families.Network("ResNet", "transformers", "ResNet", config=small, size=32),
        families.Network("ViT", "transformers", "ViT", families.tokens(1), vit, 32),
        families.Network("ResNet", "nowhere", "resnet"), families.Network("VGG", "nowhere", "vgg"),
    ))  # fmt: skip
    monkeypatch.setattr(families, "PACKAGES", ("transformers", "nowhere"))
    monkeypatch.setattr("sys.argv", ["families", "--out", str(tmp_path)])
    families.main()
    rows = json.loads((tmp_path / "families.json").read_text())["rows"]
    assert [row["layer found"] for row in rows] == ["resnet.encoder.stages.1", "vit.layers.1.layernorm_before"]
    assert [row["map"] for row in rows] == ["4x4", "4x4"]
    assert all(row["difference"] <= families.TARGET for row in rows)
    assert "not installed and not run: nowhere (and so nothing of VGG)" in capsys.readouterr().out
