"""Estimate how long an analysis takes, from a trial on a few images."""

import time

import torch

from attrib.analyses.run import Ready
from attrib.models.specs import Model
from attrib.parallel import World

TRIAL = {"cpu": 8, "cuda": 64}
"""Images of the trial, by kind of device: a GPU is hardly slower with 64 images than with one."""


def seconds(ready: Ready, group: World) -> float:
    """Seconds that all models take for all images; the real time may be half or twice as long."""
    count = sum(len(each.data if each.positions is None else each.positions) for each in ready.passes)
    tried = min(count, TRIAL.get(group.device.type, 8))
    trial = 0.0
    for model in ready.context.models:
        _timed(ready, model, 1)  # warm up
        trial += _timed(ready, model, tried)
    return trial * count / tried / group.size


def _timed(ready: Ready, model: Model, count: int) -> float:
    """Seconds for one batch of the first images."""
    context = ready.context
    (batch,) = context.images.first(count).batches(count, device=context.device)
    started = time.monotonic()
    ready.analysis.measure(model, batch, context)
    if context.device.type == "cuda":
        torch.cuda.synchronize(context.device)
    return time.monotonic() - started


def words(seconds: float) -> str:
    """A rough time: 40 s, 12 min, 3.5 h.

    >>> words(0.2), words(44), words(700), words(12000)
    ('< 1 s', '44 s', '12 min', '3.3 h')
    """
    if seconds < 90:
        return f"{round(seconds)} s" if seconds >= 1 else "< 1 s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
