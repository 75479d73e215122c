"""The explorer in a notebook: what several models look at in an image, and what an attack changes, with controls."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import Any, NamedTuple

from torch import nn

from attrib import formatting, inference
from attrib.analyses.fitting import fitted
from attrib.analyses.inputs import check_fit, dataset_of
from attrib.analyses.options import Attack
from attrib.analyses.run import print_warning
from attrib.data import Dataset, default_attack
from attrib.errors import InputError, one_line
from attrib.explorer.picture import panels, png
from attrib.explorer.views import View, ViewCache, pgd_attack, positions, probabilities, view
from attrib.map_table import MAPS
from attrib.maps import SAMPLES
from attrib.models.layers import named
from attrib.models.several import models_of
from attrib.targets import TARGETS
from attrib.thresholds import RULES, Rule

try:
    import ipywidgets as widgets
except ImportError:
    widgets = None  # explore raises an error that says so; its name can be imported everywhere

STEP = 0.01
"""Of the threshold's slider."""
LARGEST_EPS = 32
"""The end of the slider in units of 1/255, where the data set's usual radius is as small as colour images have it."""


class Settings(NamedTuple):
    """The values of the controls."""

    position: int
    label: int | None
    """The class that previous and next keep to; None: all."""
    models: tuple[str, ...]
    kind: str
    threshold: str
    target: str
    attack: Attack | None
    perturbation: bool
    overlay: bool


