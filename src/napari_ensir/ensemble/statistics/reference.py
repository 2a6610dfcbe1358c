"""Read a reference set: check its images, measure the data range, collect the statistics."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice, product
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.blocks import block_slices, dtype_of, read_block
from napari_ensir.ensemble.arrays.image_set import check_names, make_field
from napari_ensir.ensemble.arrays.intensity_range import (
    finite_range,
    intensity_histogram,
    robust_range,
    sum_of,
    widest,
)
from napari_ensir.ensemble.arrays.parallel import for_each, running_progress
from napari_ensir.ensemble.engines import expect_work
from napari_ensir.ensemble.statistics.binning import Binning, choose_binning
from napari_ensir.ensemble.statistics.count import DENSE_SUMS, collect, collect_bands, is_lazy, reduce_chunks
from napari_ensir.ensemble.statistics.statistics import Statistics, merge, n_moments
from napari_ensir.errors import EnsembleError
from napari_ensir.files.tensors import package_version
from napari_ensir.settings import FitSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Field, Progress

    Result = TypeVar("Result")

HASH = "sha256"
HASHED_BYTES = 2**24
"""Maximum number of bytes of a reference set that are hashed by default; takes a hundredth of a second."""

LISTED = 64
"""Maximum number of images listed in a report."""

SAMPLES = 2**14
"""Number of pixels of an image that percentiles are computed from."""

MOST_SAMPLES = 2**20
"""Maximum number of pixels of all images that percentiles are computed from: four megabytes."""

PERCENTS = (1, 5, 10, 25, 50, 75, 90, 95, 99)

_PACKAGES = ("napari-ensir", "numpy", "torch")

BLOCK = 2**21
"""Pixels per block when the data range is measured."""

MANY = 16
"""Number of results that are kept before they are combined."""


@dataclass(frozen=True)
class Reference:
    """Statistics of a reference set, and what is needed beside them to make a table.

    Attributes
    ----------
    statistics : Statistics
    names : tuple of str
    channel_axis : int or None
        -1 if it was the last axis, so that the table also applies to stacks of such images.
    range_from : "given", "dtype" or "data"
        Source of the data range.
    n_images : int
    inputs : dict
        Description of the images; see :class:`~napari_ensir.ensemble.statistics.reference.Inputs`.
    folds : tuple of Statistics
        Statistics of each fold; empty if there is one.
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
    settings: FitSettings | None = None,
    *,
    mask: Sequence[Any] | None = None,
    progress: Progress | None = None,
    refine: int | None = 1,
    folds: int = 1,
    **keywords: Any,
) -> Reference:
    """Collect the statistics of a reference set in one pass over its pixels.

    Parameters
    ----------
    reference, names, mask, progress
        As for :func:`fit_lut`.
    settings : FitSettings, optional
        The data range of images with a noisy truth is measured on the candidates alone, because noise widens
        that of the truth.
    refine : int, optional
        Collect in bins this many times as narrow as ``bin_width``; they can be coarsened later. None: as
        narrow as is cheap.
    folds : int
        Also keep the statistics of this many folds: of whole images if there are enough, else of bands of
        each image.
    **keywords
        Single settings, which override ``settings``.

    Returns
    -------
    Reference

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
    settings = replace(settings or FitSettings(), **keywords)
    inputs = Inputs(settings.hash_inputs)
    fields = ReferenceSet(reference, names, settings, mask, inputs)
    first, width = fields.first, settings.bin_width
    checked = check_names(names, len(first.candidates))
    low_high, range_from = fields.data_range(progress)
    binning = choose_binning(first.pixel_type, low_high, None if isinstance(width, str) else width)
    if refine is None:
        refine = choose_refinement(binning, len(checked), first.n_channels)
    if refine > 1:
        binning = binning.refined(refine)
    collected = _collect_folds(fields, folds, binning, progress)
    statistics = merge(collected)
    if statistics.n_pixels == 0:
        raise EnsembleError(
            f"there are no pixels to learn from: {statistics.not_finite} are NaN or infinite in a candidate "
            "or the ground truth, the others lie outside the mask."
        )
    axis = first.channel_axis
    if axis is not None and axis == len(first.shape) - 1:
        axis = -1
    kept = tuple(collected) if folds > 1 else ()
    return Reference(statistics, checked, axis, range_from, fields.n_read, inputs.to_dict(), kept)


def _collect_folds(
    fields: ReferenceSet, n: int, binning: Binning, progress: Progress | None
) -> list[Statistics]:
    """Statistics of each of ``n`` folds: of whole images where there are enough, else of bands of each.

    Each pixel is read once, and of images that come from an iterator no more than ``n`` are held.
    """
    n_pixels, device = fields.n_pixels, resolve_device(fields.settings.device)
    n_candidates, n_channels = len(fields.first.candidates), fields.first.n_channels
    expect_work("count", (n_candidates + 1) * (n_pixels or 0))
    report = running_progress(progress, n_pixels, "counting pixels")

    def count(part: Iterable[Field]) -> Statistics:
        return collect(part, binning, n_candidates, n_channels, device, report)

    def count_bands(field: Field) -> list[Statistics]:
        if not is_lazy(field):
            return [count([band]) for band in field.bands(n)]
        axis, edges = field.band_edges(n)
        return collect_bands(field, edges, axis, binning, n_channels, device, report)

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


def choose_refinement(binning: Binning, n_candidates: int, n_channels: int) -> int:
    """Return how many times narrower bins can be while one table still holds all sums."""
    for factor in (4, 2):
        if binning.sublevels % factor == 0:
            rows = binning.refined(factor).n_bins ** n_candidates * n_channels
            if rows * n_moments(n_candidates) <= DENSE_SUMS:
                return factor
    return 1


class ReferenceSet:
    """Images of a reference set, checked one by one as they are read.

    A sequence is read twice, for the data range and for the statistics. Any other iterable is read once; its
    images are kept in memory if the data range must be measured.
    """

    def __init__(
        self,
        reference: Iterable[tuple[Sequence[Any], Any]],
        names: Sequence[str] | None = None,
        settings: FitSettings | None = None,
        mask: Sequence[Any] | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        self.names, self.settings, self.mask = names, settings or FitSettings(), mask
        self.inputs, self.n_read = inputs, 0
        if mask is not None and not (hasattr(mask, "__len__") and hasattr(mask, "__getitem__")):
            raise EnsembleError(f"mask is {mask!r}; give one mask (or None) per image, in a list.")
        self.pairs: Iterable[tuple[Sequence[Any], Any]]
        if isinstance(reference, Sequence):
            self.pairs = reference
            head = list(islice(reference, 1))
        else:
            try:
                source = iter(reference)
            except TypeError:
                raise EnsembleError(
                    f"the reference set is {reference!r}; give pairs (candidates, ground truth)."
                ) from None
            head = list(islice(source, 1))
            known = self.settings.data_range or (head and self._field(0, head[0]).byte_range)
            self.pairs = chain(head, source) if known else [*head, *source]
        if not head:
            raise EnsembleError("the reference set is empty; give at least one image with ground truth.")
        self.first = self._field(0, head[0])
        if isinstance(self.pairs, Sequence) and mask is not None and len(mask) != len(self.pairs):
            raise EnsembleError(
                f"there are {len(mask)} masks but {len(self.pairs)} images; "
                "give one mask (or None) per image."
            )

    @property
    def n_images(self) -> int | None:
        """Number of images, if known."""
        return len(self.pairs) if isinstance(self.pairs, Sequence) else None

    @property
    def n_pixels(self) -> int | None:
        """Number of pixels of all images, if known.

        If a sequence opens its images one by one, all are assumed to have the size of the first: opening
        thousands of files for the progress alone would take a third of the time of the fit.
        """
        if isinstance(self.pairs, list | tuple):
            return sum(prod(self._field(number, pair).shape) for number, pair in enumerate(self.pairs))
        return len(self.pairs) * prod(self.first.shape) if isinstance(self.pairs, Sequence) else None

    def __iter__(self) -> Iterator[Field]:
        return self.every(0, 1)

    def every(self, start: int, step: int) -> Iterator[Field]:
        """Yield every ``step``-th image from ``start`` on, checked against the first image."""
        numbered: Iterable[tuple[int, Any]] = (
            ((number, self.pairs[number]) for number in range(start, len(self.pairs), step))
            if isinstance(self.pairs, Sequence)
            else enumerate(self.pairs)  # read from the start to the end
        )
        for number, pair in numbered:
            self.n_read = max(self.n_read, number + 1)
            field = self._field(number, pair)
            first = self.first
            if len(field.candidates) != len(first.candidates):
                raise EnsembleError(
                    f"image {number + 1} has {len(field.candidates)} candidates, but image 1 has "
                    f"{len(first.candidates)}; all images need the same candidates."
                )
            if (field.dtype, field.pixel_type) != (first.dtype, first.pixel_type):
                raise EnsembleError(
                    f"image {number + 1} has pixels of dtype {field.dtype}, but image 1 of {first.dtype}; "
                    "convert them to one dtype, on the same intensity scale."
                )
            if field.n_channels != first.n_channels:
                raise EnsembleError(
                    f"image {number + 1} has {field.n_channels} channels, but image 1 has "
                    f"{first.n_channels}; all images need the same channels."
                )
            if self.inputs is not None:
                self.inputs.add(number, field)
            yield field

    def _field(self, number: int, pair: tuple[Sequence[Any], Any]) -> Field:
        try:
            candidates, truth = pair
        except (TypeError, ValueError):
            raise EnsembleError(
                f"image {number + 1} of the reference set is not a pair; give (candidates, ground truth)."
            ) from None
        mask = None
        if self.mask is not None:
            if number >= len(self.mask):
                raise EnsembleError(
                    f"there are {len(self.mask)} masks but more images; give one mask (or None) per image."
                )
            mask = self.mask[number]
        place, axis, planes = f"image {number + 1}: ", self.settings.channel_axis, self.settings.planes
        field = make_field(candidates, truth, names=self.names, channel_axis=axis, mask=mask, place=place)
        return field if planes is None else field.between(*planes, place=place)

    def folds(self, n: int) -> list[Iterable[Field]]:
        """Divide the images into ``n`` folds: whole images if there are enough, else bands of each image.

        Each fold can be iterated repeatedly. Whole images are not kept in memory.
        """
        if not isinstance(self.pairs, Sequence):
            self.pairs = list(self.pairs)
        if len(self.pairs) >= n:
            return [_EveryNth(self, start, n) for start in range(n)]
        folds: list[list[Field]] = [[] for _ in range(n)]
        for number, field in enumerate(self):
            bands = field.bands(n)
            # Images with fewer bands than parts start at different parts, so that no part gets everything.
            first = number if len(bands) < n else 0
            for place, band in enumerate(bands, first):
                folds[place % n].append(band)
        return list(folds)

    def data_range(self, progress: Progress | None) -> tuple[tuple[float, float], str]:
        """Return the data range and its source: "given", "dtype" or "data"."""
        if self.settings.data_range is not None:
            return self.settings.data_range, "given"
        if self.first.byte_range is not None:
            return self.first.byte_range, "dtype"
        spread = self._measure(intensity_histogram, sum_of, progress)
        return robust_range(
            spread, lambda ends: self._measure(partial(finite_range, within=ends), widest, progress)
        ), "data"

    def _measure(
        self,
        measure: Callable[[NDArray[Any]], Result],
        join: Callable[[Sequence[Result]], Result],
        progress: Progress | None,
    ) -> Result:
        """Measure the candidates, and the truth unless it is noisy, of all images, block by block."""
        parts: list[Result] = []

        def report(*_: Any) -> None:
            if progress is not None:
                progress(0, 1, "measuring the data range")

        def blocks() -> Iterator[Callable[[], NDArray[Any]]]:
            for field in self:
                shown = field if self.settings.truth_noise is None else replace(field, truth=None)
                if is_lazy(shown):
                    chunk = partial(_measure_chunk, shown.dtype, measure, join)
                    parts.append(reduce_chunks(shown, chunk, join, report))
                    continue
                for array, slices in product(shown.arrays, block_slices(shown.shape, BLOCK)):
                    yield partial(read_block, array, slices, shown.dtype)

        def done(_: Any, found: Result) -> None:
            parts.append(found)
            if len(parts) > MANY:
                parts[:] = [join(parts)]
            report()

        for_each(blocks(), lambda read: measure(read()), done)
        return join(parts)


class _EveryNth:
    """Every n-th image of a reference set, as an iterable."""

    def __init__(self, fields: ReferenceSet, start: int, n: int) -> None:
        self.fields, self.start, self.n = fields, start, n

    def __iter__(self) -> Iterator[Field]:
        return self.fields.every(self.start, self.n)


def _measure_chunk(
    dtype: np.dtype[Any],
    measure: Callable[[NDArray[Any]], Result],
    join: Callable[[Sequence[Result]], Result],
    arrays: Sequence[NDArray[Any]],
    *_: Any,
) -> Result:
    return join([measure(array.reshape(-1).astype(dtype)) for array in arrays])


class Samples:
    """Sample of the pixels of any number of images, in bounded memory.

    Whenever it grows too large, every other pixel is dropped. The sample does not depend on the order of the
    images.

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
        """Add the pixels of an image."""
        self.parts.append(values[:: self.step])
        self.size += len(self.parts[-1])
        while self.size > MOST_SAMPLES and max(map(len, self.parts)) > 1:
            self.step *= 2
            self.parts = [part[::2].copy() for part in self.parts]
            self.size = sum(map(len, self.parts))

    def all(self) -> NDArray[np.float32]:
        """Return the sample."""
        return np.concatenate(self.parts) if self.parts else np.zeros(0, np.float32)


