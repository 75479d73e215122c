"""One epoch of training: the loop over the batches and the step, the same for every method."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from attrib import inference, noise
from attrib.data import Batch, Dataset
from attrib.data.catalog import CATALOG, NO_AUGMENTATION
from attrib.inference import Precision
from attrib.models.classifier import Classifier
from attrib.parallel import World, shard, total
from train.attack import Ascent, Attack, pgd_attack
from train.augment import augment
from train.awp import once, perturbed
from train.config import Config
from train.engine import Engine, uncompiled
from train.methods import Loss, loss_of
from train.state import State

SHOW_EVERY = 20
"""Steps between updates of the accuracy on the bar. Each update makes the host wait for the device."""


class Settings(NamedTuple):
    """Where and how a run is computed. This changes speed and rounding only."""

    world: World
    precision: Precision
    engine: Engine
    ascent: Ascent


class LossModule(nn.Module):
    """A module whose forward is the method's loss: DistributedDataParallel wraps modules, not functions."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, loss: Loss, batch: Batch, attack: Attack) -> Tensor:
        """``loss`` of the batch, 0-dim."""
        value: Tensor = loss(self.model, batch, attack=attack)
        return value


def train_epoch(
    module: nn.Module, state: State, config: Config, data: Dataset, positions: Tensor, settings: Settings, *, epoch: int
) -> float:
    """One pass over the images at ``positions``; returns the mean loss.

    All randomness is drawn from (seed, epoch, step) and (seed, epoch, index of the image).
    """
    pad, flip = CATALOG[config.data].augmentation if config.augment and config.data in CATALOG else NO_AUGMENTATION
    world = settings.world
    shuffle = torch.Generator().manual_seed(noise.mixed_seed(config.seed, epoch))
    order = positions[torch.randperm(len(positions), generator=shuffle).to(positions.device)]
    # Whole batches only: a smaller last one would weight its images more and disturb batch norm.
    steps = len(positions) // config.batch_size
    local_order, local_size = shard(order[: steps * config.batch_size], world), config.batch_size // world.size
    draws = noise.uniform(local_order, (3,), seed=config.seed, stream=epoch).split(local_size)
    losses = []
    state.model.train()
    with _bar(steps, config, epoch, world) as bar:
        for step, batch in enumerate(data.batches(local_size, order=local_order, device=world.device)):
            progress = (epoch - 1 + step / steps) / config.epochs
            for group in state.optimizer.param_groups:
                group["lr"] = config.lr * learning_rate(config.schedule, progress)
            attack = once(_attack(config, settings, epoch=epoch, progress=progress))
            batch = augment(batch, draws[step], pad=pad, flip=flip)
            batch = batch._replace(image=batch.image.contiguous(memory_format=torch.channels_last))
            losses.append(_step(module, state, config, batch, attack, progress, epoch, step, settings.precision))
            if state.average is not None:
                _update_average(state.average, state.model, config.ema, (epoch - 1) * steps + step)
            bar.update(config.batch_size)
            if not bar.disable and step % SHOW_EVERY == 0:
                images = (batch.image,) if config.method == "standard" else (batch.image, attack(state.model, batch))
                shares = (_correct(state.model, batch.label, images, settings) / len(batch.label)).tolist()
                accuracies = dict(zip(("clean", "robust"), (f"{value:.0%}" for value in shares), strict=False))
                bar.set_postfix(accuracies | {"loss": f"{float(losses[-1]):.3f}"})
    return float(total(torch.stack(losses).mean()) / world.size)


def _attack(config: Config, settings: Settings, *, epoch: int, progress: float) -> Attack:
    """The configured attack. During a warm-up eps and step size grow together."""
    eps, step_size, steps = config.budget
    share = min(1.0, progress / config.eps_warmup) if config.eps_warmup else 1.0
    return pgd_attack(
        eps=eps * share, step_size=step_size * share, steps=steps, seed=config.seed, epoch=epoch,
        precision=settings.precision, ascent=settings.ascent,
    )  # fmt: skip


def _correct(model: nn.Module, label: Tensor, images: tuple[Tensor, ...], settings: Settings) -> Tensor:
    """For each tensor in ``images``, how many of its images the deployed model classifies correctly."""
    cast = inference.autocast(label.device, settings.precision)
    with inference.frozen(model), torch.no_grad(), uncompiled(settings.engine), cast:
        return torch.stack([(model(image).argmax(1) == label).sum() for image in images]).float()


def _step(
    module: nn.Module, state: State, config: Config, batch: Batch, attack: Attack, progress: float,
    epoch: int, step: int, precision: Precision,
) -> Tensor:  # fmt: skip
    """Take one step down the method's loss. Returns the detached loss."""

    def compute_loss(module: nn.Module) -> Tensor:
        # A new generator for every use: AWP computes the loss twice and needs the same draws.
        generator = torch.Generator().manual_seed(noise.mixed_seed(config.seed, epoch, step))
        with inference.autocast(batch.image.device, precision):
            value: Tensor = module(loss_of(config, progress=progress, generator=generator), batch, attack)
        return value

    perturbation: AbstractContextManager[None] = nullcontext()
    if config.awp and epoch >= config.awp_from:
        perturbation = perturbed(state.model, lambda: compute_loss(LossModule(state.model)), gamma=config.awp)
    state.optimizer.zero_grad()
    with perturbation:
        loss = compute_loss(module)
        loss.backward()
    state.optimizer.step()
    return loss.detach()


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the running mean of the weights towards the model, faster at first to forget the initial weights."""
    rate = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), rate)
    torch._foreach_copy_(list(average.buffers()), list(model.buffers()))


def learning_rate(schedule: str, progress: float) -> float:
    """The share of the peak learning rate at ``progress`` in [0,1) of the run.

    ``onecycle``: linearly from 0.04 up to 1 at 30 % of the run, then down to 0 (Smith & Topin 2018);
    ``step``: divided by 10 at one half and at three quarters; ``constant``: 1.
    """
    if schedule == "onecycle":
        return 0.04 + 0.96 * progress / 0.3 if progress < 0.3 else (1 - progress) / 0.7
    if schedule == "constant":
        return 1.0
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


def _bar(steps: int, config: Config, epoch: int, world: World) -> "tqdm[Any]":
    """A progress bar, if stderr is a terminal: images of this epoch, images/s and the time left."""
    return tqdm(
        total=steps * config.batch_size, unit=" images", leave=False, desc=f"epoch {epoch}/{config.epochs}",
        disable=world.rank > 0 or not sys.stderr.isatty(),
    )  # fmt: skip
