"""Whether one image lies closer to another than a third one does, whatever their scales; shifts between them.

How far two images are apart is judged after both are brought to mean 0 and standard deviation 1, so that no
scale and no offset matters: the squares of what then is between them have the mean ``2 (1 - r)``, with their
correlation ``r``. Knows planes only, (Y, X) or (Y, X, C), and no candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float64]
    """(Y, X, C), or (Y, X) of grey; NaN and infinity stand for nothing."""

__all__ = ["apart", "correlation", "is_closer", "shift_between", "unrelated"]

HALF, CLEARER, SURE = 0.6, 0.9, 4.0
"""Another reading is the right one if it leaves less than the first share of the squares; or less than the
second, and that by so many standard errors over blocks."""

ALIKE = 0.5
"""Least correlation of images that show the same."""

UNLIKE = 0.3
"""Correlation of block means below which images show different things. Nine in ten pairs of unlike pictures
are below it; restorations of few photons, which leave blotches, have 0.38 and more."""

BLOCK = 16
"""Side of a block, pixels."""

MOST_BLOCKS_TO_DOUBT = 16
"""With fewer blocks their spread says nothing."""


def apart(one: Plane, other: Plane) -> Plane:
    """Squares of what is between two images, each of mean 0 and standard deviation 1 over what both show.

    Returns
    -------
    array of the images' shape
        Its mean is ``2 (1 - r)``; 0 where one of them is not finite, 2 everywhere where ``r`` is not defined.

    Examples
    --------
    >>> image = np.arange(12.0).reshape(3, 4)
    >>> round(float(apart(image, 5 - 2 * image).mean()), 6)
    4.0
    """
    both = np.isfinite(one) & np.isfinite(other)
    n, whole = int(both.sum()), bool(both.all())
    parts = []
    for image in (one, other):
        known = image if whole else np.where(both, image, 0.0)
        known = known - known.sum() / max(1, n)
        if not whole:
            known[~both] = 0
        spread = np.sqrt(np.square(known).sum() / max(1, n))
        if spread == 0:
            return np.full(one.shape, 2.0)
        known /= spread
        parts.append(known)
    return np.asarray((parts[0] - parts[1]) ** 2 * (both.size / n))


def correlation(one: Plane, other: Plane) -> float:
    """Pearson's, over the pixels that are finite in both; 0 where it is not defined."""
    return float(1 - apart(one, other).mean() / 2)


def is_closer(left: Plane, plain: Plane) -> bool:
    """Whether another reading leaves so much less than the plain one that it must be the right one.

    One that leaves the images unlike cannot be right: something else is wrong then.

    Parameters
    ----------
    left, plain : arrays of one shape
        Of :func:`apart`.
    """
    if left.mean() > 2 * (1 - ALIKE):
        return False
    if left.mean() < HALF * plain.mean() and plain.mean() - left.mean() > 1e-4:
        return True
    gained = _block_means(plain - left)
    if gained.size < MOST_BLOCKS_TO_DOUBT or left.mean() > CLEARER * plain.mean():
        return False
    return bool(gained.mean() > SURE * gained.std() / np.sqrt(gained.size))


def unrelated(one: Plane, other: Plane) -> bool:
    """Whether both have structure beyond the noise of their pixels, and it does not agree.

    Judged by the means of blocks, in which noise all but vanishes: a noisy image is not unrelated for that.
    """
    coarse = [_block_means(image) for image in (one, other)]
    if coarse[0].size < MOST_BLOCKS_TO_DOUBT or not all(np.isfinite(means).all() for means in coarse):
        return False
    for image, means in zip((one, other), coarse, strict=True):
        spread = (_whole_blocks(image) - np.kron(means, np.ones((BLOCK, BLOCK)))).var()
        if means.var() < 9 * spread / BLOCK**2:
            return False
    return correlation(*coarse) < UNLIKE


def shift_between(truth: NDArray[Any], candidate: NDArray[Any]) -> tuple[int, int] | None:
    """By how many whole pixels a candidate lies off, down and to the right; None where it does not.

    The peaks of the phase correlation and of the plain one (Kuglin and Hines 1975, as scikit-image has them)
    propose shifts, as do the eight least ones. The best counts if the candidate moved back is clearly closer.

    Parameters
    ----------
    truth, candidate : (Y, X) arrays of one shape
        Any integer or float dtype; pixels that are not finite are left out.

    Examples
    --------
    >>> truth = np.random.default_rng(0).normal(size=(40, 50))
    >>> shift_between(truth, np.roll(truth, (3, -1), axis=(0, 1)))
    (3, -1)
    >>> shift_between(truth, truth)
    """
    from skimage.registration import phase_cross_correlation

    one, other = (np.asarray(image, np.float64) for image in (truth, candidate))
    filled = [_filled(one), _filled(other)]
    steps = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]
    for normalization in ("phase", None):
        offset = phase_cross_correlation(*filled, normalization=normalization)[0]  # type: ignore[no-untyped-call]
        found = (-round(float(offset[0])), -round(float(offset[1])))
        if found != (0, 0) and all(2 * abs(n) <= size for n, size in zip(found, one.shape, strict=True)):
            steps.append(found)
    left = {step: apart(*_moved_back(one, other, step)) for step in steps}
    best = min(steps, key=lambda step: float(left[step].mean()))
    _, still = _moved_back(one, other, best, by=0)
    back, _ = _moved_back(one, other, best)
    return best if is_closer(left[best], apart(back, still)) else None


def _moved_back(truth: Plane, candidate: Plane, step: tuple[int, int], by: int = 1) -> tuple[Plane, Plane]:
    """What a truth shows of a candidate that lies off by a step; that candidate, moved back or as it is."""
    there, back = (
        tuple(slice(max(0, n), size + min(0, n)) for n, size in zip(way, truth.shape, strict=True))
        for way in (step, (-step[0], -step[1]))
    )
    return truth[back], candidate[there if by else back]


def _filled(image: Plane) -> Plane:
    """About 0, and 0 where the image is not finite."""
    known = image[np.isfinite(image)]
    mean = known.mean() if known.size else 0.0
    return np.where(np.isfinite(image), image - mean, 0.0)


def _whole_blocks(image: Plane) -> Plane:
    height, width = (size - size % BLOCK for size in image.shape[:2])
    return image[:height, :width]


def _block_means(image: Plane) -> Plane:
    """Means of blocks, over channels too."""
    whole = _whole_blocks(image)
    rows, columns = whole.shape[0] // BLOCK, whole.shape[1] // BLOCK
    return np.asarray(whole.reshape(rows, BLOCK, columns, BLOCK, -1).mean(axis=(1, 3, 4)))
