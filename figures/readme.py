"""The pages of all figures: the overview README.md, and a page per paper. No number is typed by hand."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from attrib.files import atomic
from figures import asc_rules, claims, names, precondition, shared, verdicts
from figures.claims import Claim, Judged
from figures.drawings import DRAWINGS, Drawing
from figures.finding import cards, summary_of
from figures.shared import Missing

Drawn = Mapping[str, Sequence[Path] | Missing]
"""From a drawing's name to its files, or to the reason why it has none."""
fill = partial(textwrap.fill, width=120, break_long_words=False, break_on_hyphens=False)
"""Wrap a text outside tables; paths and words with hyphens stay whole."""
SHOWN = ("again_figure2", "aalp_figure1", "aalp_figure12")
"""Figures on the overview: spans, contributions, the course of training."""
EXAMPLE = 0.005
"""Standard deviation of accuracy between seeds, if no method here has several."""


def write(data: Path, page: Path, drawn: Drawn) -> list[Path]:
    """Write the overview and, beside it, ``again.md`` and ``aalp.md``; returns their paths.

    drawn: the files of all drawings, in the order of the papers.
    """
    judged = claims.judged(data)
    overview = {
        "trained": _trained(data), "fit": f"{_fit(data, 'again')}\n{_fit(data, 'aalp')}",
        "claims": _claims(judged, shared.places(data)),
        "power": _power(judged, data), "crossing": _table(drawn["crossing"], page), "orders": _orders(data),
        "pictures": "\n\n".join(_captioned(each, drawn[each.name], page) for each in DRAWINGS if each.name in SHOWN),
    }  # fmt: skip
    more = {
        "again": f"### Which map and threshold rule come closest to Table 1?\n\n{_table(drawn['asc_rules'], page)}",
        "aalp": f"### Where AALP contradicts itself\n\n{_contradictions()}",
    }
    written = [_page("README", overview, page)]
    for paper, extra in more.items():
        parts = {
            "title": shared.papers()[paper]["title"], "fit": _fit(data, paper), "evidence": _evidence(judged, paper),
            "more": extra,
            "sections": _sections(drawn, f"{paper}_", data, page),
        }  # fmt: skip
        written.append(_page("paper", parts, page.with_name(f"{paper}.md")))
    return written


def _page(template: str, parts: Mapping[str, str], page: Path) -> Path:
    text = Template((shared.HERE / f"{template}.template.md").read_text()).substitute(parts)
    with atomic(page) as temporary:
        temporary.write_text(text.rstrip() + "\n")
    return page


def _trained(data: Path) -> str:
    """A row per model: its training, its accuracy, and the paper's."""
    rows = []
    for place in shared.places(data):
        panel = claims.panel_of(place)
        robust, known = summary_of(panel, "robust"), cards(panel)
        for each in sorted(robust["models"], key=lambda each: names.order(each["name"])) if robust else []:
            card, accuracies = known.get(each["name"], [{}])[0], each["accuracies"]
            longest = [column for column in accuracies if column.startswith("pgd-")][-1]
            printed = precondition.printed(place.name, each["name"]) if longest == precondition.LONGEST else None
            short = None if printed is None else f"{100 * accuracies[longest] - printed:+.1f}".replace("-", "−")
            rows.append(
                {
                    "data set": panel.title, "model": names.label(each["name"]),
                    "seeds": len(each.get("seeds") or [0]), "epochs": card.get("epochs") or "–",
                    "training images": f"{card['limit']:,}" if card.get("limit") else "all",
                    "test images": f"{each['n']:,}", "clean %": shared.percent(accuracies["clean"], 1),
                    "attack": names.attack(longest),
                    "accuracy %": shared.with_ends(accuracies[longest], each["intervals"][longest], 1),
                    "paper %": "–" if printed is None else f"{printed:.1f}", "difference": short or "–",
                }
            )  # fmt: skip
    if not rows:
        return "No results of `attrib robust`."
    return shared.markdown(pd.DataFrame(rows))


def _fit(data: Path, paper: str) -> str:
    """Whether the paper's claims can be tested on the models of each folder, and why not."""
    lines = []
    for place in shared.places(data):
        panel = claims.panel_of(place)
        why = claims.reasons(panel, paper)
        words = f"not tested on {panel.title}: {'; '.join(why)}" if why else f"tested on {panel.title}"
        lines.append(_bullet(f"{paper.upper()}'s claims are {words}."))
    return "\n".join(lines)


