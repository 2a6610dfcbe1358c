"""Table of scores that the command line, the panels and notebooks show."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from html import escape
from math import floor, isfinite, isnan, log10, nan
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Mapping


STAR, TIED = "★", "≈"
"""Marks of the best value, and of values that do not differ significantly from it."""


def plus_minus(value: float, standard_error: float = nan, *, digits: int = 2, signed: bool = True) -> str:
    """Format a number with its standard error.

    Parameters
    ----------
    value, standard_error : float
        NaN as the standard error leaves it out.
    digits : int
        Significant digits of the standard error.
    signed : bool
        Whether positive numbers get a sign.

    Examples
    --------
    >>> plus_minus(2863.2, 104.4), plus_minus(-0.0123456, 0.00042), plus_minus(3.25e-7, 4.1e-8)
    ('+2860 ± 100', '\u22120.01235 ± 0.00042', '+3.25e-07 ± 4.1e-08')
    >>> plus_minus(12.345), plus_minus(0.5234, 0.114, digits=1, signed=False)
    ('+12.3', '0.5 ± 0.1')
    """
    sign = "\u2212" if value < 0 else "+" if signed else ""
    error = standard_error if isfinite(standard_error) else 0.0
    if not error or abs(value) >= 1e6 or max(abs(value), error) < 1e-4:
        return f"{sign}{abs(value):.3g}" + (f" ± {error:.{digits}g}" if error else "")
    places = digits - 1 - floor(log10(error))
    first, second = (f"{round(each, places):.{max(places, 0)}f}" for each in (abs(value), error))
    return f"{sign}{first} ± {second}"


@dataclass(frozen=True)
class ScoreRow:
    """Scores of one image or method; NaN where a score is not known.

    Attributes
    ----------
    name : str
    role : "input", "candidate", "average", "ensemble", "method", "zzpm" or "baseline"
        What the row stands for; a candidate may have the name of a method.
    method : str
        Key of the method, if the row is one.
    psnr : float
        dB. If the ground truth is noisy: PSNR of the mean squared error less the variance of the noise.
    held_out : float
        PSNR in dB on pixels that the weights were not learned from.
    ssim : float
    difference, standard_error : float
        Mean squared error less that of the baseline, in squared intensity units, and its standard error.
        Negative is better.
    best : bool
        Whether the row is significantly better than every other.
    tied : bool
        Whether the row is the first or does not differ significantly from it, and others are tied, too.
    mse : float
        Squared intensity units, less the variance of the noise; can be negative.
    psnr_error : float
        Standard error of ``psnr``, dB.
    resolution : float
        By Fourier ring correlation with another exposure, pixels.
    fit_seconds, image_seconds : float
        Mean time to learn, and to combine the candidates of one image.
    note : str
    metrics : mapping of str to float
        Further scores, such as LPIPS, by name.
    """

    name: str
    role: str
    method: str = ""
    psnr: float = nan
    held_out: float = nan
    ssim: float = nan
    difference: float = nan
    standard_error: float = nan
    best: bool = False
    tied: bool = False
    mse: float = nan
    psnr_error: float = nan
    resolution: float = nan
    fit_seconds: float = nan
    image_seconds: float = nan
    note: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    def value(self, key: str) -> Any:
        """Return an attribute or a metric.

        Parameters
        ----------
        key : str
            Name of the attribute or of the metric.

        Returns
        -------
        float, str, bool or None
        """
        return self.metrics[key] if key in self.metrics else getattr(self, key)

    def to_dict(self, *keys: str) -> dict[str, Any]:
        """Return some attributes for JSON.

        Parameters
        ----------
        *keys : str
            Names of the attributes.

        Returns
        -------
        dict
            NaN is replaced by None.
        """
        values = {key: self.value(key) for key in keys}
        return {key: None if isinstance(one, float) and isnan(one) else one for key, one in values.items()}


class Column(NamedTuple):
    """A column of a :class:`ScoreTable`.

    Attributes
    ----------
    key : str
        Attribute or metric of :class:`ScoreRow`.
    title, unit : str
    decimals : int or None
        Digits after the decimal point; None: as many as the standard error allows, and a sign.
    error : str
        Attribute with the standard error; "" if there is none.
    largest_is_best : bool or None
        None if no value is marked as the best.
    description : str
        Explanation, such as for a tooltip.
    """

    key: str
    title: str
    unit: str = ""
    decimals: int | None = 3
    error: str = ""
    largest_is_best: bool | None = True
    description: str = ""

    def text(self, row: ScoreRow) -> str:
        """Format the value of a row."""
        value, error = row.value(self.key), row.value(self.error) if self.error else nan
        if isnan(value):
            return "–"
        if self.decimals is None:
            return "0" if value == 0 and not error > 0 else plus_minus(value, error)
        shown = f"{value:.{self.decimals}f}"
        return shown if isnan(error) else f"{shown} ± {error:.{self.decimals}f}"


PSNR = Column("psnr", "PSNR", "dB")
SSIM = Column("ssim", "SSIM", decimals=4)
RESOLUTION = Column("resolution", "resolution", "pixels", 2, largest_is_best=None)
DIFFERENCE = Column(
    "difference",
    "difference of MSE",
    "squared intensity",
    None,
    "standard_error",
    False,
    "Mean squared error less that of the average of the candidates, in squared intensity units, ± its "
    f"standard error; less is better. {STAR}: significantly better than all others. {TIED}: not "
    "significantly worse than the best.",
)


@dataclass(frozen=True)
class ScoreTable:
    """Scores of several images or methods.

    Attributes
    ----------
    rows : tuple of ScoreRow
    columns : tuple of Column
    notes : tuple of str
        Sentences that a reader needs to interpret the scores, such as the peak of PSNR.
    summary : str
        One sentence that states the result; shown above the table.
    heading : str
        Heading of the column of names.

    Examples
    --------
    >>> rows = (ScoreRow("near", "candidate", psnr=31.5), ScoreRow("far", "candidate", psnr=28.25))
    >>> table = ScoreTable(rows, (PSNR,), ("The peak of PSNR is 255.",))
    >>> print(table)
          PSNR, dB
    near  ★ 31.500
    far     28.250
    The peak of PSNR is 255.
    >>> table.best, table["far"].psnr
    (0, 28.25)
    """

    rows: tuple[ScoreRow, ...]
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()
    summary: str = ""
    heading: str = ""

    def __getitem__(self, name: str) -> ScoreRow:
        """Return the row of a name.

        Raises
        ------
        EnsembleError
            If there is none, or more than one.
        """
        found = [row for row in self.rows if row.name == name]
        if not found:
            known = ", ".join(row.name for row in self.rows)
            raise EnsembleError(f"there is no row {name!r}; there are: {known}.")
        if len(found) > 1:
            roles = " and a ".join(row.role for row in found)
            raise EnsembleError(f"there are {len(found)} rows {name!r}, a {roles}; use table.rows instead.")
        return found[0]

    @property
    def best(self) -> int | None:
        """Index of the best row: significantly, if standard errors are known; else by the first column."""
        if self._is_paired:
            return next((index for index, row in enumerate(self.rows) if row.best), None)
        return next((index for index, mark in enumerate(self.marks(self.columns[0])) if mark), None)

    @property
    def _is_paired(self) -> bool:
        return any(column.error == "standard_error" for column in self.columns)

    def marks(self, column: Column) -> list[str]:
        """Return the mark of each row in a column.

        Parameters
        ----------
        column : Column

        Returns
        -------
        list of str
            :data:`STAR`, :data:`TIED` or ``""``.
        """
        if column.error == "standard_error":
            return [STAR if row.best else TIED if row.tied else "" for row in self.rows]
        values = [row.value(column.key) for row in self.rows]
        known = [value for value in values if not isnan(value)]
        if self._is_paired or column.largest_is_best is None or not known:
            return [""] * len(values)
        best = (max if column.largest_is_best else min)(known)
        return [STAR * (value == best) for value in values]

    def texts(self, column: Column) -> list[str]:
        """Return the text of each row in a column, with its mark.

        Parameters
        ----------
        column : Column

        Returns
        -------
        list of str
        """
        marks = self.marks(column)
        return [f"{mark} {column.text(row)}".strip() for mark, row in zip(marks, self.rows, strict=True)]

    def cells(self) -> list[list[str]]:
        """Return the table as text: a heading, then one list for each row."""
        notes = [row.note for row in self.rows]
        heading = [
            self.heading,
            *(", ".join(filter(None, (each.title, _short(each)))) for each in self.columns),
        ]
        columns = [[row.name for row in self.rows], *map(self.texts, self.columns)]
        if any(notes):
            heading, columns = [*heading, ""], [*columns, notes]
        return [heading, *map(list, zip(*columns, strict=True))]

    def to_markdown(self) -> str:
        """Return the table, without summary and notes, as Markdown."""
        heading, *rows = self.cells()
        lines = [heading, ["---"] * len(heading), *rows]
        return "".join(
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines
        )

    def to_csv(self) -> str:
        """Return the scores in full precision as CSV, standard errors in columns of their own."""
        keys, titles = ["name", "role"], ["name", "role"]
        for column in self.columns:
            unit = f" ({column.unit})" if column.unit else ""
            keys += filter(None, (column.key, column.error))
            titles += [f"{column.title}{unit}"] + [f"standard error of {column.title}{unit}"] * bool(
                column.error
            )
        file = io.StringIO(newline="")
        writer = csv.writer(file)
        writer.writerow([*titles, "note"])
        for row in self.rows:
            values = [row.value(key) for key in (*keys, "note")]
            writer.writerow([f"{one:.9g}" if isinstance(one, float) else one for one in values])
        return file.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Return rows and notes for JSON."""
        keys = [key for column in self.columns for key in (column.key, column.error) if key]
        return {
            "rows": [row.to_dict("name", "role", *keys, "note") for row in self.rows],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        cells = self.cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for line in cells:
            numbers = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
            if len(line) > len(self.columns) + 1:
                numbers[-1] = line[-1]
            lines.append("  ".join([line[0].ljust(widths[0]), *numbers]).rstrip())
        return "\n".join([*filter(None, [self.summary]), *lines, *self.notes])

    def _repr_html_(self) -> str:
        heading, *rows = ([escape(cell) for cell in line] for line in self.cells())
        parts = [f"<p>{escape(self.summary)}</p>"] if self.summary else []
        parts += ["<table><thead><tr>", *(f"<th>{cell}</th>" for cell in heading), "</tr></thead><tbody>"]
        for name, *cells in rows:
            parts += [f"<tr><th>{name}</th>", *(f"<td>{cell}</td>" for cell in cells), "</tr>"]
        return "".join([*parts, "</tbody></table>", *(f"<p>{escape(note)}</p>" for note in self.notes)])


def _short(column: Column) -> str:
    """Unit for the heading; that of differences is in the notes."""
    return "" if column.unit == "squared intensity" else column.unit
