"""Geometric self-ensemble: the mean of a restorer over eight orientations of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.parallel import scaled_progress
from napari_ensir.restorers.base import (
    Progress,
    Restorer,
    check_image,
    input_warnings_of,
    notes_of,
    scale_of,
    trained_on,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, kw_only=True)
class SelfEnsemble:
    """Mean of T^-1 f(T y) over the four rotations and two reflections T of the last two axes.

    The x8 self-ensemble of Timofte, Rothe and Van Gool (2016). It takes eight times as long as the restorer
    and helps most where the restorer is not symmetric.

    Parameters
    ----------
    restorer
        Any restorer.
    channel_axis
        Axis of the colour channels, which is not one of the last two; None: the restorer's ``channel_axis``,
        if it has one.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> image = np.random.default_rng(0).normal(size=(6, 9))
    >>> np.allclose(SelfEnsemble(restorer=Gaussian())(image), Gaussian()(image), atol=1e-6)
    True
    """

    restorer: Restorer
    channel_axis: int | None = None

    @property
    def name(self) -> str:
        """Name of the restorer, with x8."""
        return f"{self.restorer.name} x8"

    @property
    def scale(self) -> int | None:
        """Scale of the restorer."""
        return scale_of(self.restorer)

    def notes(self, image: NDArray[Any]) -> list[str]:
        """See :meth:`napari_ensir.restorers.base.ImageRestorer.notes`; the notes of the restorer."""
        return [note for _, note in notes_of(self.restorer, image)]

    def input_warnings(self, image: NDArray[Any]) -> list[str]:
        """See :meth:`napari_ensir.restorers.base.ImageRestorer.input_warnings`; those of the restorer."""
        return input_warnings_of(self.restorer, image)

    def __call__(self, image: ArrayLike, *, progress: Progress | None = None) -> NDArray[np.float32]:
        """Restore `image`: see :meth:`napari_ensir.restorers.base.Restorer.__call__`."""
        channel = self.channel_axis
        if channel is None:
            channel = getattr(self.restorer, "channel_axis", None)
        array = check_image(image, channel)
        spatial = [axis for axis in range(array.ndim) if channel is None or axis != channel % array.ndim]
        rows, columns = spatial[-2:]
        restorer = trained_on(self.restorer, [array], progress)
        total = np.zeros((), np.float64)
        for orientation in range(8):
            turns, mirrored = orientation % 4, orientation >= 4
            turned = np.rot90(np.flip(array, columns) if mirrored else array, turns, (rows, columns))
            part = scaled_progress(progress, orientation, 8, suffix=f", orientation {orientation + 1} of 8")
            restored = restorer(np.ascontiguousarray(turned), progress=part)
            back = np.rot90(restored, -turns, (rows, columns))
            total = total + (np.flip(back, columns) if mirrored else back)
        return np.asarray(total / 8, np.float32)
