"""Expected error of an ensemble at each pixel, by its intensity and the spread of the candidates.

The spread (standard deviation over the candidates at a pixel) says how much they disagree. How large an error
goes with a given spread depends on the intensity, the channel and the restorers, and is measured on images
held out from a reference set. Where all candidates agree on a wrong value, the error is not visible to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.blocks import is_dask, is_torch
from napari_ensir.ensemble.arrays.image_set import Field
from napari_ensir.ensemble.arrays.parallel import running_progress
from napari_ensir.ensemble.combine.combine import combine_field, map_chunks
from napari_ensir.ensemble.engines import choose_engine
from napari_ensir.ensemble.statistics.student_t import student_t_quantile
from napari_ensir.ensemble.uncertainty.measure import (
    INTENSITIES,
    SPREADS,
    STEPS,
    add_sums,
    class_grid,
    find_channels,
    find_classes,
    flatten,
    for_each_band,
    read_field,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.combine.lookup import Lookup
    from napari_ensir.ensemble.uncertainty.measure import ErrorSums

TRUSTS = (50.0, 1e3, 1e4, 1e5, 1e6, 1e12)
"""Values of :attr:`ErrorTable.trust` to choose from; the last ignores the intensity."""

GLOBAL_TRUST = 1000
"""Pixels' worth of trust in the error over all pixels, for spreads that few pixels have."""

MIN_NOISE_PIXELS, NOISE_SHARE = 1000, 0.8
"""The truth's noise is reported as lower than given where at least this many pixels have a mean squared error
below this share of its variance: of 1000 Gaussian squares, the mean has a standard error of 4.5 %."""

COVERAGE = 0.9
"""Share of new images whose errors shall lie within the error factor."""


@dataclass(frozen=True, eq=False)
class ErrorTable:
    """Squared errors of an ensemble on held-out pixels, by channel, intensity and spread.

    Attributes
    ----------
    low, high : float
        Data range in intensity units.
    squares : (C, INTENSITIES, SPREADS) int64
        Sums of squared errors, in squared steps.
    counts : (C, INTENSITIES, SPREADS) int64
        Pixels.
    noise : float
        Standard deviation of the ground truth's noise, in intensity units; its variance is subtracted.
    trust : float
        Shrinkage, in pixels, of each class toward the mean squared error of its spread at any intensity.
    """

    low: float
    high: float
    squares: NDArray[np.int64]
    counts: NDArray[np.int64]
    noise: float = 0.0
    trust: float = TRUSTS[1]

    @property
    def step(self) -> float:
        """Intensity units per step."""
        return (self.high - self.low) / STEPS

    @cached_property
    def rmse(self) -> NDArray[np.float32]:
        """Expected root mean square error by class, (C, INTENSITIES, SPREADS), in intensity units."""
        mean = _shrink(self.squares, self.counts, self.trust)
        # Noise of the truth adds the same everywhere; nothing is smaller than the rounding to whole steps.
        clean = np.maximum(mean * self.step**2 - self.noise**2, self.step**2 / 12)
        found: NDArray[np.float32] = np.sqrt(clean).astype(np.float32)
        return found

    @property
    def overall(self) -> float:
        """Root mean square error over all pixels counted, in intensity units."""
        mean = self.squares.sum() / max(1, self.counts.sum()) * self.step**2
        return float(np.sqrt(max(mean - self.noise**2, 0.0)))

    @property
    def low_noise_range(self) -> tuple[float, float] | None:
        """Range of intensities at which the truth is clearly less noisy than given, or None."""
        counts = self.counts.sum((0, 2))
        mean = self.squares.sum((0, 2)) / np.maximum(counts, 1) * self.step**2
        places = np.flatnonzero((counts >= MIN_NOISE_PIXELS) & (mean < NOISE_SHARE * self.noise**2))
        if not places.size:
            return None
        width = (self.high - self.low) / INTENSITIES
        return self.low + width * float(places[0]), self.low + width * float(places[-1] + 1)

    def predict(
        self, ensemble: NDArray[np.float32], candidates: Sequence[NDArray[Any]], axis: int | None
    ) -> NDArray[np.float32]:
        """Expected root mean square error at each pixel; NaN where the ensemble is not finite.

        Parameters
        ----------
        ensemble : float32 array
        candidates : M arrays of its shape
        axis : int or None
            Channel axis; None where channels are pooled.
        """
        block = flatten(ensemble, Field(tuple(candidates), None, None, axis), None)
        if choose_engine("look_up_errors", block.candidates.dtype, block.candidates.size) != "compiled":
            place = find_channels(block) * INTENSITIES * SPREADS
            place += find_classes(block.candidates, block.ensemble, self.low, self.high)
            error = self.rmse.reshape(-1)[place]
            return np.where(np.isfinite(block.ensemble), error, np.float32(np.nan)).reshape(ensemble.shape)
        from napari_ensir.ensemble import kernels

        out = np.empty(ensemble.shape, np.float32)
        grid = class_grid(self.low, self.high)
        table = self.rmse.reshape(-1)
        kernels.look_up_errors(
            block.ensemble, block.candidates, block.channels, grid, SPREADS, table, out.reshape(-1)
        )
        return out

    def at(self, ensemble: float, intensities: Sequence[float], channel: int = 0) -> float:
        """Expected root mean square error at one pixel, in intensity units.

        Parameters
        ----------
        ensemble
            Intensity of the ensemble.
        intensities : M numbers
            Intensities of the candidates.
        channel
            0 where channels are pooled.
        """
        # Channels along the second axis; each gets the same intensities.
        shape = (1, len(self.counts))
        candidates = [np.full(shape, one, np.float32) for one in intensities]
        return float(self.predict(np.full(shape, ensemble, np.float32), candidates, 1)[0, channel])


