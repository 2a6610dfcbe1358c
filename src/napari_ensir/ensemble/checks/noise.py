"""Checks of a noisy reference: the candidates' own input, correlated noise, a wrong noise level.

A noisy image can take the place of the ground truth if its noise is independent of the candidates' errors.
Two things break that: the image may be the candidates' own input, whose noise they kept in part; and the
noise of neighbouring pixels may be correlated, so that a hidden pixel can be predicted from them.
``benchmarks/noise_checks.md`` measures how often these checks err.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_ensir.ensemble.checks.alignment import correlation
from napari_ensir.ensemble.checks.diagnostic import Diagnostic, diagnose
from napari_ensir.ensemble.checks.planes import SAMPLE_SIDE, central, sample_planes
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.float64]

    TruthNoise = float | Literal["unknown"]
    """Standard deviation of the noise of a noisy truth, in intensity units, or ``"unknown"``."""


OWN_INPUT = 0.3
"""Least :func:`own_input_evidence` at which the reference is probably the candidates' own input."""

CORRELATED = 0.2
"""Least :func:`noise_correlation` at which the noise of neighbouring pixels is probably correlated."""

LEVEL = 3.0
"""Ratio of the given and the measured noise level, either way, that is reported."""

FLAT_SHARE = 0.3
"""Share of a plane's pixels that is taken as flat."""


def own_input_evidence(
    candidates: Sequence[Any], reference: Any, channel_axis: int | None = None
) -> float | None:
    """Measure whether a reference may be the image that the candidates were restored from.

    The residual, reference minus candidate, is examined in the flat parts of the image. Its correlation with
    the candidate's own detail is positive if the candidate kept noise of this reference, and negative if it
    kept that of another exposure. Structure that a candidate lost raises it as well, and raises equally the
    correlation of the residual with itself one pixel further, which is subtracted.

    Parameters
    ----------
    candidates : M arrays of one shape
    reference : array of that shape
    channel_axis : int, optional

    Returns
    -------
    float or None
        The greatest difference of both correlations, over the candidates. None if the images are too small or
        not finite.

    Examples
    --------
    >>> from scipy.ndimage import gaussian_filter
    >>> rng = np.random.default_rng(0)
    >>> first, second = (rng.normal(100, 9, (64, 64)) for _ in range(2))
    >>> smooth = [gaussian_filter(first, sigma) for sigma in (0.6, 1)]
    >>> own_input_evidence(smooth, first) > OWN_INPUT > own_input_evidence(smooth, second)
    True
    """
    found = []
    for noisy, *restored in sample_planes([reference, *candidates], channel_axis):
        from scipy.ndimage import gaussian_filter

        flat = _flat(np.mean(restored, axis=0), inner=0, outer=2, window=3, share=0.3)
        residuals = [noisy - plane for plane in restored]
        details = [plane - gaussian_filter(plane, 2) for plane in restored]
        found.append(
            [
                (correlation(residual[flat], detail[flat]), _lag_one(residual, flat))
                for residual, detail in zip(residuals, details, strict=True)
            ]
        )
    if not found:
        return None
    # The residual of a median filter always looks like another exposure's, so one candidate is enough.
    detail, neighbours = np.mean(found, axis=0).T
    return float((detail - neighbours).max())


