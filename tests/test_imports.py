"""The dependency rule: train, figures, notebooks and bench import attrib; attrib imports none of them."""

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import FunctionType

import pytest

import attrib

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {"train", "figures", "quarter", "notebooks", "bench", "tests"}
FORBIDDEN = {"torchvision", "timm", "torchattacks", "pytorch_grad_cam"}


def imported(path: Path) -> Iterator[str]:
    """Every module that the file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def module_of(path: Path) -> str:
    """``attrib/data/readers.py`` as ``attrib.data.readers``, a package's ``__init__.py`` as the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def needed(path: Path, modules: Collection[str]) -> set[str]:
    """The modules that the file imports, also inside functions, but not for types only."""
    found = set()
    statements: list[ast.AST] = [ast.parse(path.read_text())]
    while statements:
        node = statements.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner if inner <= set(modules) else inner | {node.module or ""}
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            statements += ast.iter_child_nodes(node)
    return found & set(modules)


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("attrib", set()), ("train", {"train"}), ("figures", {"train", "figures"}),
        ("quarter", {"train", "figures", "quarter"}), ("bench", {"train", "bench"}),
    ],
)  # fmt: skip
def test_a_folder_imports_only_what_lies_below_it(folder: str, allowed: set[str]) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert len(files) > 8
    for path in files:
        tops = {name.partition(".")[0] for name in imported(path)}
        assert not tops & (OUTSIDE - allowed), path
        assert folder == "bench" or not tops & FORBIDDEN, path


def test_the_queue_takes_nothing_of_the_figures_but_the_list_of_models() -> None:
    files = {module_of(path): path for folder in ("figures", "quarter") for path in (ROOT / folder).glob("*.py")}
    for module, path in files.items():
        if module.startswith("quarter"):
            taken = {name for name in needed(path, files.keys()) if name.startswith("figures")}
            assert taken <= {"figures.models"}, path


def test_attrib_has_no_import_circle() -> None:
    files = {module_of(path): path for path in (ROOT / "attrib").rglob("*.py")}
    TopologicalSorter({module: needed(path, files.keys()) for module, path in files.items()}).prepare()


def test_tests_import_nothing_that_needs_torchvision() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        assert not {name.partition(".")[0] for name in imported(path)} & FORBIDDEN, path


def test_maps_and_spans_do_not_import_one_another() -> None:
    assert "attrib.maps" not in imported(ROOT / "attrib/spans.py")
    for path in (ROOT / "attrib/maps").glob("*.py"):
        assert "attrib.spans" not in imported(path), path


@pytest.mark.parametrize(
    "module",
    [
        "attrib",
        "attrib.cli",
        "attrib.objections",
        "attrib.plots.base",
        "attrib.pages.render",
        "attrib.stats",
        "attrib.thresholds",
    ],
)
def test_torch_is_imported_only_where_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there() -> None:
    assert sorted(attrib.__all__) == sorted(attrib._HOME)
    for name in attrib.__all__:
        assert callable(getattr(attrib, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = attrib.nonsense


def test_no_module_has_the_name_of_a_public_function() -> None:
    # A submodule becomes an attribute of its package when it is imported, and would hide the function.
    homes = {f"attrib.{home}" for home in attrib._HOME.values()}
    packages = {"attrib"} | {name.rpartition(".")[0] if name.count(".") > 1 else name for name in homes}
    for package in map(import_module, sorted(packages)):
        children = {module.name for module in iter_modules(getattr(package, "__path__", []))}
        functions = {name for name, value in vars(package).items() if isinstance(value, FunctionType)}
        assert not children & (functions | set(attrib.__all__ if package is attrib else ())), package.__name__


def test_the_command_starts_without_what_takes_long_to_import() -> None:
    code = (
        "import sys, attrib.cli; print(sorted({'torch', 'pandas', 'scipy', 'matplotlib', 'captum'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
