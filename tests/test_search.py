"""The searches of the report and of the explorer, against loops over images and models."""

import numpy as np
import pytest

from attrib.search import SEARCHES, Seen, disagreement, examples, matches


def seen(models: int, images: int) -> Seen:
    generator = np.random.default_rng(0)
    coverage = generator.random((models, 2, images)) * (generator.random((models, 2, images)) > 0.02)
    return Seen(
        generator.integers(0, 3, images), generator.integers(0, 3, (models, 2, images)), coverage
    )  # fmt: skip


def test_every_search_is_what_it_is_called() -> None:
    given = seen(3, 400)
    found = matches(given)
    assert found.keys() == SEARCHES.keys()
    for m in range(3):
        for n in range(400):
            clean, attacked = (given.prediction[m, k, n] == given.label[n] for k in range(2))
            assert found["wrong"][m, n] == (not clean)
            assert found["turned"][m, n] == (clean and not attacked)
            assert found["empty"][m, n] == (0 in given.coverage[m, :, n])
    pairs = [np.abs(given.coverage[a, 0] - given.coverage[b, 0]) for a in range(3) for b in range(3)]
    np.testing.assert_array_equal(disagreement(given), np.max(pairs, 0))


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("count", [1, 40, 200, 400])
def test_examples_show_something_of_every_search(models: int, count: int) -> None:
    given = seen(models, 400)
    chosen = examples(given, count)
    assert len(set(chosen)) == len(chosen) == count
    assert list(chosen) == sorted(chosen)
    if count >= 40:
        for found in matches(given).values():
            assert all(row[list(chosen)].any() for row in found if row.any())
        if models > 1:
            assert np.argmax(disagreement(given)) in chosen
    if count == 400:
        assert list(chosen) == list(range(400))


def test_what_no_search_needs_is_the_beginning() -> None:
    right = np.zeros(50, int)
    given = Seen(right, np.zeros((1, 2, 50), int), np.full((1, 2, 50), 0.5))
    assert examples(given, 10) == tuple(range(10))
