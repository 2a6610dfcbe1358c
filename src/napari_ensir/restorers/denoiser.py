"""Gaussian denoisers that are told the noise: D of DP-IR, and restorers of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.nn import functional

from napari_ensir.restorers.learned import Draw, LearnedRestorer, Tiled
from napari_ensir.restorers.networks import NetworkShape
from napari_ensir.restorers.planewise import estimate_noise
from napari_ensir.restorers.unet_model import UNetModel
from napari_ensir.settings import noise_setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_ensir.restorers.base import Progress

__all__ = ["Denoiser", "DenoiserModel", "DenoiserSettings", "LocalWiener"]

# Of images on a scale of -1..1. The constants of the preconditioning: a typical image's standard
# deviation, and the range of noise to train for, that of the diffusion from t = 1 to about 700.
_SPREAD = 0.5
_LEAST, _MOST = 0.01, 10.0


@dataclass(frozen=True, kw_only=True)
class DenoiserSettings(NetworkShape):
    """Shape of the network; see :class:`~napari_ensir.restorers.networks.NetworkShape`."""


class DenoiserModel(UNetModel):
    """D(x, s) = c_skip x + c_out network(c_in x, ln s), on images of a scale of -1..1.

    c_skip = d^2 / (s^2 + d^2), c_out = s d / sqrt(s^2 + d^2), c_in = 1 / sqrt(s^2 + d^2), d = 0.5
    (Karras et al. 2022, table 1): the network has the same task at every s.
    """

    kind: ClassVar[str] = "denoiser"
    settings_type = DenoiserSettings

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Denoise images (batch, channels, rows, columns) with noise of standard deviation (batch,)."""
        s = sigma.reshape(-1, 1, 1, 1)
        total = (s**2 + _SPREAD**2).sqrt()
        inner: Tensor = self.network(noisy / total, 10 * sigma.log())
        return (_SPREAD / total) ** 2 * noisy + s * _SPREAD / total * inner

    def loss(self, degraded: Tensor, clean: Tensor, generator: torch.Generator, done: float) -> Tensor:
        """The mean squared error over c_out^2, on `clean` with noise added; ln s is uniform."""
        share = torch.rand(len(clean), generator=generator)
        sigma = (_LEAST * (_MOST / _LEAST) ** share).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        image, s = 2 * clean - 1, sigma.reshape(-1, 1, 1, 1)
        weight = (s**2 + _SPREAD**2) / (s * _SPREAD) ** 2
        error: Tensor = self(image + s * noise, sigma) - image
        return (weight * error**2).mean()


class LocalWiener(nn.Module):
    """A denoiser without weights: shrinks each pixel towards its 5 x 5 mean (Lee 1980).

    x -> m + max(v - s^2, 0) / max(v, s^2) (x - m), with the local mean m and variance v. Stands in
    where no denoiser has been trained.

    Examples
    --------
    >>> noisy = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> bool(LocalWiener()(noisy, torch.ones(1)).std() < 0.5)
    True
    """

    multiple = 1

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """See :meth:`DenoiserModel.forward`."""
        noise = sigma.reshape(-1, 1, 1, 1) ** 2
        mean = _box(noisy)
        variance = _box((noisy - mean) ** 2)
        gain = (variance - noise).clamp(min=0) / variance.maximum(noise).clamp(min=1e-12)
        return mean + gain * (noisy - mean)


@dataclass(frozen=True, kw_only=True, eq=False)
class Denoiser(LearnedRestorer):
    """Restores with a :class:`DenoiserModel`; see :class:`LearnedRestorer` for the other parameters.

    Parameters
    ----------
    noise
        Standard deviation of the noise in intensity units; None: estimated from each plane.
    """

    title: ClassVar[str] = "Denoising network"
    model: DenoiserModel
    noise: float | None = noise_setting()

    def restore_unit(
        self, image: NDArray[np.float32], scale: float, progress: Progress
    ) -> NDArray[np.float32]:
        """See :class:`NetworkRestorer`."""
        on_unit_scale = replace(self, noise=None if self.noise is None else self.noise / scale)
        return super(Denoiser, on_unit_scale).restore_unit(image, scale, progress)

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See :class:`NetworkRestorer`; `noise` is on the plane's scale by now."""
        sigma = estimate_noise(plane.cpu().numpy()) if self.noise is None else self.noise
        level = torch.full((1,), min(max(2 * sigma, _LEAST), _MOST), device=plane.device)
        restored = tiled(lambda image: self.model(image, level.expand(len(image))), 2 * plane - 1)
        return (restored + 1) / 2


def _box(image: Tensor) -> Tensor:
    """Mean over 5 x 5 pixels, border pixels repeated."""
    return functional.avg_pool2d(functional.pad(image, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
