"""Networks whose files say what they take: intensities as they are, planes or volumes. Knows no files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.own_network import OwnNetwork
from napari_ensir.restorers.unlike import some_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_ensir.restorers.learned import Draw, Tiled

__all__ = ["Levels", "PackagedNetwork", "unchanged"]

# In what the intensities of the training spread by. Images of one set differ; of another camera or another
# scale (0 to 1 in place of 16 bits) they are beyond these.
_LEAST_SPREAD = 0.05
_MOST_SPREAD = 60
_FARTHEST = 6


def unchanged(x: Tensor) -> Tensor:
    """The tensor itself."""
    return x


@dataclass(frozen=True)
class Levels:
    """Which intensity is 0 and how many are 1, for each channel.

    Parameters
    ----------
    zero, unit
        In intensity units; as many as channels, or one for all.

    Examples
    --------
    >>> levels = Levels((100.0,), (50.0,))
    >>> levels.normalised(torch.tensor([200.0])).item(), levels.intensities(torch.tensor([2.0])).item()
    (2.0, 200.0)
    """

    zero: tuple[float, ...]
    unit: tuple[float, ...]

    def normalised(self, x: Tensor) -> Tensor:
        """(x - zero) / unit, for x of shape (channels, ...)."""
        return (x - self._along(self.zero, x)) / self._along(self.unit, x)

    def intensities(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`normalised`: x unit + zero."""
        return x * self._along(self.unit, x) + self._along(self.zero, x)

    def check(self, channels: int, where: str) -> None:
        """Refuse figures that do not fit a network.

        Raises
        ------
        EnsembleError
            If they are not as many as the channels (or one), not finite, or a unit is 0.
        """
        good = len(self.zero) == len(self.unit) and len(self.unit) in (1, channels)
        if not (good and bool(torch.isfinite(torch.tensor(self.zero + self.unit)).all()) and all(self.unit)):
            raise EnsembleError(
                f"{where} states intensities for {channels} channel(s) as {self.zero[:4]} and "
                f"{self.unit[:4]}; finite numbers are needed, as many of each, and no division by 0."
            )

    @staticmethod
    def _along(values: tuple[float, ...], x: Tensor) -> Tensor:
        return x.new_tensor(values).reshape(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class PackagedNetwork(OwnNetwork):
    """Applies a network to intensities as they are; see :class:`OwnNetwork` for the other parameters.

    A data range changes nothing here: the file says what the intensities mean.

    Parameters
    ----------
    axes
        How many the network takes together, the channels apart: 2 or 3.
    before, after
        What is done with intensities before the network, and with what it gives, to have intensities again;
        tensors of shape (channels, [planes,] rows, columns).
    learned
        The middle of the intensities that it was trained on, and how far they spread; None: not known.
    """

    # No settings here: both follow from the file.
    intensities: str = "raw"
    data_range: tuple[float, float] | None = None
    axes: int = 2
    before: Callable[[Tensor], Tensor] = unchanged
    after: Callable[[Tensor], Tensor] = unchanged
    learned: Levels | None = None

    @property
    def network_ndim(self) -> int:
        """See :class:`NetworkRestorer`."""
        return self.axes

    def range_of(self, image: NDArray[Any]) -> tuple[float, float]:
        """See :class:`ImageRestorer`; intensities stay what they are."""
        return 0.0, 1.0

    def doubts(self, image: NDArray[Any]) -> list[str]:
        """See :class:`ImageRestorer`; among them that intensities are not those of the training."""
        said = super().doubts(image)
        if self.learned is None or said:
            return said
        axis = self.channel_axis if len(self.learned.zero) > 1 else None
        channels = [image] if axis is None else list(np.moveaxis(image, axis, 0))
        for channel, middle, width in zip(channels, self.learned.zero, self.learned.unit, strict=False):
            few = some_pixels(channel).astype(np.float64)
            least, low, centre, high, most = np.percentile(few, (0, 1, 50, 99, 100))
            if (
                most - least < _LEAST_SPREAD * width
                or high - low > _MOST_SPREAD * width
                or abs(centre - middle) > _FARTHEST * width
            ):
                return [
                    f"{self.name} was trained on intensities around {middle:.4g}, spread by {width:.4g}, "
                    f"and this image's are {least:.4g} to {most:.4g}: give intensities as recorded, "
                    "not rescaled, or a network that was trained on such."
                ]
        return []

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See :class:`NetworkRestorer`."""
        return self.after(super().restore_plane(self.before(plane), draw, tiled))
