"""Noise per image: the right distribution, no correlations, and no state."""

import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from attrib import noise

MASK = (1 << 64) - 1


def slow_mix(z: int) -> int:
    """SplitMix64's finaliser as published, in Python's integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def slow_uniform(index: int, position: int, seed: int, stream: int) -> float:
    golden = 0x9E3779B97F4A7C15
    key = slow_mix((seed * 0x2545F4914F6CDD1D + stream + 1) * golden & MASK)
    own = slow_mix(slow_mix((index + 1) * golden & MASK) ^ key)
    bits = slow_mix((own + (position + 1) * golden) & MASK)
    return ((bits >> 41) + 0.5) / 2**23


def correlation(a: Tensor, b: Tensor) -> float:
    return float(np.corrcoef(a.numpy().ravel(), b.numpy().ravel())[0, 1])


@pytest.mark.parametrize(("seed", "stream"), [(0, 0), (1, 0), (0, 1), (-3, 7), (2**63 - 1, 2**40)])
def test_equals_the_hash_in_python_integers(seed: int, stream: int) -> None:
    indices = [0, 1, 17, 59_999, 2**40]
    drawn = noise.uniform(torch.tensor(indices), (2, 3), seed=seed, stream=stream)
    slow = [[slow_uniform(index, position, seed, stream) for position in range(6)] for index in indices]
    assert drawn.shape == (5, 2, 3)
    assert drawn.dtype == torch.float32
    assert drawn.view(5, 6).tolist() == slow


@pytest.mark.parametrize("shape", [(1,), (3, 8, 8)])
def test_distributions(shape: tuple[int, ...]) -> None:
    index = torch.arange(200_000 // int(np.prod(shape)))
    flat = noise.uniform(index, shape, seed=5).numpy().ravel()
    assert 0 < flat.min() <= flat.max() < 1
    assert scipy.stats.kstest(flat, "uniform").pvalue > 1e-3
    bell = noise.normal(index, shape, seed=5).numpy().ravel()
    assert np.isfinite(bell).all()
    assert scipy.stats.kstest(bell, "norm").pvalue > 1e-3


def test_normal_is_the_quantile_of_uniform() -> None:
    index = torch.arange(50)
    expected = scipy.stats.norm.ppf(noise.uniform(index, (20,), seed=2, stream=3).double().numpy())
    np.testing.assert_allclose(noise.normal(index, (20,), seed=2, stream=3), expected, rtol=1e-5, atol=1e-6)


def test_neighbours_are_uncorrelated() -> None:
    count = 100_000  # of a correlation of truly independent numbers, 5 standard deviations are 0.016
    index = torch.arange(count)
    one = noise.uniform(index, (2,), seed=0)
    others = {
        "seed": noise.uniform(index, (2,), seed=1),
        "stream": noise.uniform(index, (2,), seed=0, stream=1),
        "both": noise.uniform(index, (2,), seed=1, stream=1),
        "index": noise.uniform(index + 1, (2,), seed=0),
        "position": one.flip(1),
    }
    for name, other in others.items():
        assert abs(correlation(one, other)) < 5 / count**0.5, name
    for a, b in itertools.combinations(others.values(), 2):
        assert not torch.equal(a, b)


def test_an_image_has_its_numbers_whatever_batch_it_is_in() -> None:
    index = torch.tensor([5, 3, 900, 3])
    together = noise.normal(index, (3, 4, 4), seed=1)
    alone = torch.cat([noise.normal(one[None], (3, 4, 4), seed=1) for one in index])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-7)
    assert torch.equal(together[1], together[3])
    drawn = noise.uniform(index, (3, 4, 4), seed=1)
    assert torch.equal(drawn, torch.cat([noise.uniform(one[None], (3, 4, 4), seed=1) for one in index]))
    assert noise.uniform(torch.arange(0), (3, 4, 4), seed=1).shape == (0, 3, 4, 4)


def test_leaves_the_global_generators_alone() -> None:
    before, legacy = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002
    noise.normal(torch.arange(10), (5,), seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state(legacy=False)["state"]["key"], legacy)  # noqa: NPY002
