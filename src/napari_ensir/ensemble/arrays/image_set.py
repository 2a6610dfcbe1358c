"""Check the images of a field, their names and the prior."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.blocks import (
    as_array,
    dtype_of,
    is_dask,
    is_torch,
    read_block,
    working_dtype,
)
from napari_ensir.ensemble.arrays.intensity_range import byte_range
from napari_ensir.errors import EnsembleError, errors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.blocks import Slices

    Progress = Callable[[int, int, str], object]
    """Called with (done, total, text); an exception that it raises stops the work."""

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Characters that JSON can hold, but no encoding."""

MOST_CHANNELS = 2**16
"""Number of channels that fit a 16-bit index."""


@dataclass(frozen=True)
class Field:
    """Candidates of one image, and its ground truth if known.

    Attributes
    ----------
    candidates : tuple of M arrays of one shape
    truth : array of that shape, or None
    mask : bool array of that shape, or of that shape without the channel axis, or None
    channel_axis : int >= 0, or None
    """

    candidates: tuple[Any, ...]
    truth: Any
    mask: Any
    channel_axis: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of each array."""
        return tuple(self.candidates[0].shape)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """Candidates, then the ground truth if known."""
        return self.candidates if self.truth is None else (*self.candidates, self.truth)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Common dtype that the arrays are read in."""
        return working_dtype([dtype_of(array) for array in self.arrays])

    @property
    def pixel_type(self) -> np.dtype[Any]:
        """Dtype that decides the binning: :attr:`dtype`, or int64 if large integers are read as floats."""
        is_integer = all(dtype_of(array).kind in "iu" for array in self.arrays)
        return np.dtype(np.int64) if is_integer and self.dtype.kind == "f" else self.dtype

    @property
    def byte_range(self) -> tuple[float, float] | None:
        """Data range of 8-bit images; None for others."""
        return byte_range(dtype_of(array) for array in self.arrays)

    @property
    def n_channels(self) -> int:
        """Length of the channel axis; 1 if there is none."""
        return 1 if self.channel_axis is None else self.shape[self.channel_axis]

    def bands(self, n: int) -> list[Field]:
        """Cut the field into up to ``n`` bands along its longest axis other than the channel axis."""
        if n == 1 or all(axis == self.channel_axis for axis in range(len(self.shape))):
            return [self]
        axis, edges = self.band_edges(n)
        whole = (slice(None),) * len(self.shape)
        return [
            self.part((*whole[:axis], slice(start, stop), *whole[axis + 1 :]))
            for start, stop in pairwise(edges)
        ]

    def band_edges(self, n: int) -> tuple[int, list[int]]:
        """The axis that :meth:`bands` cuts, and the places where the bands begin and end."""
        axes = [axis for axis in range(len(self.shape)) if axis != self.channel_axis]
        axis = max(axes, key=lambda a: self.shape[a]) if axes else 0
        return axis, np.unique(np.linspace(0, self.shape[axis], n + 1).astype(int)).tolist()

    def between(self, first: int, last: int, place: str = "") -> Field:
        """Return planes ``first`` to ``last``, both included, along the first axis.

        Raises
        ------
        EnsembleError
            If these planes do not exist, or the first axis is the channel axis.
        """
        size = self.shape[0]
        if self.channel_axis == 0:
            raise EnsembleError(
                f"{place}planes is {(first, last)}, but the first axis is the channel axis; leave planes out."
            )
        if last >= size:
            raise EnsembleError(
                f"{place}planes is {(first, last)}, but there are {size} along the first axis; use 0 to "
                f"{size - 1}."
            )
        return self.part((slice(first, last + 1), *(slice(None),) * (len(self.shape) - 1)))

    def part(self, part: Slices) -> Field:
        """The field cut by a slice for each axis."""
        mask = self.mask
        if mask is not None:
            dropped = self.channel_axis is not None and len(mask.shape) < len(self.shape)
            mask = mask[tuple(s for a, s in enumerate(part) if not (dropped and a == self.channel_axis))]
        truth = None if self.truth is None else _cut(self.truth, part)
        return Field(tuple(_cut(c, part) for c in self.candidates), truth, mask, self.channel_axis)

    def read_mask(self, slices: Slices) -> NDArray[np.bool_] | None:
        """Read the mask of a block, flat; None if there is no mask."""
        if self.mask is None:
            return None
        axis = self.channel_axis
        if axis is None or len(self.mask.shape) == len(self.shape):
            return read_block(self.mask, slices, np.dtype(bool))
        spatial = slices[:axis] + slices[axis + 1 :]
        part = self.mask[spatial]
        part = np.asarray(part.detach().cpu() if is_torch(part) else part).astype(bool)
        n_channels = len(range(*slices[axis].indices(self.shape[axis])))
        return np.repeat(np.expand_dims(part, axis), n_channels, axis=axis).reshape(-1)


