"""Put the latest tables into the pages that show them, between their marks: ``python -m bench.page``.

``<!-- NAME -->`` begins what bench/results/NAME.json is set into, ``<!-- / -->`` ends it.
"""

import json
import re
from pathlib import Path

from bench.timing import RESULTS, markdown

PAGES = Path("bench/README.md"), Path("docs/models.md")


def main() -> None:
    """Rewrite the pages."""
    for page in PAGES:
        page.write_text(re.sub(r"<!-- ([\w-]+) -->\n.*?<!-- / -->", _table, page.read_text(), flags=re.DOTALL))


def _table(mark: re.Match[str]) -> str:
    path = RESULTS / f"{mark[1]}.json"
    if not path.exists():
        return f"<!-- {mark[1]} -->\nnot measured yet\n<!-- / -->"
    found = json.loads(path.read_text())
    machine = found["machine"]
    hardware = machine.get("gpu", machine["cpu"])
    tables = [found["rows"], *([found["accuracy"]] if "accuracy" in found else [])]
    text = "\n\n".join(markdown(rows) for rows in tables)
    return f"<!-- {mark[1]} -->\n`{found['command']}`: {found['title']}. {hardware}.\n\n{text}\n<!-- / -->"


if __name__ == "__main__":
    main()
