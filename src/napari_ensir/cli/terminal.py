"""What a terminal shows: progress on stderr, tables and JSON on stdout. Knows nothing of images."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ensir.errors import EnsembleError
from napari_ensir.files.atomic import check_target, whole_file
from napari_ensir.files.output_paths import Place
from napari_ensir.settings import Settings, setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from napari_ensir.ensemble.arrays.image_set import Progress

__all__ = ["Output", "complain", "plain", "printable", "progress", "say", "table", "warn", "write_json"]


@dataclass(frozen=True, kw_only=True)
class Output(Settings):
    """How a job tells what it did."""

    overwrite: bool = setting(
        False, title="Overwrite", description="Allow outputs to replace what is there.", group="Output"
    )
    json: str | None = setting(
        None,
        title="JSON",
        description="Write the results to this file as JSON; - for standard output, then nothing else.",
        none="not written",
        group="Output",
    )
    quiet: bool = setting(False, title="Quiet", description="No progress bar, no summary.", group="Output")

    @property
    def places(self) -> list[Place]:
        """Where results go, if into a file."""
        return [] if self.json in (None, "-") else [Place("--json", Path(str(self.json)))]

    def check(self) -> None:
        """Find out beforehand whether results could be shown and the JSON file be written."""
        if sys.stdout is None and (self.json == "-" or not self.quiet):
            raise EnsembleError("standard output is closed, so nothing could be shown; give --quiet.")
        if self.json is not None and self.json != "-":
            check_target(Path(self.json), self.overwrite)
            if Path(self.json).is_dir():
                raise EnsembleError(f"--json: {self.json} is a folder; give a name in it.")

    def finish(self, results: dict[str, Any], show: Callable[[], object]) -> None:
        """Write the JSON if it is wanted; show the rest unless standard output is taken."""
        if self.json is not None:
            write_json(results, Path(self.json), self.overwrite)
        if not self.quiet and self.json != "-":
            show()


@contextmanager
def progress(quiet: bool = False) -> Iterator[Progress | None]:
    """A progress callback that moves a bar; None where nobody would see it."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("")

        def move(done: int, total: int, text: str) -> None:
            bars.update(bar, completed=done, total=total, description=printable(text))

        yield move


def printable(text: str) -> str:
    r"""Text as a terminal may get it: what would steer it, or cannot be encoded, is spelled out.

    Names of files, and those that a table or an image holds, may hold anything.

    Examples
    --------
    >>> print(printable("a\x1b[31mb\u202e.png"))
    a\x1b[31mb\u202e.png
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def say(text: str) -> None:
    """Lines on stdout."""
    for line in text.removesuffix("\n").split("\n"):
        print(printable(line))


def complain(message: str) -> None:
    """One line on stderr."""
    if sys.stderr is None:  # print would take standard output instead
        return
    print("napari-ensir:", printable(" ".join(message.split())), file=sys.stderr)


def warn(sentences: Iterable[str]) -> list[str]:
    """Each on a line of stderr, even where little else is said; handed back, for the JSON."""
    said = list(sentences)
    for sentence in said:
        complain(f"warning: {sentence}")
    return said


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout: aligned for reading, plain for other programs."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(show_header=any(header), box=None, pad_edge=False)
    for number, title in enumerate(header):
        shown.add_column(title, justify="left" if number == 0 or not title else "right", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    # Other programs read lines: nothing is folded for them.
    Console(width=None if sys.stdout.isatty() else 1000).print(shown)


def plain(value: Any) -> str:
    """A value of a report, for reading.

    Examples
    --------
    >>> plain([1.0, 2.5]), plain({"converged": 3}), plain(None)
    ('1, 2.5', 'converged 3', '-')
    """
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(one) for one in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "-" if value is None else str(value)


def write_json(results: dict[str, Any], target: Path, overwrite: bool) -> None:
    """Results as JSON to a file, or to stdout for ``-``; NaN and infinity, which JSON lacks, as null."""
    text = json.dumps(_finite(results), indent=2, allow_nan=False) + "\n"
    if str(target) == "-":
        sys.stdout.write(text)
        return
    with whole_file(target, overwrite) as part:
        part.write_text(text, encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value
