"""Find images worth a look: the searches of the report and of the explorer. No torch."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

SEARCHES = {"wrong": "wrong", "turned": "turned by the attack", "empty": "empty map"}
"""The searches, and their labels: each finds images under a model."""
DISAGREEMENT = "disagreement: models whose coverage differs most"
"""The label of the order by ``disagreement``"""


class Seen(NamedTuple):
    """Predictions and coverage of M models on N images, clean and attacked."""

    label: NDArray[np.int64]
    """(N,)"""
    prediction: NDArray[np.int64]
    """(M,2,N)"""
    coverage: NDArray[np.float64]
    """(M,2,N); 0 where the map is empty, and only there."""


def seen_in(rows: "pd.DataFrame") -> Seen:
    """``Seen`` from the rows of ``attrib.Span`` with an attack; of several seeds, only the first."""
    rows = rows[rows["seed"] == 0]

    def stacked(column: str) -> NDArray[Any]:  # rows are sorted by model, image and kind
        return rows[column].to_numpy().reshape(rows["model"].nunique(), -1, 2).swapaxes(1, 2)

    return Seen(stacked("label")[0, 0], stacked("prediction"), stacked("coverage"))


def matches(seen: Seen) -> dict[str, NDArray[np.bool_]]:
    """For each search, whether it finds an image under a model, bool (M,N).

    >>> seen = Seen(np.array([0, 1]), np.array([[[0, 0], [1, 1]]]), np.array([[[0.5, 0.5], [0.5, 0.0]]]))
    >>> {name: mask.tolist() for name, mask in matches(seen).items()}
    {'wrong': [[False, True]], 'turned': [[True, False]], 'empty': [[False, True]]}
    """
    correct = seen.prediction == seen.label
    return {
        "wrong": ~correct[:, 0],
        "turned": correct[:, 0] & ~correct[:, 1],
        "empty": (seen.coverage == 0).any(1),
    }


def disagreement(seen: Seen) -> NDArray[np.float64]:
    """The largest difference between two models' coverage of the clean image, (N,)."""
    return np.asarray(np.ptp(seen.coverage[:, 0], 0))


def examples(seen: Seen, count: int) -> tuple[int, ...]:
    """Positions of ``count`` images: half are the first ones that each search finds under each model.

    The others are the first of all images. If ``count`` is too small for one image of each search and model, all are.
    """
    groups = [np.flatnonzero(mask) for masks in matches(seen).values() for mask in masks]
    if len(seen.coverage) > 1:
        groups.append(np.argsort(-disagreement(seen), kind="stable"))
    share = count // (2 * len(groups))
    positions = [position for group in groups for position in group[:share].tolist()]
    return tuple(sorted(list(dict.fromkeys([*positions, *range(len(seen.label))]))[:count]))
