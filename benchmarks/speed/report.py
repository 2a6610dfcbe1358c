"""Printed lines, targets and the page of figures."""

from __future__ import annotations

import sys
from typing import ClassVar

TIMES = "median (least; processor)"
BEGIN, END = "<!-- bench.py writes from here -->\n", "<!-- to here -->\n"


class Report:
    """Lines that are printed and written, and figures with targets."""

    lines: ClassVar[list[str]] = []
    aims: ClassVar[list[list[str]]] = []

    @classmethod
    def say(cls, text):
        """Print and keep a line."""
        print(text, flush=True)
        cls.lines.append(text)

    @classmethod
    def aim(cls, work, wanted, times, as_ratio_to=None):
        """Keep a figure with its target: seconds or a ratio, of median and minimum time."""
        found = both_of(times) if as_ratio_to is None else ratio(times, as_ratio_to)
        cls.aims.append([work, wanted, found])


def table(title, header, rows):
    Report.say(f"\n### {title}\n")
    Report.say("| " + " | ".join(header) + " |")
    Report.say("|" + "---|" * len(header))
    for row in rows:
        Report.say("| " + " | ".join(row) + " |")


def write_page(page, text):
    """Write a text between the markers of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        sys.exit(f"{page} has no lines {BEGIN.strip()!r} and {END.strip()!r}; nothing was written.")
    page.write_text(f"{before}{BEGIN}{text}{END}{after}", encoding="utf-8")


def shown(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


def both_of(times):
    """Format median and minimum."""
    return f"{shown(times[0])} ({shown(times[1])})"


def both(times):
    return f"{shown(times[0])} ({shown(times[1])}; {shown(times[2])})"


def ratio(times, to):
    return f"{times[0] / to[0]:.3g} ({times[1] / to[1]:.3g}; {times[2] / to[2]:.3g})"
