"""What an output says of where it came from: a table, or a restorer, and what went in. Writes no file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_ensir.ensemble.statistics.reference import made_now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_ensir.ensemble.lut.lut import WeightLUT

__all__ = ["record_of", "table_of"]

_LONG = ("iterations", "outcome", "fidelity")
"""What a report lists for each bin set, or each intensity: kept in the table's own file."""


def table_of(lut: WeightLUT) -> dict[str, Any]:
    """What there is to say of a table, its report included, as plain values."""
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
    """What an output carries: its kind, when and with what it was made, from what, by which table.

    Parameters
    ----------
    kind
        Such as ``"ensemble"``.
    lut
        The table that it was made by. What its report lists for each bin set is left out.
    inputs
        Names of files, or of layers, by the candidate that they were.
    **more
        Such as ``settings``, ``restorer``.

    Examples
    --------
    >>> sorted(record_of("restored", inputs={"image": "noisy.tif"}))
    ['date', 'from', 'kind', 'versions']
    """
    record: dict[str, Any] = {"kind": kind, **made_now(), **more}
    if inputs is not None:
        record["from"] = dict(inputs)
    if lut is not None:
        table = table_of(lut)
        table["report"] = {key: value for key, value in lut.report.items() if key not in _LONG}
        record["table"] = table
    return record
