"""The explorer's controls, and the settings that they give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from attrib.analyses.span import Span
from attrib.data import default_attack
from attrib.explorer.views import ViewCache, pgd_attack
from attrib.map_table import LAYER_MAPS, MAPS
from attrib.maps.gradients import SIGMA, STEPS
from attrib.models.layers import map_layers
from attrib.models.types import place_of
from attrib.search import DISAGREEMENT, SEARCHES
from attrib.targets import TARGETS
from attrib.thresholds import RULES, Rule

try:
    import ipywidgets as widgets
except ImportError:
    widgets = None  # importing works without ipywidgets; calling explore raises an error

STEP = 0.01
"""Step of the threshold's slider."""
LARGEST_EPS = 32
"""End of the eps slider in units of 1/255, for data sets whose usual radius is not larger, as for colour images."""
MOST = 1_000_000
"""Largest number of samples or steps: ipywidgets' number fields need a maximum."""
CLEAN, ATTACKED, BOTH = (False,), (True,), (False, True)


class Settings(NamedTuple):
    """The values of the controls."""

    position: int
    label: int | None
    """The class that previous and next stay in; None: all."""
    search: str | None
    """The search whose matches they show, as ``attrib.explorer.views.matching`` takes it; None: every image."""
    models: tuple[str, ...]
    analysis: Span
    """Map, threshold, class and attack."""
    shown: tuple[bool, ...]
    """Whether each panel of a model shows the attacked image: clean, attacked, or both side by side."""
    perturbation: bool
    overlay: bool


@dataclass(eq=False)
class Controls:
    """The explorer's widgets."""

    index: widgets.BoundedIntText
    previous: widgets.Button
    next: widgets.Button
    label: widgets.Dropdown
    search: widgets.Dropdown
    models: dict[str, widgets.Checkbox]
    kind: widgets.Dropdown
    options: dict[str, widgets.BoundedIntText | widgets.BoundedFloatText]
    """Options of maps, by name."""
    layer: widgets.Dropdown
    target: widgets.Dropdown
    rule: widgets.Dropdown
    parameter: widgets.FloatSlider
    shown: widgets.Dropdown
    eps: widgets.FloatSlider
    steps: widgets.IntSlider
    perturbation: widgets.Checkbox
    overlay: widgets.Checkbox
    save: widgets.Button
    data: str
    """Name of the data set; its usual attack determines the step size."""
    seed: int
    unit: int
    """255 where ``eps`` shows units of 1/255, else 1."""

    def settings(self) -> Settings:
        """The current values."""
        rule, kind = self.rule.value, self.kind.value
        options = {name: self.options[name].value for name in MAPS[kind].options}
        analysis = Span(
            map=kind, target=self.target.value, layer=self.layer.value if kind in LAYER_MAPS else None,
            threshold=f"{rule}:{self.parameter.value:.3g}" if RULES[rule].parameter else rule,
            attack=pgd_attack(self.data, eps=self.eps.value / self.unit, steps=self.steps.value),
            seed=self.seed, precision="fp32", floor=0, **options,
        )  # fmt: skip
        return Settings(
            position=self.index.value, label=self.label.value, search=self.search.value,
            models=tuple(name for name, box in self.models.items() if box.value), analysis=analysis,
            shown=self.shown.value, perturbation=self.perturbation.value, overlay=self.overlay.value,
        )  # fmt: skip

    def rows(self) -> list[tuple[widgets.Widget, ...]]:
        """The widgets line by line."""
        return [
            (self.previous, self.index, self.next, self.label, self.search),
            (widgets.Label("models:"), *self.models.values()),
            (self.kind, self.layer, *self.options.values(), self.target, self.rule, self.parameter),
            (self.shown, self.eps, self.steps, self.perturbation, self.overlay, self.save),
        ]

    def drawing(self) -> list[widgets.Widget]:
        """The widgets that change the picture and nothing else."""
        return [
            self.index, *self.models.values(), self.kind, self.layer, *self.options.values(), self.target,
            self.parameter, self.shown, self.eps, self.steps, self.perturbation, self.overlay,
        ]  # fmt: skip

    def enable(self) -> None:
        """Disable or hide controls that have no effect now."""
        self.perturbation.disabled = True not in self.shown.value
        for part in (self.eps, self.steps):
            part.disabled = self.perturbation.disabled and self.search.value is None
        kind, letter = self.kind.value, RULES[self.rule.value].parameter
        self.layer.layout.display = None if kind in LAYER_MAPS else "none"
        for name, part in self.options.items():
            part.layout.display = None if name in MAPS[kind].options else "none"
        self.parameter.layout.visibility = "visible" if letter else "hidden"
        if letter:
            self.parameter.description = letter


