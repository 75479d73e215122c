"""Run an analysis: what all analyses share.

Models and data are checked before any work. Batches are shared among the processes of torchrun. Finished batches are
kept on disk, so that the same call continues. Rows are joined in the data's order, so that no result depends on batch
size, order or number of processes (sums are exact; other numbers agree up to rounding).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain, combinations, groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attrib import inference
from attrib.analyses.base import Analysis
from attrib.analyses.fitting import about_data, batch_size_for, fitted, with_labels
from attrib.analyses.inputs import check_labels, check_models, dataset_of
from attrib.analyses.joining import joined, pairs_of_files
from attrib.analyses.maps_file import MapWriter
from attrib.analyses.measured import Context, Findings, Pass
from attrib.analyses.messages import Messages, print_warning, progress
from attrib.analyses.options import check_type
from attrib.analyses.partial import Part, Store, missing, partial_results, unused
from attrib.analyses.result import Result
from attrib.analyses.saved import anew_words, key_of, provenance, read_words, saved_result, why_anew
from attrib.analyses.styled import check_style
from attrib.data import Batch
from attrib.errors import InputError
from attrib.fast import keep_prepared
from attrib.files import folder
from attrib.models.several import models_of, on_device
from attrib.models.specs import Model
from attrib.parallel import World, broadcast, gather, world, writing_alone
from attrib.styles import Style


def execute(
    analysis: Analysis, models: Any, data: Any, *, out: str | Path | None, batch_size: int | None, device: str,
    style: Style | None = None, reuse: bool = False, warn: Callable[[str], None] = print_warning,
) -> tuple[Result, list[Path]]:  # fmt: skip
    """Run an analysis; returns the result and, with ``out``, the files written. See ``Analysis.run``.

    If ``out`` holds a result of the same settings, models and data, it is read, with a warning, and nothing is written.
    This holds for checkpoints and map files; other models are measured again, with a warning, since their code may have
    changed. reuse: read the result of any model, without a warning. style: for the figures, which are drawn again if
    the result was read. warn: called with every warning, in the first process only.
    """
    if batch_size is not None:
        check_type("batch_size", batch_size, int)
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size: expected at least 1, got {batch_size}")
    place = folder(Path(out)) if out else None
    with world(device) as group, ExitStack() as stack:
        stack.enter_context(writing_alone(place, group))
        if getattr(analysis, "save_maps", False):
            _check_save_maps(place, group)
        inference.precision(analysis.precision, group.device)
        loaded = analysis.looked_at(models_of(models, device=group.device))
        stack.enter_context(on_device(loaded, group.device))
        messages = Messages(warn if group.rank == 0 else None)
        analysis, context, passes, key = prepare(analysis, loaded, data, batch_size, group, messages.add)
        loaded = context.models
        if style:
            check_style(style, [model.name for model in loaded], context.shown)
        reason = why_anew(analysis, [] if reuse else loaded)
        earlier = saved_result(analysis, place, key, group) if place and not reason else None
        if earlier and place and (reuse or analysis.images_table in earlier.frames):  # else the user deleted the rows
            if not reuse:
                for message in (read_words(analysis, place), *earlier.warnings):
                    messages.add(message)
            return earlier, earlier.save(place, style=style, keep=_maps_of(analysis, loaded, place)) if style else []
        if place and group.rank == 0:
            for sentence in (anew_words(analysis, place, key, reason), unused(place, analysis.name, key)):
                if sentence:
                    warn(sentence)
        stack.enter_context(keep_prepared(*(model.module for model in loaded if model.module is not None)))
        with partial_results(place, analysis.name, key, group) as store:
            context = replace(context, partial=store.folder)
            tasks = _tasks(passes, context)
            facts = _describe(analysis, loaded, context, group)
            measured = _measure(analysis, loaded, tasks, context, group, store)
            outcome = None
            if measured is not None and facts is not None:
                splits = {task.number: task.source.data.split for task in tasks}
                findings = joined(analysis, loaded, measured, facts, splits, context)
                result = _result_from(analysis, findings, messages, key)
                if place and (sentence := result.replaces(place)):
                    warn(sentence)
                keep = _maps_of(analysis, loaded, place) if place else []
                outcome = result, result.save(place, style=style, keep=keep) if place else []
            outcome = broadcast(outcome)
    assert outcome is not None
    return outcome


class Ready(NamedTuple):
    """An analysis and its input, checked."""

    analysis: Analysis
    """With the data's defaults filled in."""
    context: Context
    passes: Sequence[Pass]
    key: str
    """A hash of all that the result depends on."""


