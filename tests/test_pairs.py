"""Tables of pairs: one policy in every command, and a dozen models far apart are all told apart."""

from itertools import combinations
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch

from attrib import report_words, stats
from attrib.analyses import contrib, relate
from attrib.analyses.base import Files, Findings
from attrib.cli import robust_summary, robust_tables, sets, sets_tables, span, span_tables
from attrib.cli.subjects import Subject
from attrib.models.specs import Model

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


def rows(columns: dict[str, Any]) -> pd.DataFrame:
    """A row per model and image; columns: name to a dict from model to (N,)."""
    frames = [
        {"model": name, "seed": 0, "index": range(IMAGES), **{column: of[name] for column, of in columns.items()}}
        for name in NAMES
    ]
    return pd.concat(map(pd.DataFrame, frames), ignore_index=True)


def span_pairs(values: dict[str, stats.Values]) -> list[dict[str, Any]]:
    table = rows({"coverage": {name: each / 1e4 for name, each in values.items()}}).assign(images="clean")
    iou = {("clean", a, b): np.zeros(IMAGES) for a, b in PAIRS}
    return span._pairs(span.Measured(table, iou, {}, {}, {}), NAMES, seed=0)


def robust_pairs(right: dict[str, Any], attacks: list[str]) -> list[dict[str, Any]]:
    files = {name: [Subject(name, name, 0, "", torch.nn.Identity(), None, None)] for name in NAMES}
    rights = {
        robust_summary.Key("test", name, 0, attack, 0.1): right[name] for name in NAMES for attack in attacks
    }  # fmt: skip
    return robust_summary._pairs(rights, "test", files, attacks, 0.1)


def contrib_pairs(values: dict[str, stats.Values]) -> list[dict[str, Any]]:
    weights, count = stats.image_weights(np.arange(IMAGES)), (len(contrib.QUANTITIES), len(contrib.STATISTICS))
    files = {}
    for name, each in values.items():
        sums = {
            "value clean": np.full(count, each.mean()),
            "resampled clean": np.broadcast_to(each @ weights / weights.sum(0), (*count, stats.RESAMPLES)),
        }
        files[name] = Files([Model(name, "", "")], [pd.DataFrame({"images": ["clean"] * IMAGES})], [sums], [{}])
    analysis, nothing = contrib.Contributions(), cast("Findings", None)
    return analysis.corrected(
        [{"a": a, "b": b, **pair} for a, b in PAIRS for pair in analysis.compare(files[a], files[b], nothing)]
    )


def contrib_pair_table(summary: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(contrib._pair_rows(summary))


def sets_pairs(right: dict[str, Any]) -> list[dict[str, Any]]:
    table = rows({"set": {name: np.where(each, "consistent", "inconsistent") for name, each in right.items()}})
    return sets._pairs(table, NAMES)


def test_twelve_models_far_apart_are_told_apart_in_every_command(
    values: dict[str, stats.Values], right: dict[str, Any]
) -> None:
    attacks = ["fgsm", "pgd-20", "cw-20"]
    found = {
        "span": span_pairs(values), "robust": robust_pairs(right, attacks), "contrib": contrib_pairs(values),
        "sets": sets_pairs(right),
    }  # fmt: skip
    kinds = {"span": 1, "robust": 3, "contrib": 12, "sets": 2}
    for command, pairs in found.items():
        assert {(pair["a"], pair["b"]) for pair in pairs} == set(PAIRS), command
        assert len(pairs) == len(PAIRS) * kinds[command]
        p, corrected = (np.array([pair[key] for pair in pairs]) for key in ("p", "p_holm"))
        np.testing.assert_array_equal(corrected, stats.holm(p))  # over all that the table shows
        assert 0 < p.max() <= corrected.max() < 0.05, command
    assert max(pair["without_empty"]["p_holm"] for pair in found["span"]) < 0.05


def test_the_report_calls_all_of_them_real(values: dict[str, stats.Values], right: dict[str, Any]) -> None:
    pgd = [pair | {"attack": "pgd-20"} for pair in robust_pairs(right, ["pgd-20"])]
    entries = [
        {
            "name": name, "n": IMAGES, "asc": values[name].mean() / 1e4, "asc_ci": [0.1, 0.2], "empty": 0,
            "accuracies": {"pgd-20": right[name].mean()}, "intervals": {"pgd-20": [0.1, 0.2]},
        }
        for name in NAMES
    ]  # fmt: skip
    said = report_words.answer(
        {"models": entries, "pairs": span_pairs(values)},
        {"models": entries, "pairs": pgd, "eps": 0.1, "steps": [20]}, check=None, relation=None,
    )  # fmt: skip
    assert [paragraph.answer for paragraph in said[:2]] == ["All 66 differences between these files are real."] * 2
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
    summaries = {
        span_tables.pair_table: span_pairs(values), robust_tables.pair_table: robust_pairs(right, ["fgsm"]),
        contrib_pair_table: contrib_pairs(values), sets_tables.pair_table: sets_pairs(right),
    }  # fmt: skip
    for table_of, pairs in summaries.items():
        pairs[0] |= {"p": 0.012, "p_holm": 0.345}
        table = table_of({"models": models, "pairs": pairs, "attack": None})
        assert len(table) == len(pairs)
        assert list(table.loc[0, ["p", "p (Holm)"]]) == ["0.012", "0.345"]
