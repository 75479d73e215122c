"""Tables of pairs: the same rule in every command, and twelve very different models all differ significantly."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import attrib
from attrib import accuracy, stats
from attrib.analyses import contrib, relate, robust, robust_tables, sets, span
from attrib.analyses.base import Analysis
from attrib.analyses.measured import Context, Files, Findings
from attrib.models.specs import Model
from attrib.pages import words

COUNT, IMAGES = 12, 400
NAMES = [f"model-{number}" for number in range(COUNT)]
PAIRS = list(combinations(NAMES, 2))


@pytest.fixture(scope="module")
def values() -> dict[str, stats.Values]:
    """One number per model and image; neighbours differ by 100 standard errors of their difference."""
    draw = np.random.default_rng(0)
    error = np.sqrt(2 / IMAGES)
    return {name: 2000 + draw.normal(0, 1, IMAGES) + 100 * error * number for number, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def right() -> dict[str, Any]:
    """Right or wrong: 30 images more from model to model."""
    return {name: np.arange(IMAGES) < 30 * (number + 1) for number, name in enumerate(NAMES)}


def files(table: pd.DataFrame | dict[str, Any], name: str, sums: dict[str, Any] | None = None) -> Files:
    """The one file of a name, with a row per image (and attack)."""
    return Files([Model(name, "", "")], [pd.DataFrame(table)], [sums or {}], [{}])


def pairs_of(analysis: Analysis, named: dict[str, Files], across: pd.DataFrame | None = None) -> list[dict[str, Any]]:
    """Every two names compared, as the runner does it."""
    context = Context(torch.device("cpu"), attrib.dataset("glyphs", limit=1), 1)
    findings = Findings(context, named, {}, pd.DataFrame(), pd.DataFrame() if across is None else across, {})
    return analysis.corrected(
        [{"a": a, "b": b, **pair} for a, b in PAIRS for pair in analysis.compare(named[a], named[b], findings)]
    )


def span_pairs(values: dict[str, stats.Values]) -> list[dict[str, Any]]:
    named = {name: files({"coverage": each / 1e4, "images": "clean"}, name) for name, each in values.items()}
    across = pd.DataFrame([{"a": a, "b": b, "images": "clean", "iou": 0.0} for a, b in PAIRS for _ in range(IMAGES)])
    return pairs_of(span.Span(), named, across)


def robust_pairs(right: dict[str, Any]) -> list[dict[str, Any]]:
    named = {}
    for name, correct in right.items():
        attacks = {"clean": 0.0} | dict.fromkeys(accuracy.columns([20]), 0.1)
        each = [
            pd.DataFrame({"split": "test", "attack": attack, "eps": eps, "correct": correct})
            for attack, eps in attacks.items()
        ]
        named[name] = files(pd.concat(each), name)
    return pairs_of(robust.Robustness(eps=0.1, step_size=0.01, steps=(20,)), named)


def contrib_pairs(values: dict[str, stats.Values]) -> list[dict[str, Any]]:
    weights, count = stats.image_weights(np.arange(IMAGES)), (len(contrib.QUANTITIES), len(contrib.STATISTICS))
    named = {}
    for name, each in values.items():
        sums = {
            "value clean": np.full(count, each.mean()),
            "features clean": np.zeros((1, 3000)),
            "resampled clean": np.broadcast_to(each @ weights / weights.sum(0), (*count, stats.RESAMPLES)),
        }
        named[name] = files({"images": ["clean"] * IMAGES}, name, sums)
    return pairs_of(contrib.Contributions(), named)


def sets_pairs(right: dict[str, Any]) -> list[dict[str, Any]]:
    named = {
        name: files({"set": np.where(each, "consistent", "inconsistent")}, name) for name, each in right.items()
    }  # fmt: skip
    return pairs_of(sets.Sets(), named)


def test_twelve_models_far_apart_are_told_apart_in_every_command(
    values: dict[str, stats.Values], right: dict[str, Any]
) -> None:
    found = {
        "span": span_pairs(values), "robust": robust_pairs(right), "contrib": contrib_pairs(values),
        "sets": sets_pairs(right),
    }  # fmt: skip
    kinds = {"span": 1, "robust": 5, "contrib": 12, "sets": 2}
    for command, pairs in found.items():
        assert {(pair["a"], pair["b"]) for pair in pairs} == set(PAIRS), command
        assert len(pairs) == len(PAIRS) * kinds[command]
        p, corrected = (np.array([pair[key] for pair in pairs]) for key in ("p", "p_holm"))
        np.testing.assert_array_equal(corrected, stats.holm(p))  # over all that the table shows
        assert 0 < p.max() <= corrected.max() < 0.05, command
    assert max(pair["without_empty"]["p_holm"] for pair in found["span"]) < 0.05


def test_the_report_calls_all_of_them_real(values: dict[str, stats.Values], right: dict[str, Any]) -> None:
    entries = [
        {
            "name": name, "n": IMAGES, "asc": values[name].mean() / 1e4, "asc_ci": [0.1, 0.2], "empty": 0,
            "accuracies": {"worst": right[name].mean()}, "intervals": {"worst": [0.1, 0.2]},
        }
        for name in NAMES
    ]  # fmt: skip
    said = words.answer(
        {"models": entries, "pairs": span_pairs(values)},
        {"models": entries, "pairs": robust_pairs(right), "eps": 0.1, "steps": [20]}, check=None, relation=None,
    )  # fmt: skip
    for paragraph in said[:2]:
        assert paragraph.answer.count(", then ") == len(NAMES) - 1
    assert said[2].answer.startswith("The files' order by coverage is the same as")


def test_relate_tells_all_models_effects(values: dict[str, stats.Values]) -> None:
    """Of each model, the images that the attack broke differ by 100 standard errors from those that stood."""
    draw, analysis, entries = np.random.default_rng(1), relate.Relation(), []
    for name in NAMES:
        margin = draw.permutation(np.r_[-np.ones(IMAGES // 2), np.ones(IMAGES // 2)])
        measures = dict.fromkeys(relate.MEASURES, np.mod(values[name], 1) + 10 * margin)
        rows = pd.DataFrame({**measures, "margin": 1.0, "margin_adversarial": margin, "correct": True})
        entries.append(analysis.entry(Files([Model(name, "", "")], [rows], [{}], [{}])))
    entries = analysis.completed(entries)
    parts = [entry[measure][part] for entry in entries for measure in relate.MEASURES for part in ("broken", "margin")]
    corrected = [part["p_holm"] for part in parts]
    np.testing.assert_array_equal(corrected, stats.holm(np.array([part["p"] for part in parts])))
    assert max(corrected) < 1e-6


def test_every_table_of_pairs_shows_both_p(values: dict[str, stats.Values], right: dict[str, Any]) -> None:
    models = [{"name": name, "n": IMAGES} for name in NAMES]
    rows_of = {
        span._pair_rows: span_pairs(values), contrib._pair_rows: contrib_pairs(values),
        sets._pair_rows: sets_pairs(right), robust_tables.pair_rows: robust_pairs(right),
    }  # fmt: skip
    for shown, pairs in rows_of.items():
        pairs[0] |= {"p": 0.012, "p_holm": 0.345}
        table = shown({"models": models, "pairs": pairs, "attack": None})
        assert len(table) == len(pairs)
        assert (table[0]["p"], table[0]["p (Holm)"]) == ("0.012", "0.345")
