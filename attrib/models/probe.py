"""Check in a few forward passes that a model returns logits, and that each depends on its own image alone."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attrib import inference
from attrib.errors import InputError, one_line
from attrib.models.types import first_floats

PROBABILITIES = (
    "losses and attacks see a flattened function, so that the accuracy under attack can be far too high; maps and"
    " contributions are those of the probability, and vanish where the model is sure; leave that layer out of the model"
)  # fmt: skip
LOG_PROBABILITIES = (
    "losses, attacks and predictions are those of the logits, but gradient, Grad-CAM and other maps of a class explain"
    " its log-probability, which the other classes lower; leave out its log_softmax to explain the logit"
)
RANDOM = (
    "gives other answers to the same images from call to call (dropout that eval() does not turn off, or noise?):"
    " predictions, maps and accuracies are one draw each, which another run or batch_size (--batch-size) changes, and"
    " neither seed (--seed) nor the intervals account for it"
)
EOT = (
    "; attacks by the gradient of one draw are too weak, and the accuracy under them is too high: average the gradient"
    " over draws (EOT) or take AutoAttack's version for randomised defences (rand), as its authors advise"
)
BATCH = (
    "answers an image differently alone and with others in its batch (batch norm with the batch's statistics?):"
    " predictions, maps and accuracies depend on batch_size (--batch-size) and on the order of the images, and an"
    " image's gradient is mixed with those of the others; use running statistics"
)


def objections(model: nn.Module, images: Tensor, *, attacked: bool = False) -> Iterator[str]:
    """Warnings about a model whose numbers would mislead; each is a sentence to put behind the model's name.

    The model runs twice on the images and their negatives, and once on the first image alone. images: (N,C,H,W) in
    [0,1], one or a few. attacked: accuracy under attack is measured, so randomised models get advice on attacks.

    Source: AutoAttack's checks of randomised and non-logit models (Croce and Hein 2020, flags_doc of the release).
    Raises InputError for a model that runs on several images but not on one alone.
    """
    several = torch.cat([images, 1 - images])
    first, again = (inference.logits(model, several).float() for _ in range(2))
    alone = _alone(model, images[:1], first)
    rounding = _rounding(model)
    yield from _about_probabilities(first[: len(images)], first, max(1e-4, rounding))
    if not _equal(first, again, 1e-4):
        yield RANDOM + (EOT if attacked else "")
    elif not _equal(alone, first[:1], max(1e-3, rounding)):
        yield BATCH


def _alone(model: nn.Module, image: Tensor, others: Tensor) -> Tensor:
    """The logits (1,K) of one image (1,C,H,W) alone."""
    try:
        alone = inference.logits(model, image)
    except Exception as error:  # of the model's own code, which may raise anything
        raise InputError(
            f"answers {len(others)} images, but not one alone ({one_line(error)}): expected answers that do not depend"
            " on the batch (batch norm with the batch's statistics?)"
        ) from None
    if alone.shape != others[:1].shape:
        raise InputError(
            f"answers one image alone with the shape {tuple(alone.shape)}, expected {tuple(others[:1].shape)}; does it"
            " call squeeze()?"
        )
    return alone.float()


def _rounding(model: nn.Module) -> float:
    """A tolerance for relative rounding errors in the precision of the model's weights."""
    first = first_floats(model)
    return 16 * torch.finfo(torch.float32 if first is None else first.dtype).eps


def _about_probabilities(answers: Tensor, wide: Tensor, rounding: float) -> Iterator[str]:
    """answers: (N,K) for the images; wide: also for their negatives, where logits rarely stay within [0,1]."""
    if wide.shape[1] == 2 and not wide[:, 0].any():  # (0, z) of a model with one logit
        wide = wide[:, 1:]
    total = answers.exp().sum(1) if bool((answers <= 0).all()) else answers.sum(1)
    sums_to_one = answers.shape[1] > 1 and bool(((total - 1).abs() < rounding).all())
    if sums_to_one and bool((answers >= 0).all()):
        yield f"returns probabilities (a softmax) instead of logits, it seems: {PROBABILITIES}"
    elif sums_to_one and bool((answers <= 0).all()):
        yield f"returns log-probabilities instead of logits, it seems: {LOG_PROBABILITIES}"
    elif bool(((wide > 0) & (wide <= 1)).all()):  # an exact 0 is more likely from a ReLU
        yield f"returns probabilities (a sigmoid) instead of logits, it seems: {PROBABILITIES}"


def _equal(one: Tensor, other: Tensor, share: float) -> bool:
    """Whether the answers agree within this share of the largest; NaN (as for a negative image) equals NaN."""
    scale = float(one[one.isfinite()].abs().max()) if one.isfinite().any() else 0.0
    return torch.allclose(one, other, rtol=0, atol=share * scale, equal_nan=True)
