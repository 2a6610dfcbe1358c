"""EM for a Gaussian mixture per bin set (EnsIR, section 3.3).

Within a bin set the ground truth ``y`` is modelled as ``P(y) = sum_m a_m phi(y; mu_m, s_m)`` with one
component per candidate and ``s`` a variance. EM depends on ``y`` only through the frequency of each value, so
it runs on histograms, at a cost that does not depend on the number of pixels.

=====================  ==========================================  =======================================
step                   :func:`em`, the paper                       :func:`em_released`, the authors' code
=====================  ==========================================  =======================================
start ``mu``, ``s``    mean, variance of ``x_m`` (eqs. 12, 13)     the same
start ``a``            the prior, else ``1 / M``                   the prior, else
                                                                   ``softmax(1 / (1e-10 + rmse_m))``
E step                 ``gamma ~ a_m phi_m(y)`` (eq. 9)            the same
``a``                  mean of ``gamma`` (eq. 10)                  ``(sum gamma + 1e-6) / N``
``s``                  about the fixed ``mu`` (eq. 11)             about the new mean, ``+ 1e-6``
stop                   rise of the mean log likelihood below       the same, from the second iteration on;
                       1e-5, or 1000 iterations                    1001 iterations
fewer than 100 pixels  the prior, else ``1 / M``                   the start weights
no solution            the prior, else ``1 / M``                   the start weights
unseen bin set         the prior, else ``1 / M``                   the weights of the bin set before it
=====================  ==========================================  =======================================

``rmse_m`` is the root mean square of ``x_m`` minus the candidates' mean, in intensity units. There is no
solution where a candidate is constant in the bin set, or where the variance of a component tends to zero and
the likelihood to infinity.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble import engines
from napari_ensir.ensemble.arrays.parallel import for_each, n_threads, running_progress
from napari_ensir.ensemble.estimators.base import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.estimators.base import Settings
    from napari_ensir.ensemble.statistics.statistics import Statistics

_CONVERGED, _LIMIT, _NO_SOLUTION, _TOO_FEW = range(4)
CHECK_EVERY = 8
"""Iterations in torch and numpy between two checks whether all bin sets have stopped."""

NUMPY_GROUP, TORCH_GROUP = (8, 2**17), (2, 2**24)
"""Ratio of the longest to the shortest histogram of a group, and its most responsibilities."""

COMPACT_BELOW = 0.75
"""Share of running bin sets of a group below which the others are removed from the arrays."""

RUN_LEVELS = 2000
"""Intensity levels of a run of bin sets in the compiled kernel."""

_Solution = tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.int64]", "NDArray[np.int8]"]
"""Weights, variances, iterations and outcome of each bin set."""


@dataclass(frozen=True)
class _Rule:
    """Differences between the two variants of EM inside the loop."""

    limit: int
    first_check: int  # first iteration that may be the last
    tolerance: float
    weight_floor: float  # added to the sum of responsibilities, in pixels
    variance_floor: float
    recentred: bool


@dataclass(frozen=True)
class _Mixtures:
    """Bin sets to solve: histograms of the truth and start values of the components."""

    starts: NDArray[np.int64]  # (R + 1,)
    truth: NDArray[np.float64]  # (P,)
    share: NDArray[np.float64]  # (P,) share of the bin set's pixels
    counts: NDArray[np.int64]  # (R,)
    means: NDArray[np.float64]  # (R, M)
    variances: NDArray[np.float64]  # (R, M)
    weights: NDArray[np.float64]  # (R, M)


def em(statistics: Statistics, settings: Settings, progress: Progress | None = None, /) -> Estimate:
    """Estimate weights by the paper's EM (EnsIR, equations 9 to 13).

    Parameters
    ----------
    statistics : Statistics
    settings : Settings
        ``prior``, ``min_pixels``, ``max_iter``, ``tolerance`` and ``device`` are used.
    progress
        Called with (bin sets done, bin sets, text); what it raises stops the work.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir import fit_lut
    >>> truth = np.tile(np.arange(0, 250, dtype=np.uint8), (200, 1))
    >>> good, bad = truth + 1, truth[:, ::-1].copy()
    >>> lut = fit_lut([((good, bad), truth)], method="em", device="cpu")
    >>> bool(lut.weights_for((100, 150))[0] > 0.99)
    True
    """
    average = np.full(statistics.n_candidates, 1 / statistics.n_candidates)
    base = average if settings.prior is None else settings.prior
    start = np.broadcast_to(base, (len(statistics.rows), statistics.n_candidates))
    limit = 1000 if settings.max_iter is None else settings.max_iter
    rule = _Rule(limit, 1, settings.tolerance, 0.0, 0.0, recentred=False)
    weights, variances, iterations, outcome = _solve(statistics, start, rule, settings, progress)
    weights[outcome >= _NO_SOLUTION] = base
    fallback = np.tile(base, (statistics.n_channels, 1))
    return Estimate(weights, fallback, "fallback", iterations, outcome, variances)


def em_released(statistics: Statistics, settings: Settings, progress: Progress | None = None, /) -> Estimate:
    """Estimate weights by EM as in the EnsIR authors' released code, in float64 (see the table above).

    Parameters
    ----------
    statistics, settings, progress
        As for :func:`em`.
    """
    m = statistics.n_candidates
    average = np.full(m, 1 / m)
    if settings.prior is None:
        start = _agreement_weights(statistics)
    else:
        start = np.tile(settings.prior, (len(statistics.rows), 1))
    limit = 1001 if settings.max_iter is None else settings.max_iter + 1
    rule = _Rule(limit, 2, settings.tolerance, 1e-6, 1e-6, recentred=True)
    weights, variances, iterations, outcome = _solve(statistics, start, rule, settings, progress)
    # The released code catches an exception where a variance is zero or NaN.
    weights[outcome >= _NO_SOLUTION] = start[outcome >= _NO_SOLUTION]
    # In the released code weights sum to 1 + M * 1e-6 / N; here they are on the simplex.
    weights /= weights.sum(axis=1, keepdims=True)
    fallback = np.tile(average, (statistics.n_channels, 1))
    return Estimate(weights, fallback, "previous", iterations, outcome, variances)


def _agreement_weights(statistics: Statistics) -> NDArray[np.float64]:
    """Softmax over m of 1 / (1e-10 + RMSE of x_m to the candidates' mean), per bin set."""
    m = statistics.n_candidates
    # x_m minus the candidates' mean is e_m minus the mean of e, as the truth cancels. In integers, times M
    # squared, so that a candidate equal to the mean gets exactly zero.
    gram = statistics.level_gram.astype(np.float64)
    diagonal = np.einsum("rmm->rm", gram)
    square = m * m * diagonal - 2 * m * gram.sum(axis=2) + gram.sum(axis=(1, 2))[:, None]
    scale = statistics.binning.step**2 / (m * m)
    rmse = np.sqrt(np.maximum(square, 0) * scale / statistics.counts[:, None])
    score = 1 / (1e-10 + rmse)
    score = np.exp(score - score.max(axis=1, keepdims=True))
    return np.asarray(score / score.sum(axis=1, keepdims=True), np.float64)


def _solve(
    statistics: Statistics,
    start: NDArray[np.float64],
    rule: _Rule,
    settings: Settings,
    progress: Progress | None,
) -> _Solution:
    """Run EM on bin sets with enough pixels and no constant candidate."""
    counts, variances = statistics.counts, statistics.variances
    weights = np.array(start)
    iterations = np.zeros(len(counts), np.int64)
    outcome = np.full(len(counts), _TOO_FEW, np.int8)
    enough = counts >= settings.min_pixels
    singular = (variances == 0).any(axis=1)
    outcome[enough & singular] = _NO_SOLUTION
    chosen = np.flatnonzero(enough & ~singular)
    if len(chosen):
        mixtures = _mixtures(statistics.subset(chosen), start[chosen])
        m = statistics.n_candidates
        # The size of the set decides, so that small sets give the same weights whatever ran before.
        dtype, size = np.dtype(np.float64), m * len(mixtures.truth)
        is_small = engines.is_small_fit(statistics.n_pixels * (m + 1), size)
        engine = engines.choose_engine("iterate_em", dtype, size, settings.device, is_small=is_small)
        if engine == "compiled":
            found = _iterate_compiled(mixtures, rule, progress)
        else:
            device = resolve_device(settings.device or "cpu") if engine == "torch" else None
            found = _iterate_padded(mixtures, rule, device, progress)
        weights[chosen], variances[chosen], iterations[chosen], outcome[chosen] = found
    return weights, variances, iterations, outcome


def _mixtures(statistics: Statistics, start: NDArray[np.float64]) -> _Mixtures:
    counts = statistics.counts
    return _Mixtures(
        statistics.starts,
        statistics.truth,
        statistics.level_counts / np.repeat(counts, np.diff(statistics.starts)),
        counts,
        statistics.means,
        statistics.variances,
        np.array(start),
    )


def _iterate_compiled(mixtures: _Mixtures, rule: _Rule, progress: Progress | None) -> _Solution:
    """Iterate runs of bin sets in several threads of the CPU."""
    from napari_ensir.ensemble import kernels

    n = len(mixtures.counts)
    variances = mixtures.variances.copy()
    weights = mixtures.weights.copy()
    iterations = np.zeros(n, np.int64)
    status = np.zeros(n, np.int8)
    # Small runs: the threads finish together, and a cancel takes effect soon.
    wanted = min(n, max(4 * n_threads(), int(mixtures.starts[-1]) // RUN_LEVELS))
    cuts = np.searchsorted(mixtures.starts, np.linspace(0, mixtures.starts[-1], wanted + 1))
    cuts = np.unique(np.concatenate([[0], cuts[1:-1], [n]]))

    def run(part: tuple[int, int]) -> None:
        first, last = part
        begin, end = mixtures.starts[first], mixtures.starts[last]
        kernels.iterate_em(
            mixtures.starts[first : last + 1] - begin,
            mixtures.truth[begin:end],
            mixtures.share[begin:end],
            mixtures.means[first:last],
            variances[first:last],
            weights[first:last],
            rule.weight_floor / mixtures.counts[first:last],
            (rule.limit, rule.first_check, rule.tolerance, rule.variance_floor, rule.recentred),
            iterations[first:last],
            status[first:last],
        )

    def done(part: tuple[int, int], _: object) -> None:
        if progress is not None:
            progress(part[1], n, "estimating weights")

    parts = [(int(a), int(b)) for a, b in pairwise(cuts)]
    for_each(parts, run, done)
    return weights, variances, iterations, status


def _iterate_padded(
    mixtures: _Mixtures, rule: _Rule, device: torch.device | None, progress: Progress | None
) -> _Solution:
    """Iterate many bin sets in parallel, in torch on a device or, without one, in numpy.

    Bin sets are grouped by the length of their histograms to limit padding.
    """
    n, m = mixtures.weights.shape
    weights, variances = mixtures.weights.copy(), mixtures.variances.copy()
    iterations = np.zeros(n, np.int64)
    status = np.zeros(n, np.int8)
    ratio, entries = NUMPY_GROUP if device is None else TORCH_GROUP
    report = running_progress(progress, n, "estimating weights")

    def run(group: NDArray[np.int64]) -> int:
        with np.errstate(all="ignore"):  # a bin set without a solution is told by its likelihood
            found = _iterate_group(mixtures, group, rule, device)
        weights[group], variances[group], iterations[group], status[group] = found
        return len(group)

    groups = _groups(np.diff(mixtures.starts), ratio, entries // m)
    for_each(groups, run, lambda _, size: report(size), n_threads() if device is None else 1)
    return weights, variances, iterations, status


def _groups(lengths: NDArray[np.int64], ratio: int, max_entries: int) -> Iterator[NDArray[np.int64]]:
    """Group bin sets with histograms of similar length, with a limit on a group's entries after padding."""
    order = np.argsort(lengths, kind="stable")
    first = 0
    while first < len(order):
        longest = ratio * max(16, int(lengths[order[first]]))
        last = int(np.searchsorted(lengths[order], longest, side="right"))
        last = min(last, first + max(1, max_entries // longest))
        yield order[first:last]
        first = last


def _iterate_group(
    mixtures: _Mixtures, group: NDArray[np.int64], rule: _Rule, device: torch.device | None
) -> _Solution:
    """Run EM on padded histograms, (bin sets, candidates, levels), for all bin sets in parallel."""
    xp = _library(device)
    state = _padded(mixtures, group, rule, device)
    found = {name: xp.zeros_like(state[name]) for name in ("weights", "variances")}
    live = xp.cumsum(state["running"], 0) - 1  # bin sets still in the arrays
    iterations, status = xp.zeros_like(live), xp.full_like(live, _LIMIT)
    for iteration in range(rule.limit + 1):
        gamma, likelihood = _expectation(xp, state)
        running = state["running"]
        broken = running & ~xp.isfinite(likelihood)
        level = running & (likelihood - state["before"] < rule.tolerance) & (iteration >= rule.first_check)
        status[live] = xp.where(broken, _NO_SOLUTION, xp.where(level, _CONVERGED, status[live]))
        iterations[live] = xp.where(running, iteration, iterations[live])
        for name, kept in found.items():
            kept[live] = xp.where(running[:, None], state[name], kept[live])
        state["running"] = running = running & ~(broken | level)
        if iteration == rule.limit:
            break
        state["before"], state["gamma"] = likelihood, gamma
        if iteration % CHECK_EVERY == CHECK_EVERY - 1:  # the only place where the host waits for the device
            n_running = int(running.sum())
            if n_running == 0:
                break
            if n_running < COMPACT_BELOW * len(live):
                live = live[running]
                state = {name: part[running] for name, part in state.items()}
        _maximise(xp, state, rule)
    results = [*found.values(), iterations, status]
    weights, variances, iterations, status = (x if device is None else x.cpu().numpy() for x in results)
    return weights.astype(np.float64), variances.astype(np.float64), iterations, status.astype(np.int8)


def _library(device: torch.device | None) -> Any:
    """Return torch, or numpy where no device is given; both name the functions used here alike."""
    if device is None:
        return np
    import torch

    return torch


def _padded(
    mixtures: _Mixtures, group: NDArray[np.int64], rule: _Rule, device: torch.device | None
) -> dict[str, Any]:
    """Arrays of a group of bin sets, by name; bin sets are the first axis."""
    lengths = np.diff(mixtures.starts)[group]
    place = np.arange(lengths.max())
    entries = np.minimum(mixtures.starts[group][:, None] + place, len(mixtures.truth) - 1)
    padding = place >= lengths[:, None]
    means = mixtures.means[group]
    truth = np.where(padding, means[:, :1], mixtures.truth[entries])
    away = truth[:, None, :] - means[:, :, None]
    arrays = {
        "share": np.where(padding, 0.0, mixtures.share[entries])[:, None, :],
        "away": away,
        "square": away * away,
        "means": means,
        "floor": (rule.weight_floor / mixtures.counts[group])[:, None],
        "variances": mixtures.variances[group],
        "weights": mixtures.weights[group],
        "before": np.full(len(group), -np.inf),
        "running": np.ones(len(group), bool),
    }
    if device is None:
        return arrays
    import torch

    real = torch.float32 if device.type == "mps" else torch.float64
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    kinds = {name: torch.bool if name == "running" else real for name in arrays}
    return {name: tensor.to(device=device, dtype=kinds[name]) for name, tensor in tensors.items()}


def _expectation(xp: Any, state: dict[str, Any]) -> tuple[Any, Any]:
    """E step: responsibilities times the share of pixels (eq. 9), and the mean log likelihood."""
    variances = state["variances"]
    scale = xp.log(state["weights"]) - 0.5 * xp.log(2 * np.pi * variances)
    gamma = state["square"] * (-0.5 / variances)[:, :, None]
    gamma += scale[:, :, None]
    best = xp.amax(gamma, axis=1, keepdims=True)
    gamma -= best
    xp.exp(gamma, out=gamma)
    total = gamma.sum(axis=1, keepdims=True)
    likelihood = (state["share"] * (best + xp.log(total))).sum(axis=(1, 2))
    gamma *= state["share"] / total
    return gamma, likelihood


def _maximise(xp: Any, state: dict[str, Any], rule: _Rule) -> None:
    """M step: replace weights and variances (eqs. 10, 11)."""
    gamma, floor = state["gamma"], state["floor"]
    mass = gamma.sum(axis=2)
    spread = (gamma * state["square"]).sum(axis=2)
    if rule.recentred:
        centre = (gamma * state["away"]).sum(axis=2)
        shift = (centre - floor * state["means"]) / (mass + floor)
        spread = spread + shift * (shift * mass - 2 * centre)
        state["variances"] = spread / mass + rule.variance_floor
    else:  # a component without responsibilities keeps its variance
        state["variances"] = xp.where(mass > 0, spread / mass, state["variances"])
    state["weights"] = mass + floor
