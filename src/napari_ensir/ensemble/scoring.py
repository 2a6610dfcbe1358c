"""Scores of whole images, as papers report them: on which scale, as RGB or Y, on which pixels. Clips nothing.

A candidate's score depends on it and the ground truth alone. PSNR and SSIM need a *peak*, the width of a
range of intensities: the one given, else that of the ground truth's dtype where it has 8 bit, else what the
ground truths show, all but one in ten thousand of their pixels (:func:`score_range`, as for bins). Images are
scored as they are: a candidate that overshoots is not helped by clipping it, and an ensemble, a mean of
candidates, needs none. All images of one field are scored on the same pixels: those that are finite in every
one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from napari_ensir.ensemble.arrays import block_slices, dtype_of, read_block, working_dtype
from napari_ensir.ensemble.data_range import Spread, ends_of, robust_range, spread_of, sum_of, widest
from napari_ensir.ensemble.metrics import luma, psnr, ssim
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.data_range import Ends
    from napari_ensir.ensemble.statistics import Statistics

    Image = NDArray[Any]
    Slices = tuple[slice, ...]

__all__ = [
    "Score",
    "ScoreRange",
    "Scoring",
    "TruthRange",
    "finite_everywhere",
    "known_range",
    "left_out",
    "score_range",
    "score_range_of",
]

BLOCK = 2**22
"""Pixels that are looked at together."""


@dataclass(frozen=True)
class ScoreRange:
    """The range of intensities whose width is the peak of PSNR and SSIM.

    Attributes
    ----------
    low, high : float
        Intensity units.
    source : "given", "dtype", "truth" or "candidates"
        Where it came from.

    Examples
    --------
    >>> print(ScoreRange(100.0, 1999.0, "truth"))
    1899, from 100 to 1999, which is what the ground truth shows
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
            "dtype": "the range of the ground truth's dtype",
            "truth": "which is what the ground truth shows",
            "candidates": "which is what the average of the candidates shows, the ground truth being noisy",
        }[self.source]
        return f"{self.peak:.6g}, from {self.low:.6g} to {self.high:.6g}, {why}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"peak": self.peak, "data_range": [self.low, self.high], "data_range_from": self.source}


def score_range(truths: Sequence[Any], given: tuple[float, float] | None = None) -> ScoreRange:
    """The range to score by, from the ground truths of all images together.

    Where pixels count, it is the shortest that leaves out no more than one in ten thousand, as for bins
    (``data_range.py``): exact for integers of up to 16 bit, else to 1/2048 of its ends.

    Parameters
    ----------
    truths : arrays
        Numpy, torch, dask or anything that can be sliced; read in blocks, one after the other. What has 8 bit
        is not read.
    given : (low, high), optional
        Taken as it is.

    Raises
    ------
    EnsembleError
        If the range given does not rise, or the truths show one intensity at most.

    Examples
    --------
    >>> truth = np.arange(20_000, dtype=np.uint16)
    >>> truth[7] = 65535
    >>> score_range([truth])
    ScoreRange(low=0.0, high=19998.0, source='truth')
    >>> score_range([np.zeros((2, 2), np.uint8)])
    ScoreRange(low=0.0, high=255.0, source='dtype')
    """
    dtypes = [dtype_of(truth) for truth in truths]
    known = known_range(dtypes, given)
    if known is not None:
        return known
    shown = TruthRange(dtypes)
    for truth in truths:
        shown.add(truth)
    return shown.found(lambda ends: widest([shown.ends(truth, ends) for truth in truths]))