def slider_ends(rule: Rule) -> tuple[float, float]:
    """The ends of the slider; where the rule's range is open, the end lies one step inside."""
    return (rule.low, rule.high - STEP) if rule.closed == "left" else (rule.low + STEP, rule.high)


def controls_of(cache: ViewCache, *, samples: int) -> Controls:
    """The controls with their initial values."""
    data, usual = cache.data, default_attack(cache.data.name)
    unit = 255 if usual.eps <= LARGEST_EPS / 255 else 1
    own_width: dict[str, Any] = {"style": {"description_width": "initial"}, "layout": {"width": "max-content"}}
    # Update when the slider is released, not while it moves.
    slider: dict[str, Any] = {**own_width, "layout": {"width": "17em"}, "continuous_update": False}
    box: dict[str, Any] = {"indent": False, "layout": {"width": "max-content"}}
    present = sorted(set(data.labels.tolist()))
    usual_rule = RULES["max"]
    low, high = slider_ends(usual_rule)
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
        search=widgets.Dropdown(
            options=[("all images", None), *((words, name) for name, words in SEARCHES.items()),
                     *([(DISAGREEMENT, "disagreement")] if len(cache.models) > 1 else [])],
            index=0, description="find", **own_width,
        ),
        models={name: widgets.Checkbox(True, description=name, **box) for name in cache.models},
        kind=widgets.Dropdown(options=list(MAPS), value="gradcam", description="map", **own_width),
        options=map_options(min(data.shape[1:]), samples=samples),
        layer=widgets.Dropdown(
            options=[("the last stage", None), *((name, name) for name in _common_layers(cache))], index=0,
            description="at", **own_width,
        ),
        target=widgets.Dropdown(
            options=[
                *((f"the {target}", target) for target in TARGETS), *((name, k) for k, name in enumerate(data.classes)),
            ], value="label", description="of", **own_width,
        ),
        rule=widgets.Dropdown(
            options=[(rule.words, name) for name, rule in RULES.items()], description="span", **own_width
        ),
        parameter=widgets.FloatSlider(
            usual_rule.default, min=low, max=high, step=STEP, description=usual_rule.parameter, **slider
        ),
        shown=widgets.Dropdown(
            options=[("clean", CLEAN), ("attacked", ATTACKED), ("clean beside attacked", BOTH)], index=0,
            description="show", **own_width,
        ),
        eps=widgets.FloatSlider(
            usual.eps * unit, min=0, max=LARGEST_EPS if unit == 255 else 0.5, step=0.5 if unit == 255 else 0.01,
            description="eps (/255)" if unit == 255 else "eps", **slider,
        ),
        steps=widgets.IntSlider(usual.steps, min=1, max=max(50, usual.steps), description="steps", **slider),
        perturbation=widgets.Checkbox(False, description="show perturbation", **box),
        overlay=widgets.Checkbox(False, description="map over the image", **box),
        save=widgets.Button(description="save figure", tooltip="PDF and PNG, beside the notebook"),
        data=data.name, seed=cache.seed, unit=unit,
    )  # fmt: skip


def map_options(side: int, *, samples: int) -> dict[str, Any]:
    """A field for every option of maps; side: the shorter side of the image, pixels."""
    style = {"description_width": "initial"}
    narrow: dict[str, Any] = {"continuous_update": False, "style": style, "layout": {"width": "12em"}}
    return {
        "samples": widgets.BoundedIntText(samples, min=1, max=MOST, description="samples", **narrow),
        "sigma": widgets.BoundedFloatText(SIGMA, min=0, max=1, step=0.05, description="sigma", **narrow),
        "window": widgets.BoundedIntText(max(1, round(side / 8)), min=1, max=side, description="window", **narrow),
        "integration_steps": widgets.BoundedIntText(STEPS, min=1, max=MOST, description="integration steps", **narrow),
    }


def _common_layers(cache: ViewCache) -> list[str]:
    """Layers that maps can use and all models have, in the order of the forward pass."""
    layers = []
    for model in cache.models.values():
        module = model.opened_module
        device = place_of(module, torch.device("cpu"))
        layers.append(map_layers(module, next(cache.data.batches(1, device=device)).image))
    return [name for name in layers[0] if all(name in names for names in layers)]