def explore(
    models: Any, data: Any = None, *, layer: Mapping[str, nn.Module | str] | None = None, samples: int = SAMPLES,
    seed: int = 0, floor: bool = True, device: str = "auto",
) -> widgets.VBox:  # fmt: skip
    """A widget for JupyterLab: maps, spans, top features and probabilities of one image under every model.

    models, data: as ``attrib.Span.run`` takes them, but no saved epochs and no maps made elsewhere. Modules take
    pixels in [0,1], return logits, and stay on their device; files are loaded to ``device``. layer: where Grad-CAM,
    Guided Grad-CAM and Eq. 6 look, a module or its dotted name, for the models named there (others: found by
    ``attrib.locate``). samples: noisy copies of SmoothGrad; seed: of that noise and of PGD's start.
    floor: print beside every coverage what the same map covers on the network with random weights. Nothing is computed
    twice.

    Raises InputError for no model or no image, a model that does not fit the data, a layer of no model, fewer than one
    sample, and without ipywidgets.
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
        raise InputError(
            f"explore: needs labels, and {images.name} is unlabelled; take attrib.Maps().run(models, data)"
        )
    cache = ViewCache(opened, images, samples, seed, floor=bool(floor))
    for name, model in opened.items():
        check_fit(model, images)
        probabilities(cache, name, 0, None)
    return _box(cache)


def render(cache: ViewCache, settings: Settings) -> tuple[bytes, str]:
    """The picture (PNG) and the words (HTML). Raises InputError if a model cannot run."""
    views = [
        view(
            cache, name, settings.position, kind=settings.kind, threshold=settings.threshold, target=settings.target,
            attack=settings.attack,
        )
        for name in settings.models
    ]  # fmt: skip
    if not views:
        return b"", f"{_image_words(cache, settings)}<br>No model is chosen."
    kind = f"{settings.kind} ({cache.samples} samples)" if settings.kind == "smoothgrad" else settings.kind
    figure = panels(
        views, classes=cache.data.classes, label=int(cache.data.labels[settings.position]), kind=kind,
        attacked=settings.attack is not None, perturbation=settings.perturbation and settings.attack is not None,
        overlay=settings.overlay,
    )  # fmt: skip
    return png(figure), _image_words(cache, settings) + _table(views, cache.data.classes, settings, floor=cache.floor)


def neighbour(data: Dataset, settings: Settings, step: int) -> int:
    """The position of the next (step 1) or previous (-1) image of the class chosen, round and round."""
    chosen = positions(data, settings.label)
    current = settings.position
    at = bisect_right(chosen, current) if step > 0 else bisect_left(chosen, current) - 1
    return chosen[at % len(chosen)]


def _image_words(cache: ViewCache, settings: Settings) -> str:
    data, position = cache.data, settings.position
    label = int(data.labels[position])
    source = escape(formatting.data_words({"data": data.name, "split": data.split}))
    words = f"<b>image {position}</b> of {len(data):,} ({source}), class {escape(data.classes[label])}"
    if settings.label is None:
        return words
    chosen = positions(data, settings.label)
    if position not in chosen:
        return f"{words}; not of the class chosen"
    return f"{words}, {chosen.index(position) + 1} of {len(chosen):,} of that class"


def _table(views: list[View], classes: tuple[str, ...], settings: Settings, *, floor: bool) -> str:
    """Coverage, its floor, and predictions per model, and why a map or features are missing."""

    def likeliest(seen: View, image: int) -> str:
        k = seen.prediction[image]
        return f"<td>{escape(classes[k])} ({seen.probability[image, k]:.3f})</td>"

    rows = [
        f"<tr><td><b>{escape(seen.model)}</b></td>"
        + f"<td>{'–' if seen.error else f'{100 * seen.coverage:.2f} %'}</td>"
        + (f"<td>{'–' if seen.floor != seen.floor else f'{100 * seen.floor:.2f} %'}</td>" if floor else "")
        + likeliest(seen, 0) + (likeliest(seen, 1) if settings.attack else "")
        + f"<td>{escape('; '.join(filter(None, (seen.error, seen.features_error))))}</td></tr>"
        for seen in views
    ]  # fmt: skip
    heads = ["model", f"coverage ({settings.threshold})", *(["floor (random weights)"] * floor), "prediction"]
    if settings.attack:
        assert settings.attack.eps is not None
        heads.append(f"after PGD-{settings.attack.steps} within {_eps_words(settings.attack.eps)}")
    header = "".join(f"<th style='text-align: left'>{head}</th>" for head in heads)
    return f"<table style='border-spacing: 1.2em 0'><tr>{header}<th></th></tr>{''.join(rows)}</table>"


def _eps_words(eps: float) -> str:
    return f"{255 * eps:.3g}/255" if eps <= LARGEST_EPS / 255 else f"{eps:.3g}"


@dataclass(eq=False)
class Controls:
    """The widgets that a person moves."""

    index: widgets.BoundedIntText
    previous: widgets.Button
    next: widgets.Button
    label: widgets.Dropdown
    models: dict[str, widgets.Checkbox]
    kind: widgets.Dropdown
    target: widgets.Dropdown
    rule: widgets.Dropdown
    parameter: widgets.FloatSlider
    attack: widgets.Checkbox
    eps: widgets.FloatSlider
    steps: widgets.IntSlider
    perturbation: widgets.Checkbox
    overlay: widgets.Checkbox
    data: str
    """The data set's name, whose usual attack the steps follow."""
    unit: int
    """255 where ``eps`` shows units of 1/255, else 1."""

    def settings(self) -> Settings:
        """Their values now."""
        rule = self.rule.value
        return Settings(
            position=self.index.value, label=self.label.value,
            models=tuple(name for name, box in self.models.items() if box.value),
            kind=self.kind.value, threshold=f"{rule}:{self.parameter.value:.3g}" if RULES[rule].parameter else rule,
            target=self.target.value,
            attack=pgd_attack(self.data, eps=self.eps.value / self.unit, steps=self.steps.value)
            if self.attack.value else None,
            perturbation=self.perturbation.value, overlay=self.overlay.value,
        )  # fmt: skip

    def enable(self) -> None:
        """Disable what has no effect at present, and give the threshold's slider the range of its rule."""
        for part in (self.eps, self.steps, self.perturbation):
            part.disabled = not self.attack.value
        letter = RULES[self.rule.value].parameter
        self.parameter.layout.visibility = "visible" if letter else "hidden"
        if letter:
            self.parameter.description = letter


def _ends(rule: Rule) -> tuple[float, float]:
    """The slider's ends: an end that is not in the rule's range is a step inside it."""
    return (rule.low, rule.high - STEP) if rule.closed == "left" else (rule.low + STEP, rule.high)


