"""Every public function of tensors or arrays: wrong input gives one line, never torch's traceback."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

import attrib
from attrib.errors import InputError

NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
IMAGE, MAPS, INDEX = torch.rand(3, 3, 8, 8), torch.rand(3, 8, 8), torch.arange(3)
MASK, VALUES, COLUMN = MAPS > 0.5, torch.rand(3, 5), np.linspace(0, 1, 9)
NAN = float("nan")
GOOD: dict[str, Any] = {
    "image": IMAGE, "example": IMAGE, "label": INDEX, "class": INDEX, "index": INDEX, "maps": MAPS, "mask": MASK,
    "values": VALUES, "logits": VALUES, "weight": VALUES, "curve": VALUES, "column": COLUMN, "images": IMAGE,
    "heat": MAPS, "picture": IMAGE,
}  # fmt: skip
NEVER: tuple[Any, ...] = (None, 3, "text", [[1.0, 2.0]])
BAD_LABELS = INDEX + 9, INDEX - 1, INDEX[:, None], INDEX[:2], INDEX.float(), INDEX[:0], INDEX.numpy()
BAD: dict[str, Sequence[Any]] = {
    "image": (*NEVER, IMAGE[:0], IMAGE[0], (255 * IMAGE).byte(), 255 * IMAGE, IMAGE * NAN, IMAGE[:, :0], IMAGE.numpy()),
    "example": (*NEVER, IMAGE[:0], IMAGE[0], (255 * IMAGE).byte(), IMAGE.numpy()),
    "label": (*NEVER, *BAD_LABELS),
    "class": ("text", [[1.0, 2.0]], 9, -1, *BAD_LABELS),
    "index": (3, INDEX[:, None], INDEX.float(), INDEX.numpy()),
    "maps": (*NEVER, MAPS[0], MAPS[:, None], (255 * MAPS).byte(), MASK, MAPS[:, :0], MAPS.numpy()),
    "mask": (*NEVER, MASK[0], MASK[:, None], MAPS, MASK.long(), MASK[:, :0], MASK.numpy()),
    "values": (*NEVER, -VALUES, VALUES * NAN, VALUES / 0, VALUES[:, :0], VALUES.numpy()),
    "logits": (*NEVER, VALUES[0], VALUES[:, :0], VALUES.long(), VALUES.numpy()),
    "weight": (*NEVER, VALUES[0], VALUES[:, :0], VALUES.long(), VALUES * NAN, VALUES[:0]),
    "curve": (*NEVER, VALUES[0], VALUES[:, :1], VALUES.numpy()),
    "column": (None, 3, "text", COLUMN[None, None], np.array(["a"] * 9)),
    "images": (None, 3, "text", IMAGE[:0], IMAGE[0, 0], 255 * IMAGE, IMAGE * NAN, IMAGE[:, :, :0]),
    "heat": (None, 3, "text", MAPS[0], MAPS[:2], MAPS * NAN),
    "picture": (*NEVER, IMAGE[0], (255 * IMAGE).byte(), IMAGE.numpy(), IMAGE[:, :0]),
}  # fmt: skip
OTHER_SIZE = {
    "maps": (MAPS[:2], MAPS[:, :4]), "mask": (MASK[:2], MASK[:, :4]), "index": (INDEX[:2],), "column": (COLUMN[:4],),
    "logits": (VALUES[:2], VALUES[:, :4]),
}  # fmt: skip
"""What fits by itself, but not what it is given with."""

EXPLAIN = ("image", "class")
CALLS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    **{
        name: (lambda *given, name=name: getattr(attrib, name)(NET, *given), EXPLAIN)
        for name in (
            "contribution", "eq6", "gradcam", "gradcam_plus_plus", "gradient", "guided_gradcam", "hirescam",
            "integrated_gradients", "layercam", "occlusion", "probability", "relevance", "scale_free_contribution",
        )
    },
    **{
        name: (lambda x, y, i, name=name: getattr(attrib, name)(NET, x, y, eps=0.1, step_size=0.1, steps=1, index=i),
               (*EXPLAIN, "index"))
        for name in ("cw", "pgd")
    },
    **{
        name: (lambda *given, name=name: getattr(attrib, name)(NET, *given, steps=2), (*EXPLAIN, "maps"))
        for name in ("deletion", "insertion")
    },
    **{
        name: (lambda *given, name=name: getattr(attrib, name)(*given), kinds)
        for kinds, names in {
            ("maps",): "span curve_area", ("mask",): "coverage",
            ("mask", "mask"): "chance_iou inside iou object_covered",
            ("maps", "mask"): "pointing", ("maps", "maps"): "spearman ssim", ("mask", "index"): "moved random_pixels",
            ("values",): "gini participation_ratio", ("weight",): "valid_values", ("logits", "logits"): "alp_loss",
            ("logits", "logits", "label"): "logit_pairs", ("column",): "holm interval",
            ("column", "column"): "across_models paired rank_correlation",
            ("column", "column", "column"): "partial_rank_correlation",
            ("column", "column", "column", "column"): "relation", ("images", "heat"): "overlay", ("picture",): "edges",
        }.items()
        for name in names.split()
    },
    "area": (lambda curve: attrib.area(curve, 64), ("curve",)),
    "asc_floor": (lambda images: attrib.asc_floor(NET, images), ("images",)),
    "cascade": (lambda example: list(attrib.cascade(NET, example)), ("example",)),
    "coverage_curve": (lambda maps: attrib.coverage_curve(maps, [0.5]), ("maps",)),
    "dataset": (attrib.dataset, ("images",)),
    "fgsm": (lambda *given: attrib.fgsm(NET, *given, eps=0.1), EXPLAIN),
    "high_contribution": (lambda values: attrib.high_contribution(values, multiple=2), ("values",)),
    "locate": (lambda example: attrib.locate(NET, example), ("example",)),
    "mean_difference": (lambda a: attrib.mean_difference(a, COLUMN), ("column",)),
    "noise_images": (lambda index: attrib.noise_images(IMAGE, index), ("index",)),
    "random_maps": (lambda index: attrib.random_maps(index, (4, 4)), ("index",)),
    "smoothgrad": (lambda x, y, i: attrib.smoothgrad(NET, x, y, samples=2, index=i), (*EXPLAIN, "index")),
    "span_deletion": (
        lambda x, y, m, i: attrib.span_deletion(NET, x, y, m, index=i), (*EXPLAIN, "mask", "index")
    ),
}  # fmt: skip
TAKE_NONE = {"build", "explore", "fractions", "load", "model", "report", "save"}
"""Functions that take no tensors, or models and data as an analysis does."""


def test_every_public_function_is_here() -> None:
    functions = {name for name in attrib.__all__ if inspect.isfunction(getattr(attrib, name))}
    assert functions == CALLS.keys() | TAKE_NONE


@pytest.mark.parametrize("name", CALLS)
def test_what_a_function_cannot_take_is_one_line(name: str) -> None:
    call, kinds = CALLS[name]
    good = [GOOD[kind] for kind in kinds]
    call(*good)
    for place, kind in enumerate(kinds):
        fits_alone = len(kinds) == 1 or kinds == ("mask", "index")
        others = () if fits_alone else OTHER_SIZE.get(kind, ())
        for wrong in (*BAD[kind], *others):
            given = [*good[:place], wrong, *good[place + 1 :]]
            with pytest.raises(InputError) as refused:
                call(*given)
            assert "\n" not in str(refused.value), wrong


@pytest.mark.parametrize("wrong", [attrib.model(NET), [attrib.model(NET)], "net.pt", lambda: NET, None])
def test_what_is_no_module_is_one_line(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {name: inspect.signature(getattr(attrib, name)).parameters for name in CALLS}
    take_a_model = [name for name, parameters in taken.items() if {"model", "module"} & parameters.keys()]
    assert len(take_a_model) > 20
    monkeypatch.setitem(globals(), "NET", wrong)
    for name in take_a_model:
        call, kinds = CALLS[name]
        with pytest.raises(InputError, match=r"^model: expected an nn.Module, as attrib.model\(...\).module is"):
            call(*(GOOD[kind] for kind in kinds))


@pytest.mark.parametrize("name", [name for name, (_, kinds) in CALLS.items() if kinds[:2] == EXPLAIN])
def test_a_label_is_also_one_class_for_all_or_the_prediction(name: str) -> None:
    call, kinds = CALLS[name]
    rest = [GOOD[kind] for kind in kinds[2:]]
    predicted = torch.cat([NET(one).detach().argmax(1) for one in IMAGE.split(1)])
    for given, label in ((None, predicted), (3, torch.tensor([3, 3, 3]))):
        found, expected = (call(IMAGE, each, *rest) for each in (given, label))
        both = zip(*((each if isinstance(each, tuple) else (each,)) for each in (found, expected)), strict=True)
        assert all(torch.equal(a, b) for a, b in both)


@pytest.mark.parametrize("label", [INDEX.byte(), INDEX.short(), INDEX.int(), INDEX > 0])
def test_labels_are_integers_of_any_type(label: torch.Tensor) -> None:
    assert torch.equal(attrib.gradient(NET, IMAGE, label), attrib.gradient(NET, IMAGE, label.long()))
    logits = torch.rand(3, 5)
    found, expected = (attrib.logit_pairs(logits, logits, each) for each in (label, label.long()))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_labels_may_be_none_and_no_number_below_0() -> None:
    assert not attrib.dataset((IMAGE, None)).labelled
    for wrong, words in ((INDEX - 2, "from 0 up, or -1 for all, got -2"), (3, "one per image, got int")):
        with pytest.raises(InputError, match=words):
            attrib.dataset((IMAGE, wrong))


def test_the_floor_takes_what_is_data() -> None:
    data = attrib.dataset((IMAGE, INDEX))
    assert attrib.asc_floor(NET, (IMAGE, INDEX), map="gradient") == attrib.asc_floor(NET, data, map="gradient")


def by_hand(model: nn.Module, image: torch.Tensor, label: torch.Tensor, *, power: int = 1) -> torch.Tensor:
    return attrib.gradient(model, image, label) ** power


class Callable_:
    """An object that is called."""

    __call__ = staticmethod(by_hand)


def test_objects_that_are_called_stand_where_functions_do(tmp_path: Any) -> None:
    for map_, name in ((functools.partial(by_hand, power=1), "by_hand"), (Callable_(), "Callable_")):
        result = attrib.Span(map=map_, floor=0).run({"m": NET}, (IMAGE, INDEX), out=tmp_path)
        assert result.summary["map"] == f"{__name__}.{name}"
        assert attrib.Result.load(tmp_path).table.equals(result.table)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (captum.attr.Saliency(NET), "expected a Captum class, got an instance of Saliency .*write map=Saliency"),
        (["gradcam"], "map: expected one of gradient"),
        (captum.attr.LayerGradCam, "m: map: Captum's LayerGradCam cannot be made .*'layer'"),
        (captum.attr.Occlusion, "m: map: Captum's Occlusion cannot be made .*sliding_window_shapes"),
        (captum.attr.NoiseTunnel, "m: map: Captum's NoiseTunnel cannot be made"),
    ],
)
def test_what_captum_gives_but_no_map_is_one_line(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        attrib.Span(map=given, floor=0).run({"m": NET}, (IMAGE, INDEX))
    assert "\n" not in str(refused.value)
