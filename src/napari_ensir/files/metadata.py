"""Provenance records of images as JSON text that image formats can store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from napari_ensir.files.tensors import parse_object

KEY = "napari-ensir"
"""Key of a record: a namespace in OME, an attribute in Zarr, a keyword in PNG."""

Record = Mapping[str, Any]


def plain(value: Any) -> Any:
    """Convert a value to JSON types: NaN and infinity become None, other types become text.

    Examples
    --------
    >>> plain({"low": float("nan"), "range": (0, 1)})
    {'low': None, 'range': [0, 1]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def text_of(record: Record) -> str:
    """Encode a record as one line of ASCII JSON."""
    return json.dumps(plain(record), allow_nan=False)


def record_in(text: Any) -> dict[str, Any] | None:
    """Decode a record; None if the text is not a JSON object.

    Examples
    --------
    >>> record_in(text_of({"kind": "ensemble"})), record_in("something else")
    ({'kind': 'ensemble'}, None)
    """
    try:
        return parse_object(text) if isinstance(text, str) else None
    except ValueError:
        return None


def summarize_record(record: Record) -> dict[str, str]:
    """Summarise a record as pairs of text, for programs that show OME annotations.

    Examples
    --------
    >>> summarize_record({"kind": "ensemble", "table": {"names": ["a", "b"], "method": "em"}})
    {'kind': 'ensemble', 'method': 'em', 'candidates': 'a, b'}
    """
    found = {key: record[key] for key in ("kind", "date") if isinstance(record.get(key), str)}
    table = record.get("table")
    if isinstance(table, Mapping):
        found["method"] = str(table.get("method"))
        found["candidates"] = ", ".join(map(str, table.get("names", ())))
    restorer = record.get("restorer")
    if isinstance(restorer, Mapping):
        found["restorer"] = str(restorer.get("name"))
    return found
