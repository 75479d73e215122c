"""Every command gives the results recorded in tests/golden: files, keys and numbers. Words may change."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from golden.cases import CASES
from golden.record import MACHINE, RECORDS, WORDS, machine, run, workplace

# Numbers do not depend on the number of threads. With other vector instructions or another torch, float32 rounds
# differently: a pixel then changes sides of a threshold, which is 1e-4 of the coverage of 10 images.
TOLERANCE = 1e-6 if machine() == json.loads(MACHINE.read_text()) else 5e-4

NEWER = {"fc.npz", "images.json"}
"""Files that were not there when the record was made: a saved result draws its figures again, and is used again.

So are the figures' captions, NAME-figures.tex.
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the cases run in."""
    folder = tmp_path_factory.mktemp("golden")
    workplace(folder)
    return folder


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", CASES)
def test_a_command_gives_what_was_recorded(
    name: str, place: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "--autoattack" in CASES[name]:
        pytest.importorskip("pyautoattack")
    data = request.getfixturevalue("real_data") if "DATA" in CASES[name] else None
    expected = json.loads((RECORDS / f"{name}.json").read_text())
    found = run(CASES[name], place=place, out=tmp_path, data=data)
    older = {name for name in found if Path(name).name not in NEWER and not name.endswith("-figures.tex")}
    assert older == expected.keys()
    assert not list(differences(expected, found))


def test_differences_are_found() -> None:
    """Missing keys, other numbers, texts and lengths; neither new keys, nor rounding, nor other words."""
    record = {"a": [1.0, 2.0], "b": {"c": "mean", "d": WORDS, "e": None}}
    same = {"a": [1.0, 2.0 + 1e-7], "b": {"c": "mean", "d": "what was said", "e": None}, "new": 1}
    assert not list(differences(record, same))
    for other in (
        {"a": [1.0, 2.0]}, same | {"a": [1.0]}, same | {"a": [1.0, 2.01]}, same | {"a": [1.0, math.nan]},
        same | {"b": {"c": "otsu", "d": "", "e": None}}, same | {"b": {"c": "mean", "d": "", "e": 0}},
    ):  # fmt: skip
        assert len(list(differences(record, other))) == 1


def differences(expected: Any, found: Any, where: str = "") -> Iterator[str]:
    """Where what was found is not as recorded; keys that were not recorded are no difference."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            if key in found:
                yield from differences(value, found[key], f"{where}/{key}")
            else:
                yield f"{where}/{key}: missing"
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from differences(one, other, f"{where}/{number}")
    elif isinstance(expected, int | float) and isinstance(found, int | float):
        if not math.isclose(expected, found, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            yield f"{where}: {found} instead of {expected}"
    elif expected != WORDS and expected != found:
        yield f"{where}: {found} instead of {expected}"
