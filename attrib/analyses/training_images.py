"""Training images to compare with test images: those that every model was trained on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrib.analyses.measured import Pass
from attrib.errors import InputError
from attrib.lazy import Lazy

if TYPE_CHECKING:
    import torch

    from attrib import data as datasets
    from attrib.data import Dataset
    from attrib.models.specs import Model
else:
    torch, datasets = Lazy("torch"), Lazy("attrib.data")


def training_images(models: "Sequence[Model]", test: "Dataset") -> Pass:
    """As many training images as there are test images, of those that every model was trained on.

    A checkpoint of ``python -m train`` on this data records which images it held out, and its limit. Other models do
    not, so all training images count. Raises InputError if the data has no such split, or if fewer than two images are
    left.
    """
    if test.split == "train":
        raise InputError("gap: compares the training with the test images; leave out split (--split)")
    if test.split == datasets.WHOLE:
        raise InputError(f"gap: needs data that is split into training and test images, which {test.name} is not")
    if test.source is None:
        raise InputError("gap: expected a data set's name or attrib.dataset(...), which finds the training images too")
    splits = [split for model in models if (split := _split_of(model, test.name))]
    # Which images were held out depends on the number of all images: with such checkpoints, load them all.
    limit, source = None if splits else len(test), test.source
    train = datasets.dataset(
        test.name, split="train", root=source.root, limit=limit, size=source.size, seed=source.seed
    )
    in_all = torch.ones(len(train), dtype=torch.bool)
    for holdout, seed, limit in splits:
        trained_on = torch.zeros_like(in_all)
        count = min(len(train), limit or len(train))
        trained_on[datasets.training_split(count, holdout=holdout, seed=seed)[0]] = True
        in_all &= trained_on
    positions = in_all.nonzero().squeeze(1)[: len(test)]
    if len(positions) < 2:
        raise InputError(
            f"gap: expected training images that every model was trained on, got {len(positions)}; compare models with"
            " the same training images, or one at a time"
        )
    return Pass(train, positions)


def _split_of(model: "Model", data: str) -> tuple[int, int, int | None] | None:
    """How many images a training run on this data held out, its seed, and its limit; None if unknown."""
    ckpt = model.checkpoint
    if not ckpt or ckpt.data != data:
        return None
    holdout, seed, limit = (ckpt.hyper.get(key) for key in ("holdout", "seed", "limit"))
    if not isinstance(holdout, int) or not isinstance(seed, int):
        return None
    return holdout, seed, limit if isinstance(limit, int) else None
