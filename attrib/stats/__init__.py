"""Intervals and paired tests over images, and over seeds where a method has several files. No torch.

One file: images are resampled and no distribution is assumed (p-values: ``attrib.stats.permutation``). The answer
is about this file: another training run of the same method may give another.

Several files, the seeds of one method: what is asked is what the method does, and the error of that has two parts.
The seeds' estimates scatter, s^2 / S, known from S - 1 degrees of freedom only, which Student's t makes up for; and
all seeds met the same N images, so that averaging over seeds leaves the images' part, v, which is known well. Of each
part alone the interval's half-width would be t s / sqrt(S) and z sqrt(v); together it is the root of the sum of
their squares. (In simulations with S = 2, 3 and 5 it holds the truth in 95 to 99 % of the trials, whatever the ratio
of the two parts. One t quantile for both holds it in 100 % where images dominate, being twice as wide as it need be
at S = 3; Satterthwaite's degrees of freedom in 88 % where two seeds dominate.) Where seeds differ image by image but
not on the whole, both parts hold that, and the interval is too wide rather than too narrow. Seeds that agree leave the
interval over images. p is the level at which the interval of the difference would just reach 0.
"""

from attrib.stats.images import (
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
    "ANYTHING", "RESAMPLES", "Paired", "Values", "at_a_time", "basic_interval", "basic_paired", "groups_over_seeds",
    "holm", "image_weights", "interval", "mean", "mean_over_seeds", "over_seeds", "paired", "paired_shares",
    "share_interval", "unpaired_shares", "with_holm",
]  # fmt: skip
