"""Pictures, a model with any number of classes, and the data as the model sees it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

import attrib
from attrib.analyses.fitting import fitted
from attrib.data import Dataset


def save(path: Path, size: tuple[int, int] = (8, 8), value: int = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


class Linear(nn.Module):
    """K logits of the mean colour."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(self.conv(x).relu().mean((2, 3)))
        return out


def fit(
    data: Dataset, module: nn.Module, classes: tuple[str, ...] | None = None, size: int | None = None
) -> tuple[Dataset, list[str]]:
    made: list[str] = []
    model: Any = attrib.model(module, size=size)
    if classes:
        model = replace(model, classes=classes)
    return fitted(data, [model], torch.device("cpu"), made.append), made
