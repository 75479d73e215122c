"""A training run: train, evaluate and write, epoch by epoch."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from attrib import accuracy, inference
from attrib.accuracy import correct_under_pgd
from attrib.data import Dataset, dataset, training_split
from attrib.errors import InputError, printable
from attrib.files import folder
from attrib.models import checkpoint
from attrib.models.classifier import Classifier
from attrib.objections import warn_short_attack
from attrib.parallel import shard, total, world, writing_alone
from train.config import Config
from train.engine import Engine, ascent_of, resolve, running, uncompiled
from train.epoch import LossModule, Settings, train_epoch
from train.parallel import share_buffers, synchronised
from train.state import State, initial, resume, save, write_curves, write_log

PATIENCE = 3
"""Number of epochs at chance before a warning."""


class OutOfTime(Exception):
    """The next epoch would end after the time limit; the run can be continued."""


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    path: Path
    """Of model.pt, the checkpoint of the best epoch."""
    history: list[dict[str, float]]
    """A record per epoch: epoch, loss, clean and robust accuracy (fractions), images_per_s, seconds."""

    @cached_property
    def model(self) -> Classifier:
        """The best epoch's model, in eval mode on the CPU."""
        return checkpoint.load(self.path)[0]


def train(
    config: Config, out: str | Path, *, device: str = "auto", root: Path | None = None, fresh: bool = False,
    tensorboard: bool = False, until: float | None = None, keep_last: bool = True, engine: Engine = "auto",
) -> Run:  # fmt: skip
    """Train to the end. Continues from ``out``/last.pt if it exists, unless ``fresh``.

    Returns the ``Run``. Writes ``out``/model.pt (the best epoch), last.pt, log.jsonl and, every ``save_every``
    epochs, epoch-K.pt. until: seconds since 1970 after which no epoch may end. keep_last: write last.pt after every
    epoch instead of only at the end. engine: see ``train.engine``; it is not part of the configuration.
    On the CPU a continued run ends with the same bits as an uninterrupted one. On a GPU the random draws are the same
    (order, augmentation, attack starts), but kernels may round differently from run to run.
    Under torchrun every process works on its share of each batch, and the first one writes.
    Raises InputError for bad options, data or files and for a loss that is not finite, OutOfTime if ``until`` leaves
    no room for another epoch.
    """
    out = Path(out)
    if tensorboard and find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard")
    with world(device) as group, ExitStack() as stack:
        if config.batch_size % group.size:
            raise InputError(
                f"--batch-size: expected a multiple of the {group.size} processes, got {config.batch_size}"
            )
        engine = resolve(engine, group.device)
        precision = inference.precision(config.precision, group.device)
        settings = Settings(group, precision, engine, ascent_of(engine))
        data = dataset(config.data, split="train", root=root, limit=config.limit).to(group.device)
        fit, held_out = _split(data, config)
        if len(fit) < config.batch_size:
            raise InputError(f"--batch-size: expected at most the {len(fit)} training images, got {config.batch_size}")
        state = initial(config, data, group.device)
        if group.rank == 0:
            for sentence in [
                *warn_short_attack(*config.budget), *_warn_unused_awp(config), *_warn_small_holdout(config, held_out),
            ]:  # fmt: skip
                print(f"train: warning: {sentence}", file=sys.stderr)
        stack.enter_context(writing_alone(folder(out), group))
        _start(state, config, data, out, fresh=fresh, is_first=group.rank == 0)
        module = synchronised(LossModule(state.model), group)
        with running(state.model, engine, group.device):
            while len(state.history) < config.epochs:
                _check_time(state, config, data, out, settings, until=until, saved=keep_last)
                _run_epoch(module, state, config, data, fit, held_out, settings)
                if group.rank == 0:
                    finished = len(state.history) == config.epochs
                    _write(state, config, data, out, last=keep_last or finished, tensorboard=tensorboard)
    return Run(out / "model.pt", state.history)


def _warn_unused_awp(config: Config) -> Iterator[str]:
    if config.awp and config.awp_from > config.epochs:
        yield f"--awp never acts: it begins with epoch {config.awp_from}, and the run ends with epoch {config.epochs}"


def _warn_small_holdout(config: Config, held_out: Tensor) -> Iterator[str]:
    if len(held_out) < config.holdout:
        yield (
            f"{len(held_out):,} images are held out to choose the best epoch, not {config.holdout:,} (--holdout): at"
            " most a fifth of the training images"
        )


def _start(state: State, config: Config, data: Dataset, out: Path, *, fresh: bool, is_first: bool) -> None:
    """Continue from last.pt, or remove the files of an earlier run."""
    last = out / "last.pt"
    if last.exists() and not fresh:
        resume(state, config, data, last)
        done = len(state.history)
        if is_first:
            write_log(state.history, out)
            progress = f"continuing after epoch {done} of {config.epochs}"
            message = progress if done < config.epochs else "all epochs are done; --fresh starts over"
            print(f"{out}: {message}", file=sys.stderr)
    elif is_first:
        if not fresh and (out / "log.jsonl").exists():
            print(f"{out}: an earlier run left no last.pt to continue from; it starts over", file=sys.stderr)
        if fresh or (out / "log.jsonl").exists():
            patterns = ("model.pt", "log.jsonl", "epoch-*.pt", "tensorboard/events.out.tfevents.*")
            for stale in (last, *(path for pattern in patterns for path in out.glob(pattern))):
                stale.unlink(missing_ok=True)


