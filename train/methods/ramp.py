"""The schedule of AGAIN's Algorithm 1: at iteration i of N the full loss with probability i/N, else the plain one."""

import torch


def draws_full(progress: float, generator: torch.Generator) -> bool:
    """Whether this step has the full loss: True with probability ``progress`` = i/N.

    generator: on the CPU. One number is drawn, before all others of the step, so that two methods whose generators
    have the same seed take the full loss at the same steps.
    """
    return float(torch.rand((), generator=generator)) < progress
