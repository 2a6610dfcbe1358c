"""Write tables of settings into the guides, between markers that name their class.

python tools/settings_tables.py [--check]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import napari_ensir.settings
from napari_ensir.settings import settings_of

DOCS = Path(__file__).resolve().parents[1] / "docs"
MARK = re.compile(r"(<!-- (options|keywords) of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table_of(owner: Any, as_options: bool = False) -> str:
    """Return the settings as a Markdown table for the documentation.

    Parameters
    ----------
    owner
        Class of settings.
    as_options
        Whether to write the names as command-line options.
    """
    rows = []
    for each in settings_of(owner):
        name = "--" + each.name.replace("_", "-") if as_options else each.name
        quote = "" if as_options else '"'
        if each.kind == "choice":
            values = ", ".join(f"`{quote}{one}{quote}`" for one in each.choices or ())
            values += " or similar" * each.others
        else:
            values = each.allowed_values()
        values += f"; `{quote}{each.word}{quote}`: {each.auto}" if each.auto is not None else ""
        flag = as_options and each.kind == "flag"
        shown = f"{each.default:g}" if each.kind == "number" and each.default is not None else each.default
        default = f"`{quote}{shown}{quote}`" if each.kind == "choice" else f"`{shown}`"
        default_text = each.none if each.default is None else default
        values, default_text = ("given or not", "not given") if flag else (values, default_text)
        rows.append(f"| `{name}` | {values} | {default_text} | {each.description} |")
    return "\n".join(["| setting | values | default | |", "|---|---|---|---|", *rows])


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
