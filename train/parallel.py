"""One model in several processes, which ``torchrun`` starts: DistributedDataParallel around the loss."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from attrib.parallel import World


def synchronised(module: nn.Module, world: World) -> nn.Module:
    """The module with its gradients averaged over all processes in the backward pass; itself where it is alone."""
    if world.size == 1:
        return module
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices)
