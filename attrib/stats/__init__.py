"""Intervals and paired tests over images, and over seeds where a method has several files. No torch.

One file: images are resampled and no distribution is assumed (p-values: ``attrib.stats.permutation``). The result holds
for this file only; another training run of the same method may give another result.

Several files, the seeds of one method: the result is about the method, and its error has two parts. The variance over
S seeds, s^2 / S, is estimated with S - 1 degrees of freedom, so Student's t is used. All seeds run on the same N
images, so averaging over seeds does not reduce the images' variance v, which is known well. Alone, the parts would give
the half-widths t s / sqrt(S) and z sqrt(v); together they give the root of the sum of their squares. In simulations
with S = 2, 3 and 5 these intervals cover the truth in 95 to 99 % of the trials, at any ratio of the two parts. One t
quantile for both parts would cover it in 100 % where images dominate, and be twice as wide as needed at S = 3.
Satterthwaite's degrees of freedom would cover it in 88 % where two seeds dominate. If seeds differ on single images but
not in the mean, both parts contain these differences, and the interval is too wide rather than too narrow. If seeds
agree, the interval over images remains. p is the level at which the interval of the difference would just reach 0.
"""

from attrib.stats.images import (
    DIFFERENCE,
    basic_interval,
    basic_paired,
    image_weights,
    interval,
    paired,
    paired_shares,
    share_interval,
    unpaired_shares,
)  # fmt: skip
from attrib.stats.multiple import holm, with_holm
from attrib.stats.permutation import RESAMPLES, Values, at_a_time
from attrib.stats.seeds import ANYTHING, Paired, groups_over_seeds, mean, mean_over_seeds, over_seeds

__all__ = [
    "ANYTHING", "DIFFERENCE", "RESAMPLES", "Paired", "Values", "at_a_time", "basic_interval", "basic_paired",
    "groups_over_seeds", "holm", "image_weights", "interval", "mean", "mean_over_seeds", "over_seeds", "paired",
    "paired_shares", "share_interval", "unpaired_shares", "with_holm",
]  # fmt: skip
