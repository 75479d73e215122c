"""How an analysis runs: once for all of them, what each gets beside its own steps.

Models and data are checked before any work; batches are shared over the processes of torchrun, and finished ones kept
on disk, so that the same call continues. Rows are joined in the data's order, so that no result depends on batch size,
order or number of processes (sums are exact; other numbers hold to rounding).
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
from attrib.analyses.saved import key_of, provenance, read_words, saved_result
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

    A result of the same settings, models and data that was saved in ``out`` is read, said with a warning, and nothing
    is written. Models that are no checkpoints are measured anew, since their code may have changed; but not with
    ``reuse``, which also says nothing. style: of the figures written, which are drawn anew for it. warn: called with
    every warning, in the first process of several.
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
        known = reuse or all(model.checkpoint or model.maps is not None for model in loaded)
        earlier = saved_result(analysis, place, key, group) if known and place else None
        if earlier and place and (reuse or analysis.images_table in earlier.frames):  # or the user deleted the rows
            if not reuse:
                for message in (read_words(analysis, place), *earlier.warnings):
                    messages.add(message)
            return earlier, earlier.save(place, style=style, keep=_maps_of(analysis, loaded, place)) if style else []
        if place and group.rank == 0 and (sentence := unused(place, analysis.name, key)):
            warn(sentence)
        stack.enter_context(keep_prepared(*(model.module for model in loaded if model.module is not None)))
        with partial_results(place, analysis.name, key, group) as store:
            context = replace(context, partial=store.folder)
            work = _work(passes, context)
            facts = _describe(analysis, loaded, context, group)
            measured = _measure(analysis, loaded, work, context, group, store)
            answer = None
            if measured is not None and facts is not None:
                splits = {each.number: each.of.data.split for each in work}
                found = joined(analysis, loaded, measured, facts, splits, context)
                result = _summed_up(analysis, found, messages, key)
                if place and (sentence := result.replaces(place)):
                    warn(sentence)
                answer = (
                    result,
                    (result.save(place, style=style, keep=_maps_of(analysis, loaded, place)) if place else []),
                )
            answer = broadcast(answer)
    assert answer is not None
    return answer


class Ready(NamedTuple):
    """An analysis with all that it runs on, checked."""

    analysis: Analysis
    """With what its options leave to the data."""
    context: Context
    passes: Sequence[Pass]
    key: str
    """A hash of all that the result depends on."""


def prepare(
    analysis: Analysis, models: Sequence[Model], data: Any, batch_size: int | None, group: World,
    warn: Callable[[str], None],
) -> Ready:  # fmt: skip
    """Check models, which are on the device, and data before any work; raises InputError where they do not fit."""
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


class _Work(NamedTuple):
    """One batch to measure."""

    number: int
    of: Pass
    positions: Tensor


def _work(passes: Sequence[Pass], context: Context) -> list[_Work]:
    """The batches of all passes, numbered."""
    batches = [
        (each, positions)
        for each in passes
        for positions in (torch.arange(len(each.data)) if each.positions is None else each.positions).split(
            context.batch_size
        )
    ]
    return [_Work(number, *batch) for number, batch in enumerate(batches)]


def _measure(
    analysis: Analysis, models: Sequence[Model], work: Sequence[_Work], context: Context, group: World, store: Store
) -> Part | None:
    """Measure every batch with every model; what all processes measured for the first, None for the others."""
    left = missing(range(len(work)), store.earlier)[group.rank :: group.size]
    # A bar counts a batch under one model: a batch of several large models may take minutes.
    bar = progress(len(left) * len(models), analysis.name, unit="batch", first=group.rank == 0)
    with _map_files(analysis, models, context, store) as writers, bar:
        for number, batch in _batches(work, left, context):
            of_pass = replace(context, data=work[number].of.data)
            store.add(_measure_batch(analysis, models, number, batch, of_pass, writers, bar.update))
    parts = gather(store.part)
    if parts is None:
        return None
    first, *rest = parts
    for other in chain(rest, store.earlier):
        first.merge(other)
    return first


def _batches(work: Sequence[_Work], numbers: Sequence[int], context: Context) -> Iterator[tuple[int, Batch]]:
    """The batches of these numbers, in order, with their numbers."""
    for _, of_pass in groupby(numbers, key=lambda number: id(work[number].of)):
        taken = list(of_pass)
        order = torch.cat([work[number].positions for number in taken])
        # Only the last batch may be smaller, so that splitting the order again gives the same batches.
        batches = work[taken[0]].of.data.batches(context.batch_size, order=order, device=context.device)
        yield from zip(taken, batches, strict=True)


def _measure_batch(
    analysis: Analysis, models: Sequence[Model], number: int, batch: Batch, context: Context,
    writers: Mapping[int, MapWriter], advance: Callable[[], object],
) -> Part:  # fmt: skip
    """What every model, and every two of them, make of a batch; advance: called after every model."""
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
    """What is known of every model beside its batches, for the first process; None for the others."""
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
    joined = {place: fact for of_rank in parts for place, fact in of_rank.items()}
    return [joined[place] for place in range(len(models))]


def _summed_up(analysis: Analysis, found: Findings, messages: Messages, key: str) -> Result:
    """From what was measured to the result: the numbers of every name, the differences of every two."""
    named = analysis.named(found)
    entries = analysis.completed([analysis.entry(files) for files in named.values()])
    pairs = [
        {"a": a, "b": b, **difference}
        for a, b in combinations(named, 2)
        for difference in analysis.compare(named[a], named[b], found)
    ]
    data = found.context.data
    summary: dict[str, Any] = {
        **(about_data(data) if data else {}),
        **analysis.about(found, entries), "models": entries, "pairs": analysis.corrected(pairs),
        "versions": provenance(), "options": {"analysis": analysis.name, **analysis.options()}, "key": key,
    }  # fmt: skip
    for sentence in analysis.objections(summary, found):
        messages.add(sentence)
    summary["warnings"] = messages.all
    return Result(analysis, summary, analysis.frames(found, summary), analysis.arrays(found, summary))


def _maps_of(analysis: Analysis, models: Sequence[Model], place: Path) -> list[Path]:
    """The files of maps that were measured, or written."""
    written = models if getattr(analysis, "save_maps", False) else ()
    return [
        *(Path(model.maps_file) for model in models if model.maps_file),
        *(place / f"{analysis.name}-{model.stem}.npz" for model in written),
    ]


@contextmanager
def _map_files(
    analysis: Analysis, models: Sequence[Model], context: Context, store: Store
) -> Iterator[dict[int, MapWriter]]:
    """A writer of maps for every model, where the analysis asks for them; the files appear when the body is through."""
    if not getattr(analysis, "save_maps", False):
        yield {}
        return
    assert store.folder is not None  # or the analysis was refused
    data = context.images
    writers = {
        place: MapWriter(store.folder, f"{analysis.name}-{model.stem}", images=len(data), size=data.shape[1:])
        for place, model in enumerate(models)
    }
    yield writers
    for writer in writers.values():
        writer.finish(store.folder.parent)
