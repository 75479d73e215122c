"""The floor of ASC for ``attrib span``: measured by the processes of torchrun, and written into the summary."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrib.cli import common
from attrib.cli.explain import How
from attrib.errors import InputError

Coverages = dict[str, NDArray[np.float64]]
"""A model's own name to coverage on re-initialised copies of it, (R,N): re-initialisations, images."""


def random_coverages(
    work: common.Loaded, how: How, *, threshold: str, images: int, batch_size: int
) -> Coverages | None:
    """Coverage of the first ``images`` images on re-initialised copies of every model; None but for rank 0.

    A model that has no such copy is left out with a warning; with ``images`` 0 all models are left out.
    """
    from attrib.floor import SEEDS, random_coverage
    from attrib.maps import LAYER_MAPS
    from attrib.parallel import gather

    found: dict[tuple[str, int], NDArray[np.float64] | str] = {}
    # Each process has its own re-initialisations: models of one structure then share theirs.
    own = range(work.here.rank, SEEDS, work.here.size)
    todo = [(subject, number) for subject in work.subjects for number in own] if images else []
    for subject, number in common.progress(todo, total=len(todo), title="floor"):
        try:
            coverage = random_coverage(
                subject.model, work.images, map=how.map, threshold=threshold, target=how.target,
                layer=subject.layer if how.map in LAYER_MAPS else None, images=images, seed=how.seed + number,
                precision=how.map_precision(), batch_size=batch_size,
            )  # fmt: skip
            found[subject.name, number] = coverage.double().numpy()
        except InputError as error:
            found[subject.name, number] = str(error)
    parts = gather(found)
    if parts is None:
        return None
    joined = {key: value for part in parts for key, value in part.items()}
    floors: Coverages = {}
    for subject in work.subjects if images else ():
        values = [joined[subject.name, number] for number in range(SEEDS)]
        reasons = [value for value in values if isinstance(value, str)]
        if reasons:
            common.warn(f"{subject.name}: no floor of ASC can be measured: {reasons[0]}")
        else:
            floors[subject.name] = np.array(values)
    return floors


def floor_entry(files: Sequence[str], floors: Coverages, *, seed: int) -> dict[str, Any]:
    """The floor of the files behind a name: mean, t interval over re-initialisations and images, range, empty maps.

    Of several files it is the mean of their floors, which are the same where the files share a structure. All null
    where one of the files has none.
    """
    from attrib.stats import interval

    if not all(name in floors for name in files):
        return dict.fromkeys(("asc_floor", "asc_floor_ci", "asc_floor_range", "asc_floor_empty"))
    values = np.mean([floors[name] for name in files], 0)
    networks = values.mean(1)
    return {
        "asc_floor": float(networks.mean()),
        "asc_floor_ci": list(interval(values, seed=seed, within=(0, 1))),
        "asc_floor_range": [float(networks.min()), float(networks.max())],
        # Only an empty map covers nothing.
        "asc_floor_empty": float(np.mean([floors[name] == 0 for name in files])),
    }
