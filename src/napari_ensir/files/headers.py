"""What a safetensors file says of itself, looked at before its tensors are. Knows no tables, no networks.

A header may declare anything: gigabytes of itself, one key twice, a tensor that is not there. So it is read
within bounds first, and only what is left to trust goes on to the library that reads the tensors.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from napari_ensir.errors import EnsembleError

__all__ = [
    "MAX_HEADER",
    "brief",
    "header_and_size",
    "metadata_in",
    "metadata_of",
    "package_version",
    "parse_object",
    "read_metadata",
    "readable_file",
]

MAX_HEADER = 2**23
"""Most bytes of a header: what JSON of that size takes in memory stays below 200 MB."""

_MAX_CONTAINERS = 100_000
"""Most lists and objects in a header; each takes thirty times the room of its brackets."""


def readable_file(path: str | Path, most_bytes: int, what: str) -> Path:
    """The path of a file that can be opened without waiting: no folder, pipe or device.

    Parameters
    ----------
    path
        ``~`` stands for the user's home.
    most_bytes
        Beyond this it cannot be ...
    what
        ... one of these, for instance "LUT file".

    Raises
    ------
    EnsembleError
        If it is absent, is no plain file, is too large, or may not be looked at.
    """
    try:
        source = Path(path).expanduser()
        found = source.stat()
    except FileNotFoundError:
        raise EnsembleError(f"there is no file {path}; choose a {what}.") from None
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, no such user, a zero byte
        reason = getattr(error, "strerror", None) or error
        raise EnsembleError(f"{str(path)[:300]!r} cannot be opened: {reason}; choose a {what}.") from error
    if not stat.S_ISREG(found.st_mode):
        raise EnsembleError(f"{source} is not a file; choose a {what}.")
    if found.st_size > most_bytes:
        raise EnsembleError(f"{source} has more than {most_bytes // 2**20} MB; no {what} is that large.")
    if not os.access(source, os.R_OK):
        raise EnsembleError(f"{source} may not be read; change its permissions or choose another {what}.")
    return source


def read_metadata(path: Path) -> dict[str, str]:
    """The text entries of a safetensors file's header.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read, or does not begin with such a header; with the reason.
    """
    with path.open("rb") as file:
        return metadata_in(header_and_size(file, os.fstat(file.fileno()).st_size)[0])


def metadata_of(content: bytes) -> dict[str, str]:
    """The same of a file's bytes, read once: what goes on to the library is then what was looked at.

    Raises
    ------
    ValueError
        If they do not begin with such a header; with the reason.
    """
    return metadata_in(header_and_size(BytesIO(content), len(content))[0])


def header_and_size(file: BinaryIO, size_of_file: int) -> tuple[dict[str, Any], int]:
    """The header that a file of this size begins with, and how many bytes it takes."""
    start = file.read(8)
    if len(start) < 8:
        raise ValueError("it is too short for a safetensors file")
    size = struct.unpack("<Q", start)[0]
    if size > min(MAX_HEADER, size_of_file - 8):
        raise ValueError(f"it states a header of {size} bytes")
    return parse_object(file.read(size).decode("utf-8")), 8 + size


def metadata_in(header: dict[str, Any]) -> dict[str, str]:
    """The text entries of a header."""
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata are not all text")
    return metadata


def parse_object(text: str) -> dict[str, Any]:
    """A JSON object with no key twice.

    Raises
    ------
    ValueError
        If it is none, or nested or large beyond reason; with the reason.

    Examples
    --------
    >>> parse_object('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: 'a' stands in it twice
    """
    if text.count("[") + text.count("{") > _MAX_CONTAINERS or len(text) > MAX_HEADER:
        raise ValueError("it is too large")
    try:
        value = json.loads(text, object_pairs_hook=_without_twins)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twin = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{twin[:80]!r} stands in it twice")
    return made


def brief(value: object) -> str:
    """A value as a message can show it; of a list only that it is one, for it may be nested at will.

    Examples
    --------
    >>> brief("rain"), brief([[]])
    ("'rain'", 'a list')
    """
    return repr(value)[:80] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def package_version() -> str:
    """The version of this package, as files state it; ``"0+unknown"`` in a tree that was never installed."""
    try:
        return version("napari-ensir")
    except PackageNotFoundError:
        return "0+unknown"
