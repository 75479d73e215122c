"""Run a model on one image and record what each of its modules gives out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attrib.errors import InputError, one_line
from attrib.inference import frozen
from attrib.models.answers import fitting, logits_in
from attrib.models.outside import bare, unwrapped
from attrib.tensors import check_tensors


class Call(NamedTuple):
    """One finished call of a submodule."""

    name: str
    module: nn.Module
    output: Tensor
    """The output; of a tuple its first tensor."""


class Trace(NamedTuple):
    """One forward pass on one image."""

    model: str
    """The class of the model, for messages."""
    size: tuple[int, int]
    """Height and width of the image."""
    calls: list[Call]
    """In the order in which they finished: a container after what it contains."""
    output: object
    """Of the whole model."""


def first_tensor(output: object) -> Tensor | None:
    """The tensor that a module gives out; of a tuple or list its first element, if that is a tensor."""
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def run(module: nn.Module, example: Tensor) -> Trace:
    """Run the first image of the example (N,C,H,W) and record the calls of all submodules that give a tensor.

    Outputs that depend on the image require a gradient, unless the model runs without.
    Raises InputError for an example of another shape, and where the module cannot run on it.
    """
    with _recording(module, example) as trace, torch.enable_grad():
        return trace._replace(output=bare(module)(_followed(fitting(module, example[:1]))))


def _followed(image: Tensor) -> Tensor:
    """The image, of which everything that depends on it requires a gradient; a copy, since a model may write to it."""
    return image.detach().requires_grad_().clone()


def depends_on(module: nn.Module, example: Tensor, calls: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether the answer depends on the tokens of a call that come after its prefix, call by call.

    calls: the position in ``run(...).calls``, and how many prefix tokens its output (1,T,C) has. In a transformer that
    classifies by its class token, the other tokens of the last block have no effect. True for all where the answer has
    no gradient at all (weights that are zero, a pass under no_grad).
    """
    with _recording(module, example) as trace, torch.enable_grad():
        answer = bare(module)(_followed(fitting(module, example[:1])))
    logits = logits_in(answer, images=1)
    if logits is None or not logits.requires_grad:
        return [True] * len(calls)
    outputs = [trace.calls[position].output for position, _ in calls]
    differentiable = [output for output in outputs if output.requires_grad]
    # Logits of random sizes: a plain sum is constant where they are centred.
    weights = torch.linspace(1, 2, logits.numel(), device=logits.device, dtype=logits.dtype).view_as(logits)
    found = torch.autograd.grad((logits * weights).sum(), differentiable, allow_unused=True) if differentiable else ()
    gradients = iter(found)
    slopes = [next(gradients) if output.requires_grad else None for output in outputs]
    reached = [
        slope is not None and bool(slope[:, prefix:].count_nonzero())
        for slope, (_, prefix) in zip(slopes, calls, strict=True)
    ]
    return reached if any(reached) else [True] * len(calls)


def check_example(example: Tensor) -> None:
    """Raise InputError for what are no images (N,C,H,W), N >= 1."""
    check_tensors(example=(example, "floats N,C,H,W"))
    if not len(example):
        raise InputError("example: expected at least one image, got none")


@contextmanager
def _recording(module: nn.Module, example: Tensor) -> Iterator[Trace]:
    """Inside, the calls of the frozen module's submodules are recorded; its errors become InputError."""
    check_example(example)
    inner = unwrapped(module)
    model = type(inner).__name__
    # torch allows no hooks inside a TorchScript program.
    scripted = torch.jit.ScriptModule
    if isinstance(inner, scripted):
        raise InputError(
            f"model: {model} is a TorchScript program, into whose layers nothing can look; maps of the image, as"
            " gradient, smoothgrad, integrated-gradients and occlusion, need none"
        )
    names = {
        child: name for name, child in inner.named_modules() if child is not inner and not isinstance(child, scripted)
    }
    calls: list[Call] = []

    def record(child: nn.Module, _inputs: object, output: object) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            calls.append(Call(names[child], child, tensor))

    hooks = [child.register_forward_hook(record) for child in names]
    try:
        with frozen(module):
            yield Trace(model, (example.shape[2], example.shape[3]), calls, None)
    except Exception as error:  # of the model's own code, which may raise anything
        shape = tuple(example[:1].shape)
        raise InputError(f"model: {model} cannot run on an image of shape {shape}: {one_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
