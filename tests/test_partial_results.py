"""The key of partial results: it has the precision but not the device, so another machine can continue."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import attrib
from attrib.analyses.measured import Context, Pass
from attrib.analyses.partial import missing
from attrib.analyses.saved import key_of
from attrib.analyses.span import Span
from attrib.errors import InputError
from attrib.files import TEMPORARY, to_json
from attrib.models.specs import Model

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

    def recording(summary: Any) -> str:
        described.append(to_json(summary))
        return described[-1]

    monkeypatch.setattr("attrib.analyses.saved.to_json", recording)
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
    (key,) = described
    assert "cpu" not in key.replace(str(run_folder), "").replace("+cpu", "")
    assert "bf16" in key


@pytest.mark.parametrize("fast", [True, False])
def test_auto_counts_as_what_it_stands_for(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in bfloat16 and in float32 must not be joined into one result."""
    monkeypatch.setattr("attrib.inference.has_fast_bf16", lambda _: fast)
    data, model = attrib.dataset("glyphs", limit=4), Model("a", "a", "")
    context = Context(torch.device("cpu"), data, 4)
    keys = [
        key_of(Span(map="smoothgrad", precision=precision), [model], [Pass(data)], context)
        for precision in ("auto", "bf16" if fast else "fp32", "fp32" if fast else "bf16")
    ]
    assert keys[0] != keys[2]
    assert Span(map="gradcam").map_precision(context.device) == "fp32"


BROKEN: dict[str, Any] = {
    "text": b"garbage", "nothing": b"", "a list": [1, 2], "other parts": {"bla": 5}, "no rows": {"rows": 5},
    "short rows": {"rows": {0: [(0, "clean")]}}, "a bomb": b"\x80\x02Nr\xff\xff\xff\x7f.",
}  # fmt: skip


def stopped(run: Any, models: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[tuple[object, ...], Path]:
    """A command that stopped in the middle, and what it left."""

    def stop(*_: object) -> None:
        raise InputError("stopped")

    given = ("span", models / "a.pt", "--limit", 6, "--batch-size", 2, "--floor", 0, "--out", place)
    with monkeypatch.context() as patched:
        patched.setattr(Span, "objections", stop)
        run(*given)
    (part,) = place.glob(".span-*/*.part")
    return given, part


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("process", ["999999999", "1"], ids=["dead", "alive"])
def test_what_a_killed_process_was_writing_is_no_partial_result(
    process: str, run: Any, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, part = stopped(run, models, tmp_path, monkeypatch)
    half = part.with_name(f"{TEMPORARY}{process}-x.part")
    half.write_bytes(part.read_bytes()[:100])
    seen: list[bool] = []

    def looks(*work: Any) -> list[int]:
        seen.append(half.exists())
        return missing(*work)

    monkeypatch.setattr("attrib.analyses.run.missing", looks)
    done = run(*given)
    assert (done.status, seen, half.exists()) == (0, [process == "1"], False), done.err


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_partial_results_are_one_line(
    content: Any, run: Any, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, part = stopped(run, models, tmp_path, monkeypatch)
    part.write_bytes(content) if isinstance(content, bytes) else torch.save(content, part)
    line = run(*given).refused()
    assert f"{part}: not partial results that can be continued (" in line
    assert line.endswith(f"; remove {part.parent}")


SUMMARIES = ("", "[1]", "{}", "[" * 100_000, '{"models": 5, "options": {}}', '{"options": {"map": 1}}', "\xff")


@pytest.mark.parametrize("text", SUMMARIES, ids=[text[:8] for text in SUMMARIES])
def test_a_broken_result_is_no_result(text: str, tmp_path: Path) -> None:
    (tmp_path / "span.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="cannot be read"):
        attrib.Result.load(tmp_path)
    assert attrib.Result.saved(Span(), tmp_path, "key") is None


@pytest.mark.parametrize(
    ("file", "content"), [("span.csv", b""), ("span.csv", b"a\n1,2\n3"), ("span-examples.npz", b"PK")], ids=str
)
@pytest.mark.usefixtures("undrawn")
def test_broken_rows_and_arrays_are_one_line_and_made_anew(
    file: str, content: bytes, run: Any, models: Path, tmp_path: Path
) -> None:
    given = ("span", models / "a.pt", "--limit", 6, "--floor", 0, "--out", tmp_path)
    run(*given)
    whole = (tmp_path / "span.csv").read_bytes()
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=r"span.json: cannot be read \("):
        attrib.Result.load(tmp_path)
    assert run(*given).status == 0
    assert (tmp_path / "span.csv").read_bytes() == whole
