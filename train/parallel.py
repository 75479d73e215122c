"""Several processes, one per GPU: started by ``torchrun``, joined by DistributedDataParallel."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attrib import inference


class World(NamedTuple):
    """This process among all: its rank, how many there are, and the device it works on."""

    rank: int
    size: int
    device: torch.device


@contextmanager
def world(device: str) -> Iterator[World]:
    """The processes that torchrun started (NCCL on GPUs, gloo on CPUs), or this one alone."""
    if "WORLD_SIZE" not in os.environ:
        yield World(0, 1, inference.device(device))
        return
    chosen = inference.device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        dist.destroy_process_group()


def shard(positions: Tensor, world: World) -> Tensor:
    """This process's share of the positions (N,): every ``world.size``-th."""
    return positions[world.rank :: world.size]


def total(values: Tensor) -> Tensor:
    """The sum over all processes."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values


def synchronised(module: nn.Module, world: World) -> nn.Module:
    """The module with its gradients averaged over all processes in the backward pass; itself where it is alone."""
    if world.size == 1:
        return module
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices)