def check_own_input(
    candidates: Sequence[Any], reference: Any, channel_axis: int | None = None
) -> list[Diagnostic]:
    """Check whether the reference seems to be the image that the candidates were restored from.

    Parameters
    ----------
    candidates : M arrays of one shape
    reference : array of that shape
    channel_axis : int, optional

    Returns
    -------
    list of Diagnostic
        At most one.
    """
    # A first look at few pixels, because the evidence of an image takes a tenth of a second.
    first = next(sample_planes([reference, *candidates], channel_axis), None)
    if first is None:
        return []
    seen, *few = (plane[tuple(central(size, SAMPLE_SIDE // 2) for size in plane.shape)] for plane in first)
    evidence = own_input_evidence(few, seen)
    if evidence is None or evidence > OWN_INPUT / 2 or np.ptp(seen) == 0:
        evidence = own_input_evidence(candidates, reference, channel_axis)
    if evidence is None or evidence <= OWN_INPUT:
        return []
    return [diagnose("own-input", score=evidence, limit=OWN_INPUT)]


def check_noise_level(
    candidates: Sequence[Any], reference: Any, noise: float, channel_axis: int | None = None
) -> list[Diagnostic]:
    """Check the given noise level of a reference against the one measured in the flat parts of the image.

    Parameters
    ----------
    candidates : M arrays of one shape
    reference : array of that shape
        Noisy.
    noise : float
        Standard deviation that was given, in intensity units.
    channel_axis : int, optional

    Returns
    -------
    list of Diagnostic
        At most one, where the levels differ by more than a factor of 3.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> noisy = rng.normal(100, 9, (64, 64))
    >>> check_noise_level([np.full((64, 64), 100.0)], noise=9, reference=noisy)
    []
    >>> check_noise_level([np.full((64, 64), 100.0)], noise=90, reference=noisy)[0].fix["action"]
    'set-noise'
    """
    found = []
    for noisy, *restored in sample_planes([reference, *candidates], channel_axis):
        middle = np.median(restored, axis=0)
        flat = _flat(middle, inner=0, outer=2, window=3, share=FLAT_SHARE)
        found.append(float(np.var((noisy - middle)[flat])))
    measured = float(np.sqrt(np.mean(found))) if found else 0.0
    if measured <= 0 or 1 / LEVEL < noise / measured < LEVEL:
        return []
    fix = {"action": "set-noise", "value": measured}
    return [diagnose("noise-level", fix, given=noise, measured=measured)]


def noise_correlation(image: Any, channel_axis: int | None = None) -> float | None:
    """Measure the correlation of neighbouring pixels' noise in the flat parts of an image.

    Second differences along one axis, which suppress smooth structure, are correlated with themselves one
    pixel along the other axis: 0 for independent noise, about 0.25 for noise blurred by a Gaussian of half a
    pixel, 0.5 if rows or columns share noise.

    Parameters
    ----------
    image : array
        Noisy; at least two axes besides the channels.
    channel_axis : int, optional

    Returns
    -------
    float or None
        The larger of both directions, averaged over planes; None if the image is too small.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0, 1, (64, 64))
    >>> abs(noise_correlation(noise)) < 0.1 < noise_correlation(noise[:, :1] + noise)
    True
    """
    found = []
    for (plane,) in sample_planes([image], channel_axis):
        flat = _flat(plane, inner=2, outer=8, window=4, share=0.2)
        found.append([_across(plane, flat), _across(plane.T, flat.T)])
    return float(np.mean(found, axis=0).max()) if found else None


def _flat(plane: Image, *, inner: float, outer: float, window: float, share: float) -> NDArray[np.bool_]:
    """The ``share`` of a plane with the least energy between two scales."""
    from scipy.ndimage import gaussian_filter

    band = (gaussian_filter(plane, inner) if inner else plane) - gaussian_filter(plane, outer)
    energy = gaussian_filter(band * band, window)
    return np.asarray(energy <= np.quantile(energy, share), bool)


def _lag_one(plane: Image, where: NDArray[np.bool_]) -> float:
    """Correlation with the next pixel, averaged over both directions."""
    centred = plane - plane[where].mean()
    power = float((centred[where] ** 2).mean())
    if power == 0:
        return 0.0
    return sum(_lagged(each, mask) for each, mask in ((centred, where), (centred.T, where.T))) / (2 * power)


def _lagged(plane: Image, where: NDArray[np.bool_]) -> float:
    """Mean product of each pixel and the next along the last axis, where both are in the mask."""
    both = where[:, 1:] & where[:, :-1]
    return float((plane[:, 1:] * plane[:, :-1])[both].mean()) if both.any() else 0.0


def _across(plane: Image, where: NDArray[np.bool_]) -> float:
    """Correlation, along the last axis, of second differences along the first."""
    curved, inside = np.diff(plane, n=2, axis=0), where[1:-1]
    curved = curved - curved[inside].mean()
    power = float((curved[inside] ** 2).mean())
    return _lagged(curved, inside) / power if power > 0 else 0.0


PARTS = 8
"""Parts of a reference set with a noisy truth, to see how much a difference varies between them."""


def method_for(method: str, truth_noise: TruthNoise | None) -> str:
    """Return the method to fit with, given what is known of the ground truth's noise.

    Parameters
    ----------
    method : str
        A method's name, or ``"auto"``.
    truth_noise : float or "unknown", optional
        None: the ground truth is clean.

    Returns
    -------
    str
        ``method``; ``"least-squares"`` for ``"auto"`` if the ground truth is noisy.

    Raises
    ------
    EnsembleError
        If EM is requested and the ground truth is noisy.

    Examples
    --------
    >>> method_for("auto", None), method_for("auto", "unknown")
    ('auto', 'least-squares')
    """
    if truth_noise is None:
        return method
    if method in ("em", "em-released"):
        raise EnsembleError(
            f'method="{method}" takes the noise of the ground truth for errors of the candidates; use '
            '"least-squares", whose weights the noise does not change, or "auto".'
        )
    return "least-squares"


def noise_between(first: Any, second: Any, valid: Any = None) -> float:
    """Measure the standard deviation of the noise from two exposures that differ only in their noise.

    Parameters
    ----------
    first, second : arrays of one shape
    valid : bool array of that shape, optional

    Returns
    -------
    float
        The root of half the mean squared difference; pixels that are not finite are left out.

    Raises
    ------
    EnsembleError
        If the shapes differ, or no pixel is finite in both.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0, 5, (2, 100, 100))
    >>> round(noise_between(*noise), 1)
    5.0
    """
    one, two = np.asarray(first), np.asarray(second)
    if one.shape != two.shape:
        raise EnsembleError(f"the exposures have shapes {one.shape} and {two.shape}; give two of one field.")
    with np.errstate(invalid="ignore"):
        squares = np.subtract(one, two, dtype=np.float64) ** 2
    where = np.isfinite(squares) if valid is None else np.isfinite(squares) & np.asarray(valid, bool)
    if not where.any():
        raise EnsembleError("no pixel is finite in both exposures, so the noise cannot be measured.")
    return float(np.sqrt(squares[where].mean() / 2))
