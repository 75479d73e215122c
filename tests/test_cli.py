"""The command line: output and files of span, maps and info, and users' models."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import attrib
from attrib import cli, spans

OWN = Path(__file__).with_name("own_models.py")


def test_span_json_is_one_object_with_the_keys_of_the_design(run: Any, models: Path) -> None:
    given = ("--ckpt", f"first={models}/a.pt", "--ckpt", models / "b.pt", "--limit", 30, "--floor", 0)
    done = run("span", *given, "--json")
    assert (done.status, done.err) == (0, "")
    summary = json.loads(done.out)
    assert summary.keys() >= {"data", "split", "map", "threshold", "models", "pairs"}
    assert [entry["name"] for entry in summary["models"]] == ["first", "b"]
    for entry in summary["models"]:
        assert entry.keys() >= {"name", "checkpoint", "n", "accuracy", "asc", "asc_ci", "curve_area", "empty"}
        assert entry["n"] == 30
        assert entry["asc_ci"][0] <= entry["asc"] <= entry["asc_ci"][1]
    (pair,) = summary["pairs"]
    assert (pair["a"], pair["b"]) == ("first", "b")
    difference = summary["models"][0]["asc"] - summary["models"][1]["asc"]
    assert pair["difference"] == pytest.approx(difference, abs=1e-6)
    assert pair["ci"][0] <= difference <= pair["ci"][1]
    assert 0 < pair["p"] <= 1


def test_span_equals_the_notebook_s_way(run: Any, models: Path, tmp_path: Path) -> None:
    """The CSV holds what section 6 of the design computes by hand."""
    assert (
        run("span", "--ckpt", models / "a.pt", "--limit", 40, "--threshold", "max:0.3", "--out", tmp_path).status == 0
    )
    table = pd.read_csv(tmp_path / "span.csv")
    model, _ = attrib.load(models / "a.pt")
    for batch in attrib.dataset("glyphs", limit=40).batches(40):
        maps = attrib.gradcam(model, batch.image, batch.label)
        expected = attrib.coverage(attrib.span(maps, threshold="max:0.3"))
        np.testing.assert_allclose(table["coverage"], expected.numpy(), atol=2 / 1024)
        assert batch.mask is not None
        np.testing.assert_allclose(table["pointing"], spans.pointing(maps, batch.mask).numpy(), atol=1e-6)
        assert table["label"].tolist() == batch.label.tolist()
        assert table["prediction"].tolist() == model(batch.image).argmax(1).tolist()
    for name in ("span.json", "span.tex", "span.pdf", "span.png", "span-coverage.pdf", "span-coverage.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert r"\toprule" in (tmp_path / "span.tex").read_text()


@pytest.mark.parametrize("map_name", ["gradcam", "smoothgrad"])
def test_results_depend_on_neither_batch_size_nor_the_other_models(
    run: Any, models: Path, tmp_path: Path, map_name: str
) -> None:
    common = ("--limit", 60, "--map", map_name, "--floor", 4)
    run("span", "--ckpt", models / "a.pt", *common, "--batch-size", 60, "--out", tmp_path / "one")
    run(
        "span",
        "--ckpt",
        models / "b.pt",
        "--ckpt",
        models / "a.pt",
        *common,
        "--batch-size",
        7,
        "--out",
        tmp_path / "two",
    )
    one = pd.read_csv(tmp_path / "one" / "span.csv")
    two = pd.read_csv(tmp_path / "two" / "span.csv")
    two = two[two["model"] == "a"].reset_index(drop=True)
    assert (one["coverage"] - two["coverage"]).abs().max() <= 2 / 1024
    assert abs(one["coverage"].mean() - two["coverage"].mean()) <= 1e-4


def test_the_same_seed_prints_the_same(run: Any, models: Path) -> None:
    command = (
        "span",
        "--ckpt",
        models / "a.pt",
        "--ckpt",
        models / "b.pt",
        "--limit",
        25,
        "--json",
        "--map",
        "smoothgrad",
    )
    first = run(*command).out
    assert run(*command).out == first
    assert run(*command, "--seed", 1).out != first


def test_attack_measures_both_kinds_of_images(run: Any, models: Path) -> None:
    done = run(
        "span", "--ckpt", models / "a.pt", "--limit", 20, "--attack", "pgd", "--eps", "8/255", "--steps", 3, "--json"
    )
    entry = json.loads(done.out)["models"][0]
    assert entry["attacked"]["accuracy"] <= entry["accuracy"]
    assert 0 < entry["attacked"]["iou_with_clean"] <= 1
    still = run(
        "span", "--ckpt", models / "a.pt", "--limit", 20, "--attack", "pgd", "--eps", "0", "--steps", 3, "--json"
    )
    entry = json.loads(still.out)["models"][0]
    assert entry["attacked"]["iou_with_clean"] == 1
    assert entry["attacked"]["asc"] == entry["asc"]


def test_maps_saved_can_be_measured_again(run: Any, models: Path, tmp_path: Path) -> None:
    run("span", "--ckpt", models / "a.pt", "--limit", 30, "--save-maps", "--out", tmp_path)
    with np.load(tmp_path / "span-a.npz") as saved:
        assert saved["map"].shape == saved["span"].shape == (30, 32, 32)
        assert saved["index"].tolist() == list(range(30))
    again = run("span", "--maps", tmp_path / "span-a.npz", "--data", "glyphs", "--limit", 30, "--json")
    entry = json.loads(again.out)["models"][0]
    first = json.loads((tmp_path / "span.json").read_text())["models"][0]
    assert entry["asc"] == pytest.approx(first["asc"])
    assert entry["accuracy"] is None
    assert not list(tmp_path.glob(".*"))


def test_different_grids_are_warned_about(run: Any, models: Path) -> None:
    done = run("span", "--ckpt", models / "a.pt", "--ckpt", models / "wide.pt", "--limit", 12, "--json")
    assert done.status == 0
    assert "different grids (a 10x10, wide 8x8)" in done.err
    assert len(json.loads(done.out)["pairs"]) == 1


def test_a_command_that_is_stopped_says_how_it_continues(
    run: Any, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    given = ("span", "--ckpt", models / "a.pt", "--limit", 5, "--floor", 0)
    with monkeypatch.context() as patched:
        patched.setattr("attrib.plots.maps.map_grid", stop)
        stopped = run(*given, "--out", tmp_path)
    assert (stopped.status, stopped.out) == (130, "")
    assert stopped.err == "attrib: error: interrupted; the same command continues where it stopped\n"
    monkeypatch.setattr("attrib.spans.span", stop)
    stopped = run(*given)
    assert (stopped.status, stopped.out) == (130, "")
    assert stopped.err == "attrib: error: interrupted; nothing was written\n"


def test_span_shows_the_attacked_images_beside_the_clean(run: Any, models: Path, tmp_path: Path) -> None:
    given = ("--limit", 20, "--attack", "fgsm", "--out", tmp_path)
    assert run("span", "--ckpt", models / "a.pt", "--ckpt", models / "b.pt", *given).status == 0
    with np.load(tmp_path / "span-examples.npz") as saved:
        assert saved["attacked_map"].shape == saved["attacked_span"].shape == saved["map"].shape == (2, 4, 32, 32)
        change = np.abs(saved["attacked_image"] - saved["image"])
        assert 0 < change.max() <= 8 / 255 + 1e-6
        assert (saved["attacked_image"][0] != saved["attacked_image"][1]).any()  # each model is attacked by itself
        table = pd.read_csv(tmp_path / "span.csv")
        rows = table[(table["model"] == "b") & (table["images"] == "fgsm")].set_index("index").loc[saved["index"]]
        np.testing.assert_allclose(saved["attacked_span"][1].mean((1, 2)), rows["coverage"], atol=1e-6)


def test_a_difference_that_rests_on_empty_maps_says_so(run: Any, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    maps = draw.random((2, 60, 32, 32)) ** 2
    maps[1, ::3] = 0.3
    for name, of_model in zip("ab", maps, strict=True):
        np.savez(tmp_path / f"{name}.npz", index=np.arange(60), map=of_model)
    files = [f"--maps={tmp_path / name}.npz" for name in "ab"]
    done = run("span", *files, "--data", "glyphs", "--limit", 60, "--json")
    (pair,) = json.loads(done.out)["pairs"]
    covered = (maps > maps.mean((2, 3), keepdims=True)).mean((2, 3))
    covered[1, ::3] = 0
    held = covered[1] > 0
    assert (pair["n"], pair["without_empty"]["n"]) == (60, 40)
    assert pair["difference"] == pytest.approx((covered[0] - covered[1]).mean(), abs=1e-6)
    assert pair["without_empty"]["difference"] == pytest.approx((covered[0] - covered[1])[held].mean(), abs=1e-6)
    assert pair["p"] < 0.05 < pair["without_empty"]["p"]
    (line,) = done.err.splitlines()
    assert "a − b, clean images: the difference in coverage rests on empty maps" in line
    assert "on the 40 images where neither model's is empty" in line


def test_captions_name_the_files_of_maps_made_elsewhere(run: Any, models: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        np.savez(tmp_path / f"{name}.npz", index=np.arange(9), map=np.random.default_rng(0).random((9, 32, 32)))
    files = ("--maps", tmp_path / "one.npz", "--maps", f"b={tmp_path / 'two.npz'}")
    given = ("--data", "glyphs", "--limit", 9)
    words = " ".join(run("span", *files, *given).out.split())
    assert "maps from one.npz, two.npz, threshold mean, 9 test images of glyphs; 95 %" in words
    assert "It compares the maps in one.npz, two.npz, not models." in words
    assert not any(word in words for word in ("gradcam", "class explained", "training run", "methods"))
    entries = json.loads(run("span", *files, *given, "--json").out)["models"]
    assert [Path(entry["maps"]).name for entry in entries] == ["one.npz", "two.npz"]
    mixed = " ".join(run("span", models / "a.pt", *files[2:], *given).out.split())
    assert "Grad-CAM (b: maps from two.npz), threshold mean" in mixed
    assert "It compares two files, not two methods; of two.npz the maps, not a model." in mixed


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "koi8-r"])
def test_a_terminal_that_lacks_our_signs(encoding: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    given = ("contrib", f"x={models}/a.pt", f"y={models}/b.pt", "--data", "glyphs", "--limit", "20")
    monkeypatch.setattr(sys, "argv", ["attrib", *given])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    terminal.flush()
    words = terminal.buffer.getvalue().decode(encoding)
    assert (stopped.value.code, "\N{MINUS SIGN}" in words) == (0, False)
    assert "x - y" in words
    assert "?" not in words


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.uint8, np.int32, bool])
def test_maps_are_numbers_of_any_type_also_without_an_archive(kind: Any, tmp_path: Path) -> None:
    maps: Any = np.random.default_rng(0).integers(0, 2, (6, 32, 32)).astype(kind)
    np.save(tmp_path / "a.npy", maps)
    np.savez(tmp_path / "b.npz", map=maps[::-1], index=np.arange(6, dtype=np.uint8)[::-1])
    result = attrib.Span(floor=0).run([tmp_path / "a.npy", tmp_path / "b.npz"], attrib.dataset("glyphs", limit=6))
    shares = [result[name]["asc"] for name in ("a", "b")]
    assert shares == pytest.approx([float((maps > 0).mean())] * 2, abs=1e-6)


def test_info(run: Any, models: Path) -> None:
    done = run("info", models / "a.pt", "--ckpt", models / "wide.pt", "--json")
    cards = json.loads(done.out)["checkpoints"]
    assert [card["architecture"] for card in cards] == ["lenet", "resnet32"]
    assert cards[0]["fingerprint"] == attrib.load(models / "a.pt")[1].fingerprint
    assert "lr=0.1" in run("info", models / "a.pt").out


def test_a_model_of_one_s_own(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(OWN, tmp_path / "own.py")
    monkeypatch.chdir(tmp_path)
    given = ("--model", "own:small", "--data", "glyphs", "--limit", 10, "--json")
    for extra in ((), ("--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2"), ("--size", 48), ("--layer", "0")):
        done = run("span", *given, *extra)
        assert done.status == 0, done.err
        assert json.loads(done.out)["models"][0]["name"] == "small"
    flat = run("span", *given[2:], "--model", "own:flat", "--map", "gradient")
    assert flat.status == 0, flat.err
    assert json.loads(flat.out)["models"][0]["layer"] is None


def test_probabilities_in_the_place_of_logits_are_warned_of(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(OWN, tmp_path / "own_soft.py")
    monkeypatch.chdir(tmp_path)
    given = ("--data", "glyphs", "--limit", 10, "--json")
    assert "softmax returns probabilities" in run("span", "--model", "own_soft:softmax", *given).err
    assert "probabilities" not in run("span", "--model", "own_soft:small", *given).err


COMMANDS_OF_ONE_S_OWN: dict[str, tuple[object, ...]] = {
    "span": ("--limit", 8), "maps": ("--images", 2), "contrib": ("--limit", 8), "fc": (), "sets": ("--limit", 8),
    "robust": ("--limit", 8, "--steps", 1),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS_OF_ONE_S_OWN)
def test_results_say_what_a_model_of_one_s_own_was_fed(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    shutil.copy(OWN, tmp_path / "own_fed.py")
    monkeypatch.chdir(tmp_path)

    def entry(*extra: object) -> dict[str, Any]:
        given = (command, "--model", "own_fed:small", "--data", "glyphs", *COMMANDS_OF_ONE_S_OWN[command])
        with torch.random.fork_rng():
            torch.manual_seed(0)  # of the model's weights
            done = run(*given, *extra, "--json")
        assert done.status == 0, done.err
        found: dict[str, Any] = json.loads(done.out)["models"][0]
        return found

    normalised = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
    bare, fed, resized = entry(), entry(*normalised), entry("--size", 40)
    assert bare["input"] == {"mean": None, "std": None, "size": None}
    assert fed["input"] == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "size": None}
    assert resized["input"] == {"mean": None, "std": None, "size": [40, 40]}
    assert len(bare["fingerprint"]) == len(fed["fingerprint"]) == 12
    assert bare["fingerprint"] == entry()["fingerprint"] != fed["fingerprint"]
    # The ReLU is the last to return the map, and overwrites the convolution's; fc looks at no layer.
    assert bare["layer"] == fed["layer"] == (None if command == "fc" else "1")


@pytest.mark.parametrize("command", [("span",), ("contrib",), ("sets", "--attack", "fgsm")], ids=lambda given: given[0])
def test_a_model_no_better_than_chance_is_told(
    run: Any, models: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    images = np.zeros((60, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "black.npz", images=images, labels=np.arange(60) % 10)
    np.savez(tmp_path / "one.npz", images=images, labels=np.zeros(60, np.int64), classes=list("abcdefghij"))

    def doubts(data: str, limit: int) -> list[str]:
        done = run(*command, "--ckpt", models / "a.pt", "--data", f"npz:{tmp_path}/{data}", "--limit", limit, "--json")
        assert done.status == 0, done.err
        assert json.loads(done.out)["split"] == "all"
        return [line for line in done.err.splitlines() if "commonest" in line]

    expected = (
        "attrib: warning: a: clean accuracy 10.0% is not significantly better than always naming the commonest class"
        " (10.0%); is the model trained?"  # a checkpoint knows its mean and std, and an .npz has no class folders
    )
    assert doubts("black.npz", 60) == [expected]
    assert doubts("black.npz", 40) == []  # too few images to say so
    assert doubts("one.npz", 60) == []  # nothing is better than naming the one class that there is


def test_data_that_is_not_split_is_not_called_a_test_set(run: Any, models: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "ten.npz", images=np.zeros((10, 32, 32, 3), np.uint8), labels=np.arange(10))
    given = ("span", "--ckpt", models / "a.pt", "--limit", 10, "--out", tmp_path)
    assert "10 test images of glyphs," in " ".join(run(*given).out.split())
    assert "10 test images of glyphs," in (tmp_path / "span.tex").read_text()
    whole = run(*given, "--data", f"npz:{tmp_path}/ten.npz")
    assert "mean, 10 images of npz:" in " ".join(whole.out.split())


@pytest.mark.parametrize("command", [[Path(sys.executable).with_name("attrib")], [sys.executable, "-m", "attrib"]])
def test_the_script_itself(command: list[str], models: Path) -> None:
    done = subprocess.run([*command, "info", models / "a.pt"], capture_output=True, text=True, check=True)
    assert "architecture" in done.stdout
    wrong = subprocess.run([*command, "info", models / "c.pt"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_an_end_of_file_is_no_interruption(run: Any, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typer makes the same of both."""

    def fails(_: object) -> None:
        raise EOFError

    monkeypatch.setattr("attrib.models.checkpoint.is_ours", fails)
    with pytest.raises(EOFError):
        run("info", models / "a.pt")
