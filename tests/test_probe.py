"""Warnings about models whose outputs are not logits, or not a function of the image."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attrib
from attrib.errors import InputError
from attrib.models import probe


class Answers(nn.Module):
    """A small network whose features and answers pass through functions."""

    def __init__(
        self, answer: Callable[[Tensor], Tensor] | None = None, inner: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
        self.head = nn.Linear(8, 10)
        self.answer, self.inner = answer or nn.Identity(), inner or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.answer(self.head(self.inner(self.body(x).mean((2, 3)))))
        return answer


def found(model: nn.Module, count: int = 3, *, attacked: bool = False) -> str:
    images = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    return " ".join(probe.objections(model, images, attacked=attacked))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Answers(), ""),
        (Answers(nn.ReLU()), ""),
        (Answers(lambda z: z - z.mean(1, keepdim=True)), ""),
        (Answers(inner=nn.Dropout(0.5)), ""),
        (Answers(inner=nn.BatchNorm1d(8)), ""),
        (Answers(inner=nn.LayerNorm(8)), ""),
        (Answers(nn.Softmax(1)), "(a softmax)"),
        (Answers(lambda z: z / z.sum(1, keepdim=True)), ""),
        (Answers(lambda z: torch.softmax(50 * z, 1)), "(a softmax)"),
        (Answers(nn.Sigmoid()), "(a sigmoid)"),
        (Answers(lambda z: (1 + torch.tanh(z)) / 2), "(a sigmoid)"),
        (Answers(lambda z: torch.stack([torch.zeros(len(z)), z[:, 0].sigmoid()], 1)), "(a sigmoid)"),
        (Answers(lambda z: torch.stack([torch.zeros(len(z)), 2 + z[:, 0]], 1)), ""),
        (Answers(nn.LogSoftmax(1)), "log-probabilities"),
        (Answers(lambda z: z.softmax(1).log()), "log-probabilities"),
        (Answers(lambda z: z + 0.1 * torch.randn_like(z)), "from call to call"),
        (Answers(inner=lambda h: F.dropout(h, 0.2)), "from call to call"),
        (Answers(inner=lambda h: F.batch_norm(h, None, None, training=True) if len(h) > 1 else h), "in its batch"),
        (Answers(inner=lambda h: h - h.mean(0)), "in its batch"),
    ],
)  # fmt: skip
def test_what_a_model_answers(model: nn.Module, words: str) -> None:
    sentences = found(model)
    assert words in sentences
    assert bool(words) == bool(sentences)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_rounding_is_no_objection(kind: torch.dtype) -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Answers(inner=nn.BatchNorm1d(8)).eval().to(kind)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.inner(x.to(kind))
            return answer

    assert found(Cast()) == ""


def test_one_image_has_its_negative_for_company() -> None:
    assert "in its batch" in found(Answers(inner=lambda h: h - h.mean(0)), count=1)
    assert found(Answers(), count=1) == ""


def test_randomised_models_under_attack_get_autoattacks_advice() -> None:
    noisy = Answers(lambda z: z + torch.rand_like(z))
    assert "EOT" in found(noisy, attacked=True)
    assert "EOT" not in found(noisy)


def test_a_model_that_cannot_answer_one_image() -> None:
    with pytest.raises(InputError, match="answers 6 images, but not one alone"):
        found(Answers(inner=nn.BatchNorm1d(8, track_running_stats=False)))
    assert found(Answers(torch.squeeze)) == ""  # K numbers for one image are its logits


def test_every_analysis_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    data = torch.rand(4, 3, 12, 12), torch.tensor([0, 1, 2, 9])
    noisy = Answers(lambda z: z + torch.rand_like(z))
    result = attrib.Robustness(steps=(1,), eps=0.01).run({"noisy": noisy}, data)
    assert sum("noisy gives other answers" in warning and "EOT" in warning for warning in result.warnings) == 1
    assert capsys.readouterr().err.count("noisy gives other answers") == 1
