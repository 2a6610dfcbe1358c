"""Reader and writer of the parts of a ``.lut.safetensors`` file.

A ``.lut.safetensors`` file holds tensors for the occupied bin sets and, under the metadata key
``napari-ensir``, a JSON header. Anything invalid is an :class:`EnsembleError`; nothing in a file is executed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from napari_ensir.ensemble.arrays.image_set import check_names
from napari_ensir.ensemble.lut.report import FitReport
from napari_ensir.ensemble.statistics.binning import FLOAT_LEVELS, Binning
from napari_ensir.ensemble.uncertainty.error_table import INTENSITIES, SPREADS, ErrorTable
from napari_ensir.errors import EnsembleError
from napari_ensir.files.atomic import whole_file
from napari_ensir.files.paths import expand_path
from napari_ensir.files.tensors import (
    MAX_HEADER,
    TensorFile,
    brief,
    package_version,
    parse_object,
    readable_file,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["SUFFIX", "TableParts", "read_table", "write_table"]

SUFFIX = ".lut.safetensors"
SCHEMA = 2
"""Version of the file's layout; files of earlier versions still load.

1: lists with a value per bin set are in the header. 2: they are tensors; expected errors were added.
"""

_KEY = "napari-ensir"
_TENSORS = {"rows": "U16", "weights": "F64", "counts": "I64", "fallback": "F64"}
_LISTS = {"iterations": "I64", "outcome": "I8"}
"""Lists of a report with a value per bin set; each may be absent."""
_ERRORS = {"error_squares": "I64", "error_counts": "I64"}
"""Both, or neither if the table was not calibrated."""
_ERROR_NUMBERS = ("low", "high", "noise", "trust")
_MAX_BYTES = 2**36
_HEADER = {
    "schema": int,
    "names": list,
    "method": str,
    "low": (int, float),
    "high": (int, float),
    "bin_width": (int, float),
    "n_bins": int,
    "sublevels": int,
    "integer": bool,
    "unseen": str,
    "channel_axis": (int, type(None)),
    "report": dict,
    "version": str,
}
_SINCE = {"errors": (2, (dict, type(None)))}
"""Header entries that earlier layouts lack, with the layout that added them, and their types."""


class TableParts(TypedDict):
    """Contents of a file, by the names of :class:`~napari_ensir.WeightLUT`'s attributes."""

    names: tuple[str, ...]
    method: str
    binning: Binning
    rows: NDArray[np.uint16]
    weights: NDArray[np.float64]
    counts: NDArray[np.int64]
    fallback: NDArray[np.float64]
    unseen: Literal["fallback", "previous"]
    channel_axis: int | None
    report: FitReport
    errors: ErrorTable | None


def write_table(path: str | Path, parts: TableParts, *, overwrite: bool = False) -> Path:
    """Write a table's parts whole or not at all.

    Returns
    -------
    Path
        Where they were written: ``SUFFIX`` is added where the name lacks it.

    Raises
    ------
    EnsembleError
        If the file cannot be written; one that was there is then unchanged.
    """
    from safetensors.numpy import save

    target = expand_path(path)
    if target.name in ("", ".."):
        raise EnsembleError(f"{target} is a folder; give the table a name in it.")
    if not target.name.endswith(SUFFIX):
        target = target.with_name(target.name.removesuffix(".safetensors").removesuffix(".lut") + SUFFIX)
    binning, errors = parts["binning"], parts["errors"]
    report, lists = _without_lists(parts["report"], len(parts["rows"]))
    header = {
        "schema": SCHEMA,
        "names": list(parts["names"]),
        "method": parts["method"],
        "low": binning.low,
        "high": binning.high,
        "bin_width": binning.width,
        "n_bins": binning.n_bins,
        "sublevels": binning.sublevels,
        "integer": binning.integer,
        "unseen": parts["unseen"],
        "channel_axis": None if parts["channel_axis"] is None else int(parts["channel_axis"]),
        "report": report,
        "version": package_version(),
        "errors": None if errors is None else {key: getattr(errors, key) for key in _ERROR_NUMBERS},
    }
    held: dict[str, NDArray[Any]] = {
        "rows": parts["rows"],
        "weights": parts["weights"],
        "counts": parts["counts"],
        "fallback": parts["fallback"],
        **lists,
    }
    if errors is not None:
        held |= {"error_squares": errors.squares, "error_counts": errors.counts}
    tensors = {name: np.ascontiguousarray(part) for name, part in held.items()}
    content = save(tensors, metadata={_KEY: json.dumps(header)})
    if int.from_bytes(content[:8], "little") > MAX_HEADER:
        raise EnsembleError(
            f"the table's names and report take more than {MAX_HEADER // 2**20} MB, too much for a file; "
            "shorten what was added to the report."
        )
    with whole_file(target, overwrite) as temporary:
        temporary.write_bytes(content)
    return target