def _controls(cache: ViewCache) -> Controls:
    data, usual = cache.data, default_attack(cache.data.name)
    unit = 255 if usual.eps <= LARGEST_EPS / 255 else 1
    own_width: dict[str, Any] = {"style": {"description_width": "initial"}, "layout": {"width": "max-content"}}
    # Where a slider is let go, not all along the way.
    slider: dict[str, Any] = {**own_width, "layout": {"width": "17em"}, "continuous_update": False}
    box: dict[str, Any] = {"indent": False, "layout": {"width": "max-content"}}
    present = sorted(set(data.labels.tolist()))
    usual_rule = RULES["max"]
    low, high = _ends(usual_rule)
    return Controls(
        index=widgets.BoundedIntText(
            0, min=0, max=len(data) - 1, description="image", continuous_update=False, style=own_width["style"],
            layout={"width": "10em"},
        ),
        previous=widgets.Button(description="◀ previous", layout={"width": "8em"}),
        next=widgets.Button(description="next ▶", layout={"width": "8em"}),
        label=widgets.Dropdown(
            options=[("all", None), *((data.classes[k], k) for k in present)], index=0, description="class", **own_width
        ),
        models={name: widgets.Checkbox(True, description=name, **box) for name in cache.models},
        kind=widgets.Dropdown(options=list(MAPS), value="gradcam", description="map", **own_width),
        target=widgets.Dropdown(options=TARGETS, description="of the", **own_width),
        rule=widgets.Dropdown(
            options=[(rule.words, name) for name, rule in RULES.items()], description="span", **own_width
        ),
        parameter=widgets.FloatSlider(
            usual_rule.default, min=low, max=high, step=STEP, description=usual_rule.parameter, **slider
        ),
        attack=widgets.Checkbox(False, description="attack (PGD)", **box),
        eps=widgets.FloatSlider(
            usual.eps * unit, min=0, max=LARGEST_EPS if unit == 255 else 0.5, step=0.5 if unit == 255 else 0.01,
            description="eps (/255)" if unit == 255 else "eps", **slider,
        ),
        steps=widgets.IntSlider(usual.steps, min=1, max=max(50, usual.steps), description="steps", **slider),
        perturbation=widgets.Checkbox(False, description="show what it adds", **box),
        overlay=widgets.Checkbox(False, description="map over the image", **box),
        data=data.name, unit=unit,
    )  # fmt: skip


def _box(cache: ViewCache) -> widgets.VBox:
    """The controls above, words and picture below; a control that is moved draws both again."""
    controls = _controls(cache)
    words, picture = widgets.HTML(), widgets.Image(format="png", layout={"max_width": "100%", "object_fit": "contain"})

    def draw(_change: object = None) -> None:
        controls.enable()
        words.value += "<i>computing …</i>"
        try:
            picture.value, words.value = render(cache, controls.settings())
        except Exception as error:  # the user's model runs here and may raise anything
            picture.value, words.value = b"", f"<b>{escape(one_line(error))}</b>"

    def step_by(step: int) -> None:
        controls.index.value = neighbour(cache.data, controls.settings(), step)

    def enter_class(_change: object) -> None:
        chosen = positions(cache.data, controls.label.value)
        if controls.index.value in chosen:
            draw()
        else:
            step_by(1)

    def take_range(_change: object) -> None:
        rule = RULES[controls.rule.value]
        if rule.parameter:
            # Silently: the rule's own change draws.
            controls.parameter.unobserve(draw, "value")
            controls.parameter.min, controls.parameter.max = _ends(rule)
            controls.parameter.value = rule.default
            controls.parameter.observe(draw, "value")
        draw()

    controls.previous.on_click(lambda _button: step_by(-1))
    controls.next.on_click(lambda _button: step_by(1))
    controls.label.observe(enter_class, "value")
    controls.rule.observe(take_range, "value")
    for control in (
        controls.index, *controls.models.values(), controls.kind, controls.target, controls.parameter,
        controls.attack, controls.eps, controls.steps, controls.perturbation, controls.overlay,
    ):  # fmt: skip
        control.observe(draw, "value")
    draw()
    rows = [
        (controls.previous, controls.index, controls.next, controls.label, controls.overlay),
        (widgets.Label("models:"), *controls.models.values()),
        (controls.kind, controls.target, controls.rule, controls.parameter),
        (controls.attack, controls.eps, controls.steps, controls.perturbation),
    ]
    lines = [widgets.HBox(row, layout={"flex_flow": "row wrap", "grid_gap": "0 1em"}) for row in rows]
    return widgets.VBox([*lines, words, picture])
