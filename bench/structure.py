"""Size of the code and time of ``--help``, beside their limits: ``python -m bench.structure``."""

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = 5
"""Repetitions of ``--help``. The fastest counts, since other work only slows it down."""


def sources(*folders: str) -> list[Path]:
    """The Python files below these folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def lines(*folders: str) -> int:
    """The number of lines in these files (``wc -l``)."""
    return sum(path.read_bytes().count(b"\n") for path in sources(*folders))


def functions(*folders: str) -> Iterator[tuple[int, str]]:
    """The number of lines and the name of every function."""
    for path in sources(*folders):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield (node.end_lineno or node.lineno) - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.name}"


def inner_imports(*folders: str) -> int:
    """The number of imports inside functions."""
    trees = [ast.parse(path.read_text()) for path in sources(*folders)]
    inside = [node for tree in trees for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)
              for node in ast.walk(each) if isinstance(node, ast.Import | ast.ImportFrom)]  # fmt: skip
    return len({id(node) for node in inside})


def seconds(*arguments: str) -> float:
    """The time of the command, the fastest of several runs."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "attrib.cli", *arguments], cwd=ROOT, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Print the table."""
    longest, where = max(functions("attrib", "train", "figures"))
    rows = [
        ("lines of attrib/cli", lines("attrib/cli"), 700),
        ("lines of attrib and train", lines("attrib", "train"), 13_500),
        ("lines of figures", lines("figures"), 1_900),
        (f"lines of the longest function, {where}", longest, 60),
        ("imports inside functions of attrib", inner_imports("attrib"), 25),
        ("seconds of attrib --help", round(seconds("--help"), 2), 0.3),
        ("seconds of attrib span --help", round(seconds("span", "--help"), 2), 0.45),
    ]
    print(f"{'measure':<70} {'now':>8} {'at most':>8}")
    for name, now, most in rows:
        print(f"{name:<70} {now:>8,} {most:>8,}{'' if now <= most else '  above'}")


if __name__ == "__main__":
    main()
