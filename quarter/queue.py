"""Run many trainings and their analyses on one device within a time budget.

A large network trains alone, small ones side by side. A large run starts only if all of it fits, including the
analyses. A small run may start if one epoch fits: it stops in time and continues elsewhere from its state.
"""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attrib import inference
from attrib.errors import InputError
from figures import models
from figures.models import Row
from quarter import commands, ledger, rates
from quarter.schedule import Job, epoch_seconds, next_job

START_SECONDS = 15.0
"""Overhead of a command that has not been measured: imports, data, compilation."""
ANALYSIS_EPOCHS = 6.0
"""Duration of a model's analyses, in epochs of its training, until a model of its place has been analysed."""
POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0
"""Time after the deadline before running commands are terminated."""
STOPPED = 3
"""Exit status of a training that --until stopped."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where and how a queue runs."""

    device: str
    gpu: bool
    device_name: str
    """Its name in the ledger."""
    runs: Path
    results: Path
    jobs: int
    deadline: float
    """Unix time."""
    limit: int | None
    """Test images of the analyses, None for all."""
    ledger: Path
    rates: Mapping[str, rates.Rate]
    """Per place, the measured duration of an epoch of pgd-at."""


@dataclass
class Item:
    """One command of the queue."""

    row: Row
    analysis: str | None
    """Name of the analysis; None: the training."""
    command: list[str]
    job: Job
    started: float = 0.0

    @property
    def title(self) -> str:
        """Its name in the queue's lines."""
        return self.row.key if self.analysis is None else f"{self.row.key}: {self.analysis}"


