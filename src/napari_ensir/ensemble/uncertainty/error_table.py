"""How far off an ensemble is likely to be at each pixel: a second, small table. Estimates no weights.

    images held out --errors of their ensemble--> sums by intensity and spread --shrunk--> RMSE to expect

The spread of the candidates at a pixel (their standard deviation) says how much they disagree, which is most
of what can be known of the error without the truth; how much a given spread means depends on the intensity,
the channel and the restorers, and that is learned from a reference set. Where all candidates agree on
something false, it is blind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.blocks import is_dask, is_torch
from napari_ensir.ensemble.arrays.image_set import Field
from napari_ensir.ensemble.arrays.parallel import for_each
from napari_ensir.ensemble.combine.combine import combine_field, map_chunks
from napari_ensir.ensemble.engines import compiled_loops
from napari_ensir.ensemble.uncertainty.measure import bands, flattened, in_memory, sum_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.combine.lookup import Lookup

__all__ = [
    "MOST",
    "STEPS",
    "ErrorScale",
    "ErrorTable",
    "expected_error_of",
    "first_of_channel",
    "where_known",
    "with_best_trust",
]


STEPS = 16 * 255
"""Steps of the data range that errors are counted in."""

MOST = 4 * STEPS
"""Beyond four ranges an error is as large as it can be said to be; sums of squares stay within 53 bits."""


@dataclass(frozen=True, eq=False)
class ErrorScale:
    """A data range, in steps and in classes.

    Attributes
    ----------
    low, high : float
        Its ends, in intensity units.
    """

    low: float
    high: float

    @property
    def step(self) -> float:
        """Intensity units per step."""
        return (self.high - self.low) / STEPS

    def levels(self, values: NDArray[Any], truth: NDArray[np.float64]) -> NDArray[np.float64]:
        """The errors of values, in whole steps, at most :data:`MOST`.

        Parameters
        ----------
        values, truth : arrays of one shape, finite
            Intensity units.
        """
        found: NDArray[np.float64] = np.rint(np.clip((values - truth) / self.step, -MOST, MOST))
        return found

    def classes_of(self, values: NDArray[np.floating[Any]], n_classes: int) -> NDArray[np.int32]:
        """Which of so many classes of intensity values fall in; those beyond the range in the outermost.

        Parameters
        ----------
        values : floating-point array, not NaN
            Intensity units.
        n_classes : int
        """
        place = (values - self.low) * values.dtype.type(n_classes / (self.high - self.low))
        classes: NDArray[np.int32] = np.clip(place, 0, n_classes - 1).astype(np.int32)
        return classes


def where_known(
    ensemble: NDArray[np.float32], truth: NDArray[np.float64], keep: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Where an ensemble's error can be counted: both are finite, and nobody said to leave the pixel out.

    Parameters
    ----------
    ensemble, truth : arrays of one shape
    keep : bool array of that shape, optional
        Where to look; None: everywhere.
    """
    good: NDArray[np.bool_] = np.isfinite(ensemble) & np.isfinite(truth)
    return good if keep is None else good & keep


def first_of_channel(
    shape: tuple[int, ...], axis: int | None, n_channels: int, per_channel: int
) -> NDArray[np.int32]:
    """Where each pixel's channel begins in flattened sums.

    Parameters
    ----------
    shape
        Of the image.
    axis
        Its channel axis; None: channels are pooled.
    n_channels
        Along it; 1 where they are pooled.
    per_channel
        Classes of each.

    Returns
    -------
    (*shape,) int32
        Not to be written to.
    """
    along = [1] * len(shape)
    if axis is not None:
        along[axis] = n_channels
    first = np.arange(n_channels, dtype=np.int32) * np.int32(per_channel)
    return np.broadcast_to(first.reshape(along), shape)


INTENSITIES = 16
"""Intensity classes of the ensemble, over the data range."""

SPREADS = 20
"""Classes of the candidates' spread, two for each doubling."""

TRUST_IN_WHOLE = 1000
"""Pixels' worth of trust in the error of the whole reference set, for spreads that few pixels show."""

TRUSTS = (50.0, 1e3, 1e4, 1e5, 1e6, 1e12)
"""Pixels' worth of trust, to choose from, in what a spread means at any intensity; the last: that alone."""


ENOUGH, CLEARLY = 1000, 0.8
"""So many squares of Gaussian noise have a mean within 4.5 % of its variance, one standard deviation;
with neighbours alike, less surely. A mean below that share of the variance told is of less noise."""


_EDGES = np.exp2((np.arange(1, SPREADS) - 4) / 2).astype(np.float32)
"""Where the classes of spread but the first begin, in units and a quarter above the spread: the floor of
``2 log2(spread + 1/4)`` rises there."""