def _check_time(
    state: State, config: Config, data: Dataset, out: Path, settings: Settings, *, until: float | None, saved: bool
) -> None:
    """Write last.pt and raise OutOfTime if another epoch, as long as the last one, would end after ``until``."""
    if until is None:
        return
    expected = state.history[-1]["seconds"] if state.history else 0.0
    # The processes decide together, because their clocks differ.
    late = total(torch.tensor(float(time.time() + expected > until), device=settings.world.device))
    if not late:
        return
    if settings.world.rank == 0 and state.history and not saved:
        save(state, config, data, out / "last.pt")
    reason = "--until has passed" if time.time() > until else "another one would end after --until"
    raise OutOfTime(
        f"stopped after epoch {len(state.history)} of {config.epochs}: {reason};"
        " the same command with a later --until continues"
    )


def _run_epoch(
    module: nn.Module, state: State, config: Config, data: Dataset, fit: Tensor, held_out: Tensor, settings: Settings
) -> None:
    """Train for one epoch, evaluate, and add the record to the history. Raises InputError for an infinite loss."""
    epoch, started = len(state.history) + 1, time.perf_counter()
    mean_loss = train_epoch(module, state, config, data, fit, settings, epoch=epoch)
    if not math.isfinite(mean_loss):
        consequence = "the last good epoch is kept" if state.history else "no epoch was finished"
        raise InputError(
            f"the loss is no longer finite in epoch {epoch} ({consequence});"
            " start over with a lower --lr, a longer --eps-warmup or --precision fp32"
        )
    seconds = time.perf_counter() - started
    share_buffers(state.final_model, settings.world)
    clean, robust = evaluate(state.final_model, data, held_out, config, settings)
    state.history.append(
        {
            "epoch": epoch, "loss": mean_loss, "clean": clean, "robust": robust,
            "images_per_s": len(fit) / seconds, "seconds": time.perf_counter() - started,
        }
    )  # fmt: skip


def _write(state: State, config: Config, data: Dataset, out: Path, *, last: bool, tensorboard: bool) -> None:
    """Write the last epoch's files and print its line. Warn if the model stays at chance."""
    *earlier, record = state.history
    epoch = int(record["epoch"])
    is_best = not earlier or _rank(record, config) > max(_rank(other, config) for other in earlier)
    is_saved = config.save_every and epoch % config.save_every == 0
    if is_best or is_saved:
        ckpt = _checkpoint(state.final_model, config, data, record)
        if is_best:
            checkpoint.save(ckpt, out / "model.pt")
        if is_saved:
            checkpoint.save(ckpt, out / f"epoch-{epoch}.pt")
    if tensorboard:
        write_curves(record, folder(out / "tensorboard"))
    # last.pt comes after them: a run killed in between repeats the epoch and writes the same files.
    if last:
        save(state, config, data, out / "last.pt")
    write_log(state.history, out)
    print(
        f"{printable(out.name)}  epoch {epoch:3d}/{config.epochs}  loss {record['loss']:.4f}"
        f"  clean {record['clean']:6.1%}  robust {record['robust']:6.1%}"
        f"  {record['images_per_s']:,.0f} images/s{'  *' if is_best else ''}",
        flush=True,
    )
    above_chance = [entry["clean"] > 1.5 / len(data.classes) for entry in state.history]
    # Warn once, not after every further epoch.
    if above_chance[-PATIENCE:] == [False] * PATIENCE and above_chance[-PATIENCE - 1 : -PATIENCE] != [False]:
        print(
            f"train: warning: clean accuracy has been at chance for {PATIENCE} epochs;"
            " a lower --lr or a longer --eps-warmup often helps",
            file=sys.stderr,
        )


def evaluate(
    model: nn.Module, data: Dataset, positions: Tensor, config: Config, settings: Settings
) -> tuple[float, float]:
    """Clean accuracy and accuracy under the configured PGD on the images at ``positions``, as fractions.

    A gated model is attacked along all of its paths: attacked through its final logits alone, it looks far more robust.
    """
    eps, step_size, steps = config.budget
    group = settings.world
    correct = torch.zeros(2, device=group.device)
    with uncompiled(settings.engine):
        for batch in data.batches(500, order=shard(positions, group), device=group.device):
            robust = correct_under_pgd(
                model, batch.image, batch.label, index=batch.index, seed=config.seed, precision=settings.precision,
                eps=eps, step_size=step_size, steps=steps,
            )  # fmt: skip
            clean = accuracy.evaluate(model, batch.image, batch.label).prediction == batch.label
            correct += torch.stack([clean.sum(), robust.sum()])
    accuracies: list[float] = (total(correct) / len(positions)).tolist()
    return accuracies[0], accuracies[1]


def _split(data: Dataset, config: Config) -> tuple[Tensor, Tensor]:
    """Positions to train on and positions held out, the same for every run with this seed."""
    fit, held_out = training_split(len(data), holdout=config.holdout, seed=config.seed)
    return fit.to(data.labels.device), held_out.to(data.labels.device)


def _rank(record: dict[str, float], config: Config) -> tuple[float, float]:
    """The order of epochs: by robust accuracy, then by clean accuracy.

    Standard training reverses this, because its robust accuracy is highest before it has learned anything.
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
