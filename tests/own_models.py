"""A user's file of models for ``--model own:NAME``: models that work, and models with every kind of fault."""

import torch
from torch import Tensor, nn


def small() -> nn.Sequential:
    body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(inplace=True))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


def fully_convolutional() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def flat() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))


def bare() -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.AdaptiveAvgPool1d(10))


def fails() -> nn.Module:
    raise ValueError("no weights")


number = 3


class Blind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = small()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.body(x)
        return logits


def blind() -> Blind:
    return Blind()


def broken() -> nn.Sequential:
    model = small()
    for parameter in model.parameters():
        nn.init.constant_(parameter, float("nan"))
    return model


def softmax() -> nn.Sequential:
    return nn.Sequential(small(), nn.Softmax(1))
