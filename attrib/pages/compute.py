"""The report: run every analysis or reuse its result, and write the page."""

import hashlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from attrib.analyses.base import Analysis
from attrib.analyses.check import Checks
from attrib.analyses.contrib import Contributions
from attrib.analyses.explaining import Explaining
from attrib.analyses.fc import LastLayer
from attrib.analyses.messages import Messages, print_warning
from attrib.analyses.options import Attack, check_options, option, same_option
from attrib.analyses.radii import parse_steps
from attrib.analyses.relate import Relation
from attrib.analyses.result import discard
from attrib.analyses.robust import Robustness
from attrib.analyses.sets import Sets
from attrib.analyses.span import Span
from attrib.errors import InputError, Stopped, WriteError
from attrib.files import atomic, folder, to_json
from attrib.lazy import Lazy
from attrib.pages.commands import command_line
from attrib.pages.images import Browsed, pixels

if TYPE_CHECKING:
    from attrib import fast, parallel, search
    from attrib.analyses import fitting, inputs, run, saved
    from attrib.analyses.result import Result
    from attrib.data import Dataset, catalog
    from attrib.models import cards, several
    from attrib.models.specs import Model
    from attrib.pages import estimate, render
    from attrib.pages.render import Computed
    from attrib.parallel import World
else:
    cards, catalog, fast = Lazy("attrib.models.cards"), Lazy("attrib.data.catalog"), Lazy("attrib.fast")
    inputs, parallel, search = Lazy("attrib.analyses.inputs"), Lazy("attrib.parallel"), Lazy("attrib.search")
    fitting, several = Lazy("attrib.analyses.fitting"), Lazy("attrib.models.several")
    estimate, render = Lazy("attrib.pages.estimate"), Lazy("attrib.pages.render")
    run, saved = Lazy("attrib.analyses.run"), Lazy("attrib.analyses.saved")

CHECKED = 200
"""Largest number of images for the checks, which run every model about a hundred times per image."""
FEW, LONG = 100, 60
"""A report that takes more than LONG seconds suggests a limit of FEW images."""
INTERRUPTED = "the same command continues where it stopped"


