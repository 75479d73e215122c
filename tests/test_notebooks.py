"""The committed notebooks use existing names, define nothing, need no shell, and have their outputs."""

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

import attrib
import train

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
DEFINED = {"04": ["input_times_gradient"]}
"""By notebook: a map of one's own is all that is defined."""
LARGEST = 500_000
"""Bytes: what a repository can bear and a page shows at once."""


def cells(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def parsed(path: Path) -> ast.Module:
    """The notebook's code, which is plain Python: a magic or a shell command is a syntax error."""
    return ast.parse("\n".join(cell.source for cell in cells(path)))


def imports(code: ast.Module) -> Iterator[tuple[str, str, str]]:
    """What is imported: the module, the name in it (or nothing), and what the notebook calls it."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name, alias.asname or alias.name) for alias in node.names)


def missing(code: ast.Module) -> list[str]:
    """The names of attrib and train that the code uses and that do not exist."""
    known: dict[str, ModuleType] = {}
    absent = []
    for module, name, called in imports(code):
        if module.partition(".")[0] not in ("attrib", "train"):
            continue
        try:
            value = import_module(module)
            value = getattr(value, name, None) or import_module(f"{module}.{name}") if name else value
        except ImportError:
            absent.append(f"{module}.{name}".rstrip("."))
            continue
        if isinstance(value, ModuleType):
            known[called] = value
    for node in ast.walk(code):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
            module_of = known[node.value.id]
            public = attrib.__all__ if module_of is attrib else train.__all__ if module_of is train else vars(module_of)
            if node.attr not in public:
                absent.append(f"{node.value.id}.{node.attr}")
    return absent


def test_there_are_four() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_public_names_that_exist_and_defines_nothing(path: Path) -> None:
    code = parsed(path)
    assert not missing(code)
    assert [node.name for node in ast.walk(code) if isinstance(node, DEFINITIONS)] == DEFINED.get(path.stem[:2], [])
    assert not [node for node in ast.walk(code) if isinstance(node, ast.Lambda)]
    assert not {module.partition(".")[0] for module, *_ in imports(code)} & {"subprocess", "figures", "bench", "tests"}


def test_a_name_that_is_gone_is_found() -> None:
    code = (
        "import attrib\nfrom attrib import spans, stats as s\nfrom attrib.data import NOTHING\nfrom train import fit\n"
    )
    assert missing(ast.parse(f"{code}attrib.pgd; attrib.plot_it; spans.coverage; spans.pie; s.mean; s.modes")) == [
        "attrib.data.NOTHING", "train.fit", "attrib.plot_it", "spans.pie", "s.modes",
    ]  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_its_outputs_and_small(path: Path) -> None:
    counts = [cell.execution_count for cell in cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "run from top to bottom, once"
    assert not [output for cell in cells(path) for output in cell.outputs if output.output_type == "error"]
    assert path.stat().st_size < LARGEST
    text = path.read_text()
    assert not re.search(r"\d+%\|", text), "no progress bar is left"
    assert not re.search(r"/(root|home|work|tmp)/|\\u001b\[", text)


@pytest.mark.parametrize("path", NOTEBOOKS[:3], ids=lambda path: path.stem)
def test_a_notebook_elsewhere_asks_for_the_checkout(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="run this notebook in the checkout of attrib"):
        exec(cells(path)[0].source, {})