def prepare(
    analysis: Analysis, models: Sequence[Model], data: Any, batch_size: int | None, group: World,
    warn: Callable[[str], None],
) -> Ready:  # fmt: skip
    """Check the models (already on the device) and the data; raises InputError if they do not fit."""
    images = dataset_of(data, models) if data is not None or analysis.needs_data else None
    if images is not None:
        images = fitted(images, models, group.device, warn)
    check_labels(analysis, images)
    analysis = analysis.resolved(images)
    models = check_models(analysis, models, images, group, warn)
    size = batch_size or batch_size_for(analysis.usual_batch(group.device), images, models)
    context = Context(group.device, images, size, analysis.shown(images) if images else (), tuple(models))
    passes = analysis.passes(models, images) if images else []
    return Ready(analysis, context, passes, key_of(analysis, models, passes, context))


def _check_save_maps(out: Path | None, group: World) -> None:
    if out is None:
        raise InputError("save_maps: needs a folder to write to, out=DIR (--out DIR)")
    if group.size > 1:
        raise InputError("save_maps: writes from one process; run it without torchrun")


class _Task(NamedTuple):
    """One batch to measure."""

    number: int
    source: Pass
    positions: Tensor


def _tasks(passes: Sequence[Pass], context: Context) -> list[_Task]:
    """The batches of all passes, numbered."""
    batches = [
        (each, positions)
        for each in passes
        for positions in (torch.arange(len(each.data)) if each.positions is None else each.positions).split(
            context.batch_size
        )
    ]
    return [_Task(number, *batch) for number, batch in enumerate(batches)]


def _measure(
    analysis: Analysis, models: Sequence[Model], tasks: Sequence[_Task], context: Context, group: World, store: Store
) -> Part | None:
    """Measure every batch with every model; returns all measurements in the first process, None in the others."""
    pending = missing(range(len(tasks)), store.earlier)[group.rank :: group.size]
    # A bar counts a batch under one model: a batch of several large models may take minutes.
    bar = progress(len(pending) * len(models), analysis.name, unit="batch", first=group.rank == 0)
    with _map_files(analysis, models, context, store) as writers, bar:
        for number, batch in _batches(tasks, pending, context):
            pass_context = replace(context, data=tasks[number].source.data)
            store.add(_measure_batch(analysis, models, number, batch, pass_context, writers, bar.update))
    parts = gather(store.part)
    if parts is None:
        return None
    first, *rest = parts
    for other in chain(rest, store.earlier):
        first.merge(other)
    return first


def _batches(tasks: Sequence[_Task], numbers: Sequence[int], context: Context) -> Iterator[tuple[int, Batch]]:
    """The batches with these numbers, in order, each with its number."""
    for _, group in groupby(numbers, key=lambda number: id(tasks[number].source)):
        of_pass = list(group)
        order = torch.cat([tasks[number].positions for number in of_pass])
        # Only the last batch may be smaller, so that splitting the order again gives the same batches.
        batches = tasks[of_pass[0]].source.data.batches(context.batch_size, order=order, device=context.device)
        yield from zip(of_pass, batches, strict=True)


