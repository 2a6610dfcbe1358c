"""Lookup tables to and from files. No pickle but in :func:`import_lut`, which allows tensors only.

A ``.lut.safetensors`` file holds tensors for the occupied bin sets and, under the metadata key
``napari-ensir``, a JSON header. It is read strictly: whatever is off is an :class:`EnsembleError`.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.bins import FLOAT_LEVELS, Binning, choose_binning
from napari_ensir.ensemble.inputs import check_names
from napari_ensir.ensemble.lut import WeightLUT
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["SUFFIX", "import_lut", "load_lut", "save_lut"]

SUFFIX = ".lut.safetensors"
SCHEMA = 1
"""Version of the file's layout; files of every earlier one still load."""

_KEY = "napari-ensir"
_TENSORS = {"rows": np.uint16, "weights": np.float64, "counts": np.int64, "fallback": np.float64}
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


def save_lut(lut: WeightLUT, path: str | Path) -> Path:
    """Write a table whole or not at all; see :meth:`WeightLUT.save`."""
    from safetensors.numpy import save

    from napari_ensir import __version__

    target = Path(path).expanduser()
    if not target.name.endswith(SUFFIX):
        target = target.with_name(target.name.removesuffix(".safetensors").removesuffix(".lut") + SUFFIX)
    binning = lut.binning
    header = {
        "schema": SCHEMA,
        "names": list(lut.names),
        "method": lut.method,
        "low": binning.low,
        "high": binning.high,
        "bin_width": binning.width,
        "n_bins": binning.n_bins,
        "sublevels": binning.sublevels,
        "integer": binning.integer,
        "unseen": lut.unseen,
        "channel_axis": lut.channel_axis,
        "report": lut.report,
        "version": __version__,
    }
    tensors = {name: np.ascontiguousarray(getattr(lut, name)) for name in _TENSORS}
    _write_whole(target, save(tensors, metadata={_KEY: json.dumps(header)}))
    return target