class TruthRange:
    """What ground truths show, one after the other.

    Parameters
    ----------
    dtypes
        Of all that will be added.
    """

    def __init__(self, dtypes: Sequence[np.dtype[Any]]) -> None:
        self.dtype = working_dtype(dtypes)
        self.spread: Spread | None = None

    def add(self, truth: Any) -> None:
        """Read an image in blocks; what raises in between leaves no trace."""
        parts = [] if self.spread is None else [self.spread]
        self.spread = sum_of([*parts, *(spread_of(block) for block in self._blocks(truth))])

    def ends(self, truth: Any, within: Ends) -> Ends:
        """Least and greatest intensity of an image, of those within others."""
        return widest([ends_of(block, within) for block in self._blocks(truth)])

    def found(self, ends_within: Callable[[Ends], Ends]) -> ScoreRange:
        """The range of all that was added.

        Parameters
        ----------
        ends_within
            :meth:`ends` of all of them; asked only where the first look was too coarse.

        Raises
        ------
        EnsembleError
            If there is one intensity at most.
        """
        return _range_of_truth(self.spread, ends_within)

    def _blocks(self, truth: Any) -> Iterator[NDArray[Any]]:
        for slices in block_slices(truth.shape, BLOCK):
            yield read_block(truth, slices, self.dtype)


