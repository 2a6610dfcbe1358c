"""Networks whose files say what they take: intensities as they are, planes or volumes. Knows no files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.own_network import OwnNetwork

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_ensir.restorers.learned import Draw, Tiled

__all__ = ["Levels", "PackagedNetwork", "unchanged"]


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
        """X unit + zero, for x of shape (channels, ...)."""
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
    """

    # No settings here: both follow from the file.
    intensities: str = "raw"
    data_range: tuple[float, float] | None = None
    axes: int = 2
    before: Callable[[Tensor], Tensor] = unchanged
    after: Callable[[Tensor], Tensor] = unchanged

    @property
    def network_ndim(self) -> int:
        """See :class:`NetworkRestorer`."""
        return self.axes

    def range_of(self, image: NDArray[Any]) -> tuple[float, float]:
        """See :class:`ImageRestorer`; intensities stay what they are."""
        return 0.0, 1.0

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See :class:`NetworkRestorer`."""
        return self.after(super().restore_plane(self.before(plane), draw, tiled))
