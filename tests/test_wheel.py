"""The wheel is complete: it runs in a fresh environment, outside the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import attrib

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What a command prints; it must succeed."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_runs_in_a_fresh_environment(tmp_path: Path) -> None:
    """Dependencies are those installed here: only attrib itself comes from the wheel."""
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, ROOT, cwd=tmp_path)
    wheel = next(tmp_path.glob("attrib-*.whl"))
    assert wheel.name.startswith(f"attrib-{attrib.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {"attrib", f"attrib-{attrib.__version__}.dist-info"}
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "attrib").rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("attrib/")} == {f for f in files if "__pycache__" not in f}

    fresh = tmp_path / "fresh"
    venv.create(fresh, with_pip=False)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(fresh), "platbase": str(fresh)}))
    run(*pip, "--python", fresh / "bin" / "python", "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # A .pth file in a folder that a .pth file names is not read, so the checkout stays out of sight.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    command = fresh / "bin" / "attrib"
    where = run(fresh / "bin" / "python", "-c", "import attrib; print(attrib.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(fresh)
    assert attrib.__version__ in run(command, "--version", cwd=tmp_path)
    zoo = json.loads(run(command, "zoo", "--json", cwd=tmp_path))["models"]
    model = f"zoo:{zoo[0]['name']}"
    given = ("--data", "glyphs", "--limit", "8", "--floor", "0", "--out", tmp_path / "out")
    run(command, "span", model, *given, cwd=tmp_path, MPLBACKEND="agg")
    assert (tmp_path / "out" / "span.png").exists()