class Planned(NamedTuple):
    """An analysis of the report, and its data."""

    analysis: Analysis
    data: "Dataset | None"
    n: int | None
    """How many images it uses; None: only the weights."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One self-contained HTML page: every table and figure, and every model's maps of single images to browse.

    The numbers stay in a folder beside the page. The same command reuses them, and continues where it was stopped.
    """

    takes: ClassVar[tuple[str, ...]] = ("models",)
    needs_data: ClassVar[bool] = True

    images: int = option(
        200, "How many images to browse: the first ones, and matches of the page's searches.", low=1
    )  # fmt: skip
    limit: int = option(1000, f"How many images for statistics; the checks take {CHECKED} at most.", low=1)
    map: Any = same_option(Explaining, "map")
    threshold: str = same_option(Span, "threshold")
    target: str = same_option(Explaining, "target")
    attack: Attack | None = option(Attack("pgd"), "The attack beside clean images: fgsm, pgd or cw.")
    steps: Sequence[int] | None = option(
        None, "The k of PGD-k and CW-k; the largest k is also for all other attacks on the page (default: 10 and 20, or"
        " the data set's usual steps if these are more; other attacks: the usual steps).", parse=parse_steps,
        show=lambda steps: ",".join(map(str, steps)),
    )  # fmt: skip
    layer: str | None = same_option(Explaining, "layer")
    fc: str | None = same_option(LastLayer, "fc")
    seed: int = same_option(Analysis, "seed")
    precision: str = same_option(Analysis, "precision")

    def __post_init__(self) -> None:
        """Check the options; the analyses check theirs."""
        check_options(self)
        if self.attack is None:
            raise InputError("attack: expected fgsm, pgd or cw, got none")
        if self.steps is not None:
            object.__setattr__(self, "steps", Robustness(steps=self.steps).steps)
        self._analyses("")

    def run(
        self, models: Any, data: Any = None, *, out: str | Path = "report.html", results: str | Path | None = None,
        device: str = "auto",
    ) -> Path:  # fmt: skip
        """Run every analysis that has no result yet, and write the page; returns its path.

        models, data, device: as ``attrib.analyses.base.Analysis.run`` takes them. out: the page. results: the
        folder for the numbers behind it (default: beside the page, NAME-results). An analysis that cannot be computed
        is left out of the page, with the reason. Raises InputError if the models and the data do not fit together.
        """
        page = Path(out)
        if page.is_dir():
            raise InputError(f"out: expected a file for the page, as report.html, got the folder {page}")
        folder(page.absolute().parent)
        place = folder(Path(results) if results else page.with_name(f"{page.stem}-results"))
        with parallel.world(device) as group, ExitStack() as stack:
            stack.enter_context(parallel.writing_alone(place, group))
            loaded = several.with_short_names(several.models_of(models, device=group.device))
            stack.enter_context(several.on_device(loaded, group.device))
            warn = Messages(print_warning if group.rank == 0 else None).add  # each warning once for all analyses
            images = inputs.dataset_of(data, loaded).first(self.limit)
            images = fitting.fitted(images, loaded, group.device, warn)
            if not images.labelled:
                raise InputError(
                    f"report: needs labels, and {images.name} is unlabelled; use attrib span, maps, check or robust"
                )
            browsed = Browsed(**self._maps(), target=self.target).resolved(images)
            loaded = _checked(browsed, loaded, images, group, warn)
            stack.enter_context(fast.keep_prepared(*(model.opened_module for model in loaded)))
            about = self._about(browsed, loaded, images, group)
            parts: dict[str, Computed] = {}
            missing: dict[str, str] = {}
            plan = self._planned(loaded, images)
            _say_how_long(plan, loaded, place, group)
            for planned in plan:
                span = parts["span"].result if "span" in parts else None
                part = _computed(_searched(planned, span), loaded, place, device, warn)
                if isinstance(part, str):
                    missing[planned.analysis.name] = part
                else:
                    parts[planned.analysis.name] = part
            if group.rank == 0:
                command = command_line("report", self, loaded, images, out=page, results=results, device=device)
                about |= {"date": _now(), "command": command, "versions": saved.provenance(), "missing": missing}
                _write_json(about, place / "report.json")
                with atomic(page) as temporary:
                    temporary.write_text(render.render(about, parts), encoding="utf-8")
                for paragraph in render.answer(parts):
                    if paragraph.answer:  # a single model may have numbers only
                        _say(paragraph.answer)
        return page

    def _maps(self) -> dict[str, Any]:
        """The settings that all analyses of maps share."""
        return {
            "map": self.map, "layer": self.layer, "attack": self._strength(), "seed": self.seed,
            "precision": self.precision,
        }  # fmt: skip

    def _strength(self) -> Attack:
        """The attack of all analyses but Robustness: fgsm has no steps, others have the largest of ``steps``."""
        assert self.attack is not None
        if self.attack.name == "fgsm":
            return replace(self.attack, step_size=None, steps=None)
        return replace(self.attack, steps=max(self.steps)) if self.steps else self.attack

    def _analyses(self, data: str) -> tuple[Analysis, ...]:
        """The analyses in the order in which they run; data: the name of the data set, for the usual steps."""
        assert self.attack is not None
        usual, maps, attack = catalog.default_attack(data), self._maps(), self._strength()
        both: Any = {"seed": self.seed, "precision": self.precision}
        return (
            Span(target=self.target, threshold=self.threshold, **maps),
            Browsed(target=self.target, **maps),
            Robustness(
                eps=attack.eps, step_size=self.attack.step_size, steps=self.steps or (10, max(20, usual.steps)), **both
            ),
            Sets(attack=attack, **both),
            Contributions(fc=self.fc, **both),
            LastLayer(fc=self.fc),
            Checks(target=self.target, threshold=self.threshold, **maps),
            Relation(threshold=self.threshold, **maps),
        )

    def _planned(self, models: "Sequence[Model]", data: "Dataset") -> list[Planned]:
        """Every analysis with its images."""
        planned = []
        for analysis in self._analyses(data.name):
            taken = data.first(CHECKED) if analysis.name == "check" else data
            if isinstance(analysis, Browsed):
                index = tuple(range(min(self.images, len(data))))
                planned.append(Planned(replace(analysis, index=index), taken, len(index)))
            elif analysis.needs_data:
                planned.append(Planned(analysis, taken, len(taken)))
            else:  # a model without a checkpoint has to be run to find its last layer
                outside = any(model.checkpoint is None for model in models)
                planned.append(Planned(analysis, data.first(1) if outside else None, None))
        return planned

    def _about(self, browsed: Browsed, models: "Sequence[Model]", data: "Dataset", group: "World") -> dict[str, Any]:
        """Models, data and settings for the page, with a fingerprint of the images."""
        assert browsed.attack is not None
        digest = hashlib.sha256(data.labels.cpu().numpy().tobytes())
        for batch in data.first(self.images).batches(browsed.usual_batch(group.device)):
            digest.update(pixels(batch.image).numpy().tobytes())
        return {
            "data": data.name, "split": data.split, "n": len(data), "data_fingerprint": digest.hexdigest()[:12],
            "classes": list(data.classes), "map": browsed.map_name, "threshold": self.threshold, "target": self.target,
            "attack": browsed.attack.entry(browsed.attack_precision(group.device)),
            "precision": browsed.map_precision(group.device),
            "models": [
                {"name": name, "cards": [cards.card_of(model) for model in files]}
                for name, files in several.groups(models).items()
            ],
        }  # fmt: skip


