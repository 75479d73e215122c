"""Replace ``<!-- options of Span -->`` in the pages by a table of the analysis's options."""

import re
from dataclasses import fields
from typing import Any

import attrib


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Insert the tables into a page; mkdocs calls this for every page."""
    return re.sub(r"<!-- options of (\w+) -->", lambda mark: options(mark[1]), markdown)


def options(analysis: str) -> str:
    """The fields of an analysis as a table in Markdown."""
    rows = ["| field | default | |", "| --- | --- | --- |"]
    for field in fields(getattr(attrib, analysis)):
        default = "" if field.default is None else f"`{field.default}`"
        if isinstance(field.default, attrib.Attack):
            default = f"`{field.default.name}`"
        rows.append(f"| `{field.name}` | {default} | {field.metadata['help']} |")
    return "\n".join(rows)