def score_range_of(
    statistics: Sequence[Statistics], dtype: np.dtype[Any], given: tuple[float, float] | None = None
) -> ScoreRange:
    """The same from what a fit has counted, without reading a pixel.

    Exact for integers of up to 16 bit; for others to one level of the binning.

    Parameters
    ----------
    statistics : sequence of Statistics
        Of one binning; those of pixels held out as well, so that the truth is all there.
    dtype
        The ground truth's.
    given : (low, high), optional

    Raises
    ------
    EnsembleError
        As :func:`score_range`.

    Examples
    --------
    >>> from napari_ensir.ensemble.reference import collect_reference
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
    in_levels = _range_of_truth(Spread(True, levels, counts, ends), lambda within: within)
    low, high = statistics[0].binning.intensities(np.array([in_levels.low, in_levels.high], np.int64))
    return ScoreRange(float(low), float(high), "truth")


def known_range(dtypes: Sequence[np.dtype[Any]], given: tuple[float, float] | None) -> ScoreRange | None:
    """The range that needs no pixel: as given, or that of 8 bit."""
    if given is not None:
        try:
            low, high = (float(edge) for edge in given)
        except (TypeError, ValueError):
            low = high = float("nan")
        if not (np.isfinite([low, high]).all() and low < high):
            raise EnsembleError(f"data_range is {given!r}; give two finite numbers that rise, (low, high).")
        return ScoreRange(low, high, "given")
    if all(dtype.kind in "iu" and dtype.itemsize == 1 for dtype in dtypes):
        limits = np.iinfo(dtypes[0])
        return ScoreRange(float(limits.min), float(limits.max), "dtype")
    return None


def _range_of_truth(spread: Spread | None, ends_within: Callable[[Ends], Ends]) -> ScoreRange:
    if spread is None or not len(spread.cells) or spread.ends[0] == spread.ends[1]:
        known = spread is not None and len(spread.cells)
        shown = "of one intensity" if known else "finite nowhere"
        raise EnsembleError(f"the ground truth is {shown}, which gives PSNR no peak; give the data range.")
    low, high = robust_range(spread, ends_within)
    return ScoreRange(low, high, "truth")


class Score(NamedTuple):
    """How close an image is to the ground truth.

    Attributes
    ----------
    psnr : float
        dB.
    ssim : float
        NaN where images are too small for its window, or no window is free of pixels left out.
    """

    psnr: float
    ssim: float


def finite_everywhere(arrays: Sequence[Image]) -> NDArray[np.bool_]:
    """Where every one of some arrays of one shape is finite.

    Raises
    ------
    EnsembleError
        If that is nowhere.
    """
    finite: NDArray[np.bool_] = np.ones(arrays[0].shape, bool)
    for array in arrays:
        if array.dtype.kind not in "iu":
            finite &= np.isfinite(array)
    if not finite.any():
        raise EnsembleError(
            "no pixel is finite in every candidate and the ground truth; there is nothing to score."
        )
    return finite


def left_out(n: int) -> list[str]:
    """What to say of pixels that are not scored: one sentence, or none.

    Examples
    --------
    >>> left_out(0), left_out(1)
    ([], ['1 pixel is NaN or infinite in a candidate or the ground truth; nothing is scored there.'])
    """
    are = "pixel is" if n == 1 else "pixels are"
    return (
        [f"{n:,} {are} NaN or infinite in a candidate or the ground truth; nothing is scored there."]
        if n
        else []
    )


@dataclass(frozen=True)
class Scoring:
    """How images are scored: by which peak, as RGB or Y, without which border. Nothing is clipped.

    Attributes
    ----------
    data_range : (low, high)
        Its width is the peak; for Y it becomes 0 to 255.
    y_channel : bool
        Score Y of BT.601 on 0 to 255 instead of the channels.
    crop_border : int
        Pixels left out at each edge of the last two spatial axes.
    channel_axis : int or None
        None: the last axis, where it has three places and is the third or a later one.

    Examples
    --------
    >>> truth = np.zeros((2, 3))
    >>> near, far = truth + 25.5, np.where(np.arange(3) == 1, np.nan, 255.0) + truth
    >>> [round(score.psnr) for score in Scoring((0, 255)).of_all(truth, [near, far])]
    [20, 0]
    """

    data_range: tuple[float, float]
    y_channel: bool = False
    crop_border: int = 0
    channel_axis: int | None = None

    def __call__(self, truth: Image, image: Image, valid: NDArray[np.bool_] | None = None) -> Score:
        """PSNR and SSIM of one image.

        Parameters
        ----------
        truth, image : arrays of one shape
        valid : bool array of that shape, optional
            Pixels that count; None: those that are finite in both.
        """
        low, high = self.data_range
        axis = self.channels_of(truth.shape)
        first, second, peak = np.asarray(truth), np.asarray(image), high - low
        if valid is None:
            valid = np.isfinite(first) & np.isfinite(second)
        if not valid.all():
            first, second = (np.where(valid, x, 0) for x in (first, second))
        if self.y_channel:
            if axis is None:
                raise EnsembleError(
                    f"the image has shape {truth.shape}; Y needs red, green and blue along a channel axis."
                )
            first, second = (
                luma((np.moveaxis(x, axis, -1).astype(np.float64) - low) * (255 / (high - low)))
                for x in (first, second)
            )
            valid = np.asarray(valid.all(axis=axis))
            axis, peak = None, 255.0
        cut = self._cut(first.shape, axis)
        first, second, valid = first[cut], second[cut], valid[cut]
        return Score(psnr(first, second, peak, valid), ssim(first, second, peak, axis, valid))

    def of_all(self, truth: Image, images: Sequence[Image]) -> list[Score]:
        """Scores of several images on the same pixels: where the truth and every one of them is finite.

        Raises
        ------
        EnsembleError
            If there is no such pixel.
        """
        valid = finite_everywhere([truth, *images])
        return [self(truth, image, valid) for image in images]

    def channels_of(self, shape: tuple[int, ...]) -> int | None:
        """The channel axis of an image of this shape."""
        if self.channel_axis is not None:
            return self.channel_axis % len(shape)
        return len(shape) - 1 if len(shape) > 2 and shape[-1] == 3 else None

    def inside(self, shape: tuple[int, ...]) -> Slices:
        """What is left of an image of this shape without the border.

        Raises
        ------
        EnsembleError
            If that is nothing.
        """
        return self._cut(shape, self.channels_of(shape))

    def _cut(self, shape: tuple[int, ...], channel_axis: int | None) -> Slices:
        spatial = [i for i in range(len(shape)) if i != channel_axis][-2:]
        border = self.crop_border
        if border < 0 or any(shape[i] <= 2 * border for i in spatial):
            raise EnsembleError(f"a border of {border} pixels leaves nothing of an image of shape {shape}.")
        return tuple(slice(border, n - border) if i in spatial else slice(None) for i, n in enumerate(shape))
