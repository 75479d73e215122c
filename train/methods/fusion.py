"""AGAIN's hybrid feature fusion: an image's feature statistics are mixed with those of a partner image.

What the paper's release has is a function that is never called. It draws four weights uniformly on the simplex, for
the image's own features, the partner's, AdaIN of one onto the other and of the other onto the one. AdaIN carries
exactly the statistics of its target, so of the four sets of statistics two and two coincide, and what is left is a
mix of own and partner with one weight: the sum of two of the four. Four uniform weights on the simplex are the gaps
between three uniform numbers, so that sum is the middle one of three: Beta(2, 2).

Ours, since the release does not say: the layer (by default the input of the last stage) and the partner (by default
another image of the batch). One weight a batch, as released.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from attrib.errors import InputError


def mix_statistics(features: Tensor, partner: Tensor, weight: float, *, eps: float = 1e-5) -> Tensor:
    """Features re-scaled to ``weight`` of their own mean and std and ``1 - weight`` of the partner's.

    features: (N,C,h,w); partner: (N,) positions in the batch. Mean and standard deviation are those over the
    positions of each image and channel (AdaIN: Huang & Belongie 2017, eq. 8); eps is added to the variance, so that
    a constant channel gets the mixed mean and a finite gradient. Returns (N,C,h,w), with weight 1 its input exactly.
    """
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, (2, 3), correction=0, keepdim=True)
    std = (variance + eps).sqrt()
    scale = torch.lerp(std[partner], std, weight) / std
    shift = torch.lerp(mean[partner], mean, weight) - mean * scale
    return (wide * scale + shift).to(features.dtype)


@contextmanager
def fused(layer: nn.Module, partner: Tensor, weight: float) -> Iterator[None]:
    """Inside, the input (N,C,h,w) of ``layer`` is ``mix_statistics`` of it, while the layer is in training mode.

    partner: (N,) positions in the batch, weight: in [0,1]. Attacks run the model in eval mode and see it as deployed.
    A pass over several copies of the batch, one after the other, mixes each copy within itself.
    The hook goes when the body ends, also when it raises. Raises InputError for a weight outside [0,1], and
    RuntimeError if no pass was mixed: torch.compile by default does not notice hooks that come after it.
    """
    if not 0 <= weight <= 1:
        raise InputError(f"weight: expected a number in [0,1], got {weight}")
    mixed = False

    def mix(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        nonlocal mixed
        (features,) = inputs
        if not module.training:
            return None
        mixed = True
        copies = len(features) // len(partner)
        partners = torch.cat([partner + copy * len(partner) for copy in range(copies)])
        return (mix_statistics(features, partners, weight),)

    hook = layer.register_forward_pre_hook(mix)
    try:
        yield
    finally:
        hook.remove()
    if not mixed:
        raise RuntimeError("fused: the layer was not run in training mode, or torch.compile left the hook out")


def draw_weight(generator: torch.Generator) -> float:
    """One weight ~ Beta(2, 2): the middle of three uniform numbers."""
    return float(torch.rand(3, generator=generator, device=generator.device).median())


def draw_partners(images: int, generator: torch.Generator) -> Tensor:
    """For each of ``images`` the position of another one, (images,): its successor in a random cycle."""
    cycle = torch.randperm(images, generator=generator, device=generator.device)
    return torch.empty_like(cycle).index_copy_(0, cycle, cycle.roll(1))
