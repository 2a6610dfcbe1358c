"""Reference implementation of EM: per pixel, one bin set at a time, in float64.

Written from the equations in ``ensemble/estimators/em.py``; it shares no code with the package.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Solved:
    """Result of EM in one bin set."""

    weights: np.ndarray
    n_pixels: int
    iterations: int = 0
    broke_down: bool = False
    likelihoods: list[float] = field(default_factory=list)
    path: list[np.ndarray] = field(default_factory=list)  # weights after each iteration


def log_likelihood(y, a, mu, s, real=np.float64):
    """Mean over pixels of log P(y)."""
    with np.errstate(all="ignore"):
        logs = log_densities(y, a, mu, s, real)
        best = logs.max(axis=0)
        return real((best + np.log(np.exp(logs - best).sum(axis=0))).mean())


def log_densities(y, a, mu, s, real=np.float64):
    away = y[None, :] - mu[:, None]
    logs = np.log(a) - real(0.5) * np.log(real(2 * np.pi) * s)
    return (logs[:, None] - real(0.5) * away**2 / s[:, None]).astype(real)


def responsibilities(y, a, mu, s, real=np.float64):
    """Equation 9."""
    logs = log_densities(y, a, mu, s, real)
    gamma = np.exp(logs - logs.max(axis=0))
    return gamma / gamma.sum(axis=0)


def start_weights_released(x):
    """softmax over m of 1 / (1e-10 + RMSE of x_m to the candidates' mean)."""
    rmse = np.sqrt(((x - x.mean(axis=0)) ** 2).mean(axis=1))
    score = 1 / (1e-10 + rmse)
    score = np.exp(score - score.max())
    return score / score.sum()


def solve_paper(x, y, start, limit=1000, tolerance=1e-5):
    """Solve equations 9 to 13 on the pixels of one bin set: x (M, N), y (N,)."""
    mu, s, a = x.mean(axis=1), x.var(axis=1), np.array(start, np.float64)
    solved = Solved(np.array(start), len(y))
    if (x.min(axis=1) == x.max(axis=1)).any():
        solved.broke_down = True
        return solved
    solved.likelihoods.append(log_likelihood(y, a, mu, s))
    for iteration in range(1, limit + 1):
        with np.errstate(all="ignore"):
            gamma = responsibilities(y, a, mu, s)
            a = gamma.mean(axis=1)
            for m in range(len(x)):
                if gamma[m].sum() > 0:
                    s[m] = (gamma[m] * (y - mu[m]) ** 2).sum() / gamma[m].sum()
        solved.iterations = iteration
        solved.likelihoods.append(log_likelihood(y, a, mu, s))
        if not np.isfinite(solved.likelihoods[-1]):
            solved.broke_down = True
            return solved
        if solved.likelihoods[-1] - solved.likelihoods[-2] < tolerance:
            break
    solved.weights = a
    return solved


def solve_released(x, y, start, limit=1001, tolerance=1e-5, real=np.float64):
    """Solve with the deviations of the released code, in any precision."""
    x, y = x.astype(real), y.astype(real)
    n = len(y)
    mu = x.mean(axis=1, dtype=real)
    s = ((x - mu[:, None]) ** 2).mean(axis=1, dtype=real)
    a = np.array(start, real)
    solved = Solved(np.array(start, np.float64), n)
    if (x.min(axis=1) == x.max(axis=1)).any():
        solved.broke_down = True
        return solved
    before = -np.inf
    for iteration in range(1, limit + 1):
        with np.errstate(all="ignore"):
            gamma = responsibilities(y, a, mu, s, real)
            mass = gamma.sum(axis=1, dtype=real)
            centre = (gamma * y).sum(axis=1, dtype=real) / (mass + real(1e-6))
            spread = (gamma * (y[None] - centre[:, None]) ** 2).sum(axis=1, dtype=real)
            s = spread / mass + real(1e-6)
            a = (mass + real(1e-6)) / real(n)
        solved.iterations = iteration
        solved.path.append(a.astype(np.float64))
        after = log_likelihood(y, a, mu, s, real)
        solved.likelihoods.append(float(after))
        if not np.isfinite(after):
            solved.broke_down = True
            return solved
        if after - before < tolerance:
            break
        before = after
    solved.weights = a.astype(np.float64) / a.astype(np.float64).sum()
    return solved


def plain_fit(images, low, width, n_bins, method="em", channel_axis=None, prior=None, min_pixels=100):
    """Solve every occupied bin set of a reference set, by its row ``(t_1, ..., t_M, channel)``."""
    gathered: dict[tuple[int, ...], list] = {}
    for candidates, truth in images:
        x = np.stack([np.asarray(c, np.float64) for c in candidates])
        y = np.asarray(truth, np.float64)
        if channel_axis is None:
            x, y = x.reshape(len(x), 1, -1), y.reshape(1, -1)
        else:
            axis = channel_axis % y.ndim
            x = np.moveaxis(x, axis + 1, 1)
            x = x.reshape(*x.shape[:2], -1)
            y = np.moveaxis(y, axis, 0)
            y = y.reshape(len(y), -1)
        bins = np.clip(np.floor((x - low) / width), 0, n_bins - 1).astype(int)
        for channel in range(y.shape[0]):
            sets, which = np.unique(bins[:, channel], axis=1, return_inverse=True)
            which = which.reshape(-1)
            for number, row in enumerate(sets.T):
                here = which == number
                key = (*(int(t) for t in row), channel)
                gathered.setdefault(key, []).append((x[:, channel, here], y[channel, here]))
    solved = {}
    m = len(images[0][0])
    average = np.full(m, 1 / m) if prior is None else np.array(prior, float) / np.sum(prior)
    for key, parts in gathered.items():
        x = np.concatenate([part[0] for part in parts], axis=1)
        y = np.concatenate([part[1] for part in parts])
        released = method == "em-released" and prior is None
        start = start_weights_released(x) if released else average
        if len(y) < min_pixels:
            solved[key] = Solved(start, len(y))
        else:
            solve = solve_paper if method == "em" else solve_released
            solved[key] = solve(x, y, start)
    return solved
