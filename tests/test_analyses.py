"""The engine of all analyses: inputs of ``Analysis.run``, continuation, and the methods of a Result."""

import base64
import copy
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image
from torch import nn

import attrib
from attrib.analyses.base import Analysis
from attrib.analyses.check import Checks
from attrib.analyses.maps import Maps
from attrib.analyses.options import Attack
from attrib.analyses.relate import Relation
from attrib.analyses.result import Result
from attrib.analyses.robust import Robustness
from attrib.analyses.run import execute
from attrib.analyses.sets import Sets
from attrib.analyses.span import Span
from attrib.data import Dataset
from attrib.errors import InputError, Stopped
from attrib.files import to_json
from attrib.latex import latex_escape

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return attrib.dataset("glyphs", limit=24)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, untrained: Callable[..., Path]) -> list[Path]:
    """Three untrained LeNets."""
    place = tmp_path_factory.mktemp("models")
    return [untrained(place / f"m{seed}.pt", seed) for seed in range(3)]


class Own(nn.Module):
    """A network of one's own, with dropout and batch norm, that attrib has never seen."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N,3,H,W) to (N,10)."""
        logits: torch.Tensor = self.head(self.body(x))
        return logits


OWN = Own()


def test_paths_zoo_names_modules_and_seeds_mix(data: Dataset, files: list[Path]) -> None:
    models = {"file": files[0], "mine": Own(), "at": [str(path) for path in files]}
    result = Span(map="gradient", floor=0).run(models, data)
    assert list(result.table["name"]) == ["file", "mine", "at"]
    assert [len(result[name].get("seeds", [])) for name in ("file", "mine", "at")] == [0, 0, 3]
    assert len(result.rows) == (1 + 1 + 3) * len(data)
    assert list(zip(result.pairs["a"], result.pairs["b"], strict=True)) == [
        ("file", "mine"), ("file", "at"), ("mine", "at"),
    ]  # fmt: skip
    asc = [attrib.coverage(attrib.span(maps(files[0], data))).double().mean().item()]
    assert result["file"]["asc"] == pytest.approx(asc[0], abs=1e-6)


def maps(path: Path, data: Dataset) -> torch.Tensor:
    model, _ = attrib.load(path)
    image, label, *_ = next(data.batches(len(data)))
    return attrib.gradient(model, image, label)


