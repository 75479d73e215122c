"""Random numbers per image: a pure function of (seed, stream, image index, position).

The generator is counter-based (the finaliser of SplitMix64, Steele, Lea & Flood 2014, as a hash), not stateful. So the
noise of image 17 does not depend on batch, order, shard or device, and the global generators of torch and numpy are not
used.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The 64-bit pattern of ``value`` as the signed integer that torch can hold."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection of the int64s, in place; masks make torch's arithmetic ``>>`` logical."""
    for shift, factor in ((30, _MIX_1), (27, _MIX_2), (31, 1)):
        z ^= (z >> shift).bitwise_and_((1 << (64 - shift)) - 1)
        z *= factor
    return z


def uniform(index: Tensor, shape: Sequence[int], *, seed: int, stream: int = 0) -> Tensor:
    """Uniform numbers in the open interval (0, 1), reproducible per image.

    index: (N,) int64, the images' positions in their data set. Returns (N, *shape) float32 on the
    device of ``index``. stream: independent uses with one seed take different streams.
    """
    positions = torch.arange(1, math.prod(shape) + 1, device=index.device, dtype=torch.int64)
    # An int from the CPU, since copying a tensor to a GPU would make the host wait.
    key = int(_mix(torch.tensor(_signed(seed * 0x2545F4914F6CDD1D + stream + 1)) * _GOLDEN))
    keys = _mix(_mix((index.long() + 1) * _GOLDEN) ^ key)
    bits = _mix(keys[:, None] + positions * _GOLDEN)
    # 23 bits plus a half are exact in a float32 below 1; the half excludes 0 and 1.
    return ((bits >> 41) & 0x7FFFFF).float().add_(0.5).mul_(2.0**-23).view(-1, *shape)


def mixed_seed(*numbers: int) -> int:
    """Combine several numbers into one seed; their order matters."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) & 0x7FFFFFFF
    return mixed


def normal(index: Tensor, shape: Sequence[int], *, seed: int, stream: int = 0) -> Tensor:
    """Standard normal numbers, the normal quantiles of ``uniform``; arguments and shapes as there."""
    quantile: Tensor = torch.special.ndtri(uniform(index, shape, seed=seed, stream=stream))
    return quantile
