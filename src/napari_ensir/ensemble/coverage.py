"""Whether images lie where a table has its bins: a table of one scale does nothing sensible on another.

Looks at the pixels it is given and says what it sees; changes and refuses nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from napari_ensir.ensemble.lut import WeightLUT

__all__ = ["range_warning", "share_outside"]

WORTH_SAYING = 0.01
"""Share of pixels outside the range from which on it is said: noise puts a few of them there."""


def share_outside(lut: WeightLUT, image: ArrayLike) -> float:
    """Which share of an image's pixels lies outside a table's range, and so goes to its end bins.

    Parameters
    ----------
    lut : WeightLUT
    image
        Intensities of any shape, an integer or float dtype; one plane of a large image will do.

    Returns
    -------
    float
        0 to 1, of the finite pixels; 0 where there are none.

    Examples
    --------
    >>> from napari_ensir import fit_lut
    >>> truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    >>> lut = fit_lut([([truth // 2 * 2, truth // 4 * 4], truth)])
    >>> share_outside(lut, truth), share_outside(lut, truth * np.uint16(16))
    (0.0, 0.9375)
    """
    values = np.asarray(image)
    finite = np.isfinite(values)
    outside = finite & ((values < lut.binning.low) | (values > lut.binning.high))
    return float(outside.sum() / max(1, finite.sum()))


def range_warning(lut: WeightLUT, name: str, image: ArrayLike) -> str:
    """A sentence about an image whose intensities a table was not made for; empty if they suit it.

    Parameters
    ----------
    lut : WeightLUT
    name : str
        What to call the image.
    image
        As for :func:`share_outside`.

    Examples
    --------
    >>> from napari_ensir import fit_lut
    >>> truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    >>> lut = fit_lut([([truth // 2 * 2, truth // 4 * 4], truth)])
    >>> range_warning(lut, "a", truth)
    ''
    >>> print(range_warning(lut, "a", truth * np.uint16(16)))
    93.8% of the pixels of "a" lie outside the table's range, 0 to 255: it was learned on another scale.
    >>> print(range_warning(lut, "a", truth / 255))
    All of "a" (0 to 1) lies in one bin of the table, 0 to 255 in bins of 32: it was learned on another scale.
    """
    low, high = lut.data_range
    outside = share_outside(lut, image)
    if outside > WORTH_SAYING:
        return (
            f'{outside:.1%} of the pixels of "{name}" lie outside the table\'s range, {low:g} to {high:g}: '
            "it was learned on another scale."
        )
    values = np.asarray(image)
    values = values[np.isfinite(values)]
    if values.size == 0 or values.min() == values.max() or lut.binning.n_bins < 2:
        return ""
    ends = np.array([values.min(), values.max()], np.float64)
    if np.ptp(lut.binning.bins(ends)) > 0:
        return ""
    return (
        f'All of "{name}" ({ends[0]:g} to {ends[1]:g}) lies in one bin of the table, {low:g} to {high:g} in '
        f"bins of {lut.bin_width:g}: it was learned on another scale."
    )