def describe_candidate(index: int, names: Sequence[str] | None) -> str:
    """Return the words for a candidate in messages.

    Examples
    --------
    >>> describe_candidate(1, ("CARE", "N2V"))
    'candidate 2 ("N2V")'
    """
    return f"candidate {index + 1}" + (f' ("{names[index]}")' if names else "")


def _cut(array: Any, part: Slices) -> Any:
    """Part of an array; nothing is read."""
    lazy = isinstance(array, np.ndarray) or is_torch(array) or is_dask(array)
    return array[part] if lazy else _ArrayPart(array, part)


class _ArrayPart:
    """Part of an array that is read when it is sliced, such as one of Zarr or HDF5."""

    def __init__(self, array: Any, part: Slices) -> None:
        self.array, self.dtype, self.ndim = array, array.dtype, len(array.shape)
        self.places = [range(n)[cut] for n, cut in zip(array.shape, part, strict=True)]
        self.shape = tuple(map(len, self.places))

    def __getitem__(self, key: Any) -> Any:
        given = key if isinstance(key, tuple) else (key,)
        cuts = [*given, *[slice(None)] * (self.ndim - len(given))]
        asked = [places[cut] for places, cut in zip(self.places, cuts, strict=True)]
        return self.array[tuple(slice(one.start, one.stop, one.step) for one in asked)]


def make_field(
    candidates: Sequence[Any],
    truth: Any = None,
    *,
    names: Sequence[str] | None = None,
    channel_axis: int | None = None,
    mask: Any = None,
    place: str = "",
) -> Field:
    """Check the arrays of one image and make a field of them.

    Parameters
    ----------
    candidates : M array-likes of one shape
    truth : array-like of that shape, optional
    names : M names for messages, optional
    channel_axis, mask
        As in :func:`napari_ensir.fit_lut`.
    place
        Prefix of messages, such as ``"image 3: "``.

    Raises
    ------
    EnsembleError
        If there is no candidate, shapes differ, an array is empty or its dtype is not supported, the ground
        truth is among the candidates, the channel axis does not exist or the mask has another shape.
    """
    if hasattr(candidates, "shape") and hasattr(candidates, "dtype") and len(candidates.shape) == 0:
        raise EnsembleError(f"{place}the candidates are a single number; give a sequence of arrays.")
    arrays = tuple(as_array(candidate) for candidate in candidates)
    if not arrays:
        raise EnsembleError(f"{place}there is no candidate; give at least one.")
    if names is not None and len(names) != len(arrays):
        raise EnsembleError(
            f"{place}there are {len(arrays)} candidates but {len(names)} names ({', '.join(names)}); "
            "give one candidate per name, in that order."
        )
    shape = tuple(arrays[0].shape)
    for index, array in enumerate(arrays):
        who = describe_candidate(index, names)
        _check_array(array, place + who)
        if truth is not None and _is_same(array, truth):
            raise EnsembleError(
                f"{place}{who} is the ground truth itself; remove it from the candidates, "
                "because it would get all the weight."
            )
        if tuple(array.shape) != shape:
            raise EnsembleError(
                f"{place}{who} has shape {tuple(array.shape)} but {describe_candidate(0, names)} has "
                f"{shape}; all candidates must have the same shape."
            )
    if truth is not None:
        truth = as_array(truth)
        _check_array(truth, f"{place}the ground truth")
        if tuple(truth.shape) != shape:
            raise EnsembleError(
                f"{place}the ground truth has shape {tuple(truth.shape)} but "
                f"{describe_candidate(0, names)} has {shape}; they must have the same shape. Upscaled "
                "candidates need a ground truth of the same size."
            )
    axis = _check_channel_axis(channel_axis, shape, place)
    if mask is not None:
        mask = as_array(mask)
        mask = mask.filled(False) if _is_masked(mask) else mask
        spatial = shape if axis is None else shape[:axis] + shape[axis + 1 :]
        if tuple(mask.shape) not in (shape, spatial):
            raise EnsembleError(
                f"{place}the mask has shape {tuple(mask.shape)}; it must have shape {spatial}."
            )
    return _unmasked(Field(arrays, truth, mask, axis))


def _unmasked(field: Field) -> Field:
    """Replace numpy's masked arrays: by a mask if there is a ground truth, else by NaN."""
    missing = [np.ma.getmaskarray(array) for array in field.arrays if _is_masked(array)]
    if not missing:
        return field
    if field.truth is None:
        arrays = [a.astype(np.float64).filled(np.nan) if _is_masked(a) else a for a in field.arrays]
        return Field(tuple(arrays), None, field.mask, field.channel_axis)
    # Fill with a value that occurs, which cannot widen the data range.
    arrays = [a.filled(a.min() if a.count() else 0) if _is_masked(a) else a for a in field.arrays]
    there = ~np.logical_or.reduce(missing)
    whole = field.read_mask((slice(None),) * len(field.shape))
    if whole is not None:
        there &= whole.reshape(field.shape)
    return Field(tuple(arrays[:-1]), arrays[-1], there, field.channel_axis)


