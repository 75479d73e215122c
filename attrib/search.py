"""Images worth a look: the searches of the report and of the explorer. No torch."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

SEARCHES = {"wrong": "wrong", "turned": "turned by the attack", "empty": "empty map"}
"""What an image can be under a model, and how it is called."""
DISAGREEMENT = "disagreement: models whose coverage differs most"
"""The order of ``disagreement`` in words."""


class Seen(NamedTuple):
    """What M models make of N images, each clean and attacked."""

    label: NDArray[np.int64]
    """(N,)"""
    prediction: NDArray[np.int64]
    """(M,2,N)"""
    coverage: NDArray[np.float64]
    """(M,2,N); 0 where the map is empty, and only there."""


def seen_in(rows: "pd.DataFrame") -> Seen:
    """From the rows of ``attrib.Span`` with an attack; of several seeds the first."""
    rows = rows[rows["seed"] == 0]

    def stacked(column: str) -> NDArray[Any]:  # rows go by model, image and kind
        return rows[column].to_numpy().reshape(rows["model"].nunique(), -1, 2).swapaxes(1, 2)

    return Seen(stacked("label")[0, 0], stacked("prediction"), stacked("coverage"))


def matches(seen: Seen) -> dict[str, NDArray[np.bool_]]:
    """By search, whether an image is that under a model, (M,N).

    >>> seen = Seen(np.array([0, 1]), np.array([[[0, 0], [1, 1]]]), np.array([[[0.5, 0.5], [0.5, 0.0]]]))
    >>> {name: found.tolist() for name, found in matches(seen).items()}
    {'wrong': [[False, True]], 'turned': [[True, False]], 'empty': [[False, True]]}
    """
    right = seen.prediction == seen.label
    return {
        "wrong": ~right[:, 0],
        "turned": right[:, 0] & ~right[:, 1],
        "empty": (seen.coverage == 0).any(1),
    }


def disagreement(seen: Seen) -> NDArray[np.float64]:
    """The largest difference between two models' coverage of the clean image, (N,)."""
    return np.asarray(np.ptp(seen.coverage[:, 0], 0))


def examples(seen: Seen, count: int) -> tuple[int, ...]:
    """Positions of ``count`` images, half of them what the searches find: of each, under every model, the first ones.

    The rest are the first of all; of a count too small to show one of each, all are.
    """
    groups = [np.flatnonzero(found) for of_models in matches(seen).values() for found in of_models]
    if len(seen.coverage) > 1:
        groups.append(np.argsort(-disagreement(seen), kind="stable"))
    each = count // (2 * len(groups))
    found = [position for group in groups for position in group[:each].tolist()]
    return tuple(sorted(list(dict.fromkeys([*found, *range(len(seen.label))]))[:count]))