@dataclass(frozen=True, eq=False)
class ErrorTable(ErrorScale):
    """Squared errors of an ensemble on pixels that its weights were not learned from, summed in classes.

    Attributes
    ----------
    low, high : float
        Data range in intensity units.
    squares : (C, INTENSITIES, SPREADS) int64
        Sums of squared errors, in squared steps.
    counts : (C, INTENSITIES, SPREADS) int64
        Pixels.
    noise : float
        Standard deviation of the noise that the truth carried, in intensity units; its variance is taken off.
    trust : float
        Pixels' worth of trust in what a spread means at any intensity, against what it means at each: much
        where images differ, as parts of the reference set held out have shown.
    """

    squares: NDArray[np.int64]
    counts: NDArray[np.int64]
    noise: float = 0.0
    trust: float = TRUSTS[1]

    @classmethod
    def empty(cls, low: float, high: float, n_channels: int, noise: float = 0.0) -> ErrorTable:
        """The table of no pixels."""
        shape = (n_channels, INTENSITIES, SPREADS)
        return cls(low, high, np.zeros(shape, np.int64), np.zeros(shape, np.int64), noise)

    def __add__(self, other: ErrorTable) -> ErrorTable:
        squares, counts = self.squares + other.squares, self.counts + other.counts
        return replace(self, squares=squares, counts=counts)

    @property
    def unit(self) -> float:
        """What the candidates' spread is counted in, in intensity units."""
        return (self.high - self.low) / 255

    @cached_property
    def rmse(self) -> NDArray[np.float32]:
        """Root mean square error to expect, by class, in intensity units."""
        mean = _shrunk(self.squares, self.counts, self.trust)
        # What a noisy truth adds is the same everywhere. What is left cannot be less than the grid resolves.
        clean = np.maximum(mean * self.step**2 - self.noise**2, self.step**2 / 12)
        found: NDArray[np.float32] = np.sqrt(clean).astype(np.float32)
        return found

    @property
    def overall(self) -> float:
        """Root mean square error over all pixels counted, in intensity units."""
        mean = self.squares.sum() / max(1, self.counts.sum()) * self.step**2
        return float(np.sqrt(max(mean - self.noise**2, 0.0)))

    @property
    def quieter(self) -> tuple[float, float] | None:
        """Intensities, least and greatest, at which the truth's noise is clearly less than was told.

        For the squared differences there are less than its variance, over :data:`ENOUGH` pixels and more.
        None where there are no such intensities.
        """
        counts = self.counts.sum((0, 2))
        mean = self.squares.sum((0, 2)) / np.maximum(counts, 1) * self.step**2
        places = np.flatnonzero((counts >= ENOUGH) & (mean < CLEARLY * self.noise**2))
        if not places.size:
            return None
        width = (self.high - self.low) / INTENSITIES
        return self.low + width * float(places[0]), self.low + width * float(places[-1] + 1)

    def classes(
        self, ensemble: NDArray[np.float32], candidates: Sequence[NDArray[Any]], axis: int | None
    ) -> NDArray[np.int32]:
        """The class of each pixel: a place in the flattened sums.

        Parameters
        ----------
        ensemble : float32 array, not NaN
        candidates : M arrays of its shape
        axis : int or None
            The channel axis.
        """
        key = self.classes_of(ensemble, INTENSITIES)
        key *= SPREADS
        spread = np.sqrt(_variance(candidates)) / np.float32(self.unit)
        # Where a candidate is not a number any class is right: such pixels are left out by whoever asked.
        key += np.searchsorted(_EDGES, spread + np.float32(0.25), side="right").astype(np.int32)
        n_channels = 1 if axis is None else ensemble.shape[axis]
        key += first_of_channel(ensemble.shape, axis, n_channels, INTENSITIES * SPREADS)
        return key

    @property
    def _grid(self) -> NDArray[np.float32]:
        """For the compiled loops: the classes of intensity, and the unit of spread."""
        return np.array([self.low, INTENSITIES / (self.high - self.low), INTENSITIES, self.unit], np.float32)

    def looked_up(
        self, ensemble: NDArray[np.float32], candidates: Sequence[NDArray[Any]], axis: int | None
    ) -> NDArray[np.float32]:
        """The root mean square error to expect at each pixel; NaN where the ensemble is not finite.

        Parameters
        ----------
        ensemble, candidates, axis
            As for :meth:`classes`.
        """
        loops = compiled_loops()
        if loops is None:
            good = np.isfinite(ensemble)
            key = self.classes(np.where(good, ensemble, 0), candidates, axis)
            return np.where(good, self.rmse.reshape(-1)[key], np.float32(np.nan))
        flat = flattened(ensemble, Field(tuple(candidates), None, None, axis), None)
        out = np.empty(ensemble.size, np.float32)
        errors = np.ascontiguousarray(self.rmse, np.float32).reshape(-1)
        loops.look_up_errors(flat.candidates, flat.ensemble, flat.channels, self._grid, SPREADS, errors, out)
        return out.reshape(ensemble.shape)

    def at(self, ensemble: float, intensities: Sequence[float], channel: int = 0) -> float:
        """The root mean square error to expect at one pixel, in intensity units.

        Parameters
        ----------
        ensemble
            Its intensity there.
        intensities : M numbers
            The candidates'.
        channel
            Which channel's; 0 where channels are pooled.
        """
        parts = [np.array([one], np.float32) for one in intensities]
        key = int(self.classes(np.array([ensemble], np.float32), parts, None)[0])
        return float(self.rmse[channel].reshape(-1)[key])

    def counted(
        self, ensemble: NDArray[np.float32], field: Field, keep: NDArray[np.bool_] | None
    ) -> ErrorTable:
        """The sums of one block, whose arrays are in memory.

        Parameters
        ----------
        ensemble
            Of the block.
        field
            The block; its truth is known.
        keep
            Where to look; None: everywhere. Pixels that are not finite never count.
        """
        loops = compiled_loops()
        if loops is not None:
            sums = np.zeros((2, self.counts.size), np.int64)
            flat = flattened(ensemble, field, keep)
            loops.count_errors(*flat, self._grid, SPREADS, self.step, float(MOST), sums[0], sums[1])
            squares, counts = sums.reshape(2, *self.counts.shape)
            return replace(self, squares=squares, counts=counts)
        truth = np.asarray(field.truth, np.float64)
        good = where_known(ensemble, truth, keep)
        key = self.classes(np.where(good, ensemble, 0), field.candidates, field.channel_axis)[good]
        level = self.levels(ensemble[good], truth[good])
        size = self.counts.size
        squares = np.bincount(key, level * level, size).astype(np.int64).reshape(self.counts.shape)
        counts = np.bincount(key, minlength=size).reshape(self.counts.shape)
        return replace(self, squares=squares, counts=counts.astype(np.int64))


