"""Whether what a restorer made is still like the image it was made of, in brightness and contrast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["some_pixels", "unlike_warning"]

_SOME = 2**20

MOST_CONTRAST = 4.0
"""How many times the image's contrast a restoration may have: sharpening does not come near it."""


def unlike_warning(name: str, image: ArrayLike, restored: ArrayLike) -> str:
    """A sentence about a restoration that has left its image's intensities; empty if it has not.

    A network that was trained on other intensities than it is given does so.

    Parameters
    ----------
    name
        What to call the restorer.
    image, restored
        Of any shapes, a plane of each will do; NaN counts for nothing.

    Examples
    --------
    >>> image = np.arange(256.0)
    >>> unlike_warning("mine", image, image + 20)
    ''
    >>> unlike_warning("mine", image, image * 255)[:51]
    'mine made intensities around 32512 (650.3 to 6.437e'
    """
    low, middle, high = np.nanpercentile(np.asarray(image, np.float64), (1, 50, 99))
    first, centre, last = np.nanpercentile(np.asarray(restored, np.float64), (1, 50, 99))
    contrast = high - low
    if contrast == 0 or (abs(centre - middle) <= contrast and last - first <= MOST_CONTRAST * contrast):
        return ""
    return (
        f"{name} made intensities around {centre:.5g} ({first:.4g} to {last:.4g}) of an image around "
        f"{middle:.5g} ({low:.4g} to {high:.4g}): was it trained on other intensities? They are among its "
        "settings."
    )


def some_pixels(image: NDArray[Any]) -> NDArray[Any]:
    """At most about a million pixels, evenly spread, to judge an image's intensities by.

    Parameters
    ----------
    image : array

    Returns
    -------
    array
        A view with as many axes.

    Examples
    --------
    >>> some_pixels(np.zeros((10, 4000, 3000))).shape
    (2, 800, 600)
    """
    step = max(int(np.ceil((image.size / _SOME) ** (1 / max(image.ndim, 1)))), 1)
    return image[(slice(None, None, step),) * image.ndim]
