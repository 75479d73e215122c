"""What several test files share."""

import os
from pathlib import Path

import pytest

# Tests run side by side, each on one thread; set before anything imports torch, and inherited by subprocesses.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real MNIST and CIFAR-10; tests that need it are skipped where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    place = Path(os.environ.get("ATTRIB_DATA") or beside)
    if not (place / "mnist").is_dir() or not (place / "cifar-10-batches-bin").is_dir():
        pytest.skip(f"no mnist and cifar-10-batches-bin in {place}; set ATTRIB_DATA to their folder")
    return place
