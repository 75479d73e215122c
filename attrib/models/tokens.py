"""How the output of a layer becomes a feature map (N,C,h,w): channels first, channels last, or tokens.

What a layer gives out says little by itself: (N,49,768) may be a map of 7x7 tokens, and (N,7,7,768) has its channels
last. So the layout is read from one pass of the whole model (``attrib.models.trace``).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from attrib.models.trace import Call, Trace

Grid = tuple[int, int]
Reshape = Callable[[Tensor], Tensor]
"""A user's function of a layer's output to a feature map (N,C,h,w), where it is none of ``Layout``."""

MOST_PREFIX = 16
"""The most tokens that may stand before those of the image: class and distillation tokens, registers."""
_LIKELY_PREFIXES = (0, 1, 2, 5, 4)
"""Where no patch embedding says how many tokens the image has: no token, class, distillation, class and 4 registers."""

_FIRST = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)
"""What gives out (N,C,h,w)."""
_LAST = (nn.LayerNorm, nn.Linear)
"""What works on the last dimension: where it gives out four, they are (N,h,w,C)."""


class Layout(NamedTuple):
    """How an output is read as a map."""

    kind: Literal["channels first", "channels last", "tokens"]
    grid: Grid
    """Height and width of the map."""
    prefix: int = 0
    """Of tokens: how many stand before those of the image."""

    def fits(self, output: Tensor) -> bool:
        """Whether an output has this layout."""
        height, width = self.grid
        if self.kind == "tokens":
            return output.ndim == 3 and output.shape[1] == self.prefix + height * width
        places = output.shape[2:] if self.kind == "channels first" else output.shape[1:3]
        return output.ndim == 4 and tuple(places) == self.grid

    def to_map(self, output: Tensor) -> Tensor:
        """The output as a map (N,C,h,w), without the prefix tokens."""
        if self.kind == "tokens":
            channels_first = output[:, self.prefix :].transpose(1, 2)
            return channels_first.reshape(*channels_first.shape[:2], *self.grid)
        return output if self.kind == "channels first" else output.permute(0, 3, 1, 2)


def layouts(trace: Trace) -> list[Layout | None]:
    """The layout of the output of each call; None for what is no map larger than 1x1."""
    known: list[Grid] = []
    found: list[Layout | None] = []
    embedding: Grid | None = None
    counts: set[int] = set()
    follows = any(call.output.requires_grad for call in trace.calls)  # not in a pass under no_grad
    for call in trace.calls:
        layout = None
        # A Swin transformer's windows are no images, and its table of positions does not depend on the image.
        if len(call.output) == 1 and call.output.is_floating_point() and call.output.requires_grad >= follows:
            layout = _tokens(call, known, trace.size) if call.output.ndim == 3 else _map(call, trace, counts)
        if layout and layout.kind == "tokens":
            embedding = embedding or (known[-1] if known else layout.grid)
            counts.add(call.output.shape[1])
        if layout and embedding and (layout.grid[0] > embedding[0] or layout.grid[1] > embedding[1]):
            layout = None
        if layout and layout.kind != "tokens":
            known.append(layout.grid)
        found.append(layout)
    return found


def has_places(call: Call) -> bool:
    """Whether tokens that a call gives out may be looked at: those of a norm or a block, no projection of them.

    Of a linear layer the tokens may be queries, keys or values, of which each is a part of what goes on.
    """
    return not isinstance(call.module, nn.Linear) and (
        next(call.module.children(), None) is not None or next(call.module.parameters(recurse=False), None) is not None
    )


def _map(call: Call, trace: Trace, counts: set[int]) -> Layout | None:
    """The layout of (1,a,b,c); counts: how many tokens there were so far."""
    shape = call.output.shape
    if call.output.ndim != 4:
        return None
    first, last = (shape[2], shape[3]), (shape[1], shape[2])
    known = is_last = _is_last(call, trace)
    if known is None:
        is_last = _as_image(last, trace.size) and not _as_image(first, trace.size)
    grid = last if is_last else first
    # Beside T tokens there are attention maps (N,heads,T,T) and heads (N,heads,T,d), which no convolution gives.
    if grid == (1, 1) or (known is not False and not counts.isdisjoint(grid)):
        return None
    return Layout("channels last" if is_last else "channels first", grid)


def _is_last(call: Call, trace: Trace) -> bool | None:
    """Whether the channels of a call's output (1,a,b,c) come last; None where no norm or convolution says so."""
    if isinstance(call.module, _FIRST + _LAST):
        return isinstance(call.module, _LAST)
    # A block gives out what a norm or a convolution inside or beside it does.
    alike = [other for other in trace.calls if other.output.shape == call.output.shape]
    certain = {isinstance(other.module, _LAST) for other in alike if isinstance(other.module, _FIRST + _LAST)}
    return certain.pop() if len(certain) == 1 else None


def _as_image(grid: Grid, size: tuple[int, int]) -> bool:
    """Whether a grid has the image's ratio of height to width, to a row or column."""
    (height, width), (image_height, image_width) = grid, size
    return abs(height * image_width - width * image_height) < max(size) and height <= image_height


def _tokens(call: Call, known: Sequence[Grid], size: tuple[int, int]) -> Layout | None:
    """The layout of tokens (1,T,C): as many as the last map before them has places, or a coarser one."""
    count = call.output.shape[1]
    if count < 2:
        return None
    for height, width in reversed(known):
        if 0 <= count - height * width <= MOST_PREFIX:
            return Layout("tokens", (height, width), count - height * width)
    for grid in reversed(known):
        for height, width in _coarser(grid):
            if count - height * width in (0, 1):
                return Layout("tokens", (height, width), count - height * width)
    if known:
        return None
    for prefix in _LIKELY_PREFIXES:  # patches that no convolution made
        places = count - prefix
        height = round((max(places, 0) * size[0] / size[1]) ** 0.5)
        if places > 1 and height and places % height == 0 and _as_image((height, places // height), size):
            return Layout("tokens", (height, places // height), prefix)
    return None


def _coarser(grid: Grid) -> Iterator[Grid]:
    """Halved again and again, as patches are merged; odd sizes are padded."""
    height, width = grid
    while height * width > 4:
        height, width = (height + 1) // 2, (width + 1) // 2
        yield height, width
