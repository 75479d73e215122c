"""AGAIN's hybrid feature fusion: mix an image's feature statistics with those of a partner image.

The paper's release has a function for it but never calls it. The function draws four weights uniformly on the simplex:
for the image's features, the partner's features, AdaIN of the image onto the partner, and AdaIN of the partner onto the
image. AdaIN gives features exactly the statistics of its target. So there are only two different sets of statistics,
and the mix has one weight: the sum of two of the four. Four uniform weights on the simplex are the gaps between three
uniform numbers, so that sum is the middle one of three: Beta(2, 2). As in the release there is one weight per batch.

The release does not say where to fuse and with which image. Our defaults: the input of the last stage, and another
image of the batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from attrib.errors import InputError


def mix_statistics(features: Tensor, partner: Tensor, weight: float, *, eps: float = 1e-5) -> Tensor:
    """Rescale features to a mean and std that are ``weight`` their own and ``1 - weight`` the partner's.

    features: (N,C,h,w); partner: (N,) positions in the batch. Mean and standard deviation are taken over the positions
    of each image and channel (AdaIN: Huang & Belongie 2017, eq. 8). eps is added to the variance, so a constant channel
    gets the mixed mean and a finite gradient. Returns (N,C,h,w); weight 1 returns the input exactly.
    """
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, (2, 3), correction=0, keepdim=True)
    std = (variance + eps).sqrt()
    scale = torch.lerp(std[partner], std, weight) / std
    shift = torch.lerp(mean[partner], mean, weight) - mean * scale
    return (wide * scale + shift).to(features.dtype)


@contextmanager
def fused(layer: nn.Module, partner: Tensor, weight: float) -> Iterator[None]:
    """Apply ``mix_statistics`` to the input (N,C,h,w) of ``layer`` inside the context, in training mode only.

    Attacks run in eval mode, so they see the deployed model. partner: (N,) positions in the batch; weight: in [0,1].
    If the input holds several copies of the batch one after another, each copy is mixed within itself.
    The hook is removed on exit, also when the body raises. Raises InputError for a weight outside [0,1], and
    RuntimeError if nothing was mixed: by default torch.compile ignores hooks that are added after it.
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
        raise RuntimeError("fused: the layer did not run in training mode, or torch.compile ignored the hook")


def draw_weight(generator: torch.Generator) -> float:
    """Draw one weight ~ Beta(2, 2): the middle of three uniform numbers."""
    return float(torch.rand(3, generator=generator, device=generator.device).median())


def draw_partners(images: int, generator: torch.Generator) -> Tensor:
    """Draw another image for each of ``images``: positions (images,), the successors in a random cycle."""
    cycle = torch.randperm(images, generator=generator, device=generator.device)
    return torch.empty_like(cycle).index_copy_(0, cycle, cycle.roll(1))
