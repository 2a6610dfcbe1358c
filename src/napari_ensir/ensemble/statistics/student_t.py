"""Quantiles of Student's t distribution without scipy, whose import takes a quarter of a second."""

from __future__ import annotations

import numpy as np


def student_t_quantile(degrees: int, probability: float) -> float:
    """Return a quantile of Student's t distribution.

    Parameters
    ----------
    degrees : int
        Degrees of freedom, at least 1.
    probability : float
        Between 0.5 and 1.

    Returns
    -------
    float
        Found by bisection in the distribution function of Abramowitz and Stegun, *Handbook of Mathematical
        Functions*, equations 26.7.3 and 26.7.4.

    Examples
    --------
    >>> round(student_t_quantile(9, 0.975), 4)
    2.2622
    """
    odd = degrees % 2
    steps = np.arange(1, (degrees - odd) // 2)
    ratios = 2 * steps / (2 * steps + 1) if odd else (2 * steps - 1) / (2 * steps)

    def probability_within(angle: float) -> float:
        """Probability of a magnitude of up to ``sqrt(degrees) * tan(angle)``."""
        sine, cosine = np.sin(angle), np.cos(angle)
        series = 1 + np.cumprod(ratios * cosine**2).sum()
        if not odd:
            return float(sine * series)
        return float((angle + (sine * cosine * series if degrees > 1 else 0)) * 2 / np.pi)

    low, high = 0.0, np.pi / 2
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if probability_within(middle) < 2 * probability - 1 else (low, middle)
    return float(np.sqrt(degrees) * np.tan(low))
