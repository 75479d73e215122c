"""The schedule of AGAIN's Algorithm 1: iteration i of N has the full loss with probability i/N, else the plain one."""

import torch


def draws_full(progress: float, generator: torch.Generator) -> bool:
    """Draw whether this step has the full loss: True with probability ``progress`` = i/N.

    generator: on the CPU. Call this before the step's other draws. Then methods with the same seed take the full loss
    at the same steps.
    """
    return float(torch.rand((), generator=generator)) < progress
