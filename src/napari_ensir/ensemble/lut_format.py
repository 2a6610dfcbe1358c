"""The layout of a table's file: its parts to bytes and back. Makes no table; nothing that is read can run.

A ``.lut.safetensors`` file holds tensors for the occupied bin sets and, under the metadata key
``napari-ensir``, a JSON header. It is read strictly: whatever is off is an :class:`EnsembleError`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from napari_ensir.ensemble.bins import FLOAT_LEVELS, Binning
from napari_ensir.ensemble.expected_error import INTENSITIES, SPREADS, ErrorTable
from napari_ensir.ensemble.inputs import check_names
from napari_ensir.errors import EnsembleError
from napari_ensir.files.headers import (
    MAX_HEADER,
    brief,
    package_version,
    parse_object,
    read_metadata,
    readable_file,
)
from napari_ensir.files.whole import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["SUFFIX", "TableParts", "read_table", "write_table"]

SUFFIX = ".lut.safetensors"
SCHEMA = 2
"""Version of the file's layout; files of every earlier one still load. 2: errors to expect."""

_KEY = "napari-ensir"
_TENSORS = {"rows": "U16", "weights": "F64", "counts": "I64", "fallback": "F64"}
_ERRORS = {"error_squares": "I64", "error_counts": "I64"}
"""Both, or neither where the table was not calibrated."""
_ERROR_RANGE = ("low", "high", "noise")
_MAX_BYTES = 2**30
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
"""Entries of the header that earlier layouts lack: the layout that brought them, and their types."""


class TableParts(TypedDict):
    """All that a file holds of a table, by the names of :class:`~napari_ensir.WeightLUT`'s attributes."""

    names: tuple[str, ...]
    method: str
    binning: Binning
    rows: NDArray[np.uint16]
    weights: NDArray[np.float64]
    counts: NDArray[np.int64]
    fallback: NDArray[np.float64]
    unseen: Literal["fallback", "previous"]
    channel_axis: int | None
    report: dict[str, Any]
    errors: ErrorTable | None


def write_table(path: str | Path, parts: TableParts) -> Path:
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

    target = Path(path).expanduser()
    if not target.name.endswith(SUFFIX):
        target = target.with_name(target.name.removesuffix(".safetensors").removesuffix(".lut") + SUFFIX)
    binning, errors = parts["binning"], parts["errors"]
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
        "channel_axis": parts["channel_axis"],
        "report": parts["report"],
        "version": package_version(),
        "errors": None if errors is None else {key: getattr(errors, key) for key in _ERROR_RANGE},
    }
    held: tuple[NDArray[Any], ...] = (parts["rows"], parts["weights"], parts["counts"], parts["fallback"])
    tensors = {name: np.ascontiguousarray(part) for name, part in zip(_TENSORS, held, strict=True)}
    if errors is not None:
        tensors |= {"error_squares": errors.squares, "error_counts": errors.counts}
    content = save(tensors, metadata={_KEY: json.dumps(header)})
    if int.from_bytes(content[:8], "little") > MAX_HEADER:
        raise EnsembleError(
            f"the table has {len(tensors['rows'])} bin sets, and the report of their fit is too long for a "
            "file; fit with wider bins."
        )
    with whole_file(target, overwrite=True) as temporary:
        temporary.write_bytes(content)
    return target


def read_table(path: str | Path) -> TableParts:
    """Read what :func:`write_table` wrote, and check every part of it; see :func:`~napari_ensir.load_lut`."""
    from safetensors import SafetensorError, safe_open

    source = readable_file(path, _MAX_BYTES, f"{SUFFIX} file")
    try:
        header = _read_header(source, read_metadata(source))
        with safe_open(source, framework="numpy") as file:
            tensors = _read_tensors(source, file, header)
    except EnsembleError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
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
    for key, (since, kinds) in _SINCE.items():
        if header["schema"] < since:
            header[key] = None
        elif key not in header or type(header[key]) not in kinds:
            raise _is_off(source, f"its header has {key} = {brief(header.get(key))}")
    return header


def _read_tensors(source: Path, file: Any, header: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """The table's parts; none is read before what the file says of all of them fits."""
    m = len(header["names"])
    present = set(file.keys())
    kinds = _TENSORS if header["errors"] is None else _TENSORS | _ERRORS
    if present != set(kinds):
        held = ", ".join(repr(name[:40]) for name in sorted(present)[:6])
        raise _is_off(source, f"it holds {held or 'nothing'} where a LUT holds {', '.join(kinds)}")
    parts = {name: file.get_slice(name) for name in kinds}
    for name, kind in kinds.items():
        if parts[name].get_dtype() != kind:
            raise _is_off(source, f"its {name} are {parts[name].get_dtype()}, not {kind}")
    shapes = {name: tuple(part.get_shape()) for name, part in parts.items()}
    rows, weights, counts, fallback = (shapes[name] for name in _TENSORS)
    n = rows[0] if rows else 0
    good = (rows, weights, counts, fallback[1:]) == ((n, m + 1), (n, m), (n,), (m,)) and len(fallback) == 2
    if not good or m < 1 or not 1 <= fallback[0] <= 2**16:
        raise _is_off(source, f"its parts do not fit {m} candidates")
    wanted = (fallback[0], INTENSITIES, SPREADS)
    if any(shapes[name] != wanted for name in _ERRORS if name in shapes):
        raise _is_off(source, f"its errors are not of shape {wanted}")
    tensors = {"fallback": file.get_tensor("fallback")}
    _check_weights(source, "fallback weights", tensors["fallback"])
    # Some at a time first: whatever a file is full of, it is found out without holding it all.
    for some in _runs(n, m + 1):
        _check_weights(source, "weights", parts["weights"][some])
    return {name: file.get_tensor(name) for name in kinds}


def _runs(n: int, width: int) -> Iterator[slice]:
    """Rows of a table of this width, a million numbers at a time."""
    step = max(1, 2**20 // width)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _checked(source: Path, header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> TableParts:
    """These parts, if every one is what it must be."""
    rows, weights, counts, fallback = (tensors[name] for name in _TENSORS)
    m = len(header["names"])
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
        "report": header["report"],
        "errors": _checked_errors(source, header, tensors),
    }


def _checked_errors(
    source: Path, header: dict[str, Any], tensors: dict[str, NDArray[Any]]
) -> ErrorTable | None:
    said = header["errors"]
    if said is None:
        return None
    numbers = [said.get(key) for key in _ERROR_RANGE]
    if set(said) != set(_ERROR_RANGE) or not all(type(one) in (int, float) for one in numbers):
        raise _is_off(source, f"its errors have {brief(numbers)} for range and noise")
    try:
        low, high, noise = (float(one) for one in numbers)
    except OverflowError:  # JSON knows whole numbers of any size
        low = high = noise = float("inf")
    squares, counts = (tensors[name] for name in _ERRORS)
    if not (np.isfinite([low, high, noise]).all() and low < high and noise >= 0):
        raise _is_off(source, f"its errors are of the range {low} to {high} with noise {noise}")
    if min(squares.min(), counts.min()) < 0:
        raise _is_off(source, "its errors are negative")
    # As many as there can be without their sums leaving 64 bits.
    if squares.astype(float).sum() > 2**62 or counts.astype(float).sum() > 2**62:
        raise _is_off(source, "its errors are beyond all bounds")
    return ErrorTable(low, high, squares, counts, noise)


def _is_text(name: str) -> bool:
    """Whether it can be shown and written: JSON can spell halves of characters."""
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
