"""The images to learn from, as they come: checked one by one, their data range found. Counts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_ensir.ensemble.arrays import block_size, block_slices, dtype_of, read_block
from napari_ensir.ensemble.data_range import Ends, ends_of, robust_range, spread_of, sum_of, widest
from napari_ensir.ensemble.distributed import has_chunks, measure_chunks
from napari_ensir.ensemble.inputs import make_field
from napari_ensir.ensemble.threads import for_each
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays import Slices
    from napari_ensir.ensemble.inputs import Field, Progress
    from napari_ensir.ensemble.provenance import Inputs

    Result = TypeVar("Result")

__all__ = ["ReferenceSet"]

BLOCK = 2**21
"""Pixels whose range is looked at together."""

MANY = 16
"""Results that are kept before they are made one."""


class ReferenceSet:
    """The images of a reference set, checked one by one as they are read.

    A sequence can be read twice, once for the range that it shows and once for its statistics. Anything else
    is read as it comes where the range is known beforehand, else kept.
    """

    def __init__(
        self,
        reference: Iterable[tuple[Sequence[Any], Any]],
        names: Sequence[str] | None,
        channel_axis: int | None,
        mask: Sequence[Any] | None,
        data_range: tuple[float, float] | None,
        planes: tuple[int, int] | None = None,
        noisy_truth: bool = False,
        inputs: Inputs | None = None,
    ) -> None:
        self.planes, self.noisy_truth, self.inputs = planes, noisy_truth, inputs
        if mask is not None and not (hasattr(mask, "__len__") and hasattr(mask, "__getitem__")):
            raise EnsembleError(f"mask is {mask!r}; give one mask (or None) per image, in a list.")
        self.names, self.channel_axis, self.mask, self.given_range = names, channel_axis, mask, data_range
        self.n_read = 0
        self.pairs: Iterable[tuple[Sequence[Any], Any]]
        if isinstance(reference, Sequence):
            self.pairs = reference
        else:
            try:
                source = iter(reference)
            except TypeError:
                raise EnsembleError(
                    f"the reference set is {reference!r}; give pairs (candidates, ground truth)."
                ) from None
            head = list(_take(source, 1))
            known = data_range is not None or (head and _limits(self._field(0, head[0])) is not None)
            self.pairs = _Chain(head, source) if known else [*head, *source]
        first = next(iter(self.pairs), None)
        if first is None:
            raise EnsembleError("the reference set is empty; give at least one image with ground truth.")
        self.first = self._field(0, first)
        if isinstance(self.pairs, Sequence) and mask is not None and len(mask) != len(self.pairs):
            raise EnsembleError(
                f"there are {len(mask)} masks but {len(self.pairs)} images; "
                "give one mask (or None) per image."
            )

    @property
    def n_images(self) -> int | None:
        """How many there are, where that is known beforehand."""
        return len(self.pairs) if isinstance(self.pairs, Sequence) else None

    @property
    def n_pixels(self) -> int | None:
        """Pixels of all images, where there is a number of them beforehand.

        Images that a sequence opens one by one are taken to be of the first one's size: to open thousands of
        files only to say how far the work is costs as much as a third of the work.
        """
        if isinstance(self.pairs, list | tuple):
            return sum(prod(self._field(number, pair).shape) for number, pair in enumerate(self.pairs))
        return len(self.pairs) * prod(self.first.shape) if isinstance(self.pairs, Sequence) else None

    def __iter__(self) -> Iterator[Field]:
        return self.every(0, 1)

    def every(self, start: int, step: int) -> Iterator[Field]:
        """Images from one on, so many apart, each checked against the first; a sequence opens no others."""
        for number, pair in self._numbered(start, step):
            self.n_read = max(self.n_read, number + 1)
            field = self._field(number, pair)
            first = self.first
            if len(field.candidates) != len(first.candidates):
                raise EnsembleError(
                    f"image {number + 1} has {len(field.candidates)} candidates, but image 1 has "
                    f"{len(first.candidates)}; every image needs one of each."
                )
            if (field.dtype, field.pixel_type) != (first.dtype, first.pixel_type):
                raise EnsembleError(
                    f"image {number + 1} has pixels of dtype {field.dtype}, but image 1 of {first.dtype}; "
                    "convert them to one dtype, so that intensities mean the same."
                )
            if field.n_channels != first.n_channels:
                raise EnsembleError(
                    f"image {number + 1} has {field.n_channels} channels, but image 1 has "
                    f"{first.n_channels}; every image needs the same channels."
                )
            if self.inputs is not None:
                self.inputs.add(number, field)
            yield field

    def _numbered(self, start: int, step: int) -> Iterator[tuple[int, tuple[Sequence[Any], Any]]]:
        if step > 1 and isinstance(self.pairs, Sequence):
            return ((number, self.pairs[number]) for number in range(start, len(self.pairs), step))
        return islice(enumerate(self.pairs), start, None, step)

    def _field(self, number: int, pair: tuple[Sequence[Any], Any]) -> Field:
        try:
            candidates, truth = pair
        except (TypeError, ValueError):
            raise EnsembleError(
                f"image {number + 1} of the reference set is no pair; give (candidates, ground truth)."
            ) from None
        mask = None
        if self.mask is not None:
            if number >= len(self.mask):
                raise EnsembleError(
                    f"there are {len(self.mask)} masks but more images; give one mask (or None) per image."
                )
            mask = self.mask[number]
        field = make_field(
            candidates,
            truth,
            names=self.names,
            channel_axis=self.channel_axis,
            mask=mask,
            place=f"image {number + 1}: ",
        )
        return field if self.planes is None else field.between(*self.planes, place=f"image {number + 1}: ")

    def folds(self, n: int) -> list[Iterable[Field]]:
        """Parts to hold out in turn: whole images where there are enough, else bands of each.

        Each part can be iterated again, and no image is held for it where there are enough of them.
        """
        if not isinstance(self.pairs, Sequence):
            self.pairs = list(self.pairs)
        if len(self.pairs) >= n:
            return [_EveryNth(self, start, n) for start in range(n)]
        folds: list[list[Field]] = [[] for _ in range(n)]
        for field in self:
            for fold, band in zip(folds, field.bands(n), strict=False):
                fold.append(band)
        return list(folds)

    def data_range(self, progress: Progress | None) -> tuple[tuple[float, float], str]:
        """The range to bin, and where it came from."""
        if self.given_range is not None:
            return self.given_range, "given"
        limits = _limits(self.first)
        if limits is not None:
            return limits, "dtype"
        spread = _measured(self._shown(), spread_of, sum_of, progress)
        return robust_range(spread, lambda ends: self._ends_within(ends, progress)), "data"

    def _ends_within(self, ends: Ends, progress: Progress | None) -> Ends:
        return _measured(self._shown(), partial(ends_of, within=ends), widest, progress)

    def _shown(self) -> Iterator[Field]:
        """The images whose range is looked for: noise is beyond what there is to see."""
        for field in self:
            yield replace(field, truth=None) if self.noisy_truth else field


def _limits(field: Field) -> tuple[float, float] | None:
    """The range of the images' dtype, if it is of 8 bit."""
    common = np.result_type(*(dtype_of(array) for array in field.arrays))
    if common.itemsize > 1:
        return None
    limits = np.iinfo(common)
    return float(limits.min), float(limits.max)


