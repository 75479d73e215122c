"""Predictions use exact float32, whatever the process has set as its float32 precision."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from devices import DEVICES
from torch import nn

import attrib
from attrib import accuracy, inference
from attrib.analyses.inputs import logits_of
from attrib.explorer.views import ViewCache, probabilities
from attrib.models.specs import Model

# torch 2.9 and 2.10 warn of the older settings, which these tests use on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Please use the new API settings to control TF32 behavior:UserWarning")
BACKENDS: Any = torch.backends
HAS_NEWER = hasattr(torch.backends.cuda.matmul, "fp32_precision")  # torch >= 2.9


def read(setting: Callable[[], object]) -> object:
    """The setting; newer torch refuses to read an older one that contradicts a newer one."""
    try:
        return setting()
    except RuntimeError:
        return "contradiction"


def settings() -> list[object]:
    """All settings of float32 products that can be read."""
    newer = [
        BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.cudnn, BACKENDS.mkldnn.matmul,
        BACKENDS.mkldnn.conv, BACKENDS.mkldnn, BACKENDS,
    ] if HAS_NEWER else []  # fmt: skip
    older = [
        torch.get_float32_matmul_precision,
        lambda: torch.backends.cudnn.allow_tf32,
        lambda: torch.backends.cuda.matmul.allow_tf32,
    ]
    return [operation.fp32_precision for operation in newer] + [read(setting) for setting in older]


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    yield
    if HAS_NEWER:
        for operation in (BACKENDS, BACKENDS.cudnn, BACKENDS.mkldnn, BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv):
            operation.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


def older_high() -> None:
    torch.set_float32_matmul_precision("high")


def older_medium() -> None:
    torch.set_float32_matmul_precision("medium")


def older_exact() -> None:
    torch.backends.cudnn.allow_tf32 = False


def newer_matmul() -> None:
    BACKENDS.cuda.matmul.fp32_precision = "tf32"


def newer_all() -> None:
    BACKENDS.fp32_precision = "tf32"


CHANGES = [older_high, older_medium, older_exact, *([newer_matmul, newer_all] if HAS_NEWER else [])]


@pytest.mark.parametrize("change", CHANGES)
def test_fp32_is_exact_and_restores_the_settings(change: Callable[[], None]) -> None:
    change()
    before = settings()
    with inference.autocast(torch.device("cpu"), "fp32"):
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        if HAS_NEWER:
            operations = (BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.mkldnn.conv)
            assert {operation.fp32_precision for operation in operations} == {"ieee"}
        # As models do around an RNN; torch reads all settings there, and raises where they contradict each other.
        with torch.backends.cudnn.flags(enabled=True):
            pass
    with pytest.raises(ZeroDivisionError), inference.autocast(torch.device("cpu"), "fp32"):
        _ = 1 / 0
    known = [place for place, value in enumerate(before) if value != "contradiction"]
    after = settings()
    assert [before[place] for place in known] == [after[place] for place in known]


@pytest.mark.skipif(not HAS_NEWER, reason="needs torch 2.9")
def test_what_followed_the_general_setting_goes_on_following_it() -> None:
    BACKENDS.fp32_precision = "tf32"
    with inference.autocast(torch.device("cpu"), "fp32"):
        pass
    BACKENDS.fp32_precision = "ieee"
    assert BACKENDS.cuda.matmul.fp32_precision != "tf32"
    assert BACKENDS.mkldnn.conv.fp32_precision != "tf32"


def test_bf16_leaves_the_settings_alone() -> None:
    torch.set_float32_matmul_precision("high")
    with inference.autocast(torch.device("cpu"), "bf16"):
        assert torch.get_float32_matmul_precision() == "high"


class Wide(nn.Module):
    """A convolution and a matrix product, large enough that TF32 or bfloat16 is used where it is allowed."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 32, 5, stride=2)
            self.fc = nn.Linear(32 * 14 * 14, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.conv(x).relu().flatten(1))
        return logits


def predictors() -> dict[str, Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]]:
    def of_command(model: nn.Module, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
        return logits_of(Model("a", "a", "", model), image, classes=10, data="own")

    def of_explorer(model: nn.Module, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        data = attrib.data.Dataset("own", "all", tuple("0123456789"), (image * 255).byte(), label)
        cache = ViewCache({"a": attrib.model(model)}, data, seed=0)
        return torch.stack([probabilities(cache, "a", position, None) for position in range(len(image))])

    return {
        "logits": lambda model, image, _: inference.logits(model, image),
        "robust": lambda model, image, label: accuracy.evaluate(model, image, label).margin,
        "span, maps, check, relate, sets": of_command,
        "explorer": of_explorer,
        "faithfulness": attrib.probability,
        "contributions": attrib.contribution,
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", predictors())
def test_predictions_are_the_same_under_reduced_products(name: str, device: str) -> None:
    """On a processor without bfloat16 this always holds; with it, and on a GPU, it needs the exact context."""
    model, predict = Wide().to(device), predictors()[name]
    image = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    label = (torch.arange(64) % 10).to(device)
    torch.backends.cudnn.allow_tf32 = False
    expected = predict(model, image, label)
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("medium")
    torch.testing.assert_close(predict(model, image, label), expected, rtol=0, atol=1e-6)
