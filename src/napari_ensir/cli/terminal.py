"""Output of the command line: progress and errors on stderr, tables and JSON on stdout."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_ensir.cli.options import option
from napari_ensir.errors import EnsembleError
from napari_ensir.files.atomic import check_target, whole_file
from napari_ensir.files.paths import Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from napari_ensir.ensemble.arrays.image_set import Progress


@dataclass(frozen=True, kw_only=True)
class Output:
    """Options of the output, which every command has."""

    overwrite: bool = option(False, "Replace existing outputs.", group="Output")
    json: str | None = option(
        None,
        "Write the results to this file as JSON; - for standard output, without other text.",
        metavar="PATH",
        none="not written",
        group="Output",
    )
    quiet: bool = option(False, "Show neither progress nor a summary.", "-q", group="Output")
    verbose: bool = option(
        False, "Show each step with its time, and where an error was raised.", group="Output"
    )

    @property
    def places(self) -> list[Place]:
        """The JSON file, if there is one."""
        return [] if self.json in (None, "-") else [Place("--json", Path(str(self.json)))]

    def check(self) -> None:
        """Check before any work whether results can be shown and the JSON file can be written."""
        if sys.stdout is None and (self.json == "-" or not self.quiet):
            raise EnsembleError("standard output is closed, so no results can be shown; give --quiet.")
        if self.json is not None and self.json != "-":
            check_target(Path(self.json), self.overwrite)
            if Path(self.json).is_dir():
                raise EnsembleError(f"--json: {self.json} is a folder; give the name of a file.")

    @contextmanager
    def progress(self) -> Iterator[Progress | None]:
        """Yield a callback that prints steps or moves a progress bar; None if neither would be seen."""
        if self.verbose and sys.stderr is not None:
            start, shown = time.perf_counter(), ""

            def step(done: int, total: int, text: str) -> None:
                nonlocal shown
                if text != shown:
                    print(f"{time.perf_counter() - start:8.2f} s  {printable(text)}", file=sys.stderr)
                    shown = text

            yield step
            return
        if self.quiet or sys.stderr is None or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        description = TextColumn("{task.description}", markup=False)
        columns = (description, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            bar = bars.add_task("")
            yield lambda done, total, text: bars.update(
                bar, completed=done, total=total, description=printable(text)
            )

    def finish(self, results: dict[str, Any], text: str) -> None:
        """Write the JSON, if requested; print ``text`` unless standard output is quiet or has the JSON."""
        if self.json is not None:
            from napari_ensir.files.metadata import plain as json_value

            content = json.dumps(json_value(results), indent=2, allow_nan=False) + "\n"
            if self.json == "-":
                sys.stdout.write(content)
                return
            with whole_file(Path(self.json), self.overwrite) as part:
                part.write_text(content, encoding="utf-8")
        if not self.quiet:
            say(text)


@dataclass(frozen=True, kw_only=True)
class ImageOutput(Output):
    """Options of the output of commands that write images."""

    dtype: Literal["same", "float32"] = option(
        "same",
        "Data type of the output: that of the input, rounded and clipped, or float32.",
        metavar="same|float32",
        group="Output",
    )

    @property
    def as_float(self) -> bool:
        """Whether to write the computed pixels without rounding and clipping."""
        return self.dtype == "float32"


def printable(text: str) -> str:
    r"""Replace control characters and characters that cannot be encoded by escape sequences.

    File names, and names in a table or an image, may contain any character.

    Examples
    --------
    >>> print(printable("a\x1b[31mb\u202e.png"))
    a\x1b[31mb\u202e.png
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def say(text: str) -> None:
    """Print lines on stdout."""
    for line in text.removesuffix("\n").split("\n"):
        print(printable(line.rstrip()))


def error(message: str) -> None:
    """Print one line on stderr."""
    if sys.stderr is None:  # print would use standard output instead
        return
    print("napari-ensir:", printable(" ".join(message.split())), file=sys.stderr)


def warn(sentences: Iterable[str]) -> list[str]:
    """Print each warning on a line of stderr and return them as a list."""
    warnings = list(sentences)
    for sentence in warnings:
        error(f"warning: {sentence}")
    return warnings


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as text; lines are wrapped for terminals only."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(*header, show_header=any(header), box=None, pad_edge=False)
    for column in shown.columns:
        column.overflow = "fold"
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 1000, color_system=None)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


def plain(value: Any) -> str:
    """Format a value of a report.

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
