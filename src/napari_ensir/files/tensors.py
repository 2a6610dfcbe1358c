"""Safetensors files, read with bounded memory, and checks of JSON objects and file paths."""

from __future__ import annotations

import json
import os
import stat
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.files.paths import expand_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

MAX_HEADER = 2**23
"""Largest size of a header in bytes; parsed JSON of this size takes less than 200 MB."""

_MAX_CONTAINERS = 100_000
"""Largest number of lists and objects in a header; each takes thirty times the memory of its brackets."""

_DTYPES = {"U16": np.uint16, "I64": np.int64, "F64": np.float64, "I8": np.int8}
"""Dtypes that :meth:`TensorFile.read` supports."""

_ROWS_BYTES = 2**23
"""Bytes read at once."""


def readable_file(path: str | Path, most_bytes: int, what: str) -> Path:
    """Return the path of a regular file that can be opened without waiting.

    Parameters
    ----------
    path : str or Path
        ``~`` is expanded.
    most_bytes : int
        Largest size of the file.
    what : str
        Kind of file, used in messages, such as "LUT file".

    Returns
    -------
    Path

    Raises
    ------
    EnsembleError
        If it does not exist, is not a regular file, is too large or not readable.
    """
    source = expand_path(path)
    try:
        found = source.stat()
    except FileNotFoundError:
        raise EnsembleError(f"there is no file {path}; choose a {what}.") from None
    except OSError as error:
        raise EnsembleError(f"{source} cannot be opened: {error.strerror}; choose a {what}.") from error
    if not stat.S_ISREG(found.st_mode):
        raise EnsembleError(f"{source} is not a file; choose a {what}.")
    if found.st_size > most_bytes:
        raise EnsembleError(f"{source} has more than {most_bytes // 2**20} MB; no {what} is that large.")
    if not os.access(source, os.R_OK):
        raise EnsembleError(f"{source} cannot be read; change its permissions or choose another {what}.")
    return source


def metadata_of(content: bytes) -> dict[str, str]:
    """Read the text entries in the header of a safetensors file.

    Parameters
    ----------
    content : bytes
        The file, or its beginning.

    Raises
    ------
    ValueError
        If the content does not begin with a valid header.
    """
    return _text_entries(_header(content))


def _header(content: bytes) -> dict[str, Any]:
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8:
        raise ValueError("it is too short for a safetensors file")
    if size > min(MAX_HEADER, len(content) - 8):
        raise ValueError(f"it states a header of {size} bytes")
    return parse_object(content[8 : 8 + size].decode("utf-8"))


def _text_entries(header: dict[str, Any]) -> dict[str, str]:
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata are not all text")
    return metadata


def parse_object(text: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises
    ------
    ValueError
        If the text is not an object, has a key twice, or is too large or nested too deeply.

    Examples
    --------
    >>> parse_object('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: the key 'a' occurs twice
    """
    if text.count("[") + text.count("{") > _MAX_CONTAINERS or len(text) > MAX_HEADER:
        raise ValueError("it is too large")
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} occurs twice")
        found[key] = value
    return found


def brief(value: object) -> str:
    """Format a value for a message; a list, which may be nested to any depth, by its type only.

    Examples
    --------
    >>> brief("rain"), brief([[]])
    ("'rain'", 'a list')
    """
    return repr(value)[:80] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


@cache
def package_version(name: str = "napari-ensir") -> str:
    """Version of a package; ``"0+unknown"`` if it is not installed, such as a source tree."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "0+unknown"


class TensorEntry(NamedTuple):
    """Dtype, by safetensors' name, and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]


class TensorFile:
    """A safetensors file whose tensors are read piece by piece.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    metadata : dict of str
        The text entries of its header.
    entries : dict of TensorEntry

    Raises
    ------
    OSError, ValueError
        If it is not a safetensors file, or its header is too large.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from safetensors.numpy import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"a": np.array([[0.5, 2.0]])}, f"{folder}/a", metadata={"by": "me"})
    ...     file = TensorFile(Path(folder, "a"))
    ...     file.metadata, file.entries["a"].shape, file.read("a").tolist()
    ({'by': 'me'}, (1, 2), [[0.5, 2.0]])
    """

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        with path.open("rb") as file:  # checked first, because the library allows headers of 100 MB
            start = file.read(8)
            header = _header(start + file.read(min(int.from_bytes(start, "little"), MAX_HEADER + 1)))
        self.metadata = _text_entries(header)
        try:
            self._file: Any = safe_open(path, framework="np")
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        if (self._file.metadata() or {}) != self.metadata:  # type: ignore[no-untyped-call]
            raise ValueError("it changed while it was read")
        self.entries = {
            name: TensorEntry(each["dtype"], tuple(each["shape"]))
            for name, each in header.items()
            if name != "__metadata__"
        }

    def read(self, name: str, check: Callable[[NDArray[Any]], object] = lambda rows: None) -> NDArray[Any]:
        """Read a tensor of at least one axis.

        Parameters
        ----------
        name : str
        check : callable
            Called with some rows at a time; an exception that it raises ends the reading.

        Returns
        -------
        ndarray
        """
        entry = self.entries[name]
        rows = self._file.get_slice(name)
        tensor = np.empty(entry.shape, _DTYPES[entry.dtype])
        step = max(1, _ROWS_BYTES // max(1, tensor[:1].nbytes))
        for first in range(0, len(tensor) if tensor.size else 0, step):
            part = tensor[first : first + step]
            part[...] = rows[first : first + len(part)]
            check(part)
        return tensor
