"""One training method per file: its equations and ``loss(model, batch, *, attack, ...) -> Tensor``."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from train.config import Config
from train.methods import aalp, again, alp, mart, pgd_at, standard, trades

Loss = Callable[..., Tensor]
"""``loss(model, batch, *, attack)``: the scalar that a step descends."""


def loss_of(config: Config, *, progress: float, generator: torch.Generator) -> Loss:
    """The method's loss with the configuration's hyper-parameters filled in.

    progress: i/N in [0,1), the finished share of the run. generator: on the CPU, for the step's random draws.
    """
    # Config sets it for every method that has one; the others ignore it.
    weight = math.nan if config.weight is None else config.weight
    match config.method:
        case "standard":
            return partial(standard.loss, guided_dropout=config.guided_dropout)
        case "pgd-at":
            return partial(
                pgd_at.loss, mixed=config.mixed, label_smoothing=config.label_smoothing,
                smoothing_ramp=config.smoothing_ramp, guided_dropout=config.guided_dropout, progress=progress,
                generator=generator,
            )  # fmt: skip
        case "alp":
            return partial(alp.loss, weight=weight, guided_dropout=config.guided_dropout, adaptive=config.adaptive)
        case "aalp":
            return partial(aalp.loss, alpha=weight)
        case "trades":
            return partial(trades.loss, beta=weight)
        case "mart":
            return partial(mart.loss, weight=weight)
        case "again":
            return partial(
                again.loss, progress=progress, generator=generator, alpha=config.alpha, form=config.form,
                gates=config.gates, fusion=config.fusion, ramp=config.ramp, base=config.base,
            )  # fmt: skip
        case other:
            raise AssertionError(f"no loss for the method {other}")
