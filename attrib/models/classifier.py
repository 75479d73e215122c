"""The classifier of every built-in architecture: normalisation, stages, pool, fc."""

import math
from collections.abc import Sequence

from torch import Tensor, nn, tensor

from attrib.errors import InputError

Shape = tuple[int, int, int]  # channels, height, width


class Classifier(nn.Module):
    """An image classifier: pixels in [0, 1] go in, logits come out; mean and std are buffers.

    stages: the convolutional part; Grad-CAM looks at the output of its last stage.
    pool: feature map (N, C, h, w) -> embedding (N, D), the activation A_fc before the last layer.
    fc: the last layer, (K, D). mean, std: one number per image channel, for pixels in [0, 1].
    Raises InputError if mean or std is not one finite number per channel (std: above 0).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        stages: nn.Sequential,
        pool: nn.Module,
        fc: nn.Linear,
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.stages = stages
        self.pool = pool
        self.fc = fc
        for name, values in zip(("mean", "std"), statistics(mean, std), strict=True):
            self.register_buffer(name, values)

    def features(self, x: Tensor) -> Tensor:
        """The last stage's feature map: (N, C, H, W) in [0, 1] -> (N, c, h, w)."""
        features: Tensor = self.stages(normalise(x, self.mean, self.std))
        return features

    def embed(self, x: Tensor) -> Tensor:
        """A_fc, the activation before the last layer: (N, C, H, W) in [0, 1] -> (N, D)."""
        embedding: Tensor = self.pool(self.features(x))
        return embedding

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (N, C, H, W) in [0, 1] -> (N, K). Raises InputError for another number of channels."""
        logits: Tensor = self.fc(self.embed(x))
        return logits


def statistics(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel as two (1, C, 1, 1) tensors.

    Raises InputError if they are empty, differ in length, or hold a number that is not finite, or if a std is <= 0.
    """
    if not mean or len(mean) != len(std):
        raise InputError(f"mean, std: expected one number per channel in each, got {list(mean)} and {list(std)}")
    if not all(map(math.isfinite, mean)):
        raise InputError(f"mean: expected finite numbers, got {list(mean)}")
    if not all(math.isfinite(value) and value > 0 for value in std):
        raise InputError(f"std: expected finite numbers above 0, got {list(std)}")
    return tensor([float(v) for v in mean]).view(1, -1, 1, 1), tensor([float(v) for v in std]).view(1, -1, 1, 1)


def normalise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x - mean) / std for x (N, C, H, W) and mean, std (1, C, 1, 1); raises InputError if C differs."""
    # A grey image would broadcast to three channels without an error.
    if x.ndim != 4 or x.shape[1] != mean.shape[1]:
        raise InputError(f"image: expected shape (N, {mean.shape[1]}, H, W) for this model, got {tuple(x.shape)}")
    return (x - mean) / std


class Residual(nn.Module):
    """A residual block, ``after(branch(x) + shortcut(x))``; AGAIN gates the branch."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(self.branch(x) + self.shortcut(x))
        return out
