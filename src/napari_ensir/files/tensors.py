"""A safetensors file opened once: its header, then its tensors, piece by piece. Knows no tables, no networks.

What was looked at is what is kept: another process may put a new file in the place of this one meanwhile.
Each byte is read once, and a tensor can be refused before all of it is in memory.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader

    from numpy.typing import NDArray

__all__ = [
    "MAX_HEADER",
    "TensorFile",
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


_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
_READ = {"U16": "<u2", "I64": "<i8", "F64": "<f8", "I8": "i1"}
"""What :meth:`TensorFile.read` reads."""

_PIECE = 2**23
"""Bytes read at once."""


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class TensorFile:
    """A safetensors file that is open.

    Attributes
    ----------
    metadata : dict of str
        The text entries of its header.
    entries : dict
        Dtype and shape of each tensor.

    Raises
    ------
    OSError, ValueError
        If it is none: the format's rules hold, tensors follow each other without gaps to the end.

    Examples
    --------
    >>> import io
    >>> from safetensors.numpy import save
    >>> content = save({"a": np.array([[0.5, 2.0]])}, metadata={"of": "me"})
    >>> held = TensorFile(io.BytesIO(content), len(content))
    >>> held.metadata, held.entries["a"].shape, held.read("a").tolist()
    ({'of': 'me'}, (1, 2), [[0.5, 2.0]])
    """

    def __init__(self, file: BufferedReader | BytesIO, size: int | None = None) -> None:
        self._file = file
        size = os.fstat(file.fileno()).st_size if size is None else size
        header, self._begin = header_and_size(file, size)
        self.metadata = metadata_in(header)
        self.entries = {name: _entry(name, of) for name, of in header.items() if name != "__metadata__"}
        at = 0
        for entry in sorted(self.entries.values(), key=lambda each: (each.start, each.stop)):
            if entry.start != at:
                raise ValueError("its tensors do not follow each other")
            at = entry.stop
        if at != size - self._begin:
            raise ValueError(f"its tensors are said to end at {at}, its content does at {size - self._begin}")

    def read(self, name: str, check: Callable[[NDArray[Any]], object] = lambda rows: None) -> NDArray[Any]:
        """A tensor, read from first to last.

        Parameters
        ----------
        name
            Of a tensor of dtype U16, I64, F64 or I8.
        check
            Given some rows at a time, as they come; what it raises ends the reading.

        Raises
        ------
        OSError, ValueError
            If the file ends too early.
        """
        entry = self.entries[name]
        tensor = np.empty(entry.shape, _READ[entry.dtype])
        content = tensor.reshape(-1).view(np.uint8)
        row = tensor[:1].nbytes
        self._file.seek(self._begin + entry.start)
        step = max(1, _PIECE // max(1, row))
        for first in range(0, len(tensor) if tensor.size else 0, step):
            some = tensor[first : first + step]
            piece = content[first * row : first * row + some.nbytes]
            if self._file.readinto(piece.data) != len(piece):
                raise ValueError("it ends too early")
            check(some)
        return tensor.astype(tensor.dtype.newbyteorder("="), copy=False)


def _entry(name: str, of: object) -> _Entry:
    if not isinstance(of, dict) or of.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"it says nothing of use of the tensor {name[:80]!r}")
    dtype, shape, ends = of["dtype"], of["shape"], of["data_offsets"]
    numbers = [*shape, *ends] if isinstance(shape, list) and isinstance(ends, list) else [None]
    if not all(type(each) is int and 0 <= each < 2**62 for each in numbers) or len(ends) != 2:
        raise ValueError(f"the tensor {name[:80]!r} has no shape or no place")
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise ValueError(f"the tensor {name[:80]!r} is of dtype {brief(dtype)}")
    if len(shape) > 8 or ends[0] + prod(shape) * _BYTES[dtype] != ends[1]:
        raise ValueError(f"the tensor {name[:80]!r} does not fill its place")
    return _Entry(dtype, tuple(shape), ends[0], ends[1])