def _checked(
    browsed: Browsed, models: "Sequence[Model]", data: "Dataset", group: "World", warn: Callable[[str], None]
) -> "list[Model]":
    """Run every model on an image; raises InputError for saved epochs, maps, or a model that does not fit the data."""
    for model in models:
        if model.module is None:
            raise InputError(f"{model.name}: expected a model, got saved epochs or maps; name one file of the run")
    return inputs.check_models(browsed, models, data, group, warn)


def report(
    models: Any, data: Any = None, *, out: str | Path = "report.html", results: str | Path | None = None,
    device: str = "auto",
) -> Path:  # fmt: skip
    """Write one self-contained HTML page with every analysis of the models; returns its path.

    Arguments and errors are those of ``Report.run``. The map, attack and number of images are fields of ``Report``.
    """
    return Report().run(models, data, out=out, results=results, device=device)


def _searched(planned: Planned, span: "Result | None") -> Planned:
    """Choose the images to browse by the result of Span; without it, keep the first ones."""
    if span is None or planned.n is None or not isinstance(planned.analysis, Browsed):
        return planned
    index = search.examples(search.seen_in(span.rows), planned.n)
    return planned._replace(analysis=replace(planned.analysis, index=index))


def _computed(
    planned: Planned, models: "Sequence[Model]", place: Path, device: str, warn: Callable[[str], None]
) -> "Computed | str":
    """Compute a part of the report, or reuse it if computed with the same settings; the reason if it fails."""
    analysis, started = planned.analysis, time.monotonic()
    out = place / analysis.name
    try:
        result, written = run.execute(
            analysis, models, planned.data, out=out, batch_size=None, device=device, reuse=True, warn=warn
        )
    except WriteError:
        raise
    except InputError as error:
        _say(f"{analysis.name}: left out ({error})")
        if parallel.is_first():
            discard(out, analysis.name)  # the result of an earlier report
        return str(error)
    except (KeyboardInterrupt, Stopped):
        raise Stopped(INTERRUPTED) from None
    seconds = time.monotonic() - started
    _say(f"{analysis.name}: {seconds:.0f} s" if written else f"{analysis.name}: as computed before")
    path = out / "made.json"
    key = result.summary["key"]
    known = render.read_record(path, key) if not written else None
    command = command_line(analysis.name, analysis, models, planned.data, out=out, device=device)
    record = known or {
        "command": "" if isinstance(analysis, Browsed) else command, "date": _now(), "seconds": seconds, "n": planned.n,
        "seed": analysis.seed if planned.n is not None else None,
    }  # fmt: skip
    if known is None and parallel.is_first():
        _write_json(record | {"key": key}, path)
    return render.Computed(result, out, **record)


def _say_how_long(planned: Sequence[Planned], models: "Sequence[Model]", place: Path, group: "World") -> None:
    """Print about how long the analyses without a result will take."""
    estimates: dict[str, float] = {}
    results: dict[str, Result] = {}
    shortened = 0.0
    for part in planned:
        analysis, data, n = _searched(part, results.get("span"))
        if n is None:
            continue
        try:
            ready = run.prepare(analysis, analysis.looked_at(models), data, None, group, lambda _: None)
            if earlier := saved.saved_result(ready.analysis, place / analysis.name, ready.key, group):
                results[analysis.name] = earlier
            else:
                estimates[analysis.name] = estimate.seconds(ready, group)
                shortened += estimates[analysis.name] * min(FEW, n) / n
        except InputError:  # raised again when the analysis runs
            continue
    if estimates:
        each = ", ".join(f"{name} {estimate.words(value)}" for name, value in estimates.items())
        _say(f"about {estimate.words(sum(estimates.values()))} on {group.device}, from a trial on a few images: {each}")
    n = max(part.n or 0 for part in planned)
    if sum(estimates.values()) > LONG and n > FEW:
        steps = next(part.analysis.steps for part in planned if isinstance(part.analysis, Robustness))
        fewer = f"a limit of {FEW} images (now {n:,}), less with fewer attack steps (now {','.join(map(str, steps))})"
        _say(f"shorter: about {estimate.words(shortened)} with {fewer}")


def _write_json(content: Mapping[str, Any], path: Path) -> None:
    with atomic(path) as temporary:
        temporary.write_text(to_json(content) + "\n")


def _now() -> str:
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z")


def _say(line: str) -> None:
    """Print a line of progress, in the first process only."""
    if parallel.is_first():
        sys.stdout.write(f"{line}\n")