def test_a_users_module_is_left_as_it_was(data: Dataset) -> None:
    module = Own().train()
    module.body[1].eval()
    module.body[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    Span(floor=2, attack=Attack("pgd", steps=1)).run({"mine": module}, data)
    assert torch.equal(state, torch.get_rng_state())
    assert [part.training for part in (module, module.body[1])] == [True, False]
    assert [p.requires_grad for p in module.parameters()] == [False] + [True] * 5
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_function_stands_where_a_maps_name_stands(data: Dataset, files: list[Path], tmp_path: Path) -> None:
    result = Span(map=left_half, floor=0).run({"m": files[0]}, data, out=tmp_path)
    assert result["m"]["asc"] == 0.5
    assert result.summary["map"].endswith("left_half")
    assert Result.load(tmp_path).table.equals(result.table)


def left_half(_model: nn.Module, image: torch.Tensor, _label: torch.Tensor) -> torch.Tensor:
    weights = torch.zeros(len(image), *image.shape[2:])
    weights[:, :, : image.shape[3] // 2] = 1
    return weights


@pytest.mark.parametrize("analysis", [Span(attack=Attack("fgsm"), floor=4), Sets(attack=Attack("fgsm"))])
def test_a_result_shows_saves_and_loads(analysis: Analysis, data: Dataset, files: list[Path], tmp_path: Path) -> None:
    result = analysis.run({"one": files[0], "two": files[1:]}, data, out=tmp_path)
    again = Result.load(tmp_path, analysis.name)
    assert again.table.equals(result.table)
    assert again.pairs.equals(result.pairs)
    assert again.analysis == result.analysis
    assert str(again) == str(result)
    assert all(table.title in str(result) for table in result.tables())
    latex = result.to_latex()
    (differences,) = (table for table in result.tables() if table.title.startswith("Paired differences"))
    assert latex == (tmp_path / f"{analysis.name}.tex").read_text()
    assert latex.count(r"\label{") == latex.count("tabular}{") == 2
    assert latex.count(rf"\label{{tab:{analysis.name}}}") == 1
    assert rf"\label{{tab:{analysis.name}-{'-'.join(differences.title.lower().split())}}}" in latex
    for row in differences.rows:
        assert f"{' & '.join(map(latex_escape, row.values()))} \\\\\n" in latex
    assert "<table" in result._repr_html_()
    figures = again.figures
    assert set(figures) == {path.stem for path in tmp_path.glob("*.pdf")}
    assert type(result.plot()) is type(next(iter(figures.values())))
    assert {"a", "b", "quantity", "difference", "low", "high", "p", "p_holm"} <= set(result.pairs)
    assert result.table.select_dtypes("number").shape[1] > 3
    assert json.loads((tmp_path / f"{analysis.name}.json").read_text())["models"][0]["name"] == "one"


@pytest.mark.parametrize(
    ("analysis", "labelled"),
    [
        (Span(attack=Attack("fgsm"), floor=0, save_maps=True), True), (Maps(images=2), True), (Maps(images=2), False),
        (Checks(curve_steps=1, stages=1), True), (Relation(attack=Attack("fgsm")), True),
        (Robustness(steps=(1,)), True),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_is_loaded_has_the_types_of_what_was_saved(
    analysis: Analysis, labelled: bool, data: Dataset, files: list[Path], tmp_path: Path
) -> None:
    """Classes called 0 to 9, float32, missing numbers and words; without the maps, which were saved beside it."""
    images = next(data.batches(6))
    result = analysis.run({"one": files[0]}, (images.image, images.label) if labelled else images.image, out=tmp_path)
    again = Result.load(tmp_path)
    assert (again.summary, again.frames.keys()) == (json.loads(to_json(result.summary)), result.frames.keys())
    for part, frame in result.frames.items():
        pd.testing.assert_frame_equal(again.frames[part], frame, check_exact=True)
    assert again.arrays.keys() == result.arrays.keys()


def test_what_a_result_does_not_hold_is_one_line_that_names_what_it_holds(
    data: Dataset, files: list[Path], tmp_path: Path
) -> None:
    result = Sets(attack=Attack("fgsm")).run({"one": files[0], "two": files[1]}, data, out=tmp_path)
    for ask, words in (
        (lambda: result["tow"], "model: expected one of one, two, got 'tow'; did you mean two?"),
        (lambda: result.plot("nosuch"), "plot: expected one of sets, sets-"),
        (lambda: result.to_latex("nosuch"), "table: expected one of sets, shares, one: 24 images"),
        (lambda: Result.load(tmp_path, "nosuch"), "expected a result of nosuch, found sets"),
    ):
        with pytest.raises(InputError, match=re.escape(words)):
            ask()
    assert result.to_latex() == result.to_latex("sets") == (tmp_path / "sets.tex").read_text()
    assert result.to_latex("shares") == (tmp_path / "sets-shares.tex").read_text()
    for table in result.tables():
        assert rf"\caption{{{latex_escape(table.title)}. " in result.to_latex(table.title)


def test_a_notebook_shows_a_result_as_text_tables_and_pictures(
    data: Dataset, files: list[Path], tmp_path: Path
) -> None:
    result = Span(floor=0).run(files[0], data, out=tmp_path)
    code = [
        f"import attrib\nresult = attrib.Result.load({str(tmp_path)!r})",
        "print(result)",
        "result",
        "result.plot()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in code])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    _, (printed,), (shown,), (plotted,) = (cell.outputs for cell in notebook.cells)
    assert printed.text.rstrip() == str(result).rstrip()
    assert shown.data["text/html"] == result._repr_html_()
    width, height = Image.open(io.BytesIO(base64.b64decode(plotted.data["image/png"]))).size
    assert min(width, height) > 200


def test_a_stopped_analysis_continues_and_gives_the_same(
    data: Dataset, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis, models = Span(attack=Attack("fgsm"), floor=0), {"a": files[0], "b": files[1]}
    expected = analysis.run(models, data, batch_size=5)
    measured, measure = [], Span.measure

    def interrupted(self: Span, model: Any, batch: Any, context: Any) -> Any:
        measured.append(batch.index.tolist())
        if len(measured) == 6:
            raise KeyboardInterrupt
        return measure(self, model, batch, context)

    monkeypatch.setattr(Span, "measure", interrupted)
    with pytest.raises(Stopped):
        analysis.run(models, data, batch_size=5, out=tmp_path)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    measured[:] = [[]] * 10  # not interrupted again
    result = analysis.run(models, data, batch_size=5, out=tmp_path)
    assert [batch for batch in measured if batch and batch[0] < 10] == []  # two batches of both models were kept
    pd.testing.assert_frame_equal(result.rows, expected.rows)
    assert to_json(result.summary) == to_json(expected.summary)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_saved_result_is_used_again_where_nothing_has_changed(
    data: Dataset, files: list[Path], tmp_path: Path
) -> None:
    def written(analysis: Analysis, images: Dataset = data) -> list[Path]:
        result, paths = execute(analysis, files[0], images, out=tmp_path, batch_size=None, device="cpu", reuse=True)
        assert result.table["n"].tolist() == [len(images)]
        assert result.table.equals(Result.load(tmp_path).table)
        return paths

    span = Span(map="gradient", floor=0)
    assert written(span)
    assert not written(span)
    assert written(span, data.first(12))
    assert written(Span(map="gradient", floor=0, threshold="otsu"), data.first(12))
    (tmp_path / "span.json").write_text("{")
    assert written(span)
    # The code behind a name may have changed.
    for _ in range(2):
        assert written(Span(map=attrib.gradient, floor=0))


SHORT = Attack("fgsm")
ANALYSES: dict[str, Analysis] = {
    "span": Span(floor=2, attack=SHORT), "sets": Sets(attack=SHORT), "contrib": attrib.Contributions(attack=SHORT),
    "fc": attrib.LastLayer(), "robust": attrib.Robustness(steps=(1,)), "relate": attrib.Relation(attack=SHORT, floor=0),
    "check": attrib.Checks(curve_steps=2, stages=1), "maps": attrib.Maps(images=2),
}  # fmt: skip


@pytest.mark.parametrize("name", ANALYSES)
def test_the_same_call_reads_what_it_has_saved(
    name: str, data: Dataset, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    analysis, models = ANALYSES[name], {"a": files[0], "b": files[1:]}
    first = analysis.run(models, data, out=tmp_path)
    said = capsys.readouterr().err
    assert "was read" not in said
    with monkeypatch.context() as patched:
        patched.setattr(type(analysis), "measure", None)
        patched.setattr(type(analysis), "describe", None)
        again = analysis.run(models, data, out=tmp_path)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("attrib: warning: ")]
    (read,) = [line for line in notes if "was read, not computed again" in line]
    assert set(notes) - {read} == {line for line in said.splitlines() if line.startswith("attrib: warning: ")}
    assert again.table.equals(first.table)
    assert again.pairs.equals(first.pairs)
    assert (str(again), again.to_latex()) == (str(first), first.to_latex())
    assert to_json(again.summary) == to_json(first.summary)
    assert len(again.rows) == len(first.rows)


def test_what_may_have_changed_is_computed_anew(data: Dataset, files: list[Path], tmp_path: Path) -> None:
    warned: list[str] = []

    def read(models: Any, images: Any = data, batch_size: int = 10, **settings: Any) -> bool:
        given: dict[str, Any] = {"out": tmp_path, "batch_size": batch_size, "device": "cpu", "warn": warned.append}
        options: dict[str, Any] = {"map": "gradient", "floor": 0, **settings}
        _, written = execute(Span(**options), models, images, **given)
        return not written

    assert [read(files[0]), read(files[0])] == [False, True]
    assert [read(files[0], threshold="otsu"), read(files[0])] == [False, False]
    assert [read(files[0], batch_size=7), read(files[0])] == [False, False]
    assert [read(files[0], data.first(20)), read(files[0])] == [False, False]
    assert [read({files[0].stem: files[1]}), read(files[0])] == [False, False]
    assert [read(Own()), read(Own()), read(OWN), read(OWN)] == [False] * 4, "its code may have changed"
    assert [read(files[0], map=attrib.gradient), read(files[0], map=attrib.gradient)] == [False] * 2
    assert [read(files[0], save_maps=True), read(files[0], save_maps=True)] == [False] * 2
    assert [read(files[0]), read(files[0])] == [False, True]
    (tmp_path / "span.csv").unlink()
    assert [read(files[0]), read(files[0])] == [False, True]
    assert sum("was read" in each for each in warned) == 3
    anew = [each for each in warned if "it is computed again" in each]
    reasons = ["of Own may have changed", "of map may have changed", "maps are not read"]
    assert [next(reason for reason in reasons if reason in each) for each in anew] == reasons


@pytest.mark.parametrize("change", ["data", "weights", "settings"])
def test_partial_results_of_something_else_are_not_used(
    change: str, data: Dataset, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    models = {"a": files[0]}

    def stop(_self: Span, _found: Any) -> Iterator[str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Span, "at_chance", stop)
        with pytest.raises(Stopped):
            Span(map="gradient", floor=0).run(models, data, out=tmp_path)
    if change == "data":
        images = data.images.clone() if isinstance(data.images, torch.Tensor) else None
        assert images is not None
        images[3] = 255 - images[3]
        data = Dataset(data.name, data.split, data.classes, images, data.labels, data.masks)
    elif change == "weights":
        models = {"a": files[1]}
    rule = "otsu" if change == "settings" else "mean"
    result = Span(map="gradient", floor=0, threshold=rule).run(models, data, out=tmp_path)
    (left,) = tmp_path.glob(".span-*")
    assert f"other data, models or settings is not used; delete {left.name}\n" in capsys.readouterr().err
    expected = Span(map="gradient", floor=0, threshold=rule).run(models, data)
    pd.testing.assert_frame_equal(result.rows, expected.rows)


def test_two_processes_give_what_one_gives(files: list[Path], two_processes: Any, run: Any) -> None:
    given = ["span", *map(str, files[:2]), "--data", "glyphs", "--limit", "23", "--batch-size", "6", "--attack", "fgsm"]
    given += ["--precision", "fp32", "--json", "--floor", "5"]
    joined, alone = two_processes(*given), json.loads(run(*given, "--device", "cpu").out)
    assert joined == alone


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({}, "nothing to look at"),
        (7, "models: expected a path, a module or a function that makes one, a list or mapping of them, got int"),
        ({"a": "nowhere.pt"}, "nowhere.pt"),
        ({"a": 3}, "model a: expected a path"),
        (["zoo:mnist-lenet-raw", "zoo:mnist-lenet-raw"], "two models are called 'mnist-lenet-raw'"),
        ([attrib.model(Own(), name="a"), attrib.model(Own(), name="a")], "expected different names, got a, a"),
        ({"a": [OWN, OWN]}, r"a: seeds 0 and 1 are one network, with the same weights \(Own\)"),
        ({"a": [Own(), OWN, copy.deepcopy(OWN)]}, "a: seeds 1 and 2 are one network"),
        ({"a": Own(), "b": nn.Linear(3, 3)}, r"b: the model does not take .*; see size \(--size\)"),
        ({"a": nn.Conv2d(1, 10, 32)}, "a: the model does not take .*; it takes 1-channel images: convert them"),
    ],
)
def test_models_that_are_none_are_one_line(models: Any, words: str, data: Dataset) -> None:
    with pytest.raises(InputError, match=words) as refused:
        Span(floor=0).run(models, data)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"map": "nothing"}, "map: expected one of gradient"),
        ({"threshold": "most"}, "threshold: "),
        ({"target": -1}, "target: expected a class from 0 up, got -1"),
        ({"seed": -1}, "seed: expected at least 0"),
        ({"precision": "fp8"}, "precision: expected one of"),
        ({"map": "gradient", "layer": "stages.0"}, "layer belongs to the maps gradcam"),
    ],
)
def test_settings_are_checked_when_they_are_made(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Span(**settings)
    with pytest.raises(InputError):
        Attack("pgd", eps=8)


def test_what_an_attack_leaves_out_comes_from_the_data(data: Dataset, files: list[Path]) -> None:
    result = Sets(attack=Attack("pgd", steps=1, eps=0.5)).run({"m": files[0]}, data)
    attack = result.summary["attack"]
    assert (attack["eps"], attack["steps"]) == (0.5, 1)
    assert attack["step_size"] == pytest.approx(2 / 255)
    assert any("cannot reach the edge" in warning for warning in result.warnings)


def test_tensors_are_data(files: list[Path], data: Dataset) -> None:
    image, label, *_ = next(data.batches(10))
    images = Dataset("tensors", "all", tuple(map(str, range(10))), image, label)
    result = Span(map="gradient", floor=0).run({"m": files[0]}, images)
    part = Span(map="gradient", floor=0).run({"m": files[0]}, data)
    expected = part.rows["coverage"].to_numpy()[:10]
    assert np.allclose(result.rows["coverage"].to_numpy(), expected)


def test_a_captum_class_stands_where_a_maps_name_stands(data: Dataset, files: list[Path]) -> None:
    from captum.attr import Saliency

    result = Span(map=Saliency, floor=0).run({"m": files[0]}, data)
    expected = Span(map="gradient", floor=0).run({"m": files[0]}, data)
    assert np.allclose(result.rows["coverage"], expected.rows["coverage"])


@pytest.mark.parametrize("wrong", [torch.zeros(24, 3, 3), torch.full((24, 32, 32), float("nan")), None])
def test_a_function_that_gives_no_maps_is_refused(wrong: Any, data: Dataset, files: list[Path]) -> None:
    with pytest.raises(InputError, match="m: map: expected the function to give"):
        Span(map=lambda _model, _image, _label: wrong, floor=0).run({"m": files[0]}, data)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seed": "1"}, "seed: expected a whole number, got '1'"),
        ({"floor": 2.5}, "floor: expected a whole number, got 2.5"),
        ({"sigma": "0.1", "map": "smoothgrad"}, "sigma: expected a number, got '0.1'"),
        ({"map": 3}, "map: expected one of gradient"),
        ({"threshold": 0.5}, r"threshold: expected mean, max:t .*, got 0\.5"),
        ({"precision": 32}, "precision: expected one of auto, fp32, bf16, got 32"),
        ({"layer": 3}, "layer: expected text, got 3"),
        ({"attack": "pdg"}, "attack: expected fgsm, pgd or cw, got 'pdg'"),
    ],
)
def test_values_of_another_type_are_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Span(**settings)


def test_the_name_of_an_attack_is_an_attack() -> None:
    assert Span(attack="pgd").attack == Attack("pgd")  # type: ignore[arg-type]
    for wrong in ({"eps": "8/255"}, {"steps": 2.5}):
        with pytest.raises(InputError, match="expected a"):
            Attack("pgd", **wrong)


def test_a_terminal_sees_how_far_the_work_is(
    data: Dataset, files: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(_model: nn.Module, image: torch.Tensor, _label: torch.Tensor) -> torch.Tensor:
        time.sleep(0.11)  # a bar is drawn ten times a second at most
        return image.mean(1)

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("attrib.analyses.messages.DELAY", 0)
    attrib.Span(map=slow, floor=0).run({"a": files[0], "b": files[1]}, data.first(4), batch_size=2)
    bars = re.findall(r"span: .*? (\d)/4 \[[\d:]+<", capsys.readouterr().err)
    assert list(dict.fromkeys(bars)) == ["0", "1", "2", "3", "4"]  # two batches under two models
