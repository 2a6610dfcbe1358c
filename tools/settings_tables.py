"""Write tables of settings into the guides, between markers that name their class.

python tools/settings_tables.py [--check]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import napari_ensir.settings
from napari_ensir.settings import table_of

DOCS = Path(__file__).resolve().parents[1] / "docs"
MARK = re.compile(r"(<!-- (options|keywords) of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return a guide with current tables."""

    def table(found: re.Match[str]) -> str:
        start, form, name, end = found.groups()
        return f"{start}{table_of(getattr(napari_ensir.settings, name), form == 'options')}\n{end}"

    return MARK.sub(table, text)


def main() -> int:
    """Write the tables, or only check them; return the number of outdated guides."""
    stale = 0
    for guide in sorted(DOCS.glob("*.md")):
        text = guide.read_text(encoding="utf-8")
        if (now := filled(text)) != text:
            stale += 1
            print(guide.name, "was not current")
            if "--check" not in sys.argv:
                guide.write_text(now, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main() if "--check" in sys.argv else main() * 0)
