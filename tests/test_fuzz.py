"""Random specs, recipes, checkpoints and archives by hypothesis: each gives a result or an InputError."""

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import attrib
from attrib.analyses.radii import parse_eps, parse_steps
from attrib.errors import InputError
from attrib.models.specs import model
from attrib.thresholds import parse_threshold
from train.config import Config, read_recipe

BOUNDED = settings(
    max_examples=100, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.lists(st.integers())


def answered(call: Callable[[], object]) -> None:
    """Run it; it may raise InputError, and nothing else."""
    with suppress(InputError):
        call()


def damaged(content: bytes, place: float, patch: bytes, end: float) -> bytes:
    """The file with some bytes put over it, cut off at a share of its length."""
    start = int(place * len(content))
    return (content[:start] + patch + content[start + len(patch) :])[: int(end * len(content))]


DAMAGE = (st.floats(0, 1), st.binary(max_size=40), st.floats(0, 1))


@BOUNDED
@given(st.text(max_size=60))
def test_texts_of_options(text: str) -> None:
    for parse in (parse_eps, parse_steps, parse_threshold):
        answered(lambda parse=parse: parse(text))  # type: ignore[misc]


@BOUNDED
@given(st.sampled_from(["", "zoo:", "folder:", "npz:", "no_such_module:"]), st.text(max_size=60))
def test_specs_of_models_and_data(prefix: str, text: str) -> None:
    answered(lambda: model(f"{prefix}{text}"))
    answered(lambda: attrib.dataset(f"{prefix}{text}", limit=1))


@BOUNDED
@given(content=st.text(max_size=80))
def test_recipes_of_any_text(content: str, tmp_path: Path) -> None:
    (tmp_path / "any.toml").write_text(content)
    answered(lambda: read_recipe(tmp_path / "any.toml"))


@BOUNDED
@given(key=st.sampled_from(sorted(Config.__dataclass_fields__)), value=VALUES)
def test_values_of_a_run(key: str, value: Any) -> None:
    known: dict[str, Any] = {"method": "pgd-at", "data": "glyphs", "arch": "lenet"}
    answered(lambda: Config(**known | {key: value}))


@BOUNDED
@given(damage=st.tuples(*DAMAGE))
def test_damaged_checkpoints(damage: tuple[float, bytes, float], models: Path, tmp_path: Path) -> None:
    (tmp_path / "any.pt").write_bytes(damaged((models / "a.pt").read_bytes(), *damage))
    answered(lambda: attrib.load(tmp_path / "any.pt"))


@pytest.fixture(scope="module")
def archive() -> bytes:
    file = io.BytesIO()
    images = torch.arange(4 * 32 * 32 * 3, dtype=torch.uint8).view(4, 32, 32, 3).numpy()
    np.savez(file, images=images, labels=np.array([0, 1, 2, 1]))
    return file.getvalue()


@BOUNDED
@given(damage=st.tuples(*DAMAGE))
def test_damaged_archives(damage: tuple[float, bytes, float], archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "any.npz").write_bytes(damaged(archive, *damage))
    answered(lambda: attrib.dataset(f"npz:{tmp_path / 'any.npz'}"))
