"""The explorer, a notebook widget: maps and predictions of several models on one image, clean and attacked."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from attrib import formatting, inference
from attrib.analyses.fitting import fitted
from attrib.analyses.inputs import check_fit, dataset_of
from attrib.analyses.run import print_warning
from attrib.errors import InputError, one_line
from attrib.explorer.controls import LARGEST_EPS, Controls, Settings, controls_of, slider_ends
from attrib.explorer.picture import panels, png
from attrib.explorer.views import SEARCHED, View, ViewCache, matching, probabilities, view
from attrib.maps import SAMPLES
from attrib.models.layers import named
from attrib.models.several import models_of
from attrib.plots.base import save
from attrib.thresholds import RULES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

try:
    import ipywidgets as widgets
except ImportError:
    widgets = None  # importing works without ipywidgets; calling explore raises an error


def explore(
    models: Any, data: Any = None, *, layer: Mapping[str, nn.Module | str] | None = None, samples: int = SAMPLES,
    seed: int = 0, floor: bool = True, device: str = "auto",
) -> widgets.VBox:  # fmt: skip
    """A widget for JupyterLab: maps, spans, top features and probabilities of one image under every model.

    Its controls search images (wrong, turned by the attack, ...), choose map, layer and class, and save the view.
    models, data: as ``attrib.Span.run`` takes them, except saved epochs and maps made elsewhere. Modules take pixels
    in [0,1], return logits, and stay on their device; files are loaded to ``device``. layer: from a model's name to
    the layer (module or dotted name) that Grad-CAM, Guided Grad-CAM and Eq. 6 use at first (default: that of
    ``attrib.locate``). samples: SmoothGrad's noisy copies at first; seed: of that noise and of PGD's start. floor:
    print beside every coverage that of the same network with random weights. Results are cached.

    Raises InputError for no model, no image, a model that does not fit the data, a layer for an unknown model, fewer
    than one sample, and missing ipywidgets.
    """
    if widgets is None:
        raise InputError("explore: needs ipywidgets, which is not installed; pip install 'attrib[notebook]'")
    if samples < 1:
        raise InputError(f"samples: expected at least 1, got {samples}")
    opened = {model.label: model for model in models_of(models, device=inference.device(device))}
    if without := [name for name, model in opened.items() if model.module is None]:
        raise InputError(f"{without[0]}: explore takes no runs and no maps; name one of the run's files, epoch-K.pt")
    for name, at in (layer or {}).items():
        if name not in opened:
            raise InputError(f"layer: expected names of models ({', '.join(opened)}), got {name}")
        module = opened[name].opened_module
        opened[name] = replace(opened[name], layer=named(module, at) if isinstance(at, str) else at)
    images = dataset_of(data, list(opened.values()))
    images = fitted(images, list(opened.values()), inference.device(device), print_warning)
    if not len(images):
        raise InputError(f"explore: expected at least one image, got none in {images.name}")
    if not images.labelled:
        raise InputError(f"explore: needs labels, and {images.name} is unlabelled; use attrib.Maps().run(models, data)")
    cache = ViewCache(opened, images, seed, floor=bool(floor))
    for name, model in opened.items():
        check_fit(model, images)
        probabilities(cache, name, 0, None)
    return _box(cache, controls_of(cache, samples=samples))


def render(cache: ViewCache, settings: Settings) -> tuple[Figure | None, str]:
    """The figure and the text (HTML). Raises InputError if a model cannot run."""
    analysis = settings.analysis
    views = [
        view(cache, name, settings.position, analysis, attacked=attacked)
        for name in settings.models
        for attacked in settings.shown
    ]
    if not views:
        return None, f"{_image_words(cache, settings)}<br>No model is chosen."
    options = ", ".join(f"{name} {value:g}" for name, value in analysis.map_options.items())
    figure = panels(
        views, classes=cache.data.classes, label=int(cache.data.labels[settings.position]),
        kind=analysis.map + (f" ({options})" if options else ""), perturbation=settings.perturbation,
        overlay=settings.overlay,
    )  # fmt: skip
    return figure, _image_words(cache, settings) + _table(views, cache.data.classes, settings, floor=cache.floor)


def save_figure(cache: ViewCache, settings: Settings) -> str:
    """Write the figure as PDF and PNG into the working directory; returns the text (HTML)."""
    figure, text = render(cache, settings)
    if figure is None:
        return text
    attacked = "-attacked" if True in settings.shown else ""
    files = save(figure, Path(f"explore-{settings.position}-{settings.analysis.map}{attacked}"))
    return f"{text}<br>Saved as {' and '.join(map(str, files))}."


def neighbour(positions: Sequence[int], current: int, step: int) -> int:
    """The next (step 1) or previous (-1) of these positions, cyclically; the current one if there are none.

    If the current position is not among them, the next larger or smaller one.
    """
    if not positions:
        return current
    if current in positions:
        return positions[(positions.index(current) + step) % len(positions)]
    ordered = sorted(positions)
    at = bisect_right(ordered, current) if step > 0 else bisect_left(ordered, current) - 1
    return ordered[at % len(ordered)]


def matches(cache: ViewCache, settings: Settings) -> list[int]:
    """Positions of the images that the search and the class select."""
    return matching(cache, settings.models, settings.analysis, search=settings.search, label=settings.label)


def _image_words(cache: ViewCache, settings: Settings) -> str:
    data, position = cache.data, settings.position
    label = int(data.labels[position])
    source = escape(formatting.data_words({"data": data.name, "split": data.split}))
    words = f"<b>image {position}</b> of {len(data):,} ({source}), class {escape(data.classes[label])}"
    if settings.label is None and settings.search is None:
        return words
    positions = matches(cache, settings)
    among = f" among the first {SEARCHED}" if settings.search and len(data) > SEARCHED else ""
    if position not in positions:
        return f"{words}; not one of the {len(positions):,} chosen{among}"
    return f"{words}, {positions.index(position) + 1} of {len(positions):,} chosen{among}"


def _table(views: list[View], classes: tuple[str, ...], settings: Settings, *, floor: bool) -> str:
    """A row per view: coverage, its floor, predictions, and why a map or features are missing."""

    def prediction(row: View, image: int) -> str:
        k = row.prediction[image]
        return f"<td>{escape(classes[k])} ({row.probability[image, k]:.3f})</td>"

    attacked = True in settings.shown
    rows = [
        f"<tr><td><b>{escape(row.model)}</b>{', attacked' if row.attacked else ''}</td>"
        + f"<td>{'–' if row.error else f'{100 * row.coverage:.2f} %'}</td>"
        + (f"<td>{'–' if row.floor != row.floor else f'{100 * row.floor:.2f} %'}</td>" if floor else "")
        + prediction(row, 0) + (prediction(row, 1) if row.attacked else "<td></td>" * attacked)
        + f"<td>{escape('; '.join(filter(None, (row.error, row.features_error))))}</td></tr>"
        for row in views
    ]  # fmt: skip
    heads = ["model", f"coverage ({settings.analysis.threshold})", *(["floor (random weights)"] * floor), "prediction"]
    if attack := settings.analysis.attack if attacked else None:
        assert attack.eps is not None
        heads.append(f"after PGD-{attack.steps} within {_eps_words(attack.eps)}")
    header = "".join(f"<th style='text-align: left'>{head}</th>" for head in heads)
    return f"<table style='border-spacing: 1.2em 0'><tr>{header}<th></th></tr>{''.join(rows)}</table>"


def _eps_words(eps: float) -> str:
    return f"{255 * eps:.3g}/255" if eps <= LARGEST_EPS / 255 else f"{eps:.3g}"


def _box(cache: ViewCache, controls: Controls) -> widgets.VBox:
    """The controls, and text and picture below them; a change of a control redraws both."""
    words, picture = widgets.HTML(), widgets.Image(format="png", layout={"max_width": "100%", "object_fit": "contain"})

    def attempt(action: Callable[[], None]) -> None:
        words.value += "<i>computing …</i>"
        try:
            action()
        except Exception as error:  # the user's model runs here and may raise anything
            picture.value, words.value = b"", f"<b>{escape(one_line(error))}</b>"

    def show() -> None:
        figure, words.value = render(cache, controls.settings())
        picture.value = png(figure) if figure else b""

    def draw(_change: object = None) -> None:
        controls.enable()
        attempt(show)

    def go(position: int) -> None:
        if position == controls.index.value:
            draw()
        else:
            controls.index.value = position  # calls draw

    def step_by(step: int) -> None:
        settings = controls.settings()
        go(neighbour(matches(cache, settings), settings.position, step))

    def enter() -> None:
        """Show the first match, unless the image shown is one."""
        settings = controls.settings()
        positions = matches(cache, settings)
        stays = not positions or (settings.position in positions and settings.search != "disagreement")
        go(settings.position if stays else positions[0])

    def take_range(_change: object) -> None:
        rule = RULES[controls.rule.value]
        if rule.parameter:
            # Do not draw here: the change of the rule draws below.
            controls.parameter.unobserve(draw, "value")
            controls.parameter.min, controls.parameter.max = slider_ends(rule)
            controls.parameter.value = rule.default
            controls.parameter.observe(draw, "value")
        draw()

    def keep() -> None:
        words.value = save_figure(cache, controls.settings())

    controls.previous.on_click(lambda _button: attempt(lambda: step_by(-1)))
    controls.next.on_click(lambda _button: attempt(lambda: step_by(1)))
    controls.save.on_click(lambda _button: attempt(keep))
    for control in (controls.label, controls.search):
        control.observe(lambda _change: attempt(enter), "value")
    controls.rule.observe(take_range, "value")
    for control in controls.drawing():
        control.observe(draw, "value")
    draw()
    lines = [widgets.HBox(row, layout={"flex_flow": "row wrap", "grid_gap": "0 1em"}) for row in controls.rows()]
    return widgets.VBox([*lines, words, picture])