@dataclass
class Report:
    """The outcome of every run, by its key ``place/name``."""

    finished: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    """Stopped by the budget; they continue with the same command."""
    failed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Runs and analyses that were not started, and analyses ended at the deadline."""
    packed: list[str] = field(default_factory=list)
    """Files in the archive."""

    def counts(self) -> str:
        """Count the runs, in one line."""
        packed = {path.rpartition("/")[0] for path in self.packed if path.endswith(("model.pt", "last.pt"))}
        left, failed = ({title.partition(":")[0] for title in titles} for titles in (self.left, self.failed))
        return (
            f"runs: {len(self.finished)} finished, {len(self.stopped)} stopped by the budget, {len(left)} left,"
            f" {len(failed)} failed, {len(packed)} packed"
        )


class Queue:
    """The waiting and running commands, and the report of the finished ones."""

    def __init__(self, wanted: Sequence[Row], settings: Settings) -> None:
        self.settings = settings
        self.start_time = time.time()
        self.report = Report()
        self.waiting: list[Row] = []
        self.analyses: list[Item] = []
        self.running: dict[subprocess.Popen[bytes], Item] = {}
        self.analysis_seconds: dict[str, float] = {}
        self.trained_at: dict[str, float] = {}
        self.configs = {}
        done = ledger.read(settings.ledger)
        for row in wanted:
            try:
                self.configs[row.key] = models.config(row)
            except InputError as error:
                self.fail(row.key, str(error))
                continue
            # A run that was trained here may lack some of its analyses.
            if ledger.has(done, row) and not self.is_trained(row):
                self.say(f"{row.key}: in the ledger already")
                continue
            self.waiting.append(row)

    def run(self) -> Report:
        """Run all that fits. A failed run does not stop the others."""
        try:
            while True:
                self.reap()
                while (item := self.next_item()) is not None:
                    self.start(item)
                if not self.running:
                    break
                if self.remaining() < -GRACE_SECONDS:
                    self.end_all()
                time.sleep(POLL_SECONDS)
        finally:
            self.end_all()
        self.report.left += [*(item.title for item in self.analyses), *(row.key for row in self.waiting)]
        return self.report

    def next_item(self) -> Item | None:
        """Choose the command to start now, or None. Analyses come before trainings."""
        if len(self.running) >= self.settings.jobs:
            return None
        for row in [row for row in self.waiting if self.is_trained(row)]:
            self.waiting.remove(row)
            self.add_analyses(row)
        candidates = [*self.analyses, *map(self.training_item, self.waiting)]
        now = time.time()
        running = [
            item.job._replace(seconds=max(0.0, item.started + item.job.seconds - now)) for item in self.running.values()
        ]
        position = next_job(
            [item.job for item in candidates], running, remaining=self.remaining(), slots=self.settings.jobs
        )
        if position is None:
            return None
        item = candidates[position]
        if item.analysis is None:
            self.waiting.remove(item.row)
        else:
            self.analyses.remove(item)
        return item

    def training_item(self, row: Row) -> Item:
        """The training of a row, with its estimated duration."""
        epoch = self.epoch_seconds(row)
        run = self.settings.runs / row.key
        done = len(ledger.history(run)) if (run / "last.pt").exists() else 0
        rate = self.settings.rates.get(row.place)
        start = rate.start if rate else START_SECONDS
        whole = start + (self.configs[row.key].epochs - done) * epoch + self.seconds_of_analysis(row)
        least = start + epoch if row.small else whole
        command = commands.training(
            row, device=self.settings.device, runs=self.settings.runs, until=self.settings.deadline,
            engine=rate.engine if rate else None,
        )  # fmt: skip
        return Item(row, None, command, Job(row.small, whole, least))

    def epoch_seconds(self, row: Row) -> float:
        """Seconds per epoch; 0 if unknown, which happens for small networks only."""
        return epoch_seconds(row, self.settings.runs, self.settings.rates) or 0.0

    def seconds_of_analysis(self, row: Row) -> float:
        """Seconds for all analyses of a model: as long as those of the last model of its place."""
        usual = START_SECONDS + ANALYSIS_EPOCHS * self.epoch_seconds(row)
        return self.analysis_seconds.get(row.place, usual)

    def start(self, item: Item) -> None:
        """Start a command. Its output goes to a file in the run's folder."""
        log = self.log(item)
        log.parent.mkdir(parents=True, exist_ok=True)
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.settings.jobs))}
        with log.open("ab") as output:
            process = subprocess.Popen(
                item.command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**(threads if item.job.small else {}), **os.environ},
            )  # fmt: skip
        item.started = time.time()
        self.running[process] = item
        self.say(f"{item.title}: started")

    def log(self, item: Item) -> Path:
        """The file for a command's output."""
        name = "train.log" if item.analysis is None else f"{item.analysis}.log"
        return self.settings.runs / item.row.key / name

    def reap(self) -> None:
        """Remove finished commands from those running and handle their results."""
        for process, item in list(self.running.items()):
            status = process.poll()
            if status is not None:
                del self.running[process]
                self.handle_exit(item, status)

    def handle_exit(self, item: Item, status: int) -> None:
        """Record the outcome of a command."""
        if item.analysis is None and status == STOPPED:
            self.report.stopped.append(item.row.key)
            self.say(f"{item.title}: stopped by the budget")
        elif status != 0:
            output = self.log(item).read_text(errors="replace")
            self.fail(item.title, f"status {status}: {commands.last_line(output)}")
        elif item.analysis is None:
            self.add_analyses(item.row)
        else:
            self.say(f"{item.title}: done")
            self.update_report(item.row)

    def is_trained(self, row: Row) -> bool:
        """Whether all epochs of the run are finished."""
        run = self.settings.runs / row.key
        return (run / "model.pt").exists() and len(ledger.history(run)) >= self.configs[row.key].epochs

    def add_analyses(self, row: Row) -> None:
        """Queue the analyses of a trained model, except those that exist for these weights."""
        self.say(f"{row.key}: trained")
        job = Job(True, self.seconds_of_analysis(row), START_SECONDS)
        wanted = commands.analyses(
            row, device=self.settings.device, gpu=self.settings.gpu, runs=self.settings.runs,
            results=self.settings.results, limit=self.settings.limit,
        )  # fmt: skip
        missing = [name for name in wanted if not self.is_analysed(row, name)]
        if len(missing) == len(wanted):
            self.trained_at[row.key] = time.time()
        self.analyses += [Item(row, name, wanted[name], job) for name in missing]
        self.update_report(row)

    def is_analysed(self, row: Row, analysis: str) -> bool:
        """Whether the results of an analysis exist and are newer than the model."""
        model = self.settings.runs / row.key / "model.pt"
        summary = self.settings.results / row.key / analysis / f"{analysis.partition('-')[0]}.json"
        return summary.exists() and summary.stat().st_mtime >= model.stat().st_mtime

    def update_report(self, row: Row) -> None:
        """Write the ledger's entry once the accuracies exist. The run is finished when no analysis is pending."""
        if self.is_analysed(row, "robust"):
            summary = json.loads((self.settings.results / row.key / "robust" / "robust.json").read_text())
            precision = inference.precision(self.configs[row.key].precision, inference.device(self.settings.device))
            entry = ledger.describe(
                row, self.settings.runs / row.key, summary["models"][0]["accuracies"],
                device=self.settings.device_name, precision=precision,
            )  # fmt: skip
            ledger.merge(self.settings.ledger, [entry])
        pending = any(item.row == row for item in [*self.analyses, *self.running.values()])
        if not pending and not any(title.startswith(f"{row.key}:") for title in self.report.failed):
            self.report.finished.append(row.key)
            if row.key in self.trained_at:
                self.analysis_seconds[row.place] = time.time() - self.trained_at[row.key]

    def end_all(self) -> None:
        """Terminate all running commands. A training counts as failed, since it should have stopped by itself."""
        for process in self.running:
            process.terminate()
        for process, item in self.running.items():
            process.wait()
            if item.analysis is None:
                self.fail(item.title, "ended at the deadline")
            else:
                self.report.left.append(item.title)
                self.say(f"{item.title}: ended at the deadline")
        self.running.clear()

    def remaining(self) -> float:
        """Seconds until the deadline."""
        return self.settings.deadline - time.time()

    def fail(self, title: str, reason: str) -> None:
        """Record a failure. The queue continues."""
        self.report.failed.append(title)
        self.say(f"{title}: failed: {reason}")

    def say(self, line: str) -> None:
        """Print a line of progress, with the seconds since the start."""
        print(f"[{time.time() - self.start_time:5.0f} s] {line}", flush=True)
