"""The attack of training as one CUDA graph: thousands of small kernels, one launch.

A graph replays the same kernels on the same addresses. Inputs that change from step to step are copied into fixed
buffers: the images, the objective's targets (labels, or TRADES' clean logits), the start, eps and step size. The
weights are those of the model's folded copy, which is updated in place.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from attrib.errors import one_line
from train.attack import Number, Problem, eager_ascent

WARM_UP = 2  # runs before the capture: libraries allocate memory and choose their algorithms
TOLERATED = 0.01  # share of pixels that may differ: where a gradient is near 0, rounding decides its sign

Record = Callable[[Callable[[], object]], Callable[[], object]]  # a function on fixed buffers to its replay


def cuda_graph(function: Callable[[], object]) -> Callable[[], object]:
    """Capture a function and return one that replays it. Raises RuntimeError if that is not possible."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


class _Captured(NamedTuple):
    """One recorded attack: its buffers, and the function that runs it on them."""

    buffers: tuple[Tensor, ...]
    adversarial: Tensor
    replay: Callable[[], object]

    def __call__(self, *inputs: Number) -> Tensor:
        for buffer, value in zip(self.buffers, inputs, strict=True):
            buffer.copy_(value) if isinstance(value, Tensor) else buffer.fill_(value)
        self.replay()
        return self.adversarial.clone()


class GraphedAscent:
    """The attack's steps, recorded for every problem and shape; eager if that fails or gives other images.

    The first batch of each shape is attacked both ways and the results are compared.
    """

    def __init__(self, record: Record = cuda_graph) -> None:
        self._record = record
        self._captured: dict[object, _Captured | None] = {}

    def __call__(
        self, problem: Problem, image: Tensor, target: Tensor, start: Tensor, eps: Number, step_size: Number
    ) -> Tensor:
        """As ``train.attack.eager_ascent``."""
        inputs = image, target, start, eps, step_size
        key = problem, image.shape, target.shape, target.dtype
        captured = self._captured.get(key)
        if captured is not None:
            return captured(*inputs)
        eager = eager_ascent(problem, *inputs)
        if key not in self._captured:
            self._captured[key] = self._checked(problem, inputs, eager)
        return eager

    def _checked(
        self, problem: Problem, inputs: tuple[Tensor, Tensor, Tensor, Number, Number], eager: Tensor
    ) -> _Captured | None:
        try:
            captured = _capture(problem, *inputs, record=self._record)
            different = float((captured(*inputs) != eager).float().mean())
            reason = f"{different:.1%} of the pixels differ from the eager attack's" if different > TOLERATED else ""
        except RuntimeError as error:
            reason = one_line(error)
        if reason:
            print(f"train: warning: the attack runs without a CUDA graph: {reason}", file=sys.stderr)
            return None
        return captured


def _capture(
    problem: Problem, image: Tensor, target: Tensor, start: Tensor, eps: Number, step_size: Number, *, record: Record
) -> _Captured:
    buffers = tuple(
        torch.as_tensor(value, device=image.device, dtype=image.dtype) if isinstance(value, float) else value.clone()
        for value in (image, target, start, eps, step_size)
    )
    adversarial = torch.empty_like(image)
    replay = record(lambda: adversarial.copy_(eager_ascent(problem, *buffers)))
    return _Captured(buffers, adversarial, replay)
