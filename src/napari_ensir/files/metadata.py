"""A record of where an image came from, as text that formats can carry. Knows no format, makes no record.

A record is a plain dictionary; every format keeps it as one JSON object under the key :data:`KEY`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from napari_ensir.files.tensors import parse_object

__all__ = ["KEY", "Record", "plain", "record_in", "text_of", "told"]

KEY = "napari-ensir"
"""What a record is found by: a namespace in OME, an attribute in Zarr, a keyword in PNG."""

Record = Mapping[str, Any]


def plain(value: Any) -> Any:
    """A value as JSON has it: NaN and infinity, which it lacks, as None; what it does not know, as text.

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
    """A record as one line of ASCII."""
    return json.dumps(plain(record), allow_nan=False)


def record_in(text: Any) -> dict[str, Any] | None:
    """The record that a text is; None if it is none.

    Examples
    --------
    >>> record_in(text_of({"kind": "ensemble"})), record_in("something else")
    ({'kind': 'ensemble'}, None)
    """
    try:
        return parse_object(text) if isinstance(text, str) else None
    except ValueError:
        return None


def told(record: Record) -> dict[str, str]:
    """What is told of a record in words, for programs that list pairs and know nothing of ours.

    Examples
    --------
    >>> told({"kind": "ensemble", "date": "2026-11-24", "table": {"names": ["a", "b"], "method": "em"}})
    {'kind': 'ensemble', 'date': '2026-11-24', 'method': 'em', 'candidates': 'a, b'}
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
