"""The dependency rule: train, figures, notebooks and bench import attrib; attrib imports none of them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {"train", "figures", "notebooks", "bench", "tests"}
FORBIDDEN = {"torchvision", "timm", "torchattacks", "pytorch_grad_cam"}


def imported(path: Path) -> Iterator[str]:
    """Every module that the file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def test_attrib_imports_nothing_from_outside() -> None:
    files = list((ROOT / "attrib").rglob("*.py"))
    assert len(files) > 15
    for path in files:
        tops = {name.partition(".")[0] for name in imported(path)}
        assert not tops & (OUTSIDE | FORBIDDEN), path


def test_nothing_imports_what_needs_torchvision() -> None:
    for folder in ("train", "tests", "figures"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not {name.partition(".")[0] for name in imported(path)} & FORBIDDEN, path


@pytest.mark.parametrize("one", ["maps", "spans"])
def test_maps_and_spans_do_not_import_one_another(one: str) -> None:
    names = set(imported(ROOT / "attrib" / f"{one}.py"))
    assert not names & {f"attrib.{other}" for other in ("maps", "spans") if other != one}


@pytest.mark.parametrize(
    "module", ["attrib", "attrib.cli", "attrib.plot", "attrib.report", "attrib.results", "attrib.stats"]
)
def test_torch_is_imported_only_where_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there_and_no_module_hides_one() -> None:
    import attrib.analyses.maps
    import attrib.cli.span  # submodules become attributes of the package when they are imported

    assert sorted(attrib.__all__) == sorted(attrib._HOME)
    for name in attrib.__all__:
        assert callable(getattr(attrib, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = attrib.nonsense


def test_the_command_starts_without_what_takes_long_to_import() -> None:
    code = (
        "import sys, attrib.cli; print(sorted({'torch', 'pandas', 'scipy', 'matplotlib', 'captum'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