def _measure_batch(
    analysis: Analysis, models: Sequence[Model], number: int, batch: Batch, context: Context,
    writers: Mapping[int, MapWriter], advance: Callable[[], object],
) -> Part:  # fmt: skip
    """Measure a batch with every model, and compare every two models; advance: called after every model."""
    part, kept = Part(rows={number: []}, across={number: []}), []
    index = batch.index.cpu()
    files = context.images.files
    head = {"index": index} | ({"file": [files[at] for at in index.tolist()]} if files else {})
    for place, model in enumerate(models):
        with model.opened(context.device) as opened:
            measured = analysis.measure(opened, with_labels(analysis, opened, batch, context), context)
        kept.append(measured.keep)
        for kind, columns in measured.columns.items():
            part.rows[number].append((place, kind, head | _on_cpu(columns)))
        part.add_sums(place, measured.sums, measured.resampled)
        for position, example in measured.examples.items():
            part.examples.setdefault(position, {})[model.shown_as] = dict(example)
        if place in writers and measured.maps is not None:
            writers[place].add(index.numpy(), *(array.cpu().numpy() for array in measured.maps))
        advance()
    for pair, (a, b) in enumerate(pairs_of_files(models)):
        for kind, columns in analysis.across(kept[a], kept[b]).items():
            part.across[number].append((pair, kind, {"index": index} | _on_cpu(columns)))
    return part


def _on_cpu(columns: Mapping[str, Tensor | list[str]]) -> dict[str, Tensor | list[str]]:
    return {name: values.cpu() if isinstance(values, Tensor) else values for name, values in columns.items()}


def _describe(
    analysis: Analysis, models: Sequence[Model], context: Context, group: World
) -> list[dict[str, Any]] | None:
    """The facts about every model, in the first process; None in the others."""
    facts = {}
    own = range(group.rank, len(models), group.size)
    with progress(len(own), f"{analysis.name}, models", unit="model", first=group.rank == 0) as bar:
        for place in own:
            with models[place].opened(context.device) as opened:
                facts[place] = analysis.describe(opened, context)
            bar.update()
    parts = gather(facts)
    if parts is None:
        return None
    all_facts = {place: fact for part in parts for place, fact in part.items()}
    return [all_facts[place] for place in range(len(models))]


def _result_from(analysis: Analysis, findings: Findings, messages: Messages, key: str) -> Result:
    """The result of the measurements: the numbers of every name, and the differences of every two names."""
    named = analysis.named(findings)
    entries = analysis.completed([analysis.entry(files) for files in named.values()])
    pairs = [
        {"a": a, "b": b, **difference}
        for a, b in combinations(named, 2)
        for difference in analysis.compare(named[a], named[b], findings)
    ]
    data = findings.context.data
    summary: dict[str, Any] = {
        **(about_data(data) if data else {}),
        **analysis.about(findings, entries), "models": entries, "pairs": analysis.corrected(pairs),
        "versions": provenance(), "options": {"analysis": analysis.name, **analysis.options()}, "key": key,
    }  # fmt: skip
    for sentence in analysis.objections(summary, findings):
        messages.add(sentence)
    summary["warnings"] = messages.all
    return Result(analysis, summary, analysis.frames(findings, summary), analysis.arrays(findings, summary))


def _maps_of(analysis: Analysis, models: Sequence[Model], place: Path) -> list[Path]:
    """The map files that were measured or written."""
    written = models if getattr(analysis, "save_maps", False) else ()
    return [
        *(Path(model.maps_file) for model in models if model.maps_file),
        *(place / f"{analysis.name}-{model.stem}.npz" for model in written),
    ]


@contextmanager
def _map_files(
    analysis: Analysis, models: Sequence[Model], context: Context, store: Store
) -> Iterator[dict[int, MapWriter]]:
    """A writer of maps for every model, if the analysis saves maps; the files appear after the body."""
    if not getattr(analysis, "save_maps", False):
        yield {}
        return
    assert store.folder is not None  # else the analysis was refused
    data = context.images
    writers = {
        place: MapWriter(store.folder, f"{analysis.name}-{model.stem}", images=len(data), size=data.shape[1:])
        for place, model in enumerate(models)
    }
    yield writers
    for writer in writers.values():
        writer.finish(store.folder.parent)
