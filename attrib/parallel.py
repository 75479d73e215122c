"""Several processes, one per GPU or CPU share: started by ``torchrun``, each for its share of the images."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from attrib import inference
from attrib.errors import InputError
from attrib.files import locked


class World(NamedTuple):
    """This process among all: its rank, how many there are, and the device it works on."""

    rank: int
    size: int
    device: torch.device


@contextmanager
def world(device: str) -> Iterator[World]:
    """The processes that torchrun started (NCCL on GPUs, gloo on CPUs), or this one alone.

    Inside another ``world`` it is the same group: processes join only once.
    """
    if "WORLD_SIZE" not in os.environ:
        yield World(0, 1, inference.device(device))
        return
    chosen = inference.device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    if dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size(), chosen)
        return
    store, rank, size = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # After a restart by torchrun, the store still has the addresses of the earlier processes: use a new prefix.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    # Python objects are gathered on the CPU, tensors where they are.
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this is the process that prints and writes: the only one, or the first of torchrun's."""
    return os.environ.get("RANK", "0") == "0"


def leave(status: int) -> NoReturn:
    """End this process. One of several ends without Python's clean-up.

    A thread of gloo may still have to free a Python object of the last backward pass (torch 2.13). If Python is being
    cleaned up meanwhile, the thread cannot, and aborts the process.
    """
    if "WORLD_SIZE" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def shard(positions: Tensor, world: World) -> Tensor:
    """This process's share of the positions (N,): every ``world.size``-th."""
    return positions[world.rank :: world.size]


def total(values: Tensor) -> Tensor:
    """The sum over all processes."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values


Part = TypeVar("Part")


def broadcast(part: Part) -> Part:
    """The first process's part, for all processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return part
    parts = [part]
    dist.broadcast_object_list(parts)
    return parts[0]


def gather(part: Part) -> list[Part] | None:
    """Every process's part, in the order of ranks, for the first process; None for the others."""
    if not (dist.is_available() and dist.is_initialized()):
        return [part]
    parts: list[Part] | None = [part] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(part, parts)
    return parts


@contextmanager
def writing_alone(folder: Path | None, world: World) -> Iterator[None]:
    """Lock the folder in the first process (``attrib.files.locked``); all processes raise its InputError.

    Without a folder, nothing is locked.
    """
    with ExitStack() as stack:
        refusal = None
        if folder and world.rank == 0:
            try:
                stack.enter_context(locked(folder))
            except InputError as error:
                refusal = error
        if refusal := broadcast(refusal):
            raise refusal
        yield
