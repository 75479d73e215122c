"""The training loop that all methods share: one epoch after the other, each ending on disk."""

import math
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from attrib import checkpoint, inference
from attrib.data import AUGMENT, Batch, Dataset, dataset
from attrib.errors import InputError
from attrib.files import folder
from attrib.inference import Precision
from attrib.model import Classifier
from attrib.parallel import World, shard, total, world
from attrib.robust import about_reach, judge, withstands_pgd
from train.attack import Attack, pgd_attack
from train.augment import augment
from train.awp import once, perturbed
from train.config import Config
from train.methods import Loss, loss_of
from train.parallel import share_buffers, synchronised
from train.state import State, initial, resume, save, write_log

SHOW_EVERY = 20
"""Steps between two looks at the running figures: each makes the host wait for the device."""
PATIENCE = 3
"""Epochs at chance after which a warning is due."""


class LossModule(nn.Module):
    """A module whose forward is the method's loss, which is what DistributedDataParallel can wrap."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, loss: Loss, batch: Batch, attack: Attack) -> Tensor:
        """``loss`` of the batch, 0-dim."""
        value: Tensor = loss(self.model, batch, attack=attack)
        return value


def train(
    config: Config, out: Path, *, device: str = "auto", root: Path | None = None, fresh: bool = False,
    tensorboard: bool = False,
) -> None:  # fmt: skip
    """Train to the end, continuing from ``out``/last.pt where there is one (unless ``fresh``).

    Writes ``out``/model.pt (the best epoch), last.pt, log.jsonl and, every ``save_every`` epochs, epoch-K.pt.
    Under torchrun every process works on its share of each batch, and the first one writes.
    Raises InputError for bad options, data or files, and for a loss that is no longer finite.
    """
    if tensorboard and find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard")
    with world(device) as here:
        _train(config, out, here, root=root, fresh=fresh, tensorboard=tensorboard)


def _train(config: Config, out: Path, here: World, *, root: Path | None, fresh: bool, tensorboard: bool) -> None:
    if config.batch_size % here.size:
        raise InputError(f"--batch-size: expected a multiple of the {here.size} processes, got {config.batch_size}")
    precision = inference.precision(config.precision, here.device)
    data = dataset(config.data, split="train", root=root, limit=config.limit).to(here.device)
    fit, held_out = _split(data, config)
    if len(fit) < config.batch_size:
        raise InputError(f"--batch-size: expected at most the {len(fit)} training images, got {config.batch_size}")
    state = initial(config, data, here.device)
    writes = here.rank == 0
    if writes:
        for sentence in about_reach(*config.budget):
            print(f"train: warning: {sentence}", file=sys.stderr)
    folder(out)
    last = out / "last.pt"
    if last.exists() and not fresh:
        resume(state, config, last)
        done = len(state.history)
        if writes:
            write_log(state.history, out)
            left = f"continuing after epoch {done} of {config.epochs}"
            print(
                f"{out}: {left if done < config.epochs else 'all epochs are done; --fresh starts over'}",
                file=sys.stderr,
            )
    elif fresh and writes:
        written = ("model.pt", "log.jsonl", "epoch-*.pt", "tensorboard/events.out.tfevents.*")
        for stale in (last, *(path for pattern in written for path in out.glob(pattern))):
            stale.unlink(missing_ok=True)
    module = synchronised(LossModule(state.model), here)
    if here.device.type == "cuda":
        # All stages run the code of nn.Sequential, so what each needs for training, attack and evaluation adds up.
        torch._dynamo.config.cache_size_limit = 64
        for stage in state.model.stages:
            # Stage by stage, from inside: hooks on a stage (AGAIN's fusion) stay outside what is compiled.
            stage.forward = torch.compile(stage.forward)

    for epoch in range(len(state.history) + 1, config.epochs + 1):
        started = time.perf_counter()
        mean_loss = _train_epoch(module, state, config, data, fit, here, epoch=epoch, precision=precision)
        if not math.isfinite(mean_loss):
            kept = "the last good epoch is kept" if state.history else "no epoch was finished"
            raise InputError(
                f"the loss is no longer finite in epoch {epoch} ({kept} in {out});"
                " start over with a lower --lr, a longer --eps-warmup or --precision fp32"
            )
        seconds = time.perf_counter() - started
        share_buffers(state.kept, here)
        clean, robust = evaluate(state.kept, data, held_out, config, here, precision)
        record = {
            "epoch": epoch, "loss": mean_loss, "clean": clean, "robust": robust,
            "images_per_s": len(fit) / seconds, "seconds": time.perf_counter() - started,
        }  # fmt: skip
        is_best = not state.history or _merit(record, config) > max(_merit(r, config) for r in state.history)
        state.history.append(record)
        if not writes:
            continue
        finished = _checkpoint(state.kept, config, data, record)
        if is_best:
            checkpoint.save(finished, out / "model.pt")
        if config.save_every and epoch % config.save_every == 0:
            checkpoint.save(finished, out / f"epoch-{epoch}.pt")
        # last.pt comes after model.pt: a run killed in between repeats the epoch and writes the same model.pt.
        save(state, config, last)
        write_log(state.history, out)
        if tensorboard:
            _write_curves(record, out / "tensorboard")
        print(
            f"epoch {epoch:3d}/{config.epochs}  loss {mean_loss:.4f}  clean {clean:6.1%}  robust {robust:6.1%}"
            f"  {record['images_per_s']:,.0f} images/s{'  *' if is_best else ''}",
            flush=True,
        )
        recent = [entry["clean"] for entry in state.history[-PATIENCE:]]
        if len(recent) == PATIENCE and max(recent) <= 1.5 / len(data.classes):
            print(
                f"train: warning: clean accuracy has been at chance for {PATIENCE} epochs;"
                " a lower --lr or a longer --eps-warmup often helps",
                file=sys.stderr,
            )
    if writes:
        print(out / "model.pt")


def evaluate(
    model: nn.Module, data: Dataset, positions: Tensor, config: Config, here: World, precision: Precision
) -> tuple[float, float]:
    """Clean accuracy and accuracy under the configured PGD on the images at ``positions``, as fractions.

    A gated model is attacked in all of its ways: through its final logits alone it looks far more robust than it is.
    """
    eps, step_size, steps = config.budget
    right = torch.zeros(2, device=here.device)
    for batch in data.batches(500, order=shard(positions, here), device=here.device):
        stood = withstands_pgd(
            model, batch.image, batch.label, index=batch.index, seed=config.seed, precision=precision,
            eps=eps, step_size=step_size, steps=steps,
        )  # fmt: skip
        clean = judge(model, batch.image, batch.label).prediction == batch.label
        right += torch.stack([clean.sum(), stood.sum()])
    accuracies: list[float] = (total(right) / len(positions)).tolist()
    return accuracies[0], accuracies[1]


def _right(model: nn.Module, label: Tensor, images: tuple[Tensor, ...], precision: Precision) -> Tensor:
    """How many of each of the ``images`` the deployed model gets right."""
    with inference.frozen(model), torch.no_grad(), inference.autocast(label.device, precision):
        return torch.stack([(model(image).argmax(1) == label).sum() for image in images]).float()


def _train_epoch(
    module: nn.Module, state: State, config: Config, data: Dataset, fit: Tensor, here: World,
    *, epoch: int, precision: Precision,
) -> float:  # fmt: skip
    """One pass over the training images; returns the mean loss. All randomness is drawn from (seed, epoch, step)."""
    pad, flip = AUGMENT.get(config.data, (0, False)) if config.augment else (0, False)
    shuffle = torch.Generator().manual_seed(_mix(config.seed, epoch))
    order = fit[torch.randperm(len(fit), generator=shuffle).to(fit.device)]
    # Whole batches only: a last, smaller one would give its images a larger weight and upset batch norm.
    steps = len(fit) // config.batch_size
    mine = shard(order[: steps * config.batch_size], here)
    eps, step_size, attack_steps = config.budget
    losses = []
    state.model.train()
    with _bar(steps, config, epoch, here) as bar:
        for step, batch in enumerate(data.batches(config.batch_size // here.size, order=mine, device=here.device)):
            progress = (epoch - 1 + step / steps) / config.epochs
            for group in state.optimizer.param_groups:
                group["lr"] = config.lr * learning_rate(config.schedule, progress)
            share = min(1.0, progress / config.eps_warmup) if config.eps_warmup else 1.0
            attack = once(
                pgd_attack(
                    eps=eps * share, step_size=step_size * share, steps=attack_steps,
                    seed=config.seed, epoch=epoch, precision=precision,
                )
            )  # fmt: skip
            batch = augment(batch, pad=pad, flip=flip, seed=config.seed, epoch=epoch)
            batch = batch._replace(image=batch.image.contiguous(memory_format=torch.channels_last))
            losses.append(_step(module, state, config, batch, attack, progress, epoch, step, precision))
            if state.average is not None:
                _follow(state.average, state.model, config.ema, (epoch - 1) * steps + step)
            bar.update(config.batch_size)
            if not bar.disable and step % SHOW_EVERY == 0:
                images = (batch.image,) if config.method == "standard" else (batch.image, attack(state.model, batch))
                shares = (_right(state.model, batch.label, images, precision) / len(batch.label)).tolist()
                shown = dict(zip(("clean", "robust"), (f"{value:.0%}" for value in shares), strict=False))
                bar.set_postfix(shown | {"loss": f"{float(losses[-1]):.3f}"})
    return float(total(torch.stack(losses).mean()) / here.size)


def _step(
    module: nn.Module, state: State, config: Config, batch: Batch, attack: Attack, progress: float,
    epoch: int, step: int, precision: Precision,
) -> Tensor:  # fmt: skip
    """One descent of the method's loss; returns the loss, detached."""

    def method() -> Loss:
        # A generator of its own for every use: AWP computes the same loss, with the same draws, a second time.
        generator = torch.Generator().manual_seed(_mix(config.seed, epoch, step))
        return loss_of(config, progress=progress, generator=generator)

    def descend() -> Tensor:
        with inference.autocast(batch.image.device, precision):
            loss: Tensor = module(method(), batch, attack)
        loss.backward()
        return loss.detach()

    def plain_loss() -> Tensor:
        with inference.autocast(batch.image.device, precision):
            value: Tensor = method()(state.model, batch, attack=attack)
            return value

    state.optimizer.zero_grad()
    if config.awp and epoch >= config.awp_from:
        with perturbed(state.model, plain_loss, gamma=config.awp):
            loss = descend()
    else:
        loss = descend()
    state.optimizer.step()
    return loss


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the running mean of the weights towards the model; faster at first, or it would remember its start."""
    towards = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), towards)
    for kept, buffer in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(buffer)


def learning_rate(schedule: str, progress: float) -> float:
    """The share of the peak learning rate at ``progress`` in [0,1) of the run.

    ``onecycle``: linear from 0.04 up to 1 at 30 % of the run, and down to 0 (Smith & Topin 2018);
    ``step``: divided by 10 at one half and at three quarters; ``constant``: 1.
    """
    if schedule == "onecycle":
        return 0.04 + 0.96 * progress / 0.3 if progress < 0.3 else (1 - progress) / 0.7
    if schedule == "constant":
        return 1.0
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


def _split(data: Dataset, config: Config) -> tuple[Tensor, Tensor]:
    """Positions to train on and positions held out, the same for every run with this seed."""
    held = min(config.holdout, max(1, len(data) // 5))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(_mix(config.seed, 0)))
    return order[held:].to(data.labels.device), order[:held].to(data.labels.device)


def _merit(record: dict[str, float], config: Config) -> tuple[float, float]:
    """What makes an epoch the best: robust accuracy, ties by clean; the other way round for standard training,

    whose robust accuracy is highest while it has learned nothing.
    """
    key = record["robust"], record["clean"]
    return key[::-1] if config.method == "standard" else key


def _checkpoint(model: Classifier, config: Config, data: Dataset, record: dict[str, float]) -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint(
        arch=config.arch,
        arch_kwargs={"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist()}
        | ({"gated": True} if config.gated else {}),
        num_classes=len(data.classes),
        input_shape=data.shape,
        data=config.data,
        method=config.method,
        hyper=config.as_dict(),
        epoch=int(record["epoch"]),
        metrics={"holdout_clean": record["clean"], "holdout_robust": record["robust"]},
        weights=model.state_dict(),
    )


def _write_curves(record: dict[str, float], out: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out)) as writer:
        for name in ("loss", "clean", "robust", "images_per_s"):
            writer.add_scalar(name, record[name], int(record["epoch"]))


def _bar(steps: int, config: Config, epoch: int, here: World) -> "tqdm[Any]":
    """A bar on stderr where that is a terminal: images done in this epoch, images/s and the time left."""
    return tqdm(
        total=steps * config.batch_size, unit=" images", leave=False, desc=f"epoch {epoch}/{config.epochs}",
        disable=here.rank > 0 or not sys.stderr.isatty(),
    )  # fmt: skip


def _mix(*numbers: int) -> int:
    """One seed of several numbers, so that (0, 1) and (1, 0) differ."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) & 0x7FFFFFFF
    return mixed