def read_table(path: str | Path) -> TableParts:
    """Read and check a file written by :func:`write_table`; see :func:`~napari_ensir.load_lut`."""
    source = readable_file(path, _MAX_BYTES, f"{SUFFIX} file")
    try:
        # Opened once: another process may put another table in its place at any moment.
        file = TensorFile(source)
        header = _read_header(source, file.metadata)
        tensors = _read_tensors(source, file, header)
    except EnsembleError:
        raise
    except MemoryError as error:
        raise EnsembleError(f"{source} is too large a table for this machine's memory.") from error
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EnsembleError(
            f"{source} is no LUT file ({reason}); choose a {SUFFIX} file that napari-ensir wrote."
        ) from error
    return _checked(source, header, tensors)


def _is_off(source: Path, what: str) -> EnsembleError:
    return EnsembleError(
        f"{source} cannot be used as a LUT: {what}. The file is damaged or was not written by napari-ensir."
    )


def _read_header(source: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    if not metadata or _KEY not in metadata:
        raise EnsembleError(
            f"{source} is a safetensors file but holds no LUT; choose a {SUFFIX} file that napari-ensir "
            "wrote."
        )
    try:
        header = parse_object(metadata[_KEY])
    except ValueError as error:
        raise _is_off(source, f"its header cannot be read ({str(error)[:200]})") from error
    schema = header.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise EnsembleError(
            f"{source} was written by a newer napari-ensir ({brief(header.get('version'))}; layout "
            f'{brief(schema)}, this one reads up to {SCHEMA}); update with "pip install -U napari-ensir".'
        )
    for key, kinds in _HEADER.items():
        value = header.get(key)
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        if type(value) not in wanted or (key not in header):
            raise _is_off(source, f"its header has {key} = {brief(value)}")
    if not 1 <= header["schema"] <= SCHEMA:
        raise _is_off(source, f"its layout has the unknown number {schema}")
    for key, (since, types) in _SINCE.items():
        if header["schema"] < since:
            header[key] = None
        elif key not in header or type(header[key]) not in types:
            raise _is_off(source, f"its header has {key} = {brief(header.get(key))}")
    return header


def _read_tensors(source: Path, file: TensorFile, header: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """The table's parts; shapes and dtypes of all are checked before any is read."""
    m = len(header["names"])
    entries = file.entries
    kinds = _TENSORS | ({} if header["errors"] is None else _ERRORS)
    kinds |= {name: kind for name, kind in _LISTS.items() if name in entries}
    if entries.keys() != kinds.keys():
        held = ", ".join(repr(name[:40]) for name in sorted(entries)[:6])
        raise _is_off(source, f"it holds {held or 'nothing'} where a LUT holds {', '.join(kinds)}")
    for name, kind in kinds.items():
        if entries[name].dtype != kind:
            raise _is_off(source, f"its {name} are {entries[name].dtype}, not {kind}")
    rows, weights, counts, fallback = (entries[name].shape for name in _TENSORS)
    n = rows[0] if rows else 0
    good = (rows, weights, counts, fallback[1:]) == ((n, m + 1), (n, m), (n,), (m,)) and len(fallback) == 2
    good = good and all(entries[name].shape == (n,) for name in _LISTS if name in entries)
    if not good or m < 1 or not 1 <= fallback[0] <= 2**16:
        raise _is_off(source, f"its parts do not fit {m} candidates")
    wanted = (fallback[0], INTENSITIES, SPREADS)
    if any(entries[name].shape != wanted for name in _ERRORS if name in entries):
        raise _is_off(source, f"its errors are not of shape {wanted}")

    def check(rows: NDArray[np.float64]) -> None:
        _check_weights(source, "weights", rows)

    # First those that can be invalid in any row, row by row, so that an invalid file is not held in memory.
    tensors = {"fallback": file.read("fallback"), "weights": file.read("weights", check)}
    _check_weights(source, "fallback weights", tensors["fallback"])
    return {name: tensors[name] if name in tensors else file.read(name) for name in kinds}


def _runs(n: int, width: int) -> Iterator[slice]:
    """Slices of the rows of a table, of about a million values each."""
    step = max(1, 2**20 // width)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _checked(source: Path, header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> TableParts:
    """The parts, once all are found valid."""
    rows, weights, counts, fallback = (tensors[name] for name in _TENSORS)
    m = len(header["names"])
    report = header["report"] | {name: tensors[name].tolist() for name in _LISTS if name in tensors}
    if header["channel_axis"] is None and len(fallback) > 1:
        raise _is_off(source, f"it has {len(fallback)} channels but no channel axis")
    binning = _checked_binning(source, header)
    _check_rows(source, rows, counts, [binning.n_bins] * m + [len(fallback)])
    if header["unseen"] not in ("fallback", "previous"):
        raise _is_off(source, f"its rule for unseen bin sets is {brief(header['unseen'])}")
    if not all(isinstance(name, str) and _is_text(name) for name in [*header["names"], header["method"]]):
        raise _is_off(source, "its names are not all text")
    try:
        names = check_names(header["names"], m)
    except EnsembleError as error:
        raise _is_off(source, str(error).rstrip(".")) from error
    return {
        "names": names,
        "method": header["method"],
        "binning": binning,
        "rows": rows,
        "weights": weights,
        "counts": counts,
        "fallback": fallback,
        "unseen": header["unseen"],
        "channel_axis": header["channel_axis"],
        "report": FitReport(report),
        "errors": _checked_errors(source, header, tensors),
    }


def _checked_errors(
    source: Path, header: dict[str, Any], tensors: dict[str, NDArray[Any]]
) -> ErrorTable | None:
    said = header["errors"]
    if said is None:
        return None
    numbers = [said.get(key) for key in _ERROR_NUMBERS]
    if set(said) != set(_ERROR_NUMBERS) or not all(type(one) in (int, float) for one in numbers):
        raise _is_off(source, f"its errors have {brief(numbers)} for range and noise")
    try:
        low, high, noise, trust = (float(one) for one in numbers)
    except OverflowError:  # JSON knows whole numbers of any size
        low = high = noise = trust = float("inf")
    squares, counts = (tensors[name] for name in _ERRORS)
    if not (np.isfinite([low, high, noise, trust]).all() and low < high and noise >= 0 < trust):
        raise _is_off(
            source, f"its errors are of the range {low} to {high} with noise {noise}, trust {trust}"
        )
    if min(squares.min(), counts.min()) < 0:
        raise _is_off(source, "its errors are negative")
    # As many as there can be without their sums leaving 64 bits.
    if squares.astype(float).sum() > 2**62 or counts.astype(float).sum() > 2**62:
        raise _is_off(source, "its errors are beyond all bounds")
    return ErrorTable(low, high, squares, counts, noise, trust)


def _without_lists(report: dict[str, Any], n: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Split the lists with a value per bin set from a report, as arrays."""
    found: dict[str, NDArray[Any]] = {}
    for name, dtype in (("iterations", np.int64), ("outcome", np.int8)):
        numbers = report.get(name)
        limits = np.iinfo(dtype)
        if not isinstance(numbers, list) or len(numbers) != n:
            continue
        if all(type(one) is int and limits.min <= one <= limits.max for one in numbers):
            found[name] = np.array(numbers, dtype)
    return {key: value for key, value in report.items() if key not in found}, found


def _is_text(name: str) -> bool:
    """Whether a name can be encoded: JSON can hold lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _checked_binning(source: Path, header: dict[str, Any]) -> Binning:
    edges = [header[key] for key in ("low", "high", "bin_width")]
    try:
        low, high, width = (float(edge) for edge in edges)
    except OverflowError:  # JSON knows whole numbers of any size
        low = high = width = float("inf")
    n_bins, sublevels = header["n_bins"], header["sublevels"]
    if not (np.isfinite([low, high, width]).all() and low < high and width > 0):
        raise _is_off(source, f"its range is {low} to {high} in bins of {width}")
    covered = n_bins * width / (high - low) if 0 < n_bins < 2**16 else 0.0
    most = 2 + 2 * width / (high - low)  # the last bin may reach beyond the range
    if not (1 - 1e-6 <= covered <= most) or not 0 < sublevels <= 2 * FLOAT_LEVELS:
        raise _is_off(source, f"{n_bins} bins of {width:g} with {sublevels} levels do not cover its range")
    whole = width == sublevels and low == round(low) and high == round(high)
    if header["integer"] and not whole:
        raise _is_off(source, f"its bins of {width:g} with {sublevels} levels hold no whole numbers")
    return Binning(low, high, width, n_bins, sublevels, header["integer"])


def _check_weights(source: Path, name: str, part: NDArray[np.float64]) -> None:
    # NaN and negative weights fail the first comparison, infinite ones the second.
    if not ((part >= 0).all() and (part <= 2).all() and (np.abs(part.sum(axis=1) - 1) <= 1e-6).all()):
        raise _is_off(source, f"its {name} are not all non-negative with a sum of one")


def _check_rows(
    source: Path, rows: NDArray[np.uint16], counts: NDArray[np.int64], bounds: Sequence[int]
) -> None:
    if (counts < -1).any():
        raise _is_off(source, "a pixel count is negative")
    for some in _runs(*rows.shape):
        # With the row before them, which they must follow.
        here = rows[max(0, some.start - 1) : some.stop].astype(np.int64)
        if (here >= np.array(bounds)).any():
            raise _is_off(source, "a bin set lies outside its bins or channels")
        steps = np.diff(here, axis=0)
        first = (steps != 0).argmax(axis=1)
        if (steps[np.arange(len(steps)), first] <= 0).any():
            raise _is_off(source, "its bin sets are not in order, or one stands there twice")
