"""How a training step runs on a GPU: eagerly, compiled, or with its attack captured as one CUDA graph.

The engine changes the speed and the rounding, nothing else. Measured rates are in bench/README.md.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from attrib.model import Classifier
from train.attack import Ascent, Forward, Number, Problem, eager_ascent
from train.graph import GraphedAscent

Engine = Literal["auto", "eager", "compiled", "graph"]
ENGINES: tuple[Engine, ...] = ("auto", "eager", "compiled", "graph")


def resolve(name: Engine, device: torch.device) -> Engine:
    """``auto`` is compiled on a GPU; the CPU knows eager only."""
    if device.type != "cuda":
        return "eager"
    return "compiled" if name == "auto" else name


def ascent_of(engine: Engine) -> Ascent:
    """The attack's steps, as the engine runs them. One per run: what is compiled or captured is kept in it."""
    return {"compiled": CompiledAscent, "graph": GraphedAscent}.get(engine, lambda: eager_ascent)()


@contextmanager
def running(model: Classifier, engine: Engine, device: torch.device) -> Iterator[None]:
    """Inside, the model's stages are compiled where the engine says so, and cuDNN tries its algorithms out once."""
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = device.type == "cuda"  # batches have one shape
    try:
        if engine == "compiled":
            compile_stages(model)
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        for stage in model.stages:
            vars(stage).pop("forward", None)


def compile_stages(model: Classifier) -> None:
    """Compile every stage for the one shape that training has.

    Stage by stage, from inside: hooks on a stage (AGAIN's fusion) stay outside what is compiled.
    """
    # All stages run the code of nn.Sequential, so what is compiled for each counts against one limit.
    torch._dynamo.config.cache_size_limit = 64
    for stage in model.stages:
        # Not dynamic: one code object sees the stages' different shapes and would make them symbols.
        stage.forward = torch.compile(stage.forward, dynamic=False)


def uncompiled(engine: Engine) -> "torch.compiler.set_stance | nullcontext[None]":  # type: ignore[valid-type]
    """Inside, compiled stages run eagerly: evaluation has other shapes, and is not worth compiling."""
    return torch.compiler.set_stance("force_eager") if engine == "compiled" else nullcontext()


class CompiledAscent:
    """The attack's steps with the forward pass compiled, once for every folded copy of a model."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[nn.Module, Forward], Forward] = {}

    def __call__(
        self, problem: Problem, image: Tensor, target: Tensor, start: Tensor, eps: Number, step_size: Number
    ) -> Tensor:
        """As :func:`train.attack.eager_ascent`."""
        key = problem.model, problem.forward
        if key not in self._compiled:
            self._compiled[key] = torch.compile(problem.forward, dynamic=False)
        compiled = problem._replace(forward=self._compiled[key])
        return eager_ascent(compiled, image, target, start, eps, step_size)
