"""What is done with all models of an analysis: move them to a device, group the files of a name."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch

from attrib.models.specs import Model


@contextmanager
def on_device(models: Sequence[Model], device: torch.device) -> Iterator[None]:
    """Inside, the modules are on the device; a user's module goes back to where it was."""
    modules = [each.module for each in models if each.module is not None]
    places = [next((tensor.device for tensor in chain(m.parameters(), m.buffers())), device) for m in modules]
    try:
        for module in modules:
            module.to(device)
        yield
    finally:
        for module, place in zip(modules, places, strict=True):
            module.to(place)


def groups(models: Iterable[Model]) -> dict[str, list[Model]]:
    """The files behind every name, in the order given, without saved epochs."""
    grouped: dict[str, list[Model]] = {}
    for each in models:
        if each.epoch is None:
            grouped.setdefault(each.name, []).append(each)
    return grouped
