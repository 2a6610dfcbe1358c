"""Reader of the EnsIR authors' tables that does not unpickle, so that nothing in a file can run.

``torch.save`` writes a zip archive with one record of numbers per tensor and a pickle, which is a program
that assembles them. This module follows only the few instructions that make a dict from bin edges to tensors.
A file with any other instruction, or with contents larger than the file, is refused.
"""

from __future__ import annotations

import pickletools
import re
import struct
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.files.archive import read_records

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_ensir.files.archive import Records


MAX_BYTES = 2**25
"""Largest file that is read; the published ones, with bins 32 wide, have 100 kB."""

_RECORDS = re.compile(r"data\.pkl|byteorder|data/\d+", re.ASCII)
# To a record, which holds one weight vector, torch writes 31 instructions in 88 bytes. So much more than that
# is no table, and following it would only take time.
_INSTRUCTIONS, _PROGRAM_BYTES = (50_000, 40), (2**16, 160)
_MAX_WEIGHTS = 2**23

_STORAGES = {"FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "LongStorage": "i8"}
_KNOWN = {"torch._utils _rebuild_tensor_v2", "collections OrderedDict"} | {f"torch {s}" for s in _STORAGES}
_PUSHED = frozenset(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"))
_FLAT = (int, float, str)


def read_authors_table(source: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Bin edges (R, M) and weights (R, C, M) of a file: finite, not negative, with sums above 0.

    Raises
    ------
    EnsembleError
        If it is no such file, or holds anything else.
    """
    try:
        records, _ = read_records("the file", _RECORDS, source.read_bytes(), max_compressed=0)
        table = _Reader(records).table()
    except (
        *(EnsembleError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError),
        *(OverflowError, RuntimeError, MemoryError, struct.error),
        DeprecationWarning,  # where warnings are errors: pickletools reads escapes that Python dislikes
    ) as error:
        raise EnsembleError(
            f"{source} could not be read as the EnsIR authors' weights ({_one_line(error)}); choose a .pth "
            "file with a dict of tensors, as torch.save writes it."
        ) from error
    try:
        edges, weights = _edges_and_weights(table)
    except (TypeError, ValueError, OverflowError) as error:
        raise EnsembleError(
            f"{source} is not in the EnsIR authors' format ({_one_line(error)}); it must map lower bin edges "
            "to one weight vector for each of R, G and B."
        ) from error
    with np.errstate(over="ignore", invalid="ignore"):
        sums = weights.sum(axis=2)
    if not np.isfinite(sums).all() or (weights < 0).any() or (sums <= 0).any():
        raise EnsembleError(f"{source} holds weights that are negative or not finite; it cannot be used.")
    return edges, weights


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


@dataclass(frozen=True)
class _Storage:
    """The numbers of a tensor or several, flat."""

    values: NDArray[Any]


class _Reader:
    """Follows the instructions of a pickle as far as a table needs them."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._order = ">" if records.get("byteorder") == b"big" else "<"
        self._storages: dict[str, _Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[Any, Any] = {}

    def table(self) -> Any:
        """What the program makes."""
        if "data.pkl" not in self._records:
            raise ValueError("it holds no data.pkl")
        program, n = self._records["data.pkl"], len(self._records)
        most, most_bytes = (at_all + n * each for at_all, each in (_INSTRUCTIONS, _PROGRAM_BYTES))
        if len(program) > most_bytes:
            raise ValueError("its data.pkl is too large")
        for number, (operation, argument, _) in enumerate(pickletools.genops(program)):
            name = operation.name
            if number > most:
                raise ValueError("its data.pkl is too large")
            if name in _PUSHED:
                self._stack.append(argument)
            elif name in ("BINPUT", "LONG_BINPUT"):
                self._memo[argument] = self._stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                self._stack.append(self._memo[argument])
            elif name == "STOP":
                return self._stack.pop()
            else:
                self._follow(name, argument)
        raise ValueError("its data.pkl has no end")

    def _follow(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PROTO":
                pass
            case "MARK":
                self._marks.append(len(stack))
            case "NEWFALSE" | "NEWTRUE":
                stack.append(name == "NEWTRUE")
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._last(int(name[-1]))))
            case "APPEND" | "APPENDS":
                items = self._last(1) if name == "APPEND" else self._since_mark()
                _plain(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                self._set_items(self._last(2) if name == "SETITEM" else self._since_mark())
            case "GLOBAL":
                if argument not in _KNOWN:
                    raise ValueError(f"it calls for {argument[:80]!r}, which no table needs")
                stack.append(_Name(argument))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(_made(called, _plain(arguments, tuple)))
            case _:
                raise ValueError(f"its data.pkl has the instruction {name}, which no table needs")

    def _last(self, count: int) -> list[Any]:
        return [self._stack.pop() for _ in range(count)][::-1]

    def _since_mark(self) -> list[Any]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _set_items(self, items: list[Any]) -> None:
        target = _plain(self._stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Tuples of tuples of tuples take a few bytes here and forever to hash.
            if not all(type(part) in _FLAT for part in (key if type(key) is tuple else (key,))):
                raise ValueError("its keys are not tuples of whole bin edges")
            target[key] = value

    def _storage(self, description: Any) -> _Storage:
        kind, storage, key, _, _ = _plain(description, tuple)
        dtype = _STORAGES.get(storage.removeprefix("torch ")) if type(storage) is _Name else None
        if kind != "storage" or dtype is None or type(key) is not str:
            raise ValueError("it refers to something that is no tensor")
        if key not in self._storages:
            record = self._records[f"data/{key}"]
            self._storages[key] = _Storage(np.frombuffer(record, np.dtype(self._order + dtype)))
        return self._storages[key]


class _Name(str):
    """Something that a program calls by its name."""

    __slots__ = ()


def _plain(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a {kind.__name__} should stand where it has a {type(value).__name__}")
    return value


def _made(called: Any, arguments: tuple[Any, ...]) -> Any:
    """A tensor of at most one dimension, or the empty dict of hooks that each tensor has."""
    if type(called) is not _Name:
        raise TypeError("it calls something that has no name")
    if called == "collections OrderedDict" and not arguments:
        return {}
    if called != "torch._utils _rebuild_tensor_v2":
        raise ValueError(f"it calls {called!r}, which no table needs")
    storage, offset, size, stride, *_ = arguments
    values = _plain(storage, _Storage).values
    numbers = (offset, *_plain(size, tuple), *_plain(stride, tuple))
    if len(size) != len(stride) or len(size) > 1 or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("it has a tensor that is no vector")
    count, step = (size[0], stride[0]) if size else (1, 1)
    if count > len(values) or offset + (count - 1) * step >= len(values):
        raise ValueError("it has a tensor larger than its numbers")
    return values[offset + step * np.arange(count)].reshape(size)


def _edges_and_weights(table: Any) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Bin edges (R, M) and weights (R, C, M) of the authors' dict."""
    if not isinstance(table, dict) or not table:
        raise TypeError("it holds no dict of bin sets")
    keys = [key if isinstance(key, tuple) else (key,) for key in table]
    if any(isinstance(edge, str) for key in keys for edge in key) or len({len(key) for key in keys}) > 1:
        raise ValueError("its keys are not tuples of whole bin edges")
    edges = np.array(keys, np.float64)
    if edges.shape[1] < 1 or not (edges == np.rint(edges)).all() or (np.abs(edges) > 2**31).any():
        raise ValueError("its keys are not tuples of whole bin edges")
    if len(set(keys)) < len(keys):
        raise ValueError("a bin set stands in it twice")
    values = list(table.values())
    channels = len(values[0]) if isinstance(values[0], list | tuple) else 0
    if not all(isinstance(value, list | tuple) and len(value) == channels for value in values):
        raise ValueError("its bin sets have no lists of weights of one length")
    shape = (len(values), channels, edges.shape[1])
    if not 0 < prod(shape) <= _MAX_WEIGHTS or channels > 2**16:
        raise ValueError(f"its weights have the shape {shape}")
    weights = np.empty(shape, np.float64)
    for row, value in enumerate(values):
        for channel, vector in enumerate(value):
            # With one candidate the authors' code squeezes the vector of one weight to a number.
            vector = np.atleast_1d(_plain(vector, np.ndarray))
            if vector.shape != shape[2:]:
                raise ValueError(f"its weights have shape {vector.shape} for {shape[2]} candidates")
            with np.errstate(invalid="ignore"):  # some NaN complain; all are found later
                weights[row, channel] = vector
    return edges.astype(np.int64), weights
