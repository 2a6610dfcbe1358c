"""A reference set's pixels, read once, into what every later step starts from. Estimates nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.blocks import block_size, block_slices, dtype_of, read_block
from napari_ensir.ensemble.arrays.image_set import check_names, make_field
from napari_ensir.ensemble.arrays.intensity_range import (
    Ends,
    ends_of,
    robust_range,
    spread_of,
    sum_of,
    widest,
)
from napari_ensir.ensemble.arrays.parallel import for_each
from napari_ensir.ensemble.statistics.binning import Binning, choose_binning
from napari_ensir.ensemble.statistics.collect import collect
from napari_ensir.ensemble.statistics.count import DENSE_SUMS, collect_bands, has_chunks, measure_chunks
from napari_ensir.ensemble.statistics.statistics import Statistics, merge, n_moments
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.blocks import Slices
    from napari_ensir.ensemble.arrays.image_set import Field, Progress

    Result = TypeVar("Result")

    import torch

__all__ = [
    "PERCENTS",
    "Inputs",
    "Reference",
    "ReferenceSet",
    "Samples",
    "collect_reference",
    "made_now",
    "named_report",
    "percentiles_of",
    "sample_of",
]


HASH = "sha256"
HASHED_BYTES = 2**24
"""Most bytes of a reference set that are hashed unasked: a hundredth of a second."""

LISTED = 64
"""Most images that are listed one by one."""

SAMPLES = 2**14
"""Pixels of an image that percentiles are taken from."""

MOST_SAMPLES = 2**20
"""Pixels of all images that percentiles are taken from: four megabytes."""

PERCENTS = (1, 5, 10, 25, 50, 75, 90, 95, 99)


class Samples:
    """Pixels of however many images in little memory: as they grow too many, every other one is dropped.

    Which remain does not depend on the order that images come in.

    Examples
    --------
    >>> samples = Samples()
    >>> for start in range(3):
    ...     samples.add(np.arange(start, 2**19 + start, dtype=np.float32))
    >>> len(samples.all()) == 3 * 2**18
    True
    """

    def __init__(self) -> None:
        self.parts: list[NDArray[np.float32]] = []
        self.step, self.size = 1, 0

    def add(self, values: NDArray[np.float32]) -> None:
        """Add one image's pixels."""
        self._keep(values[:: self.step])
        while self.size > MOST_SAMPLES and max(map(len, self.parts)) > 1:
            parts, self.parts, self.size = self.parts, [], 0
            self.step *= 2
            for part in parts:
                self._keep(part[::2].copy())

    def _keep(self, part: NDArray[np.float32]) -> None:
        self.parts.append(part)
        self.size += len(part)

    def all(self) -> NDArray[np.float32]:
        """Those that are left."""
        return np.concatenate(self.parts) if self.parts else np.zeros(0, np.float32)


