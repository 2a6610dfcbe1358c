"""The mean-reverting stochastic differential equation that IR-CM walks along.

    dx = th_t (mu - x) dt + sig_t dw,   sig_t^2 / th_t = 2 lam^2

takes a clean image x(0) towards a degraded one, mu, while noise of standard deviation up to lam
comes in (Luo et al. 2023, "Image restoration with mean-reverting stochastic differential
equations", eq. 1 to 6; the cosine schedule is theirs). Intensities are on a scale of 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["MeanRevertingSDE"]

_SHIFT = 0.008  # s of the cosine schedule, which keeps its first rate from being 0


@dataclass(frozen=True)
class MeanRevertingSDE:
    """Schedule and marginals, at the times t = 0, 1, ..., `steps`.

    Parameters
    ----------
    steps
        T, the last time.
    noise
        lam, the standard deviation that the noise tends to, on the scale of intensities.
    rest
        How much of x(0) - mu is left at t = T: exp(-TH_T).

    Examples
    --------
    >>> sde = MeanRevertingSDE()
    >>> float(round(np.exp(-sde.integral[100]), 6))
    0.005
    """

    steps: int = 100
    noise: float = 10 / 255
    rest: float = 0.005

    @cached_property
    def rate(self) -> NDArray[np.float64]:
        """th_t = 1 - f(t) / f(0), f(t) = cos^2(((t / T' + s) / (1 + s)) pi / 2), shape (T + 1,).

        f is evaluated on a grid of T' = T + 2 intervals, of which the ends are dropped.
        """
        grid = np.arange(self.steps + 3) / (self.steps + 2)
        f = np.cos((grid + _SHIFT) / (1 + _SHIFT) * np.pi / 2) ** 2
        rate: NDArray[np.float64] = (1 - f / f[0])[1:-1]
        return rate

    @property
    def dt(self) -> float:
        """The length of a time step, such that TH_T = -ln(`rest`)."""
        return float(-np.log(self.rest) / self.rate[1:].sum())

    @cached_property
    def integral(self) -> NDArray[np.float64]:
        """TH_t, the integral of th from 0 to t, shape (T + 1,); TH_0 = 0."""
        integral: NDArray[np.float64] = (np.cumsum(self.rate) - self.rate[0]) * self.dt
        return integral

    def decay(self, t: Tensor) -> Tensor:
        """exp(-TH_t), shaped (batch, 1, 1, 1) for times of shape (batch,)."""
        return self._at(np.exp(-self.integral), t)

    def variance(self, t: Tensor) -> Tensor:
        """v_t = lam^2 (1 - exp(-2 TH_t)), shaped (batch, 1, 1, 1)."""
        return self._at(self.noise**2 * -np.expm1(-2 * self.integral), t)

    def mean(self, x0: Tensor, mu: Tensor, t: Tensor) -> Tensor:
        """m_t = mu + (x0 - mu) exp(-TH_t)."""
        return mu + (x0 - mu) * self.decay(t).to(x0)

    def sample(self, x0: Tensor, mu: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = m_t + sqrt(v_t) noise, of the marginal N(m_t, v_t)."""
        return self.mean(x0, mu, t) + self.variance(t).to(x0).sqrt() * noise

    def origin(self, x: Tensor, mu: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The x(0) that leads to x_t with this noise: mu (1 - e^TH) + e^TH (x_t - sqrt(v_t) noise).

        The origin estimate of IR-CM. Its factor e^TH grows to 1 / `rest` = 200, by which an error in
        `noise` is multiplied: see :mod:`napari_ensir.restorers.ir_cm` for how that is avoided.
        """
        growth = 1 / self.decay(t).to(x)
        return mu * (1 - growth) + growth * (x - self.variance(t).to(x).sqrt() * noise)

    def noise_for(self, x: Tensor, mu: Tensor, t: Tensor, residual: Tensor) -> Tensor:
        """The noise for which :meth:`origin` is mu + residual: ((x_t - mu) - e^-TH r) / sqrt(v_t), t > 0."""
        return (x - mu - self.decay(t).to(x) * residual) / self.variance(t).to(x).sqrt()

    @staticmethod
    def _at(values: NDArray[np.float64], t: Tensor) -> Tensor:
        # float64 until the caller casts: MPS has none, so look up on the CPU.
        return torch.from_numpy(values)[t.cpu()].reshape(-1, 1, 1, 1)
