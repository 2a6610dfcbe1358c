"""What errors and intensities are counted in: whole steps of the data range, and classes of it. Sums nothing.

Steps are whole numbers, so that their sums depend on no order. ``measuring_loop.py`` does the same compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MOST", "STEPS", "ErrorScale", "first_of_channel", "where_known"]

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
