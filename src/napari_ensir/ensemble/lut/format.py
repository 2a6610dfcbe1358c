"""Reader and writer of the parts of a ``.lut.safetensors`` file.

A ``.lut.safetensors`` file holds tensors for the occupied bin sets and, under the metadata key
``napari-ensir``, a JSON header. Anything invalid is an :class:`EnsembleError`; nothing in a file is executed.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.image_set import LONE_SURROGATE, as_numbers, check_names
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
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


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
_RENAMED = {"fidelity": "bias"}
"""Keys of reports in files of earlier versions, and their names now."""
_MAX_BYTES = 2**36
_NUMBER = (int, float)
_HEADER: dict[str, tuple[type, ...]] = {
    "schema": (int,),
    "names": (list,),
    "method": (str,),
    "low": _NUMBER,
    "high": _NUMBER,
    "bin_width": _NUMBER,
    "n_bins": (int,),
    "sublevels": (int,),
    "integer": (bool,),
    "unseen": (str,),
    "channel_axis": (int, type(None)),
    "report": (dict,),
    "version": (str,),
    "errors": (dict, type(None)),
}


class _Damaged(Exception):
    """What is wrong with the contents of a file, as the part of a sentence."""


def table_path(path: str | Path) -> Path:
    """Return the path of a table with its suffix.

    Raises
    ------
    EnsembleError
        If it is the path of a folder.
    """
    target = expand_path(path)
    if target.name in ("", ".."):
        raise EnsembleError(f"{target} is a folder; give the table a name in it.")
    if not target.name.endswith(SUFFIX):
        target = target.with_name(target.name.removesuffix(".safetensors").removesuffix(".lut") + SUFFIX)
    return target


def write_table(path: str | Path, parts: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Write a table's parts whole or not at all.

    Parameters
    ----------
    path : str or Path
    parts : mapping
        The attributes of a :class:`~napari_ensir.WeightLUT` by their names.
    overwrite : bool

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

    target = table_path(path)
    binning, errors, axis = parts["binning"], parts["errors"], parts["channel_axis"]
    report, lists = _without_lists(parts["report"], len(parts["rows"]))
    values = {
        **parts,
        **asdict(binning),
        "bin_width": binning.width,
        "channel_axis": None if axis is None else int(axis),
        "schema": SCHEMA,
        "version": package_version(),
        "report": report,
        "errors": None if errors is None else {key: getattr(errors, key) for key in _ERROR_NUMBERS},
    }
    header = {key: values[key] for key in _HEADER}
    held = {name: parts[name] for name in _TENSORS} | lists
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


def read_table(path: str | Path) -> dict[str, Any]:
    """Read and check a file written by :func:`write_table`; see :func:`~napari_ensir.load_lut`.

    Returns
    -------
    dict
        The attributes of a :class:`~napari_ensir.WeightLUT` by their names.
    """
    source = readable_file(path, _MAX_BYTES, f"{SUFFIX} file")
    try:
        # Opened once: another process may put another table in its place at any moment.
        file = TensorFile(source)
        header = _read_header(source, file.metadata)
        return _checked(header, _read_tensors(file, header))
    except EnsembleError:
        raise
    except _Damaged as error:
        raise EnsembleError(
            f"{source} cannot be used as a LUT: {error}. The file is damaged or was not written by "
            "napari-ensir."
        ) from error
    except MemoryError as error:
        raise EnsembleError(f"{source} is too large a table for this machine's memory.") from error
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EnsembleError(
            f"{source} is no LUT file ({reason}); choose a {SUFFIX} file that napari-ensir wrote."
        ) from error


def _read_header(source: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if _KEY not in metadata:
        raise EnsembleError(
            f"{source} is a safetensors file without a lookup table; choose a {SUFFIX} file that "
            "napari-ensir wrote. If it is a trained restorer, restorers --network shows its settings."
        )
    try:
        header = parse_object(metadata[_KEY])
    except ValueError as error:
        raise _Damaged(f"its header cannot be read ({str(error)[:200]})") from error
    schema = header.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise EnsembleError(
            f"{source} was written by a newer napari-ensir ({brief(header.get('version'))}; layout "
            f'{brief(schema)}, this one reads up to {SCHEMA}); update with "pip install -U napari-ensir".'
        )
    if schema == 1:
        header["errors"] = None
    for key, kinds in _HEADER.items():
        if key not in header or type(header[key]) not in kinds:
            raise _Damaged(f"its header has {key} = {brief(header.get(key))}")
    if header["schema"] < 1:
        raise _Damaged(f"its layout has the unknown number {schema}")
    return header


def _read_tensors(file: TensorFile, header: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """The table's parts; shapes and dtypes of all are checked before any is read."""
    m = len(header["names"])
    entries = file.entries
    kinds = _TENSORS | ({} if header["errors"] is None else _ERRORS)
    kinds |= {name: kind for name, kind in _LISTS.items() if name in entries}
    if entries.keys() != kinds.keys():
        held = ", ".join(repr(name[:40]) for name in sorted(entries)[:6])
        raise _Damaged(f"it holds {held or 'nothing'} where a LUT holds {', '.join(kinds)}")
    for name, kind in kinds.items():
        if entries[name].dtype != kind:
            raise _Damaged(f"its {name} are {entries[name].dtype}, not {kind}")
    rows, fallback = entries["rows"].shape, entries["fallback"].shape
    n, channels = (shape[0] if shape else 0 for shape in (rows, fallback))
    shapes = {"rows": (n, m + 1), "weights": (n, m), "counts": (n,), "fallback": (channels, m)}
    shapes |= dict.fromkeys(_LISTS, (n,))
    if any(entries[name].shape != shape for name, shape in shapes.items() if name in entries):
        raise _Damaged(f"its parts do not fit {m} candidates")
    if m < 1 or not 1 <= channels <= 2**16:
        raise _Damaged(f"its parts do not fit {m} candidates")
    wanted = (channels, INTENSITIES, SPREADS)
    if any(entries[name].shape != wanted for name in _ERRORS if name in entries):
        raise _Damaged(f"its errors are not of shape {wanted}")
    # First those that can be invalid in any row, row by row, so that an invalid file is not held in memory.
    tensors = {"fallback": file.read("fallback"), "weights": file.read("weights", _check_weights)}
    _check_weights(tensors["fallback"], "fallback weights")
    return {name: tensors[name] if name in tensors else file.read(name) for name in kinds}


