"""Turn the output of a layer into a feature map (N,C,h,w): from channels first, channels last, or tokens.

A shape alone is ambiguous: (N,49,768) may be a map of 7x7 tokens, and (N,7,7,768) has its channels last. So the layout
is derived from one pass of the whole model (``attrib.models.trace``).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from attrib.models.trace import Call, Trace

Grid = tuple[int, int]
Reshape = Callable[[Tensor], Tensor]
"""A user's function from a layer's output to a feature map (N,C,h,w), for outputs that no ``Layout`` fits."""

MOST_PREFIX = 16
"""The most tokens that may come before those of the image: class and distillation tokens, registers."""
_LIKELY_PREFIXES = (0, 1, 2, 5, 4)
"""Their numbers to try if there is no patch embedding: none; class; class and distillation; class and 4 registers; 4
registers."""

_FIRST = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)
"""Layers that output (N,C,h,w)."""
_LAST = (nn.LayerNorm, nn.Linear)
"""Layers that act on the last dimension: a 4-dim output is (N,h,w,C)."""


class Layout(NamedTuple):
    """The order of dimensions in an output that is a map."""

    kind: Literal["channels first", "channels last", "tokens"]
    grid: Grid
    """Height and width of the map."""
    prefix: int = 0
    """The number of tokens before those of the image."""

    def fits(self, output: Tensor) -> bool:
        """Whether an output has this layout."""
        height, width = self.grid
        if self.kind == "tokens":
            return output.ndim == 3 and output.shape[1] == self.prefix + height * width
        grid = output.shape[2:] if self.kind == "channels first" else output.shape[1:3]
        return output.ndim == 4 and tuple(grid) == self.grid

    def to_map(self, output: Tensor) -> Tensor:
        """The output as a map (N,C,h,w), without the prefix tokens."""
        if self.kind == "tokens":
            channels_first = output[:, self.prefix :].transpose(1, 2)
            return channels_first.reshape(*channels_first.shape[:2], *self.grid)
        return output if self.kind == "channels first" else output.permute(0, 3, 1, 2)


def layouts(trace: Trace) -> list[Layout | None]:
    """The layout of each call's output; None for an output that is no map larger than 1x1."""
    grids: list[Grid] = []
    result: list[Layout | None] = []
    embedding: Grid | None = None
    counts: set[int] = set()
    has_gradient = any(call.output.requires_grad for call in trace.calls)  # not in a pass under no_grad
    for call in trace.calls:
        layout = None
        # A Swin transformer's windows are no images, and its table of positions does not depend on the image.
        if len(call.output) == 1 and call.output.is_floating_point() and call.output.requires_grad >= has_gradient:
            layout = _tokens(call, grids, trace.size) if call.output.ndim == 3 else _map(call, trace, counts)
        if layout and layout.kind == "tokens":
            embedding = embedding or (grids[-1] if grids else layout.grid)
            counts.add(call.output.shape[1])
        if layout and embedding and (layout.grid[0] > embedding[0] or layout.grid[1] > embedding[1]):
            layout = None
        if layout and layout.kind != "tokens":
            grids.append(layout.grid)
        result.append(layout)
    return result


def has_places(call: Call) -> bool:
    """Whether a map may look at the tokens of a call: a norm or a block, but no linear layer.

    The tokens of a linear layer may be queries, keys or values, which are only parts of the representation.
    """
    return not isinstance(call.module, nn.Linear) and (
        next(call.module.children(), None) is not None or next(call.module.parameters(recurse=False), None) is not None
    )


def _map(call: Call, trace: Trace, counts: set[int]) -> Layout | None:
    """The layout of an output (1,a,b,c); counts: the numbers of tokens of the calls before."""
    shape = call.output.shape
    if call.output.ndim != 4:
        return None
    first, last = (shape[2], shape[3]), (shape[1], shape[2])
    certain = is_last = _is_last(call, trace)
    if certain is None:
        is_last = _as_image(last, trace.size) and not _as_image(first, trace.size)
    grid = last if is_last else first
    # Attention gives (N,heads,T,T) and (N,heads,T,d) for T tokens; these are no maps.
    if grid == (1, 1) or (certain is not False and not counts.isdisjoint(grid)):
        return None
    return Layout("channels last" if is_last else "channels first", grid)


def _is_last(call: Call, trace: Trace) -> bool | None:
    """Whether the channels of a call's output (1,a,b,c) come last; None where no norm or convolution says so."""
    if isinstance(call.module, _FIRST + _LAST):
        return isinstance(call.module, _LAST)
    # A block has the order of the norms and convolutions whose outputs have its shape.
    alike = [other.module for other in trace.calls if other.output.shape == call.output.shape]
    orders = {isinstance(module, _LAST) for module in alike if isinstance(module, _FIRST + _LAST)}
    return orders.pop() if len(orders) == 1 else None


def _as_image(grid: Grid, size: tuple[int, int]) -> bool:
    """Whether a grid has the image's aspect ratio, to within a row or column."""
    (height, width), (image_height, image_width) = grid, size
    return abs(height * image_width - width * image_height) < max(size) and height <= image_height


def _tokens(call: Call, grids: Sequence[Grid], size: tuple[int, int]) -> Layout | None:
    """The layout of tokens (1,T,C): their number fits the grid of a map before them, or a coarser grid."""
    count = call.output.shape[1]
    if count < 2:
        return None
    for height, width in reversed(grids):
        if 0 <= count - height * width <= MOST_PREFIX:
            return Layout("tokens", (height, width), count - height * width)
    for grid in reversed(grids):
        for height, width in _coarser(grid):
            if count - height * width in (0, 1):
                return Layout("tokens", (height, width), count - height * width)
    if grids:
        return None
    for prefix in _LIKELY_PREFIXES:  # no convolution made the patches
        places = count - prefix
        height = round((max(places, 0) * size[0] / size[1]) ** 0.5)
        if places > 1 and height and places % height == 0 and _as_image((height, places // height), size):
            return Layout("tokens", (height, places // height), prefix)
    return None


def _coarser(grid: Grid) -> Iterator[Grid]:
    """The grid halved repeatedly, as by patch merging; odd sizes are rounded up."""
    height, width = grid
    while height * width > 4:
        height, width = (height + 1) // 2, (width + 1) // 2
        yield height, width