def _claims(judged: Sequence[tuple[Claim, Sequence[Judged]]], places: Sequence[Path]) -> str:
    rows = []
    for number, (claim, of_claim) in enumerate(judged, start=1):
        row = {"": str(number), "claim": claim.statement, "source": claim.source}
        for place in places:
            of_place = [each for each in of_claim if each.place == place]
            known = [verdict for each in of_place for verdict in each.verdicts]
            words = verdicts.counted(known) if known else f"{verdicts.NOT_TESTED}, no results"
            if known and of_place[0].elsewhere and not of_place[0].unfit:
                words += f": {of_place[0].elsewhere[0]}"
            row[names.place(place.name)] = words
        rows.append(row)
    return shared.markdown(pd.DataFrame(rows))


def _power(judged: Sequence[tuple[Claim, Sequence[Judged]]], data: Path) -> str:
    """The smallest difference that three seeds can show, in standard errors and in points."""
    tested = sum(
        any(verdict.p_holm == verdict.p_holm for each in of_claim for verdict in each.verdicts)
        for _, of_claim in judged
    )
    count = tested or len(judged)
    observed, true = verdicts.smallest_observed(claims=count), verdicts.detectable(claims=count)
    spread, methods = _spread(data)
    source = (
        f"as the {methods} methods with three or more seeds here have (pooled)" if methods
        else "for example (no method here has three seeds)"
    )  # fmt: skip
    error = 100 * spread * (2 / verdicts.SEEDS) ** 0.5
    half, third = (verdicts.detectable(claims=parts * count) for parts in (2, 3))
    number = f"{tested} claims are" if tested > 1 else "one claim is" if tested else "no claim is"
    condition = f"With {count} claims tested" if tested else f"If all {count} claims were"
    return fill(
        f"Three seeds per side show only large differences. On this page {number} tested with three or more seeds."
        f" {condition}, a claim of one part is called *reproduced* or *contrary* if the observed difference"
        f" is at least {observed:.1f} standard errors (Student's t with 4 degrees of freedom, Holm's first"
        f" step). A true difference of {true:.1f} standard errors is found in 80 %"
        f" of cases (for a claim of two parts {half:.1f}, of three {third:.1f}). The standard error is s √(2/3), where"
        f" s is the standard deviation between seeds. With s = {100 * spread:.2f} points, {source}, these are"
        f" {observed * error:.1f} and {true * error:.1f} points."
    )


def _orders(data: Path) -> str:
    """How often the order of AGAIN's three methods by ASC changes with map and rule, a line per form of AGAIN."""
    lines = []
    for place in shared.places(data):
        panel = claims.panel_of(place)
        standard = shared.pick(panel.models, names.STANDARD)
        if standard is None:
            continue
        for form, baseline in shared.forms(panel.models):
            orders = asc_rules.orders(panel, [standard, baseline, form])
            paper = asc_rules.order_of([standard, form, baseline])
            lines.append(
                _bullet(
                    f"{panel.title}, {names.label(form)}: {len(orders)} maps and rules give {len(set(orders))} orders;"
                    f" {paper}, as in the paper, under {orders.count(paper)} of them."
                )
            )  # fmt: skip
    return "\n".join(lines)


def _spread(data: Path) -> tuple[float, int]:
    """Standard deviation between seeds of the accuracy under the longest PGD, and over how many methods it is pooled.

    EXAMPLE and 0 if no method has three seeds.
    """
    variances = []
    for place in shared.places(data):
        robust = summary_of(claims.panel_of(place), "robust")
        for each in robust["models"] if robust else []:
            values = [seed["accuracies"][_longest(seed)] for seed in each.get("seeds", [])]
            if len(values) >= verdicts.SEEDS:
                variances.append(pd.Series(values).var())
    return (float(sum(variances) / len(variances)) ** 0.5 if variances else EXAMPLE), len(variances)


def _longest(of_model: Mapping[str, Any]) -> str:
    return str([column for column in of_model["accuracies"] if column.startswith("pgd-")][-1])


def _evidence(judged: Sequence[tuple[Claim, Sequence[Judged]]], paper: str) -> str:
    """Per claim and folder the verdicts, the differences behind them, and the numbers of images and seeds."""
    lines = []
    for number, (claim, of_claim) in enumerate(judged, start=1):
        if claim.paper != paper:
            continue
        lines += ["", fill(f"**{number}. {claim.statement}** ({claim.source}). Parts: {claim.rule}."), ""]
        for each in of_claim:
            summary = verdicts.counted(each.verdicts)
            why = f" ({'; '.join(each.elsewhere)})" if each.elsewhere else ""
            lines.append(_bullet(f"{names.place(each.place.name)}: *{summary}*{why}. {each.finding.numbers}."))
            for part, verdict in zip(each.finding.parts, each.verdicts, strict=True):
                tier = "" if each.unfit or each.elsewhere else f": *{verdict}*"
                lacking = f" ({'; '.join(part.missing)})" if part.missing else ""
                corrected = f", corrected p {verdict.p_holm:.2g}" if verdict.p_holm == verdict.p_holm else ""
                lines.append(_bullet(f"{part.words}{tier}{corrected}{lacking}", indent="  "))
        if not of_claim:
            lines.append(f"- {verdicts.NOT_TESTED}: no results")
    return "\n".join(lines).strip()


