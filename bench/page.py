"""Write the latest tables into the pages that show them: ``python -m bench.page``.

The table of bench/results/NAME.json goes between ``<!-- NAME -->`` and ``<!-- / -->``.
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
    result = json.loads(path.read_text())
    machine = result["machine"]
    hardware = machine.get("gpu", machine["cpu"])
    tables = [result["rows"], *([result["accuracy"]] if "accuracy" in result else [])]
    text = "\n\n".join(markdown(rows) for rows in tables)
    return f"<!-- {mark[1]} -->\n`{result['command']}`: {result['title']}. {hardware}.\n\n{text}\n<!-- / -->"


if __name__ == "__main__":
    main()