def _shrink(
    squares: NDArray[np.number[Any]], counts: NDArray[np.number[Any]], trust: float
) -> NDArray[np.float64]:
    """Mean squared error by class, shrunk toward that of its spread at any intensity."""
    overall = squares.sum() / max(1, counts.sum())
    by_spread = (squares.sum((0, 1)) + GLOBAL_TRUST * overall) / (counts.sum((0, 1)) + GLOBAL_TRUST)
    found: NDArray[np.float64] = (squares + trust * by_spread) / (counts + trust)
    return found


def fit_error_table(parts: Sequence[ErrorSums], noise: float = 0.0) -> ErrorTable:
    """Make the table of all parts, with the trust that predicts each part best from the others.

    The criterion is the likelihood of Gaussian errors: the mean over pixels of ``log m + e^2 / m`` for the
    predicted mean squared error ``m``.

    Parameters
    ----------
    parts
        Sums over the parts of a reference set, each measured with weights learned from the others.
    noise
        Standard deviation of the ground truth's noise, in intensity units.
    """
    total = add_sums(parts)
    held_out = [(total.squares - part.squares, total.counts - part.counts, part) for part in parts]
    losses = []
    for trust in TRUSTS:
        loss = 0.0
        for squares, counts, part in held_out:
            mean = np.maximum(_shrink(squares, counts, trust), 1 / 12)
            loss += float((part.counts * np.log(mean) + part.squares / mean).sum())
        losses.append(loss)
    trust = TRUSTS[int(np.argmin(losses))]
    return ErrorTable(total.low, total.high, total.squares, total.counts, noise, trust)


def estimate_error_factor(table: ErrorTable, images: Sequence[ErrorSums]) -> float | None:
    """Estimate how far expected errors may be off on new images like those of the reference set.

    Each image is left out in turn, and its root mean square error is compared with the one that a table of
    the other images predicts for it. The logarithms of these ratios are taken as Gaussian.

    Parameters
    ----------
    table
        Table of all images.
    images
        Sums over each image.

    Returns
    -------
    float or None
        On about 90 % of new images, the ratio of actual to expected overall error lies between ``1 / factor``
        and ``factor``: the prediction interval of Student's t distribution. None for fewer than two images.
    """
    found = [image for image in images if image.counts.any()]
    n = len(found)
    if n < 2:
        return None
    total = add_sums(found)
    logs = np.empty(n)
    for place, image in enumerate(found):
        others = replace(table, squares=total.squares - image.squares, counts=total.counts - image.counts)
        pixels = image.counts.sum()
        expected = (image.counts * others.rmse.astype(np.float64) ** 2).sum() / pixels
        actual = image.squares.sum() / pixels * table.step**2 - table.noise**2
        logs[place] = 0.5 * np.log(max(actual, table.step**2 / 12) / expected)
    # A ratio to the other n - 1 images varies by n / (n - 1) more than an image about the mean of all n.
    deviation = np.sqrt((logs**2).sum() * (n - 1)) / n
    return float(np.exp(student_t_quantile(n - 1, (1 + COVERAGE) / 2) * deviation * np.sqrt(1 + 1 / n)))


def map_expected_error(
    table: ErrorTable,
    lookup: Lookup,
    field: Field,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> Any:
    """Expected root mean square error at each pixel of an ensemble.

    Returns
    -------
    float32 array of the field's shape
        In intensity units; NaN where a candidate is NaN. Dask arrays give a lazy dask array, torch tensors a
        tensor.
    """
    if any(is_dask(candidate) for candidate in field.candidates):

        def block(*parts: NDArray[Any]) -> NDArray[np.float32]:
            part = Field(parts, None, None, field.channel_axis)
            return np.asarray(map_expected_error(table, lookup, part, device))

        return map_chunks(field, block)
    result = np.empty(field.shape, np.float32)
    report = running_progress(progress, prod(field.shape), "expected error")

    def work(band: Field) -> None:
        part = read_field(replace(band, truth=None))
        ensemble = np.asarray(combine_field(lookup, part, device, as_maps=False))
        band.truth[...] = table.predict(ensemble, part.candidates, field.channel_axis)

    # As the field's truth, the result is cut into the same bands as the candidates.
    for_each_band(
        Field(field.candidates, result, None, field.channel_axis),
        device,
        work,
        lambda band, _: report(prod(band.shape)),
    )
    if all(is_torch(candidate) for candidate in field.candidates):
        import torch

        return torch.from_numpy(result).to(field.candidates[0].device)
    return result
