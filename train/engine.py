"""How a training step runs on a GPU: eagerly, compiled, or with its attack captured as one CUDA graph.

The engine changes speed and rounding only. bench/README.md has measured rates.
"""

import ctypes
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from attrib.attack import Forward
from attrib.errors import InputError, one_line
from attrib.models.classifier import Classifier
from train.attack import Ascent, Number, Problem, eager_ascent
from train.graph import GraphedAscent

Engine = Literal["auto", "eager", "compiled", "graph"]
ENGINES: tuple[Engine, ...] = ("auto", "eager", "compiled", "graph")


def resolve(name: Engine, device: torch.device) -> Engine:
    """``auto`` is compiled on a GPU and eager on a CPU, or where no compiler works.

    Raises InputError for another engine than eager on a CPU.
    """
    if device.type != "cuda":
        if name not in ("auto", "eager"):
            raise InputError(f"--engine {name}: expected a GPU to run it, got {device}")
        return "eager"
    engine = "compiled" if name == "auto" else name
    if engine == "compiled" and (reason := _compile_error(device)):
        print(f"train: warning: training runs uncompiled: torch.compile fails here ({reason})", file=sys.stderr)
        return "eager"
    return engine


def _compile_error(device: torch.device) -> str | None:
    """Why torch.compile fails on the device, or None. Triton needs a C compiler and its headers."""
    try:
        with _silent():
            torch.compile(torch.relu, dynamic=False)(torch.zeros(8, device=device))
    except Exception as error:  # Any part of the tool chain may fail.
        return one_line(error)
    return None


@contextmanager
def _silent() -> Iterator[None]:
    """Silence inductor's advice to use TF32: float32 has to stay exact."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
        yield


def ascent_of(engine: Engine) -> Ascent:
    """The engine's function for the steps of an attack. It caches compiled code or graphs, so make one per run."""
    if engine == "compiled":
        return CompiledAscent()
    return GraphedAscent() if engine == "graph" else eager_ascent


@contextmanager
def running(model: Classifier, engine: Engine, device: torch.device) -> Iterator[None]:
    """Compile the model's stages if the engine is ``compiled``, and let cuDNN choose its algorithms by a benchmark."""
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = device.type == "cuda"  # batches have one shape
    try:
        if engine == "compiled":
            compile_stages(model)
        with _silent():
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        for stage in model.stages:
            vars(stage).pop("forward", None)


def compile_stages(model: Classifier) -> None:
    """Compile every stage for the one shape that training has.

    Only the stage's ``forward`` is compiled, so hooks on a stage (AGAIN's fusion) still run.
    """
    # All stages share the code of nn.Sequential, so their compiled versions count against one limit.
    torch._dynamo.config.cache_size_limit = 64
    for stage in model.stages:
        # Not dynamic: the stages share code but not shapes, which torch.compile would make symbolic.
        stage.forward = torch.compile(stage.forward, dynamic=False)


def uncompiled(engine: Engine) -> "torch.compiler.set_stance | nullcontext[None]":  # type: ignore[valid-type]
    """Run compiled stages eagerly: evaluation has other shapes and is not worth compiling."""
    return torch.compiler.set_stance("force_eager") if engine == "compiled" else nullcontext()


class CompiledAscent:
    """The attack's steps with the forward pass compiled, once for every folded copy of a model."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[nn.Module, Forward], Forward] = {}

    def __call__(
        self, problem: Problem, image: Tensor, target: Tensor, start: Tensor, eps: Number, step_size: Number
    ) -> Tensor:
        """As ``train.attack.eager_ascent``."""
        key = problem.model, problem.forward
        if key not in self._compiled:
            self._compiled[key] = torch.compile(problem.forward, dynamic=False)
        compiled = problem._replace(forward=self._compiled[key])
        return eager_ascent(compiled, image, target, start, eps, step_size)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory in this process, which makes training on the CPU faster.

    By default glibc returns large blocks to the system, so every step pays for new pages: on a LeNet a fifth of its
    time. With another allocator nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # glibc's maximum
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h
