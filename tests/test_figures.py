"""figures/: figures.run on tiny models, the figures of its results, the pages, and the papers' numbers."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import attrib
from attrib import stats
from attrib.analyses.base import Analysis
from attrib.models import checkpoint
from attrib.models.architectures import build
from attrib.models.classifier import Classifier
from attrib.plots import base
from figures import claims, compare, crossing, manifest, names, readme, run, shared, trim, verdicts
from figures.__main__ import main as draw_figures
from figures.drawings import DRAWINGS, PRINT, Drawing

NAMES = ("raw", "madry", "alp", "aalp", "aalp-gd", "again-logit", "aalp-alpha-0.5", "aalp-alpha-1")
COUNT, ATTACKED = 16, 6
GLYPHS = attrib.dataset("glyphs", limit=1)
CLASSES, SHAPE = len(GLYPHS.classes), GLYPHS.shape


def _save(place: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = build("lenet", num_classes=CLASSES, input_shape=SHAPE, mean=(0.3,) * 3, std=(0.3,) * 3)
    _fit(model)
    place.parent.mkdir(parents=True, exist_ok=True)
    described: Any = {
        "arch": "lenet", "arch_kwargs": {"mean": [0.3] * 3, "std": [0.3] * 3}, "num_classes": CLASSES,
        "input_shape": SHAPE,
        "data": "glyphs", "method": "standard", "hyper": {"seed": seed, "epochs": 3}, "epoch": 1, "metrics": {},
        "weights": model.state_dict(),
    }  # fmt: skip
    checkpoint.save(checkpoint.Checkpoint(**described), place)


def _fit(model: Classifier) -> None:
    """Ridge regression of the last layer, so that the model is right about some images without any training."""
    (batch,) = attrib.dataset("glyphs", split="train", limit=400).batches(400)
    with torch.no_grad():
        features = model.embed(batch.image)
        wanted = F.one_hot(batch.label, CLASSES).float()
        ridge = features.T @ features + 0.1 * torch.eye(features.shape[1])
        model.fc.weight.copy_(10 * torch.linalg.solve(ridge, features.T @ wanted).T)


@pytest.fixture(scope="module")
def ckpts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of LeNets of which only the last layer is fitted, ALP's and AALP's with epochs."""
    place = tmp_path_factory.mktemp("ckpts")
    for number, name in enumerate(NAMES):
        _save(place / name / "model.pt", number)
        if name in ("alp", "aalp"):
            for epoch in (2, 10):
                _save(place / name / f"epoch-{epoch}.pt", 100 * epoch + number)
    return place


