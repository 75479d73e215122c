"""How a model is run when it is not trained: where, in which precision, and leaving no trace."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attrib.bounds import ROUNDING
from attrib.errors import InputError, one_line
from attrib.loss import check_classes
from attrib.models.answers import adapted
from attrib.models.types import check_module, takes_autocast
from attrib.tensors import check_tensors

Precision = Literal["fp32", "bf16"]


def device(name: str = "auto") -> torch.device:
    """The device called ``name``; ``auto`` is CUDA where there is one, else the CPU.

    Raises InputError for a name that torch does not know or a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    expected = f"device: expected auto, cpu, cuda or cuda:N that this machine has, got {name!r}"
    try:
        chosen = torch.device(name)
        if chosen.type == "mps":
            raise InputError(f"{expected} (it has no float64, in which results are added up); take cpu")
        if chosen.type not in ("cpu", "cuda") or (chosen.type == "cpu" and chosen.index):
            raise InputError(expected)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        advice = "; take cpu" if not torch.cuda.is_available() else ""
        raise InputError(f"{expected} ({one_line(error)}){advice}") from None
    return chosen


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively (emulated, it is slower than fp32)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def precision(name: str, device: torch.device) -> Precision:
    """Resolve ``auto`` to bf16 where the device has it natively, else fp32.

    Raises InputError for another name than auto, fp32, bf16.
    """
    if name == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    if name == "fp32":
        return "fp32"
    if name == "bf16":
        return "bf16"
    raise InputError(f"precision: expected auto, fp32 or bf16, got {name!r}")


