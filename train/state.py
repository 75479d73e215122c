"""The state of a run: make, save and load it."""

import copy
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attrib.data import Dataset
from attrib.data.catalog import CATALOG
from attrib.errors import InputError
from attrib.files import atomic
from attrib.models.architectures import build
from attrib.models.classifier import Classifier
from attrib.models.weights import content_of
from train.config import Config


@dataclass
class State:
    """Everything that training changes. With the configuration it suffices to resume."""

    model: Classifier
    average: Classifier | None
    """The running mean of the model's weights; None without ``ema``."""
    optimizer: torch.optim.Optimizer
    history: list[dict[str, float]]
    """One record per finished epoch: the lines of log.jsonl."""

    @property
    def final_model(self) -> Classifier:
        """The model that is evaluated and saved."""
        return self.average or self.model


def initial(config: Config, data: Dataset, device: torch.device) -> State:
    entry = CATALOG.get(config.data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build(
            config.arch,
            num_classes=len(data.classes),
            input_shape=data.shape,
            gated=config.gated,
            mean=entry.mean if entry else None,
            std=entry.std if entry else None,
        )
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            model.parameters(), lr=config.lr, momentum=0.9, nesterov=True, weight_decay=config.weight_decay
        )
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    average = copy.deepcopy(model) if config.ema else None
    return State(model, average, optimizer, [])


def save(state: State, config: Config, data: Dataset, path: Path) -> None:
    with atomic(path) as temporary, temporary.open("wb") as file:
        torch.save(
            {
                "config": config.as_dict(),
                "data": data.key,
                "model": state.model.state_dict(),
                "average": state.average.state_dict() if state.average else None,
                "optimizer": state.optimizer.state_dict(),
                "history": state.history,
            },
            file,
        )


def resume(state: State, config: Config, data: Dataset, path: Path) -> None:
    try:
        saved: Mapping[str, Any] = content_of(path)
        saved_config, history = dict(saved["config"]), [dict(record) for record in saved["history"]]
        _check_numbers(history)
    except Exception as error:
        raise _broken(path, error) from None
    changed = [
        f"{key} was {saved_config.get(key)}, now {value}"
        for key, value in config.as_dict().items()
        if saved_config.get(key) != value
    ]
    if changed:
        raise InputError(
            f"{path} was started with other options: {'; '.join(changed)};"
            " repeat those, name another --out, or start over with --fresh"
        )
    if saved.get("data", data.key) != data.key:  # Older files lack the key.
        raise InputError(
            f"{path} was started with other images or labels than {data.name} has now;"
            " bring those back, name another --out, or start over with --fresh"
        )
    try:
        state.model.load_state_dict(saved["model"])
        state.optimizer.load_state_dict(saved["optimizer"])
        if state.average:
            state.average.load_state_dict(saved["average"])
    except Exception as error:
        raise _broken(path, error) from None
    state.history = history


def _check_numbers(history: list[dict[str, float]]) -> None:
    """Raise ValueError if a record is not that of a finished epoch."""
    for epoch, record in enumerate(history, start=1):
        if record["epoch"] != epoch or not all(math.isfinite(record[name]) for name in ("clean", "robust", "seconds")):
            raise ValueError


def _broken(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is not a run that can be continued ({type(error).__name__}); --fresh starts over")


def write_log(history: list[dict[str, float]], out: Path) -> None:
    """Rewrite log.jsonl from the saved history, so that it always agrees with last.pt."""
    with atomic(out / "log.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in history))


def write_curves(record: dict[str, float], out: Path) -> None:
    """Write an epoch's curves for TensorBoard to a file of their own; a full disk then loses no earlier epoch."""
    # here, since tensorboard is optional
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    epoch, now = int(record["epoch"]), time.time()
    names = ("loss", "clean", "robust", "images_per_s")
    values = [Summary.Value(tag=name, simple_value=record[name]) for name in names]
    events = [
        Event(wall_time=now, file_version="brain.Event:2"),
        Event(wall_time=now, step=epoch, summary=Summary(value=values)),
    ]
    with atomic(out / f"events.out.tfevents.{epoch:06}") as temporary, temporary.open("wb") as file:
        for event in events:
            RecordWriter(file).write(event.SerializeToString())
