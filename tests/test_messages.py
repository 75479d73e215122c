"""The library's messages name the Python parameter, followed by the command's option."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import attrib

HERE = Path(attrib.__file__).parent
HELP = {"option", "fc_option"}
"""What is given to them is the help of a command's option."""


def texts(node: ast.AST) -> Iterator[str]:
    """The texts in a piece of code, without docstrings and help."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in HELP:
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value
        yield from texts(child)


def test_an_option_stands_behind_its_parameter() -> None:
    files = [path for path in HERE.rglob("*.py") if path.parent.name != "cli"]
    said = [(path.name, text) for path in files for text in texts(ast.parse(path.read_text()))]
    options = [(name, text) for name, text in said if re.search(r"--[a-z]", text)]
    assert len(options) > 15
    for name, text in options:
        for found in re.finditer(r"--[a-z]", text):
            before = text[: found.start()]
            assert before.endswith("("), (name, text)
            assert re.search(r"[\w'=]+ \($", before) or before == " (", (name, text)