def _bullet(text: str, *, indent: str = "") -> str:
    return fill(text, initial_indent=f"{indent}- ", subsequent_indent=f"{indent}  ")


def _contradictions() -> str:
    """From papers.toml alone: the same models in two tables."""
    aalp, lines = shared.papers()["aalp"], []
    for each in aalp["contradictions"]:
        first, second = (
            {m: _printed(aalp, table, each, m) for m in each["models"]} for table in (each["first"], each["second"])
        )
        numbers = "; ".join(f"{names.label(m)} {first[m]:.2f} and {second[m]:.2f} %" for m in each["models"])
        what = [_named(aalp, each[key], each["column"]) for key in ("first", "second")]
        about = each["about"].strip()
        lines.append(
            _bullet(f"{names.DATA[each['data']]}, {what[0]} and {what[1]}: {numbers}. {about[0].upper()}{about[1:]}.")
        )
    return "\n".join(lines)


def _named(aalp: dict[str, Any], table: str, column: str) -> str:
    words = f"Table {table.removeprefix('table')}"
    return f"{words}'s {names.attack(column)}" if column in aalp[table]["columns"] else f"{words}'s consistent share"


def _printed(aalp: dict[str, Any], table: str, contradiction: dict[str, Any], model: str) -> float:
    columns, of_data = aalp[table]["columns"], aalp[table][contradiction["data"]]
    # Table 4 has a column per model, the others a row per model.
    value = (
        of_data[columns.index(model)] if model in columns else of_data[model][columns.index(contradiction["column"])]
    )
    return float(value)


def _captioned(drawing: Drawing, written: Sequence[Path] | Missing, page: Path) -> str:
    """A drawing's pictures below its words."""
    return f"{fill(f'{drawing.title}. {drawing.more}')}\n\n{_shown(written, page, drawing.title)}"


def _sections(drawn: Drawn, prefix: str, data: Path, page: Path) -> str:
    """Per drawing the figure or table, and the files that it is drawn from."""
    parts = []
    for drawing in DRAWINGS:
        if not drawing.name.startswith(prefix):
            continue
        written = drawn[drawing.name]
        parts.append(f"### {drawing.title.partition(', ')[2]}")
        if drawing.more:
            parts.append(fill(drawing.more))
        parts += [f"`python -m figures {drawing.name}`", _shown(written, page, drawing.title)]
        if not isinstance(written, Missing):
            parts += [_origin(place, task, page) for place in shared.places(data) for task in drawing.tasks
                      if task in shared.manifest(place)]  # fmt: skip
    return "\n\n".join(parts)


def _shown(written: Sequence[Path] | Missing, page: Path, title: str) -> str:
    """A drawing's pictures or table, or the reason why there are none."""
    pictures = [] if isinstance(written, Missing) else [path for path in written if path.suffix == ".png"]
    if not pictures:
        return _table(written, page)
    return "\n\n".join(
        f"![{title}]({_link(path, page)})\n\n{fill(path.with_suffix('.md').read_text().strip())}\n\n"
        f"([PDF]({_link(path.with_suffix('.pdf'), page)}), [LaTeX]({_link(path.with_suffix('.tex'), page)}))"
        for path in pictures
    )


def _table(written: Sequence[Path] | Missing, page: Path) -> str:
    if isinstance(written, Missing):
        return fill(f"Not drawn: {_relative(str(written))}.")
    (table,) = (path for path in written if path.suffix == ".md")
    rows, _, caption = table.read_text().strip().rpartition("\n\n")
    return f"{rows}\n\n{fill(caption)}\n\n([LaTeX]({_link(table.with_suffix('.tex'), page)}))"


def _origin(place: Path, task: str, page: Path) -> str:
    """Data set, number of images and files behind a figure."""
    record = shared.manifest(place)[task]
    files = ", ".join(f"[{name}]({_link(place / name, page)})" for name in record["files"])
    many = f", {shared.images(record['images'])}" if record["images"] else ""
    return fill(f"{names.place(place.name)}{many}: {files}")


def _link(path: Path, page: Path) -> str:
    return Path(os.path.relpath(path, page.parent)).as_posix()


def _relative(text: str) -> str:
    """A message without the path of this checkout."""
    return text.replace(f"{shared.HERE.parent}{os.sep}", "")
