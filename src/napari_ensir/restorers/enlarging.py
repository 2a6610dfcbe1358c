"""Restored images larger than what was restored: how many times, and where they lie. Knows no networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["check_keeps_size", "enlarged_transform", "scale_of", "times_between"]


def scale_of(restorer: object) -> int | None:
    """How many times as many rows and columns a restorer makes; None: that shows once it is applied.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> scale_of(Gaussian())
    1
    """
    scale: int | None = getattr(restorer, "scale", 1)
    return scale


def times_between(before: Sequence[int], after: Sequence[int]) -> int | None:
    """How many times as many rows and columns, the last two axes, an image has; None: no whole number.

    Parameters
    ----------
    before, after
        Shapes of the image as it was and as it is.

    Examples
    --------
    >>> times_between((3, 16, 24), (3, 32, 48)), times_between((16, 24), (16, 24))
    (2, 1)
    >>> times_between((16, 24), (24, 16)) is None
    True
    """
    if len(before) != len(after) or len(before) < 2 or tuple(before[:-2]) != tuple(after[:-2]):
        return None
    times: int = after[-1] // max(before[-1], 1)
    return times if times >= 1 and [n * times for n in before[-2:]] == list(after[-2:]) else None


def check_keeps_size(
    restorer: Any, image: NDArray[Any] | None = None, restored: NDArray[Any] | None = None
) -> None:
    """Refuse a restorer that enlarges, where results have to lie on the image.

    Parameters
    ----------
    restorer
        Where its scale is known, it is refused before it has worked.
    image, restored
        Afterwards: what went in and what came out.

    Raises
    ------
    EnsembleError
        If it enlarges.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> check_keeps_size(Gaussian())
    """
    grown = image is not None and restored is not None and restored.size > image.size
    if grown or scale_of(restorer) not in (1, None):
        raise EnsembleError(
            f"{restorer.name} enlarges images; here what comes out has to lie on the image pixel by pixel: "
            "leave it out, or take a network that keeps the size."
        )


def enlarged_transform(
    scale: ArrayLike,
    translate: ArrayLike,
    factor: int | Sequence[int],
    linear: ArrayLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where an enlarged image lies: the scale divided, the translation moved by what pixel centres moved.

    A pixel of the image, whose centre has the index i, becomes `factor` pixels with centres from
    i - 1/2 + 1/(2 factor) on. So the first centre moves by (1/factor - 1) / 2 pixels of the image.

    Parameters
    ----------
    scale, translate
        Of the image, shape (ndim,): world = linear @ (scale * index) + translate.
    factor
        How many times larger it became, along every axis or one for each (1: unchanged).
    linear
        Rotation and shear, shape (ndim, ndim); None: neither.

    Returns
    -------
    scale, translate
        Of the enlarged image, float64, shape (ndim,); `linear` stays what it is.

    Examples
    --------
    >>> scale, translate = enlarged_transform((1.0, 1.0), (0.0, 0.0), 2)
    >>> scale.tolist(), translate.tolist()
    ([0.5, 0.5], [-0.25, -0.25])
    """
    old = np.asarray(scale, np.float64)
    times = np.broadcast_to(np.asarray(factor, np.float64), old.shape)
    moved = old * (1 / times - 1) / 2
    if linear is not None:
        moved = np.asarray(linear, np.float64) @ moved
    return old / times, np.asarray(translate, np.float64) + moved