class Inputs:
    """Description of a reference set's images, collected while they are read.

    Parameters
    ----------
    hash_all
        Hash images of any size; by default at most :data:`HASHED_BYTES` in total.
    """

    def __init__(self, hash_all: bool = False) -> None:
        self.hash_all = hash_all
        self.images: dict[int, dict[str, Any]] = {}
        self.samples: Samples = Samples()
        self.percentiles: dict[int, list[float]] = {}
        self.bytes_seen = 0

    def add(self, number: int, field: Field) -> None:
        """Describe an image, once; the pixels of lazy arrays are not read."""
        if number in self.images:
            return
        in_memory, listed = not is_lazy(field), number < LISTED
        if in_memory:
            sample = sample_pixels(field)
            self.samples.add(sample)
            if listed and (own := compute_percentiles(sample)) is not None:
                self.percentiles[number] = own
        about = {
            "shape": list(field.shape),
            "dtypes": [str(array.dtype).removeprefix("torch.") for array in field.arrays],
            HASH: self._hashed(field) if in_memory and listed else None,
        }
        self.images[number] = about if listed else {}

    def _hashed(self, field: Field) -> list[str] | None:
        self.bytes_seen += prod(field.shape) * sum(dtype_of(array).itemsize for array in field.arrays)
        if not self.hash_all and self.bytes_seen > HASHED_BYTES:
            return None
        # Little-endian bytes in C order, for any kind of array.
        plain = (_flat(array) for array in field.arrays)
        bytes_of = (np.ascontiguousarray(one, one.dtype.newbyteorder("<")).view(np.uint8) for one in plain)
        return [hashlib.new(HASH, one.data).hexdigest() for one in bytes_of]

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain values, for a report."""
        listed = [self.images[number] for number in sorted(self.images)[:LISTED]]
        found: dict[str, Any] = {"images": len(self.images), "listed": listed}
        if any(one[HASH] is None for one in listed):
            found["not_hashed"] = (
                f"lazy images, and images beyond {HASHED_BYTES // 2**20} MB in total; "
                "hash_inputs=True hashes the latter"
            )
        if self.samples.parts:
            found["percentiles"] = compute_percentiles(self.samples.all())
            found["image_percentiles"] = [self.percentiles[number] for number in sorted(self.percentiles)]
        return found


def _flat(array: Any) -> NDArray[Any]:
    """Read all pixels in C order, without a copy where possible."""
    return read_block(array, (slice(None),) * len(array.shape), dtype_of(array))


def sample_pixels(field: Field) -> NDArray[np.float32]:
    """Return the mean of the candidates at evenly spaced pixels; empty for lazy arrays."""
    if is_lazy(field):
        return np.zeros(0, np.float32)
    total = np.zeros((), np.float64)
    for candidate in field.candidates:
        flat = _flat(candidate)
        # An odd step does not stay in one column of an image whose width is a power of two.
        total = total + flat[:: max(1, flat.size // SAMPLES) | 1].astype(np.float64)
    with np.errstate(over="ignore"):  # left out below
        mean: NDArray[np.float32] = (total / len(field.candidates)).astype(np.float32)
    return mean[np.isfinite(mean)]


def compute_percentiles(values: NDArray[Any]) -> list[float] | None:
    """Return the percentiles :data:`PERCENTS` of the finite values; None if there are none.

    Examples
    --------
    >>> compute_percentiles(np.arange(101.0))[4]
    50.0
    """
    finite = values[np.isfinite(values)]
    return [float(value) for value in np.percentile(np.sort(finite), PERCENTS)] if finite.size else None


def name_inputs(inputs: dict[str, Any], names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return a description of images with the names of the inputs, such as files or layers.

    Parameters
    ----------
    inputs
        See :meth:`Inputs.to_dict`.
    names
        For every image, the names of the candidates and, last, of the truth.
    """
    listed = [{"names": list(some), **one} for some, one in zip(names, inputs["listed"], strict=False)]
    return {**inputs, "listed": listed}


def current_versions() -> dict[str, Any]:
    """Return the date and the versions of the packages, for records.

    The date is the day in UTC, so that all results of a day are identical; the environment variable
    ``SOURCE_DATE_EPOCH`` overrides it.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdecimal() else datetime.now(UTC)
    return {"date": now.date().isoformat(), "versions": {name: package_version(name) for name in _PACKAGES}}
