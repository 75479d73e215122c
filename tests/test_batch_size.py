"""Results do not depend on the batch size: rows keep their order, numbers are equal up to rounding."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import attrib
from attrib.analyses.joining import ordered
from attrib.analyses.partial import added, exact

LIMIT = 30


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two untrained models, given so that their names are not in alphabetical order."""
    place = tmp_path_factory.mktemp("models")
    given = []
    for seed, name in enumerate(("later", "earlier")):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = attrib.build("lenet", num_classes=10, input_shape=(3, 32, 32))
        made = attrib.Checkpoint(
            arch="lenet", arch_kwargs={"mean": [0.5] * 3, "std": [0.3] * 3}, num_classes=10, input_shape=(3, 32, 32),
            data="glyphs", method="standard", hyper={}, epoch=1, metrics={}, weights=model.state_dict(),
        )  # fmt: skip
        attrib.save(made, place / f"{name}.pt")
        given += ["--ckpt", f"{name}={place}/{name}.pt"]
    return given


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("span", ("--attack", "fgsm")),
        ("contrib", ("--attack", "fgsm")),
        ("robust", ("--steps", "1")),
        ("sets", ("--steps", "1")),
        ("relate", ("--steps", "1")),
    ],
)
def test_batches_of_another_size_change_nothing_but_rounding(
    run: Any, files: list[str], tmp_path: Path, command: str, options: tuple[str, ...]
) -> None:
    found = []
    for size in (7, LIMIT):
        out = tmp_path / str(size)
        given = ("--limit", LIMIT, "--batch-size", size, "--device", "cpu", "--precision", "fp32", "--out", out)
        done = run(command, *files, *options, *given, "--json")
        assert done.status == 0, done.err
        csv = out / ("contrib-images.csv" if command == "contrib" else f"{command}.csv")
        found.append((pd.read_csv(csv), json.loads(done.out)))
    (small, summary), (large, expected) = found
    assert small["model"].unique().tolist() == ["later", "earlier"]
    assert all(rows["index"].is_monotonic_increasing for _, rows in small.groupby("model"))
    # Above this, a pixel may change sides of a span's threshold: 1 of 1024.
    pd.testing.assert_frame_equal(small, large, rtol=1e-3, atol=2e-3, check_exact=False)
    for one, other in zip(summary["models"], expected["models"], strict=True):
        numbers = {key: value for key, value in other.items() if isinstance(value, float)}
        assert {key: one[key] for key in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-3)


def test_rows_are_in_the_order_of_models_seeds_and_images() -> None:
    rows = [("b", 0, 1), ("b", 1, 1), ("a", 0, 1), ("b", 0, 0), ("b", 1, 0), ("a", 0, 0)]
    table = pd.DataFrame([(*row, kind) for row in rows for kind in "xy"], columns=["model", "seed", "index", "kind"])
    expected = [
        (*row, kind) for row in (rows[3], rows[0], rows[4], rows[1], rows[5], rows[2]) for kind in "xy"
    ]  # fmt: skip
    assert list(ordered(table).itertuples(index=False, name=None)) == expected


def test_a_sum_is_the_same_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = list(torch.randn(300, 50, generator=generator, dtype=torch.float64) * 10.0 ** torch.arange(-10, 15, 0.5))
    sums = []
    for order in (range(300), reversed(range(300)), torch.randperm(300, generator=generator).tolist()):
        first, *rest = [exact(parts[number]) for number in order]
        for part in rest:
            first = added(first, part)
        sums.append(first.sum(0))
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])
    plain = [torch.stack(parts).cumsum(0)[-1], torch.stack(parts[::-1]).cumsum(0)[-1]]
    assert not torch.equal(plain[0], plain[1])
