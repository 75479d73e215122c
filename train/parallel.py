"""One model in several processes, which ``torchrun`` starts: DistributedDataParallel around the loss."""

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from attrib.parallel import World


def synchronised(module: nn.Module, world: World) -> nn.Module:
    """The module with its gradients averaged over all processes in the backward pass; itself where it is alone."""
    if world.size == 1:
        return module
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices)


def share_buffers(module: nn.Module, world: World) -> None:
    """Give every process the first one's buffers: batch norm's running statistics are each process's own."""
    if world.size > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)
