"""The command ``info``: describe a lookup table, or the origin of an output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_ensir.cli import terminal
from napari_ensir.ensemble.lut.load import load_lut
from napari_ensir.ensemble.lut.record import table_of
from napari_ensir.errors import EnsembleError
from napari_ensir.files.image import read_record
from napari_ensir.files.output_paths import Place, check_places
from napari_ensir.files.png import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from napari_ensir.cli.terminal import Output

__all__ = ["info"]

_LONG = ("iterations", "outcome", "bin_sets", "inputs", "fidelity")
"""Entries of a report that are too long to print."""


def info(path: Path, *, output: Output) -> None:
    """Describe a table, or the record of an output."""
    check_places(output.places, [Place("a file", path)])
    output.check()
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        results, lines = _of_output(path)
    else:
        results, lines = _of_table(path)
    rows = [(key.replace("_", " "), terminal.plain(value)) for key, value in lines.items()]
    output.finish(results, lambda: terminal.table(("", ""), rows))


def _of_table(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    lut = load_lut(path)
    results = table_of(lut)
    lines = _table_lines(results)
    lines["expected_error"] = "no" if lut.errors is None else f"yes, {lut.errors.overall:.4g} overall"
    if lut.errors is not None and lut.error_factor is not None:
        lines["expected_error"] += f", within x {lut.error_factor:.2g} on other fields"
    lines["fidelity"] = "yes, shown in Inspect and with --json" if lut.report.get("fidelity") else "no"
    return results, lines


def _of_output(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    record = read_record(path)
    if record is None:
        raise EnsembleError(
            f"{path} has no record of its origin: it was not written by napari-ensir, or another program "
            "has saved it again."
        )
    table = record.get("table")
    lines = {key: value for key, value in record.items() if key != "table"}
    if isinstance(table, dict):
        lines |= {f"table_{key}": value for key, value in _table_lines(table).items()}
    return record, lines


def _table_lines(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a table and of its report, without long lists."""
    found = {key: value for key, value in table.items() if key != "report"}
    report = table.get("report")
    if not isinstance(report, dict):
        return found
    found |= {key: value for key, value in report.items() if key not in _LONG}
    inputs = report.get("inputs")
    inputs = inputs if isinstance(inputs, dict) else {}
    listed = inputs.get("listed")
    if isinstance(listed, list) and all(isinstance(one, dict) for one in listed):
        kinds = {(terminal.plain(one.get("shape")), terminal.plain(one.get("dtypes"))) for one in listed}
        found["learned_from"] = "; ".join(f"({shape}) {dtypes}" for shape, dtypes in sorted(kinds)[:4])
        names = [one["names"] for one in listed if isinstance(one.get("names"), list)]
        if names and names[0]:
            *candidates, truth = names[0]
            more = f", and {len(listed) - 1} more" if len(listed) > 1 else ""
            found["learned_from_images"] = f"{terminal.plain(candidates)}; ground truth {truth}{more}"
        hashed = sum(bool(one.get("sha256")) for one in listed)
        found["hashes"] = f"sha256 of {hashed} of {len(listed)} images, shown with --json"
        if isinstance(reason := inputs.get("not_hashed"), str):
            found["not_hashed"] = reason
    return found
