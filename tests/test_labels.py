"""Labels that are no class: every public function refuses them in one sentence, on every device.

On a GPU such a label makes the device unusable for the process, and a check in an inner loop would wait for the device.
The checks are the same code on the CPU, where an unchecked label raises torch's IndexError or RuntimeError instead of
an InputError.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import DEVICES
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import attrib
from attrib import accuracy, attack, autoattack
from attrib.data import Dataset
from attrib.loss import cross_entropy, margin
from attrib.maps import MAPS

CLASSES = 4


def small(gated: bool = False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return attrib.build("resnet32", num_classes=CLASSES, input_shape=(3, 16, 16), gated=gated).eval()


STRENGTH: dict[str, Any] = {"eps": 0.1, "step_size": 0.05, "steps": 1}
Call = Callable[[nn.Module, Tensor, Tensor], object]
CALLS: dict[str, Call] = {
    "fgsm": lambda m, x, y: attrib.fgsm(m, x, y, eps=0.1),
    "pgd": lambda m, x, y: attrib.pgd(m, x, y, **STRENGTH),
    "pgd, worst": lambda m, x, y: attrib.pgd(m, x, y, worst=True, **STRENGTH),
    "pgd, bf16": lambda m, x, y: attrib.pgd(m, x, y, precision="bf16", **STRENGTH),
    "cw": lambda m, x, y: attrib.cw(m, x, y, **STRENGTH),
    **MAPS,
    "contribution": attrib.contribution,
    "relevance": attrib.relevance,
    "evaluate": accuracy.evaluate,
    "gradient_size": accuracy.gradient_size,
    "attacked": lambda m, x, y: accuracy.attacked(m, x, y, eps=0.1, step_size=0.1, steps=(1,)),
    "correct_under_pgd": lambda m, x, y: accuracy.correct_under_pgd(m, x, y, **STRENGTH),
    "probability": attrib.probability,
    "insertion": lambda m, x, y: attrib.insertion(m, x, y, x[:, 0], steps=1),
    "span_deletion": lambda m, x, y: attrib.span_deletion(m, x, y, x[:, 0] > 1, index=torch.arange(3).to(y)),
    "logit_pairs": lambda _, x, y: attrib.logit_pairs(x[:, 0, 0, :4], x[:, 0, 1, :4], y),
}  # fmt: skip


def images(device: str) -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_a_label_that_is_no_class_is_refused(name: str, gated: bool, device: str) -> None:
    model, image, call = small(gated).to(device), images(device), CALLS[name]
    for bad in (CLASSES, -1):
        with pytest.raises(attrib.InputError, match=r"label: expected classes in 0\.\.3, got \["):
            call(model, image, torch.tensor([0, bad, 1], device=device))
    assert not any(module._forward_hooks for module in model.modules())
    # On a GPU that has met such a label nothing works any more.
    assert call(model, image, torch.tensor([0, 1, 3], device=device)) is not None


TAKE_IMAGES = sorted(CALLS.keys() - {"logit_pairs"})


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", TAKE_IMAGES)
def test_labels_of_every_integer_type_are_taken(name: str, device: str) -> None:
    model, image, call, label = small().to(device), images(device), CALLS[name], torch.tensor([0, 1, 1])
    expected = call(model, image, label.to(device))
    for kind in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool):
        torch.testing.assert_close(call(model, image, label.to(device, kind)), expected)
    with pytest.raises(attrib.InputError, match="label: expected integers"):
        call(model, image, label.to(device, torch.float32))


@pytest.mark.parametrize("name", TAKE_IMAGES)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: image * 200, r"image: expected pixels in \[0,1\], got .*; divide by 255"),
        (
            lambda image: (image - 0.5) / 0.25,
            r"expected pixels in \[0,1\], got .*; normalisation belongs into the model",
        ),
        (lambda image: image.where(image < 0.9, torch.nan), r"expected pixels in \[0,1\], got nan"),
        (lambda image: (image * 200).byte(), r"image: expected floats .* got torch.uint8 .*; divide by 255"),
        (lambda image: (image * 200).short(), r"image: expected floats .* got torch.int16"),
    ],
    ids=["255", "normalised", "nan", "uint8", "int16"],
)
def test_pixels_outside_the_range_are_refused(name: str, change: Callable[[Tensor], Tensor], words: str) -> None:
    with pytest.raises(attrib.InputError, match=words):
        CALLS[name](small(), change(images("cpu")), torch.tensor([0, 1, 1]))


def test_autoattack_refuses_such_labels() -> None:
    pytest.importorskip("pyautoattack")
    with pytest.raises(attrib.InputError, match=r"label: expected classes in 0\.\.3, got \["):
        autoattack.autoattack(small(), images("cpu"), torch.tensor([0, CLASSES, 1]), eps=0.1)


def test_a_data_set_refuses_such_labels() -> None:
    pixels = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(attrib.InputError, match=r"label: expected classes in 0\.\.3, got \["):
        Dataset("own", "all", tuple("abcd"), pixels, torch.tensor([0, CLASSES, 1]))


def test_the_steps_of_an_attack_do_not_wait_for_the_device() -> None:
    """Meta tensors have no values: whatever looks at one raises. So would a look during the capture of a graph."""
    image, label = torch.empty(2, 3, 8, 8, device="meta"), torch.empty(2, dtype=torch.int64, device="meta")
    for objective in (cross_entropy, margin):
        taken = attack.ascend(
            lambda x: x.flatten(1)[:, :4], objective, image, label, start=image, eps=0.1, step_size=0.1, steps=(3,)
        )
        assert taken[3].shape == image.shape
    with pytest.raises(RuntimeError, match="meta"):
        attack.ascend(
            lambda x: x.flatten(1)[:, :4], attack.checked(margin), image, label,
            start=image, eps=0.1, step_size=0.1, steps=(3,),
        )  # fmt: skip


class Waits(TorchDispatchMode):
    """Counts the looks at a value, for each of which the host would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("run", [attrib.pgd, attrib.cw])
def test_an_attack_waits_for_the_device_as_often_however_long_it_is(run: Callable[..., Tensor]) -> None:
    counts = []
    for steps in (1, 6):
        with Waits() as waits:
            run(small(), images("cpu"), torch.tensor([0, 1, 2]), eps=0.1, step_size=0.05, steps=steps)
        counts.append(waits.count)
    assert counts[0] == counts[1]


def test_labels_that_begin_at_1_are_named_not_the_model(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), np.uint8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(1, 4))
    for data in (f"npz:{tmp_path / 'own.npz'}", (torch.from_numpy(images), torch.arange(1, 4))):
        with pytest.raises(attrib.InputError, match=r"^labels: expected 0 to 2 for the model's 3 classes, got 1 to 3;"):
            attrib.Span(floor=0, map="gradient").run(model, data)
    with pytest.raises(attrib.InputError, match=r"expected logits of shape \(N,4\)"):  # 0 to 3: other data
        attrib.Span(floor=0, map="gradient").run(model, (torch.from_numpy(images), torch.tensor([0, 1, 3])))


def test_files_with_such_labels_are_refused_when_they_are_read(tmp_path: Path) -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    for labels in ([0, 1, 2], [0, 1, -1]):
        np.savez(tmp_path / "own.npz", images=images, labels=np.array(labels), classes=np.array(["a", "b"]))
        with pytest.raises(attrib.InputError, match=r"own\.npz: expected labels between 0 and 1"):
            attrib.dataset(f"npz:{tmp_path / 'own.npz'}")