@pytest.fixture(scope="module")
def data(ckpts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What figures.run makes of them: a folder with the folder glyphs-lenet."""
    place = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        _fewer(patch)
        patch.setattr(base, "save", lambda *_: [])  # the analyses' own figures, which are not kept
        done = _make(ckpts, place)
    assert done == place / "glyphs-lenet"
    return place


@pytest.fixture(scope="module")
def drawn(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path] | shared.Missing]:
    """What every drawing makes of that."""
    out = tmp_path_factory.mktemp("rendered")
    found: dict[str, list[Path] | shared.Missing] = {}
    for drawing in DRAWINGS:
        try:
            found[drawing.name] = drawing.write(data, out)
        except shared.Missing as error:
            found[drawing.name] = error
    return found


def _fewer(patch: pytest.MonkeyPatch) -> None:
    """Fewer rules, maps and images than the figures have."""
    patch.setattr(manifest, "RULES", ("otsu",))
    patch.setattr(manifest, "OTHER_MAPS", ("eq6",))
    patch.setattr(manifest, "SHOWN", 2)


def _make(ckpts: Path, out: Path) -> Path:
    return run.make(ckpts, limit=COUNT, attacked=ATTACKED, out=out, work=out / "work", device="cpu")


def test_models_under_other_names_than_the_papers_are_measured_and_drawn(
    ckpts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fewer(monkeypatch)
    monkeypatch.setattr(base, "save", lambda *_: [])
    for name, other in (("mine", "raw"), ("yours", "alp")):
        shutil.copytree(ckpts / other, tmp_path / "ckpts" / name)
    place = _make(tmp_path / "ckpts", tmp_path / "out")
    assert shared.manifest(place).keys() == {"fc", "span", "contrib", "robust"}
    page = tmp_path / "out" / "rendered" / "README.md"
    assert draw_figures(["--data", str(place.parent), "--out", str(page.parent)]) == 0
    assert "yours" in page.read_text()


def test_run_leaves_small_files_and_says_where_they_come_from(ckpts: Path, data: Path) -> None:
    place = data / "glyphs-lenet"
    done = shared.manifest(place)
    assert {"fc", "span", "span-otsu", "span-eq6-mean", "contrib", "smoothgrad", "eq6", "eq6-epochs", "sets", "robust",
            "sets-epochs", "evolve", "gap", "gd-alp", "alpha-aalp"} == done.keys() - {"span-eq6-otsu"}  # fmt: skip
    assert all((place / file).stat().st_size < 300_000 for record in done.values() for file in record["files"])
    assert done["span"]["images"] == COUNT
    assert done["robust"]["images"] == ATTACKED
    assert done["robust"]["command"].startswith("attrib robust --ckpt alp=")
    assert done["span"]["precision"] == "fp32"
    assert {done["robust"]["precision"], done["eq6"]["attack_precision"]} <= {"fp32", "bf16"}
    assert "precision" not in done["fc"]
    for name in ("raw", "alp"):
        assert done["span"]["models"][name] == [checkpoint.read(ckpts / name / "model.pt").fingerprint]
    epochs = [checkpoint.read(ckpts / "alp" / f"epoch-{n}.pt").fingerprint for n in (2, 10)]
    assert done["sets-epochs"]["models"]["alp"] == epochs
    assert not any((data / "work" / "glyphs-lenet").iterdir())


def test_run_skips_what_is_done_repeats_what_has_other_weights_and_drops_what_has_none(
    ckpts: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fewer(monkeypatch)
    moved, out = tmp_path / "moved", tmp_path / "data"
    shutil.copytree(ckpts, moved)
    shutil.copytree(data / "glyphs-lenet", out / "glyphs-lenet")
    asked: list[str] = []

    class StoppedError(Exception):
        pass

    def stop(analysis: Analysis, *_: object, **__: object) -> None:
        asked.append(analysis.name)
        raise StoppedError

    monkeypatch.setattr(Analysis, "run", stop)
    _make(moved, out)  # the same weights elsewhere
    assert not asked
    (out / "glyphs-lenet" / "sets.csv").unlink()
    with pytest.raises(StoppedError):
        _make(moved, out)
    assert asked == ["sets"]
    # Another default, as the data set's attack may get one: the command is the same, the options are not.
    summary = out / "glyphs-lenet" / "sets.json"
    other = shared.read_json(summary)
    other["options"]["attack"]["steps"] += 1
    summary.write_text(json.dumps(other))
    shutil.copy(data / "glyphs-lenet" / "sets.csv", out / "glyphs-lenet")
    with pytest.raises(StoppedError):
        _make(moved, out)
    assert asked[1:] == ["sets"]
    shutil.copy(data / "glyphs-lenet" / "sets.json", summary)
    _make(moved, out)
    assert len(asked) == 2
    for alpha in ("0.5", "1"):
        shutil.rmtree(moved / f"aalp-alpha-{alpha}")
    _make(moved, out)
    assert len(asked) == 2
    assert shared.manifest(data / "glyphs-lenet").keys() - shared.manifest(out / "glyphs-lenet") == {"alpha-aalp"}
    assert not (out / "glyphs-lenet" / "alpha-aalp.json").exists()
    _save(moved / "raw" / "model.pt", 77)
    with pytest.raises(StoppedError):
        _make(moved, out)
    assert asked[2:] == ["fc"]


def test_what_is_kept_is_what_the_library_gives(ckpts: Path, data: Path) -> None:
    place = data / "glyphs-lenet"
    model, _ = attrib.load(ckpts / "alp" / "model.pt")
    (batch,) = attrib.dataset("glyphs", limit=COUNT).batches(COUNT)
    weight = model.fc.weight.detach()
    with np.load(place / "fc.npz") as arrays:
        assert (arrays["valid alp"] == np.array([[w > weight.mean() for w in row] for row in weight])).all()
    table = pd.read_csv(place / "contrib.csv")
    relevance = table.loc[table["model"] == "alp", "R"].to_numpy()
    kept = shared.entry(shared.read_json(place / "contrib-weights.json"), "alp")["norms"]
    high = [
        float(weight[:, d].square().sum().sqrt()) for d in range(len(relevance)) if relevance[d] >= np.median(relevance)
    ]
    assert kept == [pytest.approx(np.mean(high), rel=1e-4)]
    budget = {"eps": 8 / 255, "step_size": 2 / 255, "steps": 10}
    record = shared.read_json(place / "sets.json")["attack"]
    assert {key: pytest.approx(value, abs=1e-5) for key, value in budget.items()} == {k: record[k] for k in budget}
    attacked = attrib.pgd(model, batch.image, batch.label, **budget, index=batch.index)  # type: ignore[arg-type]
    with torch.no_grad():
        probability = [model(x).softmax(1)[torch.arange(COUNT), batch.label] for x in (batch.image, attacked)]
    shift = shared.read_json(place / "sets-shift.json")["models"][0]
    assert shift["shift"] == pytest.approx(float((probability[0] - probability[1]).abs().mean()), abs=1e-5)


@pytest.mark.parametrize(("name", "steps"), [("cifar10", 7), ("svhn", None)])
def test_section_2_of_aalp_is_measured_with_its_own_attack(ckpts: Path, name: str, steps: int | None) -> None:
    """PGD-7 on CIFAR-10, where the default is AGAIN's PGD-10; what is not of AALP's section 2 keeps its own."""
    entries = manifest.entries(run.models_of(ckpts), name, count=COUNT, attacked=ATTACKED, autoattack=None)
    analyses: dict[str, Any] = {entry.name: entry.analysis for entry in entries}
    for task in ("sets", "contrib", "eq6", "sets-epochs"):
        assert (analyses[task].attack.name, analyses[task].attack.steps) == ("pgd", steps)
    assert analyses["span"].attack is analyses["smoothgrad"].attack is None


@pytest.mark.parametrize("place", ["mnist-lenet", "cifar10-resnet32"])
def test_committed_results_are_those_of_the_manifest(place: str) -> None:
    done, data = shared.manifest(shared.DATA / place), place.partition("-")[0]
    prints = {name: files for task in ("robust", "gap", "alpha-aalp", "alpha-again-logit") if task in done
              for name, files in done[task]["models"].items()}  # fmt: skip
    epochs = done["evolve"]["models"]
    trained = [
        manifest.Trained(
            name, {Path(f"x/{name}/model.pt"): one for one in files},
            {Path(f"x/{name}/epoch-{number}.pt"): each for number, each in enumerate(epochs.get(name, []), 1)},
        )
        for name, files in sorted(prints.items(), key=lambda item: names.order(item[0]))
    ]  # fmt: skip
    count, attacked = done["span"]["images"], done["robust"]["images"]
    entries = manifest.entries(trained, data, count=count, attacked=attacked, autoattack=None)
    records = {entry.name: entry.record(data) for entry in entries}
    assert done.keys() <= records.keys()
    for task, record in done.items():
        assert record["models"] == records[task]["models"], task
        assert _without_paths(record["command"]) == _without_paths(records[task]["command"]), task


def _without_paths(command: str) -> list[str]:
    return [part for part in command.split() if "/" not in part]


def test_the_release_is_compared_with_awp_or_not_at_all() -> None:
    assert shared.forms(["raw", "pgd-at", "again", "again-release"]) == [("again", "pgd-at")]
    both = ["madry", "pgd-at-awp", "again-logit", "again-release"]
    assert shared.forms(both) == [("again-release", "pgd-at-awp"), ("again-logit", "madry")]
    assert shared.forms(["again-own"]) == []


def test_several_seeds_stand_behind_one_name(ckpts: Path, tmp_path: Path) -> None:
    for name in ("alp", "raw"):
        shutil.copytree(ckpts / name, tmp_path / name)
    _save(tmp_path / "alp-seed1" / "model.pt", 50)
    raw, alp = run.models_of(tmp_path)
    assert (raw.name, alp.name) == ("raw", "alp")
    assert list(alp.files) == [tmp_path / "alp/model.pt", tmp_path / "alp-seed1/model.pt"]
    assert list(alp.epochs) == [tmp_path / "alp/epoch-2.pt", tmp_path / "alp/epoch-10.pt"]


@pytest.mark.parametrize("name", [drawing.name for drawing in DRAWINGS])
def test_everything_is_drawn(name: str, drawn: dict[str, list[Path] | shared.Missing]) -> None:
    written = drawn[name]
    if name == "again_figure4":  # no sweep of AGAIN among the models
        assert isinstance(written, shared.Missing)
        return
    assert not isinstance(written, shared.Missing), written
    kinds = {".tex", ".md"} if "table" in name or name in ("asc_rules", "crossing") else {".pdf", ".png", ".tex", ".md"}
    assert {path.suffix for path in written} == kinds
    for path in written:
        content = path.read_bytes()
        assert content
        if path.suffix == ".pdf":
            assert b"/Type3" not in content  # fonts are embedded as TrueType
        elif path.suffix == ".tex":
            assert b"\\caption{" in content
            assert (b"\\toprule" if b"tabular" in content else b"\\includegraphics") in content


def test_dollar_signs_are_drawn_as_formulas(data: Path, drawn: dict[str, list[Path] | shared.Missing]) -> None:
    formulas = 0
    for drawing in DRAWINGS:
        if isinstance(drawn[drawing.name], shared.Missing):
            continue
        made = drawing.draw(drawing.panels(data), PRINT)
        for figure in made.values() if isinstance(made, dict) else [made]:
            if isinstance(figure, Figure):
                figure.draw_without_rendering()  # which makes the labels of ticks
                texts = [text for text in figure.findobj(Text) if "$" in text.get_text()]
                assert [text.get_text() for text in texts if not text.get_parse_math()] == []
                formulas += len(texts)
    assert formulas  # those of AALP's Figure 5


def test_tables_hold_the_papers_numbers_and_ours(data: Path, drawn: dict[str, list[Path] | shared.Missing]) -> None:
    robust = shared.read_json(data / "glyphs-lenet" / "robust.json")
    table = _markdown(drawn["aalp_table2"])
    assert [cell for cell in table[0] if "-" in cell] == [f"{a}-{n}" for a in ("PGD", "CW") for n in (10, 20, 40, 100)]
    ours = next(row for row in table if row[1] == "AALP")
    accuracies = shared.entry(robust, "aalp")["accuracies"]
    assert ours[3:] == [f"{100 * value:.1f}" for value in accuracies.values()]
    spans = _markdown(drawn["asc_rules"])
    assert len(spans) == 1 + 4  # gradcam and eq6, each with two rules


def _markdown(written: list[Path] | shared.Missing) -> list[list[str]]:
    """The rows of a table, the header first."""
    assert not isinstance(written, shared.Missing)
    (path,) = (path for path in written if path.suffix == ".md")
    rows = [line for line in path.read_text().splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_distance_from_the_diagonal_is_over_all_seeds() -> None:
    shifts = {"alp": [[0.1, 0.2], [0.3, 0.4]], "aalp": [[0.5, 0.6], [0.7, 0.6]]}
    rows = [
        {"model": model, "seed": seed, "index": index, "probability_clean": 0.9, "probability_adversarial": 0.9 - shift}
        for model, of_seeds in shifts.items() for seed, of_images in enumerate(of_seeds)
        for index, shift in enumerate(of_images)
    ]  # fmt: skip
    found = trim.shifts(pd.DataFrame(rows[::-1]))
    assert [(each["name"], each["seeds"], each["n"]) for each in found["models"]] == [("aalp", 2, 2), ("alp", 2, 2)]
    assert [each["shift"] for each in found["models"]] == pytest.approx([0.6, 0.25])
    expected = stats.paired(np.array(shifts["aalp"]), np.array(shifts["alp"]))
    (pair,) = found["pairs"]
    assert pair["a"] == "aalp"
    assert [pair["difference"], *pair["ci"], pair["p"]] == pytest.approx(expected)
    (one, _) = trim.shifts(pd.DataFrame([row for row in rows if row["seed"] == 0]))["models"]
    assert (one["seeds"], one["shift"]) == (1, pytest.approx(0.15))


def test_the_pages_are_the_same_every_time_and_their_links_lead_somewhere(
    data: Path, drawn: dict[str, list[Path] | shared.Missing], tmp_path: Path
) -> None:
    pages = readme.write(data, tmp_path / "README.md", drawn)
    texts = [page.read_text() for page in pages]
    assert [page.name for page in pages] == ["README.md", "again.md", "aalp.md"]
    assert [page.read_text() for page in readme.write(data, tmp_path / "README.md", drawn)] == texts
    for text in texts:
        links = re.findall(r"\]\(([^)]+)\)", text)
        assert len(links) > 5
        assert all((tmp_path / link).resolve().exists() for link in links)
        assert "$" not in re.sub(r"```.*?```", "", text, flags=re.DOTALL)  # nothing of the template is left
        assert all(len(line) <= 200 for line in text.splitlines() if not line.startswith("|"))
    overview, *papers = (" ".join(text.split()) for text in texts)
    assert len(texts[0].splitlines()) <= 260
    for claim in claims.CLAIMS:
        assert claim.statement in overview
        assert claim.statement in papers[0 if claim.paper == "again" else 1]
    written = [path.name for found in drawn.values() if not isinstance(found, shared.Missing) for path in found]
    for name in written:
        assert not name.endswith(".png") or name in papers[0] + papers[1]
    captions = [path.read_text() for found in drawn.values() if not isinstance(found, shared.Missing)
                for path in found if path.suffix == ".md" and path.with_suffix(".png").exists()]  # fmt: skip
    assert len(captions) > 10
    assert all(" ".join(caption.split()) in papers[0] + papers[1] for caption in captions)


def test_committed_pages_are_those_of_the_committed_results() -> None:
    """What needs no drawing: the claims and the models on the overview."""
    page = (shared.HERE / "README.md").read_text()
    assert readme._claims(claims.judged(shared.DATA), shared.places(shared.DATA)) in page
    assert readme._trained(shared.DATA) in page


def test_the_readme_says_how_often_the_order_of_coverage_changes() -> None:
    page, readme_text = (shared.HERE / "README.md").read_text(), (shared.HERE.parent / "README.md").read_text()
    lines = readme._orders(shared.DATA)
    assert lines in page
    orders = [int(number) for number in re.findall(r"give (\d+) orders", " ".join(lines.split()))]
    rules = {int(number) for number in re.findall(r"(\d+) maps and rules", lines)}
    assert f"in {min(orders)} to {max(orders)} orders of ASC" in readme_text
    assert f"[{rules.pop()} maps and rules]" in readme_text
    assert not rules


def test_every_claim_is_judged_and_most_have_results(data: Path) -> None:
    judged = claims.judged(data)
    # The models are of another data set than the papers'.
    assert {verdict.tier for _, found in judged for each in found for verdict in each.verdicts} == {verdicts.NOT_TESTED}
    without = {claim.source for claim, found in judged if not found}
    assert without <= {"AGAIN, Figure 4", "AGAIN, Table 1", "ours", "AALP, section 4.2", "AALP, Table 1",
                       "AALP, Figure 4", "AALP, Figure 6"}  # fmt: skip


@pytest.mark.parametrize("drawing", DRAWINGS, ids=[drawing.name for drawing in DRAWINGS])
def test_without_results_nothing_is_drawn(drawing: Drawing, tmp_path: Path) -> None:
    if drawing.tasks:
        with pytest.raises(shared.Missing, match=r"figures\.run --ckpts"):
            drawing.write(tmp_path, tmp_path / "out")
        assert not list(tmp_path.iterdir())


def test_one_figure_is_drawn_by_its_name(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw_figures(["aalp_table4", "--data", str(data), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / f"aalp-table4{end}") for end in (".tex", ".md")]


def test_files_of_a_figure_that_lost_its_results_are_removed(data: Path, tmp_path: Path) -> None:
    place, out = tmp_path / "data" / "glyphs-lenet", tmp_path / "out"
    place.mkdir(parents=True)
    out.mkdir()
    records = shared.manifest(data / "glyphs-lenet")
    (place / shared.MANIFEST).write_text(json.dumps({"fc": records["fc"]}))
    for name in ("fc.json", "fc.npz", "models.json"):
        shutil.copy(data / "glyphs-lenet" / name, place)
    old = ("again-figure2.png", "again-figure3-mnist-lenet.pdf", "aalp-figure10.tex")
    for name in (*old, "again-figure10.png", "again-figure2.txt", "notes.md"):  # the last three are none of ours
        (out / name).write_text("of earlier results")
    assert draw_figures(["--data", str(tmp_path / "data"), "--out", str(out)]) == 0
    left = {path.name for path in out.iterdir()}
    assert not left.intersection(old)
    assert {"again-figure3-glyphs-lenet.pdf", "again-figure10.png", "again-figure2.txt", "notes.md"} <= left


def test_a_figure_is_drawn_in_a_style(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    style, out = tmp_path / "style.toml", tmp_path / "out"
    arguments = ["again_figure1", "--data", str(data), "--out", str(out), "--style", str(style)]
    sizes = []
    for text in ("", "title = false", "width = 'column'\ntitle = false"):
        style.write_text(text)
        assert draw_figures(arguments) == 0
        with Image.open(out / "again-figure1.png") as picture:
            sizes.append(picture.size)
    assert sizes[0][1] > sizes[1][1]  # with its caption above
    assert max(width for width, _ in sizes) < 3.5 * 300  # one data set, so that it is a column wide anyway
    style.write_text("images = [1]")
    capsys.readouterr()
    assert draw_figures(arguments) == 2
    assert "expected width, font_size or title" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["aalp_table2"], ["aalp_table9"]])
def test_what_cannot_be_drawn_is_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw_figures([*arguments, "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert printed.err.startswith("figures: error: ")
    assert not list(tmp_path.iterdir())


def test_bad_folders_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--ckpts", str(tmp_path)]) == 2
    assert "expected a folder of NAME/model.pt" in capsys.readouterr().err
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "model.pt").write_bytes(b"no")
    assert run.main(["--ckpts", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_papers_tables_are_complete() -> None:
    again, aalp = shared.papers()["again"], shared.papers()["aalp"]
    assert [again["table1"][key] for key in ("standard", "pgd-at", "again")] == [54.86, 51.80, 53.54]
    assert (again["table2"]["again"], again["table2"]["pgd-at"]) == (308, 272.3)
    sets = ("mnist", "svhn", "cifar10")
    methods = ["raw", "madry", "alp", "trades", "aalp-gd", "aalp-sw", "aalp"]
    for name in sets:
        assert [len(aalp["table1"][name][kind]) for kind in ("consistent", "inconsistent")] == [4, 4]
        assert list(aalp["table2"][name]) == methods
        assert np.shape([aalp["table2"][name][method] for method in methods]) == (7, 10)
        assert len(aalp["table4"][name]) == 2
    assert len(aalp["table2"]["columns"]) == 10
    assert np.shape(list(aalp["table3"]["svhn"].values())) == (6, 3)
    # A few cells in all corners, typed from the paper's pages once more.
    cells = aalp["table2"]
    assert (cells["mnist"]["raw"][1], cells["svhn"]["aalp-sw"][1], cells["cifar10"]["aalp"][9]) == (7.72, 62.83, 59.30)
    assert (cells["svhn"]["trades"][5], cells["cifar10"]["madry"][6], cells["mnist"]["aalp-gd"][9]) == (
        38.78,
        46.2,
        96.39,
    )
    assert (aalp["table1"]["svhn"]["consistent"][2], aalp["table1"]["cifar10"]["inconsistent"][3]) == (5.1866, 2.7438)
    assert (aalp["table3"]["svhn"]["adv-gd"][2], aalp["table4"]["mnist"]) == (34.51, [94.91, 96.03])
    table2, table3 = aalp["table2"]["svhn"], aalp["table3"]["svhn"]
    for method, (clean, pgd, cw) in table3.items():
        if method in table2:
            assert (table2[method][0], table2[method][2]) == (clean, pgd)
            assert table2[method][6] != cw  # the contradiction
    assert aalp["table4"]["cifar10"][0] < aalp["table2"]["cifar10"]["alp"][2] - 10


def test_differences() -> None:
    pairs = [{"a": "x", "b": "y", "attack": "pgd", "difference": 0.3, "ci": [0.1, 0.4], "p": 0.01}]
    assert compare.between(pairs, "x", "y", attack="pgd") == (0.3, 0.1, 0.4, 0.01)
    assert compare.between(pairs, "y", "x") == (-0.3, -0.4, -0.1, 0.01)
    assert compare.between(pairs, "x", "y", attack="cw") is None
    assert compare.between([{"a": "x", "b": "y", "difference": 0.3}], "x", "y") is None  # no interval
    untested = compare.between([pairs[0] | {"p": None}], "x", "y")
    assert untested is not None
    assert np.isnan(untested.p)
    # For two symmetric intervals it is the interval of a difference of independent normals.
    found = compare.apart(5, (4, 6), 3, (1, 5))
    assert found is not None
    np.testing.assert_allclose(found[:3], (2, 2 - 5**0.5, 2 + 5**0.5))
    assert compare.apart(5, (4, float("nan")), 3, (1, 5)) is None


def test_intervals_of_rank_correlations_hold_the_true_one() -> None:
    """Of pairs from a normal distribution, whose rank correlation is known; the other column goes against the first."""
    runs, models, pearson = 300, 10, 0.7
    true = 6 / np.pi * np.arcsin(pearson / 2)
    generator, held = np.random.default_rng(2), 0
    for _ in range(runs):
        asc, robust = generator.multivariate_normal([0, 0], [[1, pearson], [pearson, 1]], models).T
        rows = [{"asc": a, "used": -a, "robust": b} for a, b in zip(asc, robust, strict=True)]
        found = crossing.correlations(rows)
        (rho, low, high), used = found["asc"], found["used"]
        assert -1 <= low <= rho <= high <= 1
        assert used == pytest.approx((-rho, -high, -low))
        held += low < true < high
    assert 0.92 < held / runs < 0.99
    perfect = crossing.correlations([{"asc": k, "used": -k, "robust": k} for k in range(5)])
    assert [perfect[key] for key in ("asc", "used")] == [pytest.approx((sign, np.nan, np.nan), nan_ok=True)
                                                         for sign in (1, -1)]  # fmt: skip
    assert crossing.correlations([{"asc": k, "used": k, "robust": 0.5} for k in range(5)]) == {}


def test_results_are_plain_json(data: Path) -> None:
    for path in (data / "glyphs-lenet").glob("*.json"):
        assert json.loads(path.read_text()) is not None
