"""A safetensors file opened once: its header, then its tensors, piece by piece. Knows no tables, no networks.

What was looked at is what is kept: another process may put a new file in the place of this one meanwhile.
Each byte is read once, and a tensor can be refused before all of it is in memory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.files.headers import brief, header_and_size, metadata_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader, BytesIO

    from numpy.typing import NDArray

__all__ = ["TensorFile"]

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
