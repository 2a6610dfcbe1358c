"""Records of how an output was made, for its metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_ensir.ensemble.statistics.reference import current_versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_ensir.ensemble.lut.lut import WeightLUT


_LONG = ("iterations", "outcome", "bias")
"""Long lists of a report, which only the table's own file keeps."""


def table_of(lut: WeightLUT) -> dict[str, Any]:
    """Describe a table and its report in plain values."""
    return {
        "names": list(lut.names),
        "method": lut.method,
        "bin_width": lut.bin_width,
        "data_range": list(lut.data_range),
        "channels": lut.n_channels,
        "bin_sets": len(lut.rows),
        "report": lut.report,
    }


def record_of(
    kind: str,
    lut: WeightLUT | None = None,
    inputs: Mapping[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Describe how an output was made: its kind, date, package versions, inputs and table.

    Parameters
    ----------
    kind
        Such as ``"ensemble"``.
    lut
        The table used. Lists of its report with a value per bin set are left out.
    inputs
        Names of files or layers, by candidate.
    **more
        Further entries, such as ``settings`` or ``restorer``.

    Examples
    --------
    >>> sorted(record_of("restored", inputs={"image": "noisy.tif"}))
    ['date', 'from', 'kind', 'versions']
    """
    record: dict[str, Any] = {"kind": kind, **current_versions(), **more}
    if inputs is not None:
        record["from"] = dict(inputs)
    if lut is not None:
        table = table_of(lut)
        table["report"] = {key: value for key, value in lut.report.items() if key not in _LONG}
        record["table"] = table
    return record
