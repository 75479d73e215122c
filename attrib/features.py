"""Contributions and valid values of the last layer: which features a decision rests on, and how many.

AALP (arXiv 2005.11904), 2.1, and the AGAIN supplement, 4.4. A_fc is the (N,D) activation before the last layer, W its
weight (K,D), p the softmax, L the cross-entropy with the true label y. With d as in ``attrib.loss``,

    dL/dA = (1 - p_y) dd/dA        (linear: = (p - onehot(y)) W)

The two factors are computed separately, so that the gradient is not rounded to 0 when p_y is close to 1.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from attrib.errors import InputError, refused
from attrib.inference import Label, Precision, autocast, check_images, frozen, images_per_chunk, precision_for
from attrib.loss import check_classes, deficit, full, without_own
from attrib.models.answers import adapted
from attrib.models.layers import last_linear, named
from attrib.models.outside import bare
from attrib.models.types import place_of
from attrib.tensors import check_tensors

RULES = ("mean", "class-mean", "absolute")


class Features(NamedTuple):
    """The factors of the contributions at the last layer, and the three quantities made from them."""

    activation: Tensor
    """A_fc, (N,D)."""
    direction: Tensor
    """dL/dA_fc with |p - onehot(y)| divided out, (N,D)."""
    error: Tensor
    """|p - onehot(y)|, the sum of absolute values, 2 (1 - p_y): (N,) in [0,2]."""
    prediction: Tensor
    """The class with the highest logit, (N,)."""

    @property
    def contribution(self) -> Tensor:
        """|dL/dA_fc|, (N,D)."""
        return self.error[:, None] * self.scale_free

    @property
    def relevance(self) -> Tensor:
        """|dL/dA_fc * A_fc|, (N,D)."""
        return self.contribution * self.activation.abs()

    @property
    def scale_free(self) -> Tensor:
        """|dL/dA_fc| / |p - onehot(y)|, (N,D)."""
        return self.direction.abs()


def contribution(
    model: nn.Module, image: Tensor, label: Label, *, fc: nn.Module | str | None = None, precision: Precision = "fp32"
) -> Tensor:
    """|dL/dA_fc| of every image and feature, (N,D); its mean over n is C (AALP, Eq. 5).

    image: (N,C,H,W) in [0,1]; label: (N,), one class for all, or None for the prediction. fc: the last layer, a module
    or its name (default: the last ``nn.Linear``). If it is linear and gives the logits, the gradient is the closed form
    (p - onehot(y)) W, else it is autograd's. Raises InputError for images or labels of another shape, if no ``fc`` is
    given and the model does not end in a linear layer, and if the model never runs the given ``fc``.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> batch = next(data.batches(4))
    >>> contributions = attrib.contribution(model, batch.image, batch.label)
    >>> contributions.shape
    torch.Size([4, 500])
    >>> error = model(batch.image).softmax(1) - torch.eye(10)[batch.label]
    >>> torch.allclose(contributions, (error @ model.fc.weight).abs(), atol=1e-6)
    True
    """
    return last_layer(model, image, label, fc=fc, precision=precision).contribution


def relevance(
    model: nn.Module, image: Tensor, label: Label, *, fc: nn.Module | str | None = None, precision: Precision = "fp32"
) -> Tensor:
    """|dL/dA_fc * A_fc| of every image and feature, (N,D); its mean over n is R (AALP, Eq. 7).

    Arguments and errors are those of ``contribution``.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> expected = attrib.contribution(model, image, label) * model.embed(image).abs()
    >>> torch.allclose(attrib.relevance(model, image, label), expected)
    True
    """
    return last_layer(model, image, label, fc=fc, precision=precision).relevance


def scale_free_contribution(
    model: nn.Module, image: Tensor, label: Label, *, fc: nn.Module | str | None = None, precision: Precision = "fp32"
) -> Tensor:
    """``contribution`` divided by |p - onehot(y)|, (N,D): independent of the model's confidence.

    |p - onehot(y)|, the sum of absolute values, is 2 (1 - p_y). So this is half the absolute gradient of the log-odds
    of the true class, log(p_y / (1 - p_y)), and stays finite if p_y rounds to 1. Every image counts alike in its mean,
    while images with large errors dominate C. Arguments and errors are those of ``contribution``.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> image, label, *_ = next(data.batches(4))
    >>> size = (model(image).softmax(1) - torch.eye(10)[label]).abs().sum(1, keepdim=True)
    >>> expected = attrib.contribution(model, image, label) / size
    >>> torch.allclose(scale_free_contribution(model, image, label), expected)
    True
    """
    return last_layer(model, image, label, fc=fc, precision=precision).scale_free


def last_layer(
    model: nn.Module, image: Tensor, label: Label, *, fc: nn.Module | str | None = None, precision: Precision = "fp32"
) -> Features:
    """Contribution, relevance and scale-free contribution from one forward pass, in chunks of bounded memory.

    Arguments and errors are those of ``contribution``.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=4)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> features = last_layer(model, *next(data.batches(4))[:2])
    >>> torch.equal(features.relevance, features.contribution * features.activation.abs())
    True
    """
    label = check_images(model, image, label)
    model = bare(model)
    if not isinstance(fc, nn.Module):
        fc = last_linear(model, image) if fc is None else named(model, fc, what="fc")
    home, device = image.device, place_of(model, image.device)
    image, label = image.to(device), label.to(device)
    with frozen(model), autocast(image.device, precision_for(model, precision)):
        size = images_per_chunk(model, image)
        parts = [_last_layer(model, x, y, fc) for x, y in zip(image.split(size), label.split(size), strict=True)]
    return Features(*(torch.cat(column).to(home) for column in zip(*parts, strict=True)))


def valid_values(weight: Tensor, *, rule: str = "mean") -> Tensor:
    """The valid values of a last layer: the entries of W that are greater than W's mean (AGAIN supplement, 4.4).

    weight: (K,D). Returns bool (K,D). rule: ``mean`` takes the mean of the whole matrix, ``class-mean`` that of each
    class's row, ``absolute`` compares absolute values with their mean. Constant weights have no valid values, although
    they may exceed their mean by rounding. Under the first two rules the count measures skewness: if weights are
    symmetric about their mean, half are valid, whatever their size. Raises InputError for another shape or rule.

    >>> valid_values(torch.tensor([[0.0, 1.0, 5.0], [-9.0, 0.0, 0.0]]))  # the mean is -0.5
    tensor([[ True,  True,  True],
            [False,  True,  True]])
    >>> valid_values(torch.tensor([[0.0, 1.0, 5.0], [-9.0, 0.0, 0.0]]), rule="class-mean").sum(1)
    tensor([1, 2])
    >>> valid_values(torch.tensor([[0.0, 1.0, 5.0], [-9.0, 0.0, 0.0]]), rule="absolute").sum(1)
    tensor([1, 1])
    """
    if rule not in RULES:
        raise refused("rule", rule, RULES)
    check_tensors(weight=(weight, "floats K,D"))
    if not weight.isfinite().all():
        raise InputError("weight: expected finite numbers, got NaN or infinity")
    values = weight.detach().double()
    if rule == "absolute":
        values = values.abs()
    groups = values if rule == "class-mean" else values.reshape(1, -1)
    varies = groups.amax(1, keepdim=True) > groups.amin(1, keepdim=True)
    return (values > groups.mean(1, keepdim=True)) & varies


def gini(values: Tensor) -> Tensor:
    """Gini coefficient over the last dimension, (...,D) to (...): 0 if all are equal, (D - 1)/D if one has everything.

    The mean difference of two values drawn with replacement, over twice their mean; NaN if all are 0.
    Raises InputError for a negative value or none.

    >>> gini(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 8.0]]))
    tensor([0.0000, 0.7500], dtype=torch.float64)
    """
    ordered = _non_negative(values).sort(-1).values
    count = ordered.shape[-1]
    # For sorted values, the sum of |x_i - x_j| over all pairs is a sum of ranks times values; no D x D table is needed.
    rank = torch.arange(1, count + 1, dtype=ordered.dtype, device=ordered.device)
    return ((2 * rank - count - 1) * ordered).sum(-1) / (count * ordered.sum(-1))


def participation_ratio(values: Tensor) -> Tensor:
    """The effective number of features, (sum C)^2 / sum C^2 over the last dimension: (...,D) to (...) in [1,D].

    It is 1 if one has everything, D if all are equal, NaN if all are 0. Raises InputError for a negative value or none.

    >>> participation_ratio(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 8.0]]))
    tensor([4., 1.], dtype=torch.float64)
    """
    positive = _non_negative(values)
    # Squares of tiny contributions would underflow, those of shares do not.
    share = positive / positive.sum(-1, keepdim=True)
    return 1 / share.square().sum(-1)


def high_contribution(values: Tensor, *, multiple: float) -> Tensor:
    """The number of values above ``multiple`` times their median, over the last dimension: (...,D) to (...).

    The median of an even number of values is the mean of the middle two. Raises InputError for a negative value, for
    none, and for a multiple that is not above 0.

    >>> high_contribution(torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0, 40.0]), multiple=2)  # the median is 3.5
    tensor(2)
    """
    if not multiple > 0:
        raise InputError(f"multiple: expected a number above 0, got {multiple}")
    ordered = _non_negative(values).sort(-1).values
    count = ordered.shape[-1]
    median = (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2  # torch.median is the lower one
    return (ordered > multiple * median[..., None]).sum(-1)


def _last_layer(model: nn.Module, image: Tensor, label: Tensor, fc: nn.Module) -> Features:
    activations: list[Tensor] = []
    outputs: list[object] = []

    def detach_input(_module: nn.Module, inputs: tuple[object, ...]) -> tuple[object, ...]:
        if not inputs or not isinstance(inputs[0], Tensor):
            raise InputError(f"fc: expected {type(fc).__name__} to be called with a tensor")
        # The graph begins here, so the backward pass covers the last layer only.
        activations.append(inputs[0].detach().requires_grad_())
        return (activations[-1], *inputs[1:])

    hooks = [
        fc.register_forward_pre_hook(detach_input),
        fc.register_forward_hook(lambda _module, _inputs, output: outputs.append(output)),
    ]
    try:
        with torch.enable_grad():
            logits = adapted(model, image.device)(image)
    finally:
        for hook in hooks:
            hook.remove()
    if not activations:
        raise InputError(f"fc: {type(model).__name__} never runs the {type(fc).__name__} given")
    activation = activations[-1]
    if activation.ndim < 2 or len(activation) != len(image):
        raise InputError(f"fc: expected its input to be ({len(image)},D), got {tuple(activation.shape)}")
    check_classes(label, logits.shape[1])

    has_closed_form = _is_linear(fc) and outputs[-1] is logits
    with torch.autocast(image.device.type, enabled=False), torch.enable_grad():
        scores = full(logits)
        d = deficit(scores, label)
        if has_closed_form:
            assert isinstance(fc, nn.Linear)
            # (p - onehot(y)) / (1 - p_y): the softmax over the other classes, and -1 at y.
            error = without_own(scores.detach(), label)[1].softmax(1).scatter(1, label[:, None], -1.0)
            slope = error @ fc.weight.to(error.dtype)
        else:
            slope = _gradient(d, activation, fc)
    return Features(
        activation.detach().flatten(1).to(scores.dtype),
        slope.detach().flatten(1).to(scores.dtype) / 2,
        2 * d.detach().sigmoid(),
        logits.argmax(1),
    )


def _gradient(score: Tensor, activation: Tensor, fc: nn.Module) -> Tensor:
    gradient = torch.autograd.grad(score.sum(), activation, allow_unused=True)[0] if score.requires_grad else None
    if gradient is None:
        raise InputError(f"fc: no gradient leads from the logits to the input of the {type(fc).__name__} given")
    return gradient


def _is_linear(fc: nn.Module) -> bool:
    """Whether the layer computes the same as ``nn.Linear``, which a subclass may not."""
    return isinstance(fc, nn.Linear) and type(fc).forward is nn.Linear.forward


def _non_negative(values: Tensor) -> Tensor:
    if not isinstance(values, Tensor):
        raise InputError(f"values: expected a tensor, got {type(values).__name__}")
    if not values.ndim or not values.shape[-1] or not bool(((values >= 0) & (values < torch.inf)).all()):
        raise InputError(
            f"values: expected at least one in the last dimension, finite and none below 0, got {_shown(values)}"
        )
    return values.double()


def _shown(values: Tensor) -> str:
    return f"shape {tuple(values.shape)}" + (f", {values.min():.4g} to {values.max():.4g}" if values.numel() else "")
