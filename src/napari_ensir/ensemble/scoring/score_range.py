"""Range of intensities whose width is the peak of PSNR and SSIM."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_ensir.ensemble.arrays.blocks import block_slices, dtype_of, is_torch, read_block, working_dtype
from napari_ensir.ensemble.arrays.intensity_range import (
    Histogram,
    byte_range,
    finite_range,
    intensity_histogram,
    robust_range,
    sum_of,
    widest,
)
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.intensity_range import Range
    from napari_ensir.ensemble.statistics.statistics import Statistics


BLOCK = 2**22
"""Number of pixels read at a time."""


@dataclass(frozen=True)
class ScoreRange:
    """Range of intensities whose width is the peak of PSNR and SSIM.

    Attributes
    ----------
    low, high : float
        Intensity units.
    source : "given", "dtype", "truth" or "candidates"
        Where the range comes from.

    Examples
    --------
    >>> print(ScoreRange(100.0, 1999.0, "truth"))
    1899 (from 100 to 1999, the range of the ground truth)
    """

    low: float
    high: float
    source: Literal["given", "dtype", "truth", "candidates"]

    @property
    def peak(self) -> float:
        """Width of the range."""
        return self.high - self.low

    def __str__(self) -> str:
        why = {
            "given": "as given",
            "dtype": "the range of the dtype",
            "truth": "the range of the ground truth",
            "candidates": "the range of the average of the candidates, since the ground truth is noisy",
        }[self.source]
        return f"{self.peak:.6g} (from {self.low:.6g} to {self.high:.6g}, {why})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"peak": self.peak, "data_range": [self.low, self.high], "data_range_from": self.source}


def score_range(truths: Iterable[Any], given: tuple[float, float] | None = None) -> ScoreRange:
    """Find the range for scores from the ground truths of all images.

    The range is that of the dtype for 8 bit, else the shortest range that excludes at most one in ten
    thousand pixels. It is exact for integers of up to 16 bit; otherwise its relative accuracy is 1/2048.

    Parameters
    ----------
    truths : arrays
        Numpy, torch, dask or anything that can be sliced; read in blocks, and again if the first pass is too
        coarse. 8-bit images are not read.
    given : (low, high), optional
        Range to return instead.

    Raises
    ------
    EnsembleError
        If the given range is not two increasing numbers, or the ground truths are constant.

    Examples
    --------
    >>> truth = np.arange(20_000, dtype=np.uint16)
    >>> truth[7] = 65535
    >>> score_range([truth])
    ScoreRange(low=0.0, high=19998.0, source='truth')
    >>> score_range([np.zeros((2, 2), np.uint8)])
    ScoreRange(low=0.0, high=255.0, source='dtype')
    """
    return find_score_range(lambda do: [do(truth) for truth in truths], given)


def find_score_range(
    for_each: Callable[[Callable[[Any], object]], object], given: tuple[float, float] | None = None
) -> ScoreRange:
    """Find the range for scores as :func:`score_range`, from images that are opened one by one.

    Parameters
    ----------
    for_each : callable
        Called with a function, which it calls with each ground truth. If the function fails, nothing of that
        image counts.
    given : (low, high), optional
    """
    dtypes: list[np.dtype[Any]] = []
    if given is None:
        for_each(lambda truth: dtypes.append(dtype_of(truth) if is_torch(truth) else np.dtype(truth.dtype)))
    known = known_range(dtypes, given)
    if known is not None:
        return known
    dtype = working_dtype(dtypes)

    def measure(work: Callable[[NDArray[Any]], Any], join: Callable[[Sequence[Any]], Any]) -> Any:
        found: list[Any] = []

        def add(truth: Any) -> None:
            blocks = (read_block(truth, slices, dtype) for slices in block_slices(truth.shape, BLOCK))
            found[:] = [join([*found, *map(work, blocks)])]

        for_each(add)
        return found[0] if found else None

    return _range_of_truth(
        measure(intensity_histogram, sum_of), lambda ends: measure(partial(finite_range, within=ends), widest)
    )


def score_range_of(
    statistics: Sequence[Statistics], dtype: np.dtype[Any], given: tuple[float, float] | None = None
) -> ScoreRange:
    """Find the range for scores from the statistics of a fit, without reading images.

    The range is exact for integers of up to 16 bit; otherwise its accuracy is one level of the binning.

    Parameters
    ----------
    statistics : sequence of Statistics
        With equal binning; together they should cover the whole ground truth.
    dtype
        Dtype of the ground truth.
    given : (low, high), optional

    Raises
    ------
    EnsembleError
        As :func:`score_range`.

    Examples
    --------
    >>> from napari_ensir.ensemble.statistics.reference import collect_reference
    >>> truth = np.arange(5000, dtype=np.uint16).reshape(50, 100)
    >>> counted = collect_reference([((truth // 2, truth // 3), truth)], device="cpu").statistics
    >>> score_range_of([counted], truth.dtype) == score_range([truth])
    True
    """
    known = known_range([np.dtype(dtype)], given)
    if known is not None:
        return known
    levels, place = np.unique(np.concatenate([one.levels for one in statistics]), return_inverse=True)
    weights = np.concatenate([one.level_counts for one in statistics])
    counts = np.bincount(place, weights, minlength=len(levels)).astype(np.int64)
    ends = (float(levels[0]), float(levels[-1])) if len(levels) else (np.inf, -np.inf)
    in_levels = _range_of_truth(Histogram(True, levels, counts, ends), lambda within: within)
    low, high = statistics[0].binning.intensities(np.array([in_levels.low, in_levels.high], np.int64))
    return ScoreRange(float(low), float(high), "truth")


def known_range(dtypes: Sequence[np.dtype[Any]], given: tuple[float, float] | None) -> ScoreRange | None:
    """Return the given range, or that of an 8-bit dtype; None if the range depends on the pixels."""
    if given is not None:
        try:
            low, high = (float(edge) for edge in given)
        except (TypeError, ValueError):
            low = high = float("nan")
        if not (np.isfinite([low, high]).all() and low < high):
            raise EnsembleError(f"data_range is {given!r}; give two finite, increasing numbers (low, high).")
        return ScoreRange(low, high, "given")
    limits = byte_range(dtypes)
    return None if limits is None else ScoreRange(*limits, "dtype")


def _range_of_truth(spread: Histogram | None, ends_within: Callable[[Range], Range]) -> ScoreRange:
    if spread is None or not len(spread.cells) or spread.ends[0] == spread.ends[1]:
        known = spread is not None and len(spread.cells)
        problem = "is constant" if known else "has no finite pixel"
        raise EnsembleError(f"the ground truth {problem}, so PSNR has no peak; give the data range.")
    low, high = robust_range(spread, ends_within)
    return ScoreRange(low, high, "truth")