def _shrunk(
    squares: NDArray[np.number[Any]], counts: NDArray[np.number[Any]], trust: float
) -> NDArray[np.float64]:
    """Mean squared errors by class, those of few pixels drawn to their spread's at any intensity."""
    whole = squares.sum() / max(1, counts.sum())
    by_spread = (squares.sum((0, 1)) + TRUST_IN_WHOLE * whole) / (counts.sum((0, 1)) + TRUST_IN_WHOLE)
    found: NDArray[np.float64] = (squares + trust * by_spread) / (counts + trust)
    return found


def with_best_trust(parts: Sequence[ErrorTable]) -> ErrorTable:
    """The sum of parts, with the trust by which each part is predicted best from the others.

    Best is the likelihood of Gaussian errors: the mean over pixels of log m + e^2 / m with m predicted.
    """
    total = sum_of(parts)
    held_out = [(total.squares - part.squares, total.counts - part.counts, part) for part in parts]
    likelihoods = []
    for trust in TRUSTS:
        loss = 0.0
        for squares, counts, part in held_out:
            mean = np.maximum(_shrunk(squares, counts, trust), 1 / 12)
            loss += float((part.counts * np.log(mean) + part.squares / mean).sum())
        likelihoods.append(loss)
    return replace(total, trust=TRUSTS[int(np.argmin(likelihoods))])


def _variance(candidates: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Variance over the candidates at each pixel."""
    first = np.asarray(candidates[0], np.float32)
    # About the first candidate, so that large intensities of small spread lose nothing.
    total, squares = np.zeros_like(first), np.zeros_like(first)
    for candidate in candidates[1:]:
        above = np.asarray(candidate, np.float32) - first
        total += above
        squares += above * above
    n = np.float32(len(candidates))
    total /= n
    squares /= n
    squares -= total * total
    return np.maximum(squares, 0, out=squares)


def expected_error_of(
    table: ErrorTable,
    lookup: Lookup,
    field: Field,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> Any:
    """The root mean square error to expect at each pixel of an ensemble.

    Returns
    -------
    float32 array of the field's shape
        In intensity units; NaN where a candidate is NaN. Dask arrays in, a dask array out, nothing computed;
        torch tensors in, a tensor out.
    """
    if any(is_dask(candidate) for candidate in field.candidates):
        return _expected_dask(table, lookup, field, device)
    result = np.empty(field.shape, np.float32)
    total, finished = prod(field.shape), 0

    def work(pair: tuple[Field, Field]) -> None:
        part = in_memory(pair[0])
        ensemble = np.asarray(combine_field(lookup, part, device, as_maps=False))
        pair[1].candidates[0][...] = table.looked_up(ensemble, part.candidates, field.channel_axis)

    def done(pair: tuple[Field, Field]) -> None:
        nonlocal finished
        finished += prod(pair[0].shape)
        if progress is not None:
            progress(finished, total, "expected error")

    places = bands(_places(result, field.channel_axis), device)
    alone = compiled_loops() is None or resolve_device(device).type != "cpu"
    for_each(zip(bands(field, device), places, strict=True), work, done, threads=1 if alone else None)
    if all(is_torch(candidate) for candidate in field.candidates):
        import torch

        return torch.from_numpy(result).to(field.candidates[0].device)
    return result


def _places(result: NDArray[np.float32], axis: int | None) -> Field:
    """The result as a field, to be cut as the candidates are."""
    return Field((result,), None, None, axis)


def _expected_dask(table: ErrorTable, lookup: Lookup, field: Field, device: str | torch.device) -> Any:
    def block(*parts: NDArray[Any]) -> NDArray[np.float32]:
        part = Field(parts, None, None, field.channel_axis)
        found: NDArray[np.float32] = expected_error_of(table, lookup, part, device)
        return found

    return map_chunks(field, block)
