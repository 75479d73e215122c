"""Every public function has an example in its docstring, and its output is right."""

import doctest
import inspect
from importlib import import_module

import pytest

import attrib

MODULES = sorted({f"attrib.{home}" for home in attrib._HOME.values()})
SHOWN_ELSEWHERE = {"explore", "report"}
"""A widget, which only a notebook shows, and a page, which takes longer than a test may."""


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_the_docstrings(module: str) -> None:
    result = doctest.testmod(import_module(module))
    assert result.failed == 0


def test_every_public_function_has_one() -> None:
    for name in set(attrib.__all__) - SHOWN_ELSEWHERE:
        found = getattr(attrib, name)
        if inspect.isfunction(found):
            assert ">>> " in (found.__doc__ or ""), name