def _is_masked(array: Any) -> bool:
    return hasattr(array, "filled") and isinstance(array, np.ma.MaskedArray)  # importing np.ma takes time


def _is_same(one: Any, other: Any) -> bool:
    """Whether two arrays are the same array, or views of the same memory."""
    if one is other:
        return True
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        a, b = one.__array_interface__, other.__array_interface__
        same = a["data"][0] == b["data"][0] and a["typestr"] == b["typestr"]
        return same and one.shape == other.shape and one.strides == other.strides
    if is_torch(one) and is_torch(other):
        same = one.shape == other.shape and one.stride() == other.stride() and one.dtype == other.dtype
        return bool(same and one.device == other.device and one.data_ptr() == other.data_ptr())
    return False


def _check_array(array: Any, who: str) -> None:
    if _is_masked(getattr(array, "_meta", None)):
        raise EnsembleError(
            f"{who} is a dask array of masked arrays; fill it, and give the valid pixels as the mask."
        )
    if 0 in array.shape:
        raise EnsembleError(f"{who} is empty (shape {tuple(array.shape)}); it must hold at least one pixel.")
    if str(array.dtype) in ("bool", "torch.bool"):
        raise EnsembleError(f"{who} is of dtype bool; it must hold intensities.")
    with errors_of(who):
        dtype_of(array)


def _check_channel_axis(axis: int | None, shape: tuple[int, ...], place: str) -> int | None:
    if axis is None:
        return None
    if isinstance(axis, bool) or not isinstance(axis, Integral):
        raise EnsembleError(
            f"{place}channel_axis is {axis!r}; use a whole number, or None to pool the channels."
        )
    if not -len(shape) <= axis < len(shape):
        raise EnsembleError(
            f"{place}channel_axis is {axis}, but the images have {len(shape)} axes (shape {shape}); "
            f"use -{len(shape)} to {len(shape) - 1}, or None to pool the channels."
        )
    if shape[axis] > MOST_CHANNELS:
        raise EnsembleError(
            f"{place}channel_axis is {axis}, but that axis has length {shape[axis]} (shape {shape}); at most "
            f"{MOST_CHANNELS} channels can have a table each."
        )
    return int(axis) % len(shape)


def check_names(names: Sequence[str] | None, n_candidates: int) -> tuple[str, ...]:
    """Check the names of the candidates; the default is "candidate 1" and so on.

    Raises
    ------
    EnsembleError
        If their number is wrong, a name is empty or not valid Unicode, or two are equal.
    """
    if names is None:
        return tuple(f"candidate {index + 1}" for index in range(n_candidates))
    checked = tuple(str(name) for name in names)
    if len(checked) != n_candidates:
        raise EnsembleError(
            f"there are {n_candidates} candidates but {len(checked)} names ({', '.join(checked)}); "
            "give one name per candidate."
        )
    if stray := [name for name in checked if LONE_SURROGATE.search(name)]:
        raise EnsembleError(f"the name {stray[0]!r} is not valid Unicode; give another name.")
    if any(not name.strip() for name in checked):
        raise EnsembleError("a candidate's name is empty; give every candidate a name.")
    if len(set(checked)) < len(checked):
        twice = min(name for name, times in Counter(checked).items() if times > 1)
        raise EnsembleError(
            f"the name {twice!r} is used for two candidates; give each candidate its own name."
        )
    return checked


def as_numbers(value: object, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Return an array of finite numbers of this shape; None if a value, such as a report's, is anything else.

    Examples
    --------
    >>> as_numbers([1, 2.5], (2,)), as_numbers([1, None], (2,)), as_numbers("a file's", (2,))
    (array([1. , 2.5]), None, None)
    """
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found.shape == shape and np.isfinite(found).all() else None


def check_prior(prior: Sequence[float] | None, n_candidates: int) -> NDArray[np.float64] | None:
    """Check a prior and scale its weights to a sum of one.

    Raises
    ------
    EnsembleError
        Unless it has one finite, non-negative weight per candidate, not all zero.
    """
    if prior is None:
        return None
    weights = as_numbers(prior, (n_candidates,))
    if weights is None or (weights < 0).any() or weights.sum() <= 0:
        given = list(prior) if isinstance(prior, tuple) else prior
        raise EnsembleError(
            f"the prior is {given!r}; give {n_candidates} non-negative weights, "
            "one per candidate, not all zero."
        )
    return np.asarray(weights / weights.sum(), np.float64)
