"""Run a model on one image and record the output of each submodule."""

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
    """A tensor, or the first element of a tuple or list."""


class Trace(NamedTuple):
    """One forward pass on one image."""

    model: str
    """The class of the model, for messages."""
    size: tuple[int, int]
    """Height and width of the image."""
    calls: list[Call]
    """In the order in which they finished: a container comes after its children."""
    output: object
    """The output of the whole model."""


def first_tensor(output: object) -> Tensor | None:
    """The output itself, or the first element of a tuple or list; None if that is no tensor."""
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def run(module: nn.Module, example: Tensor) -> Trace:
    """Run the first image of the example (N,C,H,W) and record the calls of all submodules that give a tensor.

    Outputs that depend on the image require a gradient, unless the model disables gradients.
    Raises InputError for an example of another shape, and if the module cannot run on it.
    """
    with _recording(module, example) as trace, torch.enable_grad():
        return trace._replace(output=bare(module)(_tracked(fitting(module, example[:1]))))


def _tracked(image: Tensor) -> Tensor:
    """The image with gradient tracking; a copy that is no leaf, since a model may write to its input."""
    return image.detach().requires_grad_().clone()


def depends_on(module: nn.Module, example: Tensor, calls: Sequence[tuple[int, int]]) -> list[bool]:
    """For each call, whether the logits depend on its tokens after the prefix.

    calls: the position in ``run(...).calls``, and the number of prefix tokens in its output (1,T,C). In a transformer
    that classifies by its class token, the other tokens of the last block have no effect. All are True if the logits
    have no gradient at all (zero weights, a pass under no_grad).
    """
    with _recording(module, example) as trace, torch.enable_grad():
        output = bare(module)(_tracked(fitting(module, example[:1])))
    logits = logits_in(output, images=1)
    if logits is None or not logits.requires_grad:
        return [True] * len(calls)
    outputs = [trace.calls[position].output for position, _ in calls]
    differentiable = [output for output in outputs if output.requires_grad]
    # Weighted, since a plain sum is constant if the logits are centred.
    weights = torch.linspace(1, 2, logits.numel(), device=logits.device, dtype=logits.dtype).view_as(logits)
    total = (logits * weights).sum()
    gradients = iter(torch.autograd.grad(total, differentiable, allow_unused=True) if differentiable else ())
    slopes = [next(gradients) if output.requires_grad else None for output in outputs]
    matters = [
        slope is not None and bool(slope[:, prefix:].count_nonzero())
        for slope, (_, prefix) in zip(slopes, calls, strict=True)
    ]
    return matters if any(matters) else [True] * len(calls)


def check_example(example: Tensor) -> None:
    """Raise InputError unless the example is images (N,C,H,W), N >= 1."""
    check_tensors(example=(example, "floats N,C,H,W"))
    if not len(example):
        raise InputError("example: expected at least one image, got none")


@contextmanager
def _recording(module: nn.Module, example: Tensor) -> Iterator[Trace]:
    """Inside, the module is frozen and the calls of its submodules are recorded; its errors become InputError."""
    check_example(example)
    inner = unwrapped(module)
    model = type(inner).__name__
    scripted = torch.jit.ScriptModule  # torch allows no hooks inside
    if isinstance(inner, scripted):
        raise InputError(
            f"model: {model} is a TorchScript program, whose layers cannot be looked at; gradient, smoothgrad,"
            " integrated-gradients and occlusion need no layer"
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
