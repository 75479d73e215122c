"""Run a model outside training: on which device, in which precision, and without changing it."""

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
    """The device called ``name``; ``auto`` is CUDA if there is a GPU, else the CPU.

    Raises InputError for an unknown name and for a device that the machine does not have.
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
    """Resolve ``auto`` to bf16 if the device has it natively, else to fp32.

    Raises InputError for another name than auto, fp32 or bf16.
    """
    if name == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    if name == "fp32":
        return "fp32"
    if name == "bf16":
        return "bf16"
    raise InputError(f"precision: expected auto, fp32 or bf16, got {name!r}")


def precision_for(model: nn.Module, precision: Precision) -> Precision:
    """The precision, but fp32 (no autocast) for a model that is quantised, or in half or double precision."""
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

    torch 2.9 added a setting per operation, and refuses to read an older setting that contradicts a newer one. So both
    are set, the older ones first, since they overwrite the newer ones.
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
    """Each operation with its own float32 precision, and that precision; empty before torch 2.9."""
    backends: Any = torch.backends
    cuda, cudnn, mkldnn = backends.cuda, backends.cudnn, backends.mkldnn
    if not hasattr(cuda.matmul, "fp32_precision"):
        return []
    families: list[tuple[Any, tuple[Any, ...]]] = [
        (cudnn, (cuda.matmul, cudnn.conv, cudnn.rnn)),
        (mkldnn, (mkldnn.matmul, mkldnn.conv, mkldnn.rnn)),
    ]
    # "none" means the family's precision; an operation with an equal one is assumed to follow it.
    return [
        (operation, "none" if operation.fp32_precision == family.fp32_precision else operation.fp32_precision)
        for family, operations in families
        for operation in operations
    ]


def _readable(read: Callable[[], Any]) -> Any:
    """The older setting; None if it contradicts a newer one that the user has changed."""
    try:
        return read()
    except RuntimeError:
        return None


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress the warnings of torch 2.9 and 2.10 about their older settings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, the model is in eval mode, its parameters need no gradients, and no module works in place.

    Hooks on a tensor that is overwritten in place would see wrong values. Mode, ``requires_grad`` and ``inplace`` of
    every module and parameter are restored afterwards, also after an exception.
    """
    check_module(model)
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    inplace: list[Any] = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    try:
        _to_eval(model)
        for parameter, _ in gradients:
            parameter.requires_grad_(False)
        for module in inplace:
            module.inplace = False
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in gradients:
            parameter.requires_grad_(requires_grad)
        for module in inplace:
            module.inplace = True


def _to_eval(model: nn.Module) -> None:
    try:
        model.eval()
    except NotImplementedError:  # the modules of torch.export refuse eval()
        for module in model.modules():
            module.training = False


def logits(model: nn.Module, image: Tensor) -> Tensor:
    """The deployed model's logits (N,K) in exact float32, for every reported prediction and probability.

    image: (N,C,H,W) in [0,1]. The model runs in eval mode without gradients, bfloat16 or TF32; a model in half
    precision keeps its precision. Raises InputError if its output has no unique logits
    (``attrib.models.answers.as_logits``).
    """
    with frozen(model), torch.no_grad(), autocast(image.device, "fp32"):
        output: Tensor = adapted(model, image.device)(image)
    return output


@contextmanager
def checked_labels(model: nn.Module, label: Tensor) -> Iterator[None]:
    """Inside, the model's first forward pass raises InputError for labels (N,) that are no class of its logits (N,K).

    It is for code that only learns the number of classes from the model's output. A label that is no class must not
    reach a GPU kernel, after which the process could not use the GPU any more.
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
"""The classes of images: a tensor (N,), one class for all, or None for the model's predictions."""


def check_images(model: nn.Module, image: Tensor, label: Label, index: Tensor | None = None) -> Tensor:
    """The labels of the images as int64 (N,).

    Raises InputError unless image is floats (N,C,H,W) in [0,1], N >= 1, and label and index are integers (N,).
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
    low, high = torch.stack(torch.aminmax(image.detach())).tolist()  # together, to wait for a GPU once
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        advice = "divide by 255" if 1 < high <= 255 and low >= 0 else "normalisation belongs into the model"
        raise InputError(f"image: expected pixels in [0,1], got {low:.3g}..{high:.3g}; {advice}")


def input_gradient(score: Tensor, image: Tensor) -> Tensor:
    """The gradient of each image's score with respect to the image; a score depends on its own image only.

    It is zero if no gradient reaches the image, as in a model that rounds, detaches or is quantised.
    """
    gradient = torch.autograd.grad(score.sum(), image, allow_unused=True)[0] if score.requires_grad else None
    return torch.zeros_like(image) if gradient is None else gradient


BUSY = 64
"""Images that use a CPU fully; more of them in one pass exceed its caches and are slower."""


def images_per_chunk(model: nn.Module, image: Tensor) -> int:
    """The number of images of this shape that fit one forward and backward pass in a fixed memory budget.

    image: (N,C,H,W), N >= 1. It is measured from the bytes that autograd saves for two images and for one. On a CPU it
    is at most ``BUSY``.
    """
    saved = 0

    def count(tensor: Tensor) -> None:
        # Returns None in place of the tensor: a graph that saves its own outputs would never be freed.
        nonlocal saved
        saved += tensor.nbytes

    def saved_bytes(images: int) -> int:
        nonlocal saved
        saved = 0
        x = image[:1].detach().expand(images, *image.shape[1:]).clone().requires_grad_()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda nothing: nothing):
            adapted(model, x.device)(x)
        return saved

    if image.device.type == "cuda":
        budget = torch.cuda.get_device_properties(image.device).total_memory // 8
    else:
        budget = 2**29
    fit = max(1, budget // max(saved_bytes(2) - saved_bytes(1), image[0].nbytes))
    return fit if image.is_cuda else min(fit, BUSY)