class Inputs:
    """What a reference set consists of, noted image by image as it is read.

    Parameters
    ----------
    hash_all
        Hash images whatever their size; else up to :data:`HASHED_BYTES` in all.
    """

    def __init__(self, hash_all: bool = False) -> None:
        self.hash_all = hash_all
        self.images: dict[int, dict[str, Any]] = {}
        self.samples: Samples = Samples()
        self.bytes_seen = 0

    def add(self, number: int, field: Field) -> None:
        """Note one image, once; where its arrays are lazy, their pixels are not read for it."""
        if number in self.images:
            return
        in_memory = not has_chunks(field)
        if in_memory:
            self.samples.add(sample_of(field))
        self.images[number] = {}
        if number < LISTED:
            self.images[number] = {
                "shape": list(field.shape),
                "dtypes": [str(array.dtype).removeprefix("torch.") for array in field.arrays],
                HASH: self._hashed(field) if in_memory else None,
            }

    def _hashed(self, field: Field) -> list[str] | None:
        self.bytes_seen += prod(field.shape) * sum(dtype_of(array).itemsize for array in field.arrays)
        if not self.hash_all and self.bytes_seen > HASHED_BYTES:
            return None
        return [_hash_of(array) for array in field.arrays]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a report."""
        listed = [self.images[number] for number in sorted(self.images)[:LISTED]]
        found: dict[str, Any] = {"images": len(self.images), "listed": listed}
        if any(one[HASH] is None for one in listed):
            found["not_hashed"] = (
                f"images that are lazy, or that make more than {HASHED_BYTES // 2**20} MB in all; "
                "hash_inputs=True asks for the latter"
            )
        if self.samples.parts:
            found["percentiles"] = percentiles_of(self.samples.all())
        return found


def _hash_of(array: Any) -> str:
    """Of the pixels as little-endian bytes in C order, whatever holds them."""
    plain = _flat(array)
    plain = np.ascontiguousarray(plain, plain.dtype.newbyteorder("<"))
    return hashlib.new(HASH, plain.view(np.uint8).data).hexdigest()


def _flat(array: Any) -> NDArray[Any]:
    """All pixels in C order: a view where that is possible. Read by slicing, as counting them does."""
    return read_block(array, (slice(None),) * len(array.shape), dtype_of(array))


def sample_of(field: Field) -> NDArray[np.float32]:
    """The candidates' mean at some pixels, evenly spaced over the flattened image; none of a lazy one."""
    if has_chunks(field):
        return np.zeros(0, np.float32)
    total = np.zeros((), np.float64)
    for candidate in field.candidates:
        flat = _flat(candidate)
        # Odd, so that it does not keep to one column of an image whose width is a power of two.
        total = total + flat[:: max(1, flat.size // SAMPLES) | 1].astype(np.float64)
    with np.errstate(over="ignore"):  # infinite then, and left out
        mean: NDArray[np.float32] = (total / len(field.candidates)).astype(np.float32)
    return mean[np.isfinite(mean)]


def percentiles_of(values: NDArray[Any]) -> list[float] | None:
    """Intensities below which :data:`PERCENTS` of the values lie; None where there are none.

    Examples
    --------
    >>> percentiles_of(np.arange(101.0))[4]
    50.0
    """
    finite = values[np.isfinite(values)]
    return [float(value) for value in np.percentile(finite, PERCENTS)] if finite.size else None


def named_report(report: dict[str, Any], names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A table's report with the names of what was learned from, such as of files or layers.

    Parameters
    ----------
    report
        Of a table just fitted.
    names
        For every image those of the candidates and, last, of the truth.
    """
    inputs = report["inputs"]
    listed = [{"names": list(some), **one} for some, one in zip(names, inputs["listed"], strict=False)]
    return {**report, "inputs": {**inputs, "listed": listed}}


def made_now() -> dict[str, Any]:
    """The day and the versions that a result is made with.

    The day alone, in UTC, so that one day's results are the same byte for byte; ``SOURCE_DATE_EPOCH`` in the
    environment sets it.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdecimal() else datetime.now(UTC)
    return {"date": now.date().isoformat(), "versions": {name: _version_of(name) for name in _PACKAGES}}


_PACKAGES: Sequence[str] = ("napari-ensir", "numpy", "torch")


@cache
def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a source tree that was never installed
        return "unknown"


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


@dataclass(frozen=True)
class Reference:
    """What was learned of a reference set before any weight was estimated.

    Attributes
    ----------
    statistics : Statistics
    names : tuple of str
    channel_axis : int or None
        Counted from the end if it was the last axis, so that the table serves stacks of such images.
    range_from : "given", "dtype" or "data"
        Where the data range came from.
    n_images : int
    inputs : dict
        What was read; see :class:`~napari_ensir.ensemble.statistics.reference.Inputs`.
    folds : tuple of Statistics
        The same pixels in parts, to hold some out; empty if collected in one piece.
    """

    statistics: Statistics
    names: tuple[str, ...]
    channel_axis: int | None
    range_from: str
    n_images: int
    inputs: dict[str, Any] = dataclass_field(default_factory=dict)
    folds: tuple[Statistics, ...] = ()


def collect_reference(
    reference: Iterable[tuple[Sequence[Any], Any]],
    names: Sequence[str] | None = None,
    *,
    bin_width: float | None = None,
    data_range: tuple[float, float] | None = None,
    channel_axis: int | None = None,
    planes: tuple[int, int] | None = None,
    mask: Sequence[Any] | None = None,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
    refine: int | None = 1,
    folds: int = 1,
    noisy_truth: bool = False,
    hash_inputs: bool = False,
) -> Reference:
    """Read a reference set's pixels, once, into statistics.

    Parameters
    ----------
    reference, names, bin_width, data_range, channel_axis, planes, mask, device, progress
        As for :func:`fit_lut`.
    refine : int, optional
        Collect in bins this many times as narrow as ``bin_width``, for coarser ones to be made of later;
        None: as narrow as is cheap.
    folds : int
        Keep the statistics in this many parts as well: of whole images where there are enough, else of bands
        of each image.
    noisy_truth : bool
        Look for the data range in the candidates alone: noise makes the truth's wider.
    hash_inputs
        Keep a hash of every image's content, whatever its size.

    Returns
    -------
    Reference
        Its ``statistics`` are what every method works from.

    Raises
    ------
    EnsembleError
        If the images cannot be used, or no pixel is left.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (64, 64)).astype(np.float32)
    >>> noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (2, 8)]
    >>> collect_reference([(noisy, truth)], device="cpu").statistics.n_pixels
    4096
    """
    inputs = Inputs(hash_inputs)
    fields = ReferenceSet(reference, names, channel_axis, mask, data_range, planes, noisy_truth, inputs)
    first = fields.first
    checked = check_names(names, len(first.candidates))
    low_high, range_from = fields.data_range(progress)
    binning = choose_binning(first.pixel_type, low_high, bin_width)
    if refine is None:
        refine = finest_cheap(binning, len(checked), first.n_channels)
    if refine > 1:
        binning = binning.refined(refine)
    collected = _collect_folds(
        fields, folds, binning, len(checked), first.n_channels, resolve_device(device), progress
    )
    statistics = merge(collected)
    if statistics.n_pixels == 0:
        raise EnsembleError(
            f"no pixel is left to learn from: {statistics.not_finite} are NaN or infinite in a candidate or "
            "the ground truth, the rest lie outside the mask."
        )
    axis = first.channel_axis
    if axis is not None and axis == len(first.shape) - 1:
        axis = -1
    kept = tuple(collected) if folds > 1 else ()
    return Reference(statistics, checked, axis, range_from, fields.n_read, inputs.to_dict(), kept)


def _collect_folds(
    fields: ReferenceSet,
    n: int,
    binning: Binning,
    n_candidates: int,
    n_channels: int,
    device: torch.device,
    progress: Progress | None,
) -> list[Statistics]:
    """Statistics of each of ``n`` folds: of whole images where there are enough, else of bands of each.

    Each pixel is read once, and of images that come from an iterator no more than ``n`` are held.
    """
    total, before = fields.n_pixels, 0

    def count(part: Iterable[Field]) -> Statistics:
        nonlocal before
        report = None if progress is None else _offset(progress, before, total)
        found = collect(part, binning, n_candidates, n_channels, device, report, total)
        before += found.n_pixels + found.not_finite
        return found

    def count_bands(field: Field) -> list[Statistics]:
        nonlocal before
        if not has_chunks(field):
            return [count([band]) for band in field.bands(n)]
        axis, edges = field.band_edges(n)
        done = before

        def report(pixels: int) -> None:
            nonlocal done
            done += pixels
            if progress is not None:
                progress(done, max(done, total or 0), "counting pixels")

        found = collect_bands(field, edges, axis, binning, n_channels, device, report)
        before = done
        return found

    if n == 1:
        return [count(fields)]
    if isinstance(fields.pairs, Sequence) and len(fields.pairs) >= n:
        return [count(fields.every(start, n)) for start in range(n)]
    images = iter(fields)
    held = list(islice(images, n))
    if len(held) == n:
        folds = [count([field]) for field in held]
        del held
        for number, field in enumerate(images):
            folds[number % n] = merge([folds[number % n], count([field])])
        return folds
    empty = Statistics.empty(binning, n_candidates, n_channels)
    banded = [[*count_bands(field), *[empty] * n][:n] for field in held]
    return [merge(bands) for bands in zip(*banded, strict=True)]


def finest_cheap(binning: Binning, n_candidates: int, n_channels: int) -> int:
    """How many times narrower bins can be with all sums still in one table."""
    for factor in (4, 2):
        if binning.sublevels % factor == 0:
            rows = binning.refined(factor).n_bins ** n_candidates * n_channels
            if rows * n_moments(n_candidates) <= DENSE_SUMS:
                return factor
    return 1


def _offset(progress: Progress, before: int, total: int | None) -> Progress:
    return lambda done, _, text: progress(before + done, max(before + done, total or 0), text)
