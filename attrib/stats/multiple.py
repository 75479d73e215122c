"""Correction for multiple comparisons."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from attrib.stats.permutation import Values, as_column


def holm(p: Values) -> Values:
    """Holm's (1979) correction of the p-values (P,) of P comparisons; NaN entries are not counted.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    p = as_column("p", p)
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]  # NaN is sorted to the end
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return corrected


def with_holm(pairs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table's comparisons, each with ``p``, with ``p_holm`` added by ``holm`` over all of them.

    >>> [pair["p_holm"] for pair in with_holm([{"p": 0.01}, {"p": 0.04}, {"p": 0.03}])]
    [0.03, 0.06, 0.06]
    """
    compared = list(pairs)
    corrected = holm(np.array([pair["p"] for pair in compared], float)).tolist()
    return [{**pair, "p_holm": p} for pair, p in zip(compared, corrected, strict=True)]
