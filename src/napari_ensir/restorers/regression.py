"""Plain regression: a network that returns a residual on its input, trained with the absolute error.

The yardstick for the other models, and a ready IR network for DP-IR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch.nn import functional

from napari_ensir.restorers.learned import Draw, LearnedRestorer, Tiled
from napari_ensir.restorers.networks import NetworkShape
from napari_ensir.restorers.unet_model import UNetModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Regression", "RegressionModel", "RegressionSettings"]


@dataclass(frozen=True, kw_only=True)
class RegressionSettings(NetworkShape):
    """Shape of the network; see :class:`~napari_ensir.restorers.networks.NetworkShape`."""


class RegressionModel(UNetModel):
    """y + network(y).

    Examples
    --------
    >>> import torch
    >>> image = torch.rand(1, 3, 16, 16)
    >>> model = RegressionModel(RegressionSettings(channels=3, width=8))
    >>> bool((model(image) == image).all())
    True
    """

    kind: ClassVar[str] = "regression"
    settings_type = RegressionSettings

    def forward(self, degraded: Tensor) -> Tensor:
        """Restore images of shape (batch, channels, rows, columns), data range 0..1."""
        residual: Tensor = self.network(2 * degraded - 1, degraded.new_zeros(len(degraded)))
        return degraded + residual

    def loss(self, degraded: Tensor, clean: Tensor, generator: torch.Generator, done: float) -> Tensor:
        """The mean absolute error."""
        return functional.l1_loss(self(degraded), clean)


@dataclass(frozen=True, kw_only=True, eq=False)
class Regression(LearnedRestorer):
    """Restores with a :class:`RegressionModel`; see :class:`LearnedRestorer` for the parameters."""

    title: ClassVar[str] = "Regression"
    model: RegressionModel

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See :class:`NetworkRestorer`."""
        return tiled(self.model, plane)