def _checked(header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """The attributes of the table, once all are found valid."""
    fallback, m = tensors["fallback"], len(header["names"])
    report = {_RENAMED.get(key, key): value for key, value in header["report"].items()}
    report |= {name: tensors[name].tolist() for name in _LISTS if name in tensors}
    if header["channel_axis"] is None and len(fallback) > 1:
        raise _Damaged(f"it has {len(fallback)} channels but no channel axis")
    binning = _checked_binning(header)
    _check_rows(tensors["rows"], tensors["counts"], [binning.n_bins] * m + [len(fallback)])
    if header["unseen"] not in ("fallback", "previous"):
        raise _Damaged(f"its rule for unseen bin sets is {brief(header['unseen'])}")
    texts = [*header["names"], header["method"]]
    if not all(isinstance(one, str) and not LONE_SURROGATE.search(one) for one in texts):
        raise _Damaged("its names are not all text")
    try:
        names = check_names(header["names"], m)
    except EnsembleError as error:
        raise _Damaged(str(error).rstrip(".")) from error
    return {
        "names": names,
        "binning": binning,
        "report": report,
        "errors": _checked_errors(header["errors"], tensors),
        **{key: header[key] for key in ("method", "unseen", "channel_axis")},
        **{name: tensors[name] for name in _TENSORS},
    }


def _finite(numbers: Sequence[Any]) -> list[float]:
    """Numbers of a header as floats; NaN if one is not finite."""
    found = as_numbers(numbers, (len(numbers),))
    return [np.nan] * len(numbers) if found is None else found.tolist()


def _checked_errors(said: dict[str, Any] | None, tensors: dict[str, NDArray[Any]]) -> ErrorTable | None:
    if said is None:
        return None
    numbers = [said.get(key) for key in _ERROR_NUMBERS]
    if set(said) != set(_ERROR_NUMBERS) or not all(type(one) in _NUMBER for one in numbers):
        raise _Damaged(f"its errors have {brief(numbers)} for range and noise")
    low, high, noise, trust = _finite(numbers)
    squares, counts = (tensors[name] for name in _ERRORS)
    if not (low < high and noise >= 0 < trust):
        raise _Damaged(f"its errors are of the range {low} to {high} with noise {noise}, trust {trust}")
    if min(squares.min(), counts.min()) < 0:
        raise _Damaged("its errors are negative")
    # As many as there can be without their sums leaving 64 bits.
    if squares.astype(float).sum() > 2**62 or counts.astype(float).sum() > 2**62:
        raise _Damaged("its errors are beyond all bounds")
    return ErrorTable(low, high, squares, counts, noise, trust)


def _without_lists(report: dict[str, Any], n: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Split the lists with a value per bin set from a report, as arrays."""
    found: dict[str, NDArray[Any]] = {}
    for name, dtype in (("iterations", np.int64), ("outcome", np.int8)):
        numbers = report.get(name)
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if not isinstance(numbers, list) or len(numbers) != n:
            continue
        if all(type(one) is int and low <= one <= high for one in numbers):
            found[name] = np.array(numbers, dtype)
    return {key: value for key, value in report.items() if key not in found}, found


def _checked_binning(header: dict[str, Any]) -> Binning:
    low, high, width = _finite([header[key] for key in ("low", "high", "bin_width")])
    n_bins, sublevels = header["n_bins"], header["sublevels"]
    if not (low < high and width > 0):
        raise _Damaged(f"its range is {low} to {high} in bins of {width}")
    covered = n_bins * width / (high - low) if 0 < n_bins < 2**16 else 0.0
    most = 2 + 2 * width / (high - low)  # the last bin may reach beyond the range
    if not (1 - 1e-6 <= covered <= most) or not 0 < sublevels <= 2 * FLOAT_LEVELS:
        raise _Damaged(f"{n_bins} bins of {width:g} with {sublevels} levels do not cover its range")
    whole = width == sublevels and low == round(low) and high == round(high)
    if header["integer"] and not whole:
        raise _Damaged(f"its bins of {width:g} with {sublevels} levels hold no whole numbers")
    return Binning(low, high, width, n_bins, sublevels, header["integer"])


def _check_weights(part: NDArray[np.float64], name: str = "weights") -> None:
    # NaN and negative weights fail the first comparison, infinite ones the second.
    if not ((part >= 0).all() and (part <= 2).all() and (np.abs(part.sum(axis=1) - 1) <= 1e-6).all()):
        raise _Damaged(f"its {name} are not all non-negative with a sum of one")


def _check_rows(rows: NDArray[np.uint16], counts: NDArray[np.int64], bounds: Sequence[int]) -> None:
    if (counts < -1).any():
        raise _Damaged("a pixel count is negative")
    n, width = rows.shape
    step = max(1, 2**20 // width)  # about a million values at once
    for start in range(0, n, step):
        # With the row before them, which they must follow.
        here = rows[max(0, start - 1) : start + step].astype(np.int64)
        if (here >= np.array(bounds)).any():
            raise _Damaged("a bin set lies outside its bins or channels")
        steps = np.diff(here, axis=0)
        first = (steps != 0).argmax(axis=1)
        if (steps[np.arange(len(steps)), first] <= 0).any():
            raise _Damaged("its bin sets are not in order, or one stands there twice")
