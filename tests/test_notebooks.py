"""The notebooks as committed: they use names of attrib that exist, define nothing, and hold their outputs."""

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

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
LARGEST = 500_000
"""Bytes: what a repository can bear and a page shows at once."""


def cells(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def parsed(path: Path) -> ast.Module:
    """The notebook's code, with nothing in place of the lines that are IPython's own."""
    text = "\n".join(cell.source for cell in cells(path))
    return ast.parse(re.sub(r"^( *)[%!].*$", r"\1pass", text, flags=re.MULTILINE))


def imports(code: ast.Module) -> Iterator[tuple[str, str, str]]:
    """What is imported: the module, the name in it (or nothing), and what the notebook calls it."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name, alias.asname or alias.name) for alias in node.names)


def missing(code: ast.Module) -> list[str]:
    """The names of attrib that the code uses and that do not exist."""
    known: dict[str, ModuleType] = {}
    absent = []
    for module, name, called in imports(code):
        if module.partition(".")[0] != "attrib":
            continue
        try:
            found = import_module(module)
            found = getattr(found, name, None) or import_module(f"{module}.{name}") if name else found
        except ImportError:
            absent.append(f"{module}.{name}".rstrip("."))
            continue
        if isinstance(found, ModuleType):
            known[called] = found
    for node in ast.walk(code):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
            module_of = known[node.value.id]
            there = node.attr in attrib.__all__ if module_of is attrib else hasattr(module_of, node.attr)
            if not there:
                absent.append(f"{node.value.id}.{node.attr}")
    return absent


def test_there_are_four() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_public_names_that_exist_and_defines_nothing(path: Path) -> None:
    code = parsed(path)
    assert not missing(code)
    assert not [node for node in ast.walk(code) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda)]
    assert not {module.partition(".")[0] for module, *_ in imports(code)} & {"train", "figures", "bench", "tests"}


def test_a_name_that_is_gone_is_found() -> None:
    code = "import attrib\nfrom attrib import spans, stats as s\nfrom attrib.data import NOTHING\n"
    assert missing(ast.parse(f"{code}attrib.pgd; attrib.plot_it; spans.coverage; spans.pie; s.mean; s.modes")) == [
        "attrib.data.NOTHING", "attrib.plot_it", "spans.pie", "s.modes",
    ]  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_its_outputs_and_small(path: Path) -> None:
    counts = [cell.execution_count for cell in cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "run from top to bottom, once"
    assert not [output for cell in cells(path) for output in cell.outputs if output.output_type == "error"]
    assert path.stat().st_size < LARGEST
    text = path.read_text()
    assert not re.search(r"/(root|home|work|tmp)/|\\u001b\[", text)