def precision_for(model: nn.Module, precision: Precision) -> Precision:
    """The precision; fp32, which is no autocast, for a model that is quantised, or in half or double precision."""
    return precision if takes_autocast(model) else "fp32"


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """bfloat16 autocast for ``bf16``; for ``fp32`` no autocast (also inside an outer one) and exact float32 products.

    torch's default on GPUs is TF32 for convolutions, which keeps ten bits of a float32's fraction.
    """
    exact = precision == "fp32"
    products = _exact_float32() if exact else nullcontext()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=not exact), products:
        yield


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Inside, torch computes products of float32 tensors in float32: no TF32, no bfloat16. Restores all settings.

    torch 2.9 added a setting per operation. It refuses to read an older setting that contradicts a newer one, so both
    are set here: the older ones first, since they overwrite the newer ones.
    """
    with _silent():
        matmul = _readable(torch.get_float32_matmul_precision)
        cudnn = _readable(lambda: torch.backends.cudnn.allow_tf32)
        newer = _newer_settings()
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        for operation, _ in newer:
            operation.fp32_precision = "ieee"
    try:
        yield
    finally:
        with _silent():
            if matmul is not None:
                torch.set_float32_matmul_precision(matmul)
            if cudnn is not None:
                torch.backends.cudnn.allow_tf32 = cudnn
            for operation, value in newer:
                operation.fp32_precision = value


def _newer_settings() -> list[tuple[Any, str]]:
    """Operations with a float32 precision of their own, and that precision: none before torch 2.9."""
    backends: Any = torch.backends
    cuda, cudnn, mkldnn = backends.cuda, backends.cudnn, backends.mkldnn
    if not hasattr(cuda.matmul, "fp32_precision"):
        return []
    families: list[tuple[Any, tuple[Any, ...]]] = [
        (cudnn, (cuda.matmul, cudnn.conv, cudnn.rnn)),
        (mkldnn, (mkldnn.matmul, mkldnn.conv, mkldnn.rnn)),
    ]
    # "none" is to follow the family: what equals it goes on following it.
    return [
        (operation, "none" if operation.fp32_precision == family.fp32_precision else operation.fp32_precision)
        for family, operations in families
        for operation in operations
    ]


def _readable(read: Callable[[], Any]) -> Any:
    """The older setting, or None where it contradicts a newer one that the user has changed."""
    try:
        return read()
    except RuntimeError:
        return None


@contextmanager
def _silent() -> Iterator[None]:
    """torch 2.9 and 2.10 warn of their older settings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode, its parameters without gradients, its activations not overwritten.

    In-place activations are made out-of-place, since hooks on an overwritten tensor see the wrong values.
    Mode, ``requires_grad`` and ``inplace`` of every module and parameter are restored, also when the body raises.
    """
    check_module(model)
    modes = [(module, module.training) for module in model.modules()]
    needs = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    inplace: list[Any] = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    try:
        _to_eval(model)
        for parameter, _ in needs:
            parameter.requires_grad_(False)
        for module in inplace:
            module.inplace = False
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for parameter, needed in needs:
            parameter.requires_grad_(needed)
        for module in inplace:
            module.inplace = True


def _to_eval(model: nn.Module) -> None:
    try:
        model.eval()
    except NotImplementedError:  # torch.export has fixed the mode, and torch refuses the call
        for module in model.modules():
            module.training = False


def logits(model: nn.Module, image: Tensor) -> Tensor:
    """The deployed model's logits in exact float32, (N,K): what every reported prediction or probability comes from.

    image: (N,C,H,W) in [0,1]. Eval mode, no gradients, neither bfloat16 nor TF32; a model in half precision runs in its
    own. Raises InputError where the model's answer holds no clear logits (``attrib.models.answers.as_logits``).
    """
    with frozen(model), torch.no_grad(), autocast(image.device, "fp32"):
        output: Tensor = adapted(model, image.device)(image)
    return output


@contextmanager
def checked_labels(model: nn.Module, label: Tensor) -> Iterator[None]:
    """Inside, the first logits (N,K) of the model are compared with the labels (N,).

    For code that learns the number of classes only from the model's output. On a GPU a label that is no class ends
    the process's use of the device, so it must not reach a kernel. Raises InputError for such a label.
    """

    def check(_module: nn.Module, _inputs: object, output: object) -> None:
        hook.remove()
        if isinstance(output, Tensor) and output.ndim == 2:
            check_classes(label, output.shape[1])

    hook = model.register_forward_hook(check)
    try:
        yield
    finally:
        hook.remove()


Label = Tensor | int | None
"""The classes of images, (N,): a tensor, one class for all, or None, which is what the model predicts."""


def check_images(model: nn.Module, image: Tensor, label: Label, index: Tensor | None = None) -> Tensor:
    """The labels as int64, of images (N,C,H,W) that are floats in [0,1].

    Raises InputError unless that is so, N >= 1, and label and index are integers (N,).
    """
    check_tensors(image=(image, "floats N,C,H,W"))
    if not len(image):
        raise InputError("image: expected at least one, got none")
    check_pixels(image)
    if label is None:
        label = torch.cat([logits(model, part).argmax(1) for part in image.split(BUSY)])
    elif isinstance(label, int):
        label = torch.full((len(image),), label, device=image.device)
    index = label if index is None else index
    check_tensors(image=(image, "floats N,C,H,W"), label=(label, "integers N"), index=(index, "integers N"))
    return label.long()


def check_pixels(image: Tensor) -> None:
    """Raise InputError unless all pixels are in [0,1]."""
    low, high = torch.stack(torch.aminmax(image.detach())).tolist()  # one wait for a GPU
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        advice = "divide by 255" if 1 < high <= 255 and low >= 0 else "normalisation belongs into the model"
        raise InputError(f"image: expected pixels in [0,1], got {low:.3g}..{high:.3g}; {advice}")


def input_gradient(score: Tensor, image: Tensor) -> Tensor:
    """d(sum of score)/d(image): each image's own gradient, since a score depends on its own image only.

    Zero where no gradient leads to the image, as in a model that rounds, detaches or is quantised.
    """
    gradient = torch.autograd.grad(score.sum(), image, allow_unused=True)[0] if score.requires_grad else None
    return torch.zeros_like(image) if gradient is None else gradient


BUSY = 64
"""Images that keep a CPU busy; more of them in one pass only leave its caches and ask for memory anew."""


def images_per_chunk(model: nn.Module, image: Tensor) -> int:
    """How many images of this shape fit one forward and backward pass within a fixed memory budget.

    image: (N,C,H,W), N >= 1. Measured, not guessed: what autograd keeps for two images less what it keeps for one.
    On a CPU never more than ``BUSY``.
    """
    kept = 0

    def count(tensor: Tensor) -> None:
        # Nothing is handed back to be kept: a graph that keeps its own outputs would never be freed.
        nonlocal kept
        kept += tensor.nbytes

    def keep(images: int) -> int:
        nonlocal kept
        kept = 0
        x = image[:1].detach().expand(images, *image.shape[1:]).clone().requires_grad_()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda nothing: nothing):
            adapted(model, x.device)(x)
        return kept

    if image.device.type == "cuda":
        budget = torch.cuda.get_device_properties(image.device).total_memory // 8
    else:
        budget = 2**29
    fit = max(1, budget // max(keep(2) - keep(1), image[0].nbytes))
    return fit if image.is_cuda else min(fit, BUSY)
