"""The Gaussian diffusion that DP-IR runs backwards, and its jump to a late start.

x_t = sqrt(ab_t) x0 + sqrt(1 - ab_t) e (Ho, Jain and Abbeel 2020), t = 1..T; ab_0 = 1. Images are on
a scale of -1..1. The jump is Lemma 3.2 of "Modular Conditional Diffusion Framework for Image
Reconstruction" (DP-IR, NeurIPS 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Diffusion"]


@dataclass(frozen=True)
class Diffusion:
    """Schedule and single steps; all arrays are indexed by t, entry 0 being the clean image.

    Parameters
    ----------
    steps
        T.
    first, last
        beta_1 and beta_T; beta is linear between them.

    Examples
    --------
    >>> float(round(Diffusion().sigma(5), 4))
    0.0264
    """

    steps: int = 1000
    first: float = 1e-4
    last: float = 2e-2

    @cached_property
    def beta(self) -> NDArray[np.float64]:
        """beta_t, shape (T + 1,); beta_0 = 0."""
        beta = np.zeros(self.steps + 1)
        beta[1:] = np.linspace(self.first, self.last, self.steps)
        return beta

    @cached_property
    def kept(self) -> NDArray[np.float64]:
        """ab_t, the product of 1 - beta up to t, shape (T + 1,)."""
        kept: NDArray[np.float64] = np.cumprod(1 - self.beta, dtype=np.float64)
        return kept

    def sigma(self, t: int) -> float:
        """s_t = sqrt((1 - ab_t) / ab_t), the noise in x_t / sqrt(ab_t)."""
        return float(np.sqrt((1 - self.kept[t]) / self.kept[t]))

    def posterior(self, t: int) -> tuple[float, float, float]:
        """Weight of x0, weight of x_t and variance of the step from t to t - 1.

        The variance is beta_t, the larger of the two choices of Ho et al. and the one in Lemma 3.2;
        it is 0 for the last step, which returns x0.
        """
        beta, before, now = self.beta[t], self.kept[t - 1], self.kept[t]
        of_x0 = np.sqrt(before) * beta / (1 - now)
        of_xt = np.sqrt(1 - beta) * (1 - before) / (1 - now)
        return float(of_x0), float(of_xt), float(beta) if t > 1 else 0.0

    def jump(self, tau: int) -> tuple[float, float, float]:
        """Weights of x0 and x_T and variance of all steps from T to `tau` at once, x0 held fixed.

        M0 = sqrt(ab_tau) (1 - ab_T / ab_tau) / (1 - ab_T)
        MX = sqrt(ab_T / ab_tau) (1 - ab_tau) / (1 - ab_T)
        V  = sum_{i<k} G(T-i-1, tau+1)^2 beta_{T-i},  k = T - tau
        G(i, j) = sqrt(prod_{n=j..i} alpha_n) (1 - ab_{j-1}) / (1 - ab_i), 1 for i < j

        Examples
        --------
        >>> of_x0, of_xt, variance = Diffusion().jump(5)
        >>> print(f"{of_x0:.4f} {of_xt:.1e} {variance:.1e}")
        0.9997 4.4e-06 8.3e-04
        """
        kept, last = self.kept, self.steps
        between = kept[last] / kept[tau]
        of_x0 = np.sqrt(kept[tau]) * (1 - between) / (1 - kept[last])
        of_xt = np.sqrt(between) * (1 - kept[tau]) / (1 - kept[last])
        # The noise that comes in at step n (n - 1 is where it ends) passes the steps n - 1 .. tau + 1.
        n = np.arange(tau + 1, last + 1)
        passed = np.sqrt(kept[n - 1] / kept[tau]) * (1 - kept[tau])
        # Through no step at all (n = tau + 1) it comes whole: the quotient would be 0 / 0 for tau = 0.
        gain = np.divide(passed, 1 - kept[n - 1], out=np.ones(len(n)), where=n > tau + 1)
        added = np.where(n > 1, self.beta[n], 0.0)  # as in `posterior`
        return float(of_x0), float(of_xt), float((gain**2 * added).sum())

    def ancestral_step(self, x: Tensor, x0: Tensor, t: int, noise: Tensor | None) -> Tensor:
        """x_{t-1} from x_t and the estimate of x0; `noise` is standard normal, unused for t = 1."""
        of_x0, of_xt, variance = self.posterior(t)
        stepped = of_x0 * x0 + of_xt * x
        return stepped if noise is None or variance == 0 else stepped + variance**0.5 * noise

    def ddim_step(self, x: Tensor, x0: Tensor, t: int) -> Tensor:
        """x_{t-1} without new noise (Song, Meng and Ermon 2021, eq. 12 with eta = 0)."""
        now, before = self.kept[t], self.kept[t - 1]
        noise = (x - float(np.sqrt(now)) * x0) / float(np.sqrt(1 - now))
        return float(np.sqrt(before)) * x0 + float(np.sqrt(1 - before)) * noise