class _EveryNth:
    """Every n-th image of a reference set."""

    def __init__(self, fields: ReferenceSet, start: int, n: int) -> None:
        self.fields, self.start, self.n = fields, start, n

    def __iter__(self) -> Iterator[Field]:
        return self.fields.every(self.start, self.n)


class _Chain:
    """What was looked at already, then the rest: an iterable that is read once after its first item."""

    def __init__(self, head: list[Any], rest: Iterator[Any]) -> None:
        self.head, self.rest = head, rest

    def __iter__(self) -> Iterator[Any]:
        yield from self.head
        yield from self.rest


def _take(source: Iterator[Any], n: int) -> Iterator[Any]:
    for _, item in zip(range(n), source, strict=False):
        yield item


def _measured(
    fields: Iterable[Field],
    measure: Callable[[NDArray[Any]], Result],
    join: Callable[[Sequence[Result]], Result],
    progress: Progress | None,
) -> Result:
    """What candidates and truth of all fields show, measured block by block."""
    found: list[Result] = []
    parts: list[Result] = []

    def report(pixels: int) -> None:
        if progress is not None:
            progress(0, 1, "looking at the data range")

    def blocks() -> Iterator[tuple[Any, np.dtype[Any], Slices]]:
        for field in fields:
            if has_chunks(field):
                parts.append(measure_chunks(field, measure, join, report))
                continue
            dtype = field.dtype
            for array in field.arrays:
                for slices in block_slices(field.shape, BLOCK):
                    yield array, dtype, slices

    def look(block: tuple[Any, np.dtype[Any], Slices]) -> None:
        array, dtype, slices = block
        found.append(measure(read_block(array, slices, dtype)))

    def done(block: tuple[Any, np.dtype[Any], Slices]) -> None:
        while found:  # the threads go on adding to it
            parts.append(found.pop())
        if len(parts) > MANY:
            parts[:] = [join(parts)]
        report(block_size(block[0].shape, block[2]))

    for_each(blocks(), look, done)
    return join(parts + found)