def _write_whole(target: Path, content: bytes) -> None:
    """Write beside the target, then rename: at no moment does half a file bear its name."""
    temporary = None
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are for their owner alone
        temporary.replace(target)
    except OSError as error:
        raise EnsembleError(
            f"the LUT could not be written to {target}: {error.strerror or error}. Choose a folder that "
            "exists, with room, where you may write."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def load_lut(path: str | Path) -> WeightLUT:
    """Read a table that :meth:`WeightLUT.save` wrote.

    Parameters
    ----------
    path
        A ``.lut.safetensors`` file.

    Raises
    ------
    EnsembleError
        If the file is absent, is no LUT, is of a newer version, or holds anything off: nothing of it is
        executed, and no table is made of parts that do not fit.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> from napari_ensir import fit_lut
    >>> truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    >>> lut = fit_lut([((truth // 2 * 2, truth // 4 * 4), truth)], names=("A", "B"), device="cpu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load_lut(lut.save(pathlib.Path(folder) / "rain")).names
    ('A', 'B')
    """
    from safetensors import SafetensorError, safe_open

    source = Path(path).expanduser()
    _check_readable(source)
    try:
        with safe_open(source, framework="numpy") as file:
            header = _read_header(source, file.metadata())
            present = set(file.keys())
            if present != set(_TENSORS):
                raise _is_off(source, f"it holds {sorted(present)} where a LUT holds {sorted(_TENSORS)}")
            tensors = {}
            for name, dtype in _TENSORS.items():
                tensors[name] = file.get_tensor(name)
                if tensors[name].dtype != dtype:
                    raise _is_off(source, f"its {name} are {tensors[name].dtype}, not {np.dtype(dtype)}")
    except EnsembleError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise EnsembleError(
            f"{source} is no LUT file ({error}); choose a {SUFFIX} file that napari-ensir wrote."
        ) from error
    return _checked(source, header, tensors)


def _check_readable(source: Path) -> None:
    if not source.exists():
        raise EnsembleError(f"there is no file {source}; choose a {SUFFIX} file.")
    if not source.is_file():
        raise EnsembleError(f"{source} is not a file; choose a {SUFFIX} file.")
    if source.stat().st_size > _MAX_BYTES:
        raise EnsembleError(f"{source} has more than {_MAX_BYTES // 2**20} MB; no LUT file is that large.")


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
        header = json.loads(metadata[_KEY])
    except (json.JSONDecodeError, RecursionError) as error:
        raise _is_off(source, "its header is no JSON") from error
    if not isinstance(header, dict):
        raise _is_off(source, "its header is no JSON object")
    schema = header.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise EnsembleError(
            f"{source} was written by a newer napari-ensir ({header.get('version')}; layout {schema}, this "
            f'one reads up to {SCHEMA}); update with "pip install -U napari-ensir".'
        )
    for key, kinds in _HEADER.items():
        value = header.get(key)
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        if type(value) not in wanted or (key not in header):
            raise _is_off(source, f"its header has {key} = {str(value)[:80]!r}")
    if schema != SCHEMA:
        raise _is_off(source, f"its layout has the unknown number {schema}")
    return header


def _checked(source: Path, header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> WeightLUT:
    """A table of these parts, if every one is what it must be."""
    rows, weights, counts, fallback = (tensors[name] for name in _TENSORS)
    m = len(header["names"])
    good_shapes = (
        rows.ndim == 2
        and rows.shape[1] == m + 1
        and weights.shape == (len(rows), m)
        and counts.shape == (len(rows),)
        and fallback.ndim == 2
        and fallback.shape[1] == m
        and 1 <= len(fallback) <= 2**16
    )
    if not good_shapes or m < 1:
        raise _is_off(source, f"its parts do not fit {m} candidates")
    if header["channel_axis"] is None and len(fallback) > 1:
        raise _is_off(source, f"it has {len(fallback)} channels but no channel axis")
    binning = _checked_binning(source, header)
    _check_weights(source, weights, fallback)
    _check_rows(source, rows, counts, [binning.n_bins] * m + [len(fallback)])
    if header["unseen"] not in ("fallback", "previous"):
        raise _is_off(source, f"its rule for unseen bin sets is {header['unseen'][:80]!r}")
    if not all(isinstance(name, str) for name in header["names"]):
        raise _is_off(source, "its names are not all text")
    try:
        names = check_names(header["names"], m)
    except EnsembleError as error:
        raise _is_off(source, str(error).rstrip(".")) from error
    return WeightLUT(
        names,
        header["method"],
        binning,
        rows,
        weights,
        counts,
        fallback,
        header["unseen"],
        header["channel_axis"],
        header["report"],
    )


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
    return Binning(low, high, width, n_bins, sublevels, header["integer"])


def _check_weights(source: Path, weights: NDArray[np.float64], fallback: NDArray[np.float64]) -> None:
    for name, part in (("weights", weights), ("fallback weights", fallback)):
        sums = part.sum(axis=1)
        if not (np.isfinite(part).all() and (part >= 0).all() and np.allclose(sums, 1, atol=1e-6)):
            raise _is_off(source, f"its {name} are not all non-negative with a sum of one")


def _check_rows(
    source: Path, rows: NDArray[np.uint16], counts: NDArray[np.int64], bounds: Sequence[int]
) -> None:
    if (rows >= np.array(bounds)).any():
        raise _is_off(source, "a bin set lies outside its bins or channels")
    if (counts < -1).any():
        raise _is_off(source, "a pixel count is negative")
    if len(rows) > 1:
        order = np.lexsort(rows.T[::-1])
        if (order != np.arange(len(rows))).any() or (np.diff(rows.astype(int), axis=0) == 0).all(1).any():
            raise _is_off(source, "its bin sets are not in order, or one stands there twice")


def import_lut(
    path: str | Path, names: Sequence[str] | None = None, bin_width: float | None = None
) -> WeightLUT:
    """Read a table that the EnsIR authors' code wrote.

    Parameters
    ----------
    path
        A ``.pth`` file: a dict from lower bin edges, one per candidate, to the weights for R, G and B. It
        is unpickled with tensors and plain containers only; anything else in it is refused.
    names
        The candidates, in the order of the edges (it is in the file's name).
    bin_width
        Width of the authors' bins on 0..255 (also in the file's name); None: read off the edges.

    Returns
    -------
    WeightLUT
        For RGB on 0..255 with the channel on the last axis; its pixel counts are not known (-1).

    Raises
    ------
    EnsembleError
        If the file is no such table, or does not fit ``names`` or ``bin_width``.
    """
    source = Path(path).expanduser()
    _check_readable(source)
    edges, weights = _read_authors_table(source)
    m, n_channels = edges.shape[1], weights.shape[1]
    steps = np.unique(edges)
    width = float(bin_width) if bin_width is not None else float(np.diff(steps).min(initial=256))
    binning = choose_binning(np.uint8, (0, 255), width)
    if (edges % int(width)).any() or (edges < 0).any() or (edges > 255).any():
        raise EnsembleError(
            f"{source} has bin edges {steps[:4].tolist()}..., which are no multiples of {width:g} within "
            "0 to 255; give the bin_width that its name states."
        )
    checked = check_names(names, m)
    bins = edges // int(width)
    order = np.lexsort(bins.T[::-1])
    channels = np.tile(np.arange(n_channels), len(bins))
    flat = weights[order].reshape(-1, m)
    return WeightLUT(
        checked,
        "imported",
        binning,
        np.column_stack([np.repeat(bins[order], n_channels, axis=0), channels]).astype(np.uint16),
        flat / flat.sum(axis=1, keepdims=True),
        np.full(len(flat), -1, np.int64),
        np.full((n_channels, m), 1 / m),
        "previous",
        -1 if n_channels > 1 else None,
        {"source": source.name},
    )


def _read_authors_table(source: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Bin edges (R, M) and usable weights (R, C, M) of a file."""
    import torch

    try:
        table = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on files that are not its own
        raise EnsembleError(
            f"{source} could not be read as the EnsIR authors' weights "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); choose a .pth file "
            "with a dict of tensors."
        ) from error
    try:
        edges, weights = _authors_table(table)
    except (TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise EnsembleError(
            f"{source} is not in the EnsIR authors' format ({error}); it must map lower bin edges to one "
            "weight vector for each of R, G and B."
        ) from error
    if not np.isfinite(weights).all() or (weights < 0).any() or (weights.sum(axis=2) <= 0).any():
        raise EnsembleError(f"{source} holds weights that are negative or not finite; it cannot be used.")
    return edges, weights


def _authors_table(table: Any) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Bin edges (R, M) and weights (R, C, M) of the authors' dict."""
    if not isinstance(table, dict) or not table:
        raise TypeError("it holds no dict of bin sets")
    keys = [key if isinstance(key, tuple) else (key,) for key in table]
    edges = np.array(keys, dtype=np.float64)
    if edges.ndim != 2 or not (edges == np.rint(edges)).all():
        raise ValueError("its keys are not tuples of whole bin edges")
    # With one candidate the authors' code squeezes the vector of one weight to a number.
    weights = np.array([[np.atleast_1d(w.numpy()) for w in value] for value in table.values()], np.float64)
    if weights.ndim != 3 or weights.shape[2] != edges.shape[1]:
        raise ValueError(f"its weights have shape {weights.shape} for {edges.shape[1]} candidates")
    return edges.astype(np.int64), weights
