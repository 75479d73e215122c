"""One model in several processes, which ``torchrun`` starts: DistributedDataParallel around the loss."""

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from attrib.parallel import World


def synchronised(module: nn.Module, world: World) -> nn.Module:
    """Average the module's gradients over all processes in the backward pass. One process gets the module itself."""
    if world.size == 1:
        return module
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices)


def share_buffers(module: nn.Module, world: World) -> None:
    """Copy the first process's buffers to all others: each has its own batch norm statistics."""
    if world.size > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)
