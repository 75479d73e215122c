"""AutoAttack (Croce & Hein 2020), standard version, through the authors' own package pyautoattack."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from attrib.errors import InputError
from attrib.files import atomic
from attrib.inference import autocast, frozen
from attrib.loss import check_classes
from attrib.models.answers import adapted
from attrib.models.weights import content_of

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
TARGETS = 9
"""The most target classes of the targeted parts; K classes allow K - 1."""


def _saved(state: Path, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor, int]:
    """Images, the part that broke each, and number of parts done of an interrupted call; InputError if malformed."""
    saved = content_of(state)
    adversarial, broken_by, done = (saved.get(name) for name in ("adversarial", "broken_by", "done"))
    if (
        not isinstance(adversarial, Tensor) or not isinstance(broken_by, Tensor) or not isinstance(done, int)
        or (adversarial.shape, broken_by.shape) != (image.shape, label.shape)
    ):  # fmt: skip
        raise InputError(f"{state}: expected the state of an interrupted AutoAttack; remove {state.parent}")
    return adversarial.to(image), broken_by.to(label), done


def require() -> None:
    """Raise InputError if pyautoattack is not installed."""
    try:
        import pyautoattack  # noqa: F401
    except ImportError:
        raise InputError("AutoAttack needs the package pyautoattack: pip install attrib[autoattack]") from None


def parts(classes: int) -> tuple[str, ...]:
    """The parts of the standard version for a number of classes; apgd-t's loss needs four logits."""
    return STANDARD if classes >= 4 else tuple(part for part in STANDARD if part != "apgd-t")


def autoattack(
    model: nn.Module, image: Tensor, label: Tensor, *, eps: float, seed: int = 0, state: Path | None = None
) -> tuple[Tensor, list[str]]:
    """AutoAttack's adversarial images, and the part that broke each image ("clean", a part, or "" for none).

    image: (N,C,H,W) in [0,1]; label: (N,). Returns (N,C,H,W), with the image itself if no part broke it, and N names.
    It runs in float32, since its step sizes follow small differences in the loss. state: a file for partial results
    after each part, from which an interrupted call with the same arguments continues; deleted on success. (The
    package's own state file is not used, since version 0.2.0 cannot read it back.) The random numbers of an image
    depend on the other images in the batch.
    Raises InputError if pyautoattack is missing, and for labels that are no class.
    """
    require()
    from pyautoattack import AutoAttack

    model = adapted(model, image.device)
    adversarial, done = image.clone(), 0
    with frozen(model), autocast(image.device, "fp32"), _contained():
        with torch.no_grad():
            logits = model(image)
        check_classes(label, logits.shape[1])
        applicable = parts(logits.shape[1])
        if eps == 0:  # the ball contains only the image itself
            applicable = ()
        elif not _differentiable(model, image[:1]):
            applicable = ("square",)
        # 0: not broken; 1: the clean image is misclassified; 2, 3, ...: the parts in order.
        broken_by = (logits.argmax(1) != label).long()
        if state and state.exists():
            adversarial, broken_by, done = _saved(state, image, broken_by)
        for number, part in enumerate(applicable[done:], start=done):
            rows = torch.nonzero(broken_by == 0).squeeze(1)
            if len(rows):
                attack = AutoAttack(model, eps=eps, seed=seed, device=image.device, version="standard")
                attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(TARGETS, logits.shape[1] - 1)
                attack.attacks_to_run = [part]
                images, _ = attack.run_standard_evaluation(image[rows], label[rows], batch_size=len(rows))
                with torch.no_grad():
                    broken = model(images).argmax(1) != label[rows]
                adversarial[rows[broken]] = images[broken]
                broken_by[rows[broken]] = number + 2
            if state:
                with atomic(state) as temporary:
                    torch.save({"adversarial": adversarial, "broken_by": broken_by, "done": number + 1}, temporary)
    if state:
        state.unlink(missing_ok=True)
    names = ("", "clean", *applicable)
    return adversarial, [names[number] for number in broken_by.tolist()]


def _differentiable(model: nn.Module, image: Tensor) -> bool:
    """Whether the logits have a gradient with respect to the image; only Square needs none."""
    with torch.enable_grad():
        logits: Tensor = model(image.detach().requires_grad_())
    return logits.requires_grad


@contextmanager
def _contained() -> Iterator[None]:
    """Restore the global state that the package changes: random generators, tracing, its log level."""
    log, trace = logging.getLogger("auto-attack"), sys.gettrace()
    level = log.level
    # It seeds every GPU, not only the one in use.
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            log.setLevel(logging.ERROR)
            yield
        finally:
            log.setLevel(level)
            sys.settrace(trace)
