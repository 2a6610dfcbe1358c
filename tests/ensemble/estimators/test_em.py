"""EM against the reference implementation in ``tests/helpers/reference_em.py``."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from napari_ensir import fit_lut
from napari_ensir.ensemble import kernels
from napari_ensir.ensemble.estimators.base import Settings
from napari_ensir.ensemble.estimators.em import _groups, em, em_released
from napari_ensir.ensemble.statistics.reference import collect_reference
from tests.helpers.images import make_image
from tests.helpers.reference_em import plain_fit


def assert_weights_equal(lut, plain, tolerance=1e-6):
    assert len(plain) == len(lut.rows)
    worst = 0.0
    for row, weights, count in zip(lut.rows, lut.weights, lut.counts, strict=True):
        solved = plain[tuple(int(t) for t in row)]
        assert solved.n_pixels == count
        worst = max(worst, float(np.abs(solved.weights - weights).max()))
    assert worst < tolerance


@cache
def solved_plainly(shape, m, dtype, high, width, method, channel_axis):
    """Two images, or one of floats, and the solution of the reference implementation, for both engines."""
    rng = np.random.default_rng(20241022)
    count = 1 if np.dtype(dtype).kind == "f" else 2
    images = [make_image(rng, shape, m, dtype, high) for _ in range(count)]
    return images, plain_fit(images, 0, width, 4, method, channel_axis)


@pytest.mark.parametrize("method", ["em", "em-released"])
@pytest.mark.parametrize(
    ("m", "dtype", "channel_axis"),
    [
        (1, np.uint8, None),
        (2, np.uint8, -1),
        (3, np.uint8, 0),
        (3, np.uint16, 1),
        (4, np.uint16, None),
    ],
)
def test_weights_equal_those_of_the_reference(engine, method, m, dtype, channel_axis):
    shape = {None: (70, 60), -1: (50, 40, 3), 0: (2, 60, 60), 1: (60, 2, 50)}[channel_axis]
    high = np.iinfo(dtype).max
    width = (high + 1) // 4
    images, plain = solved_plainly(shape, m, dtype, None, width, method, channel_axis)
    lut = fit_lut(
        images, method=method, bin_width=width, data_range=(0, high), channel_axis=channel_axis, device="cpu"
    )
    assert_weights_equal(lut, plain)
    # EM ran, and not only its fallbacks.
    assert lut.report["outcomes"]["converged"] > 2 * (1 if m > 1 else 0)


@pytest.mark.parametrize("method", ["em", "em-released"])
def test_prior_is_the_start_and_the_fallback(engine, rng, method):
    images = [make_image(rng, (64, 64), 3)]
    prior = (0.1, 0.3, 0.6)
    lut = fit_lut(images, method=method, bin_width=64, prior=(1, 3, 6), device="cpu")
    assert_weights_equal(lut, plain_fit(images, 0, 64, 4, method, prior=prior))
    few = lut.counts < 100
    assert few.any()
    np.testing.assert_allclose(lut.weights[few], np.tile(prior, (few.sum(), 1)), atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("method", ["em", "em-released"])
def test_weights_of_float_images_are_within_a_thousandth(engine, dtype, method):
    images, plain = solved_plainly((90, 80), 3, dtype, 1.0, 0.25, method, None)
    lut = fit_lut(images, method=method, bin_width=0.25, data_range=(0, 1), device="cpu")
    assert_weights_equal(lut, plain, tolerance=1e-3)


def test_log_likelihood_of_the_papers_em_never_decreases(rng):
    for _ in range(3):
        images = [make_image(rng, (60, 60), 3, noise=0.08)]
        for solved in plain_fit(images, 0, 64, 4).values():
            assert (np.diff(solved.likelihoods) > -1e-9).all()


@pytest.mark.parametrize("method", ["em", "em-released"])
def test_iterations_are_counted_and_limited(engine, rng, method):
    images = [make_image(rng, (50, 50), 3, noise=0.1)]
    plain = plain_fit(images, 0, 256, 1, method)
    (solved,) = plain.values()
    reached = solved.iterations
    for limit in range(1, min(reached, 12)):
        cut = fit_lut(images, method=method, bin_width=256, max_iter=limit, device="cpu")
        assert cut.report["outcomes"]["iteration limit"] + cut.report["outcomes"]["converged"] == 1
    full = fit_lut(images, method=method, bin_width=256, device="cpu")
    assert full.report["iterations"] == [reached]
    assert full.report["outcomes"]["converged"] == 1


def test_engines_agree_on_iterations_and_outcomes(both_engines, rng):
    images = [make_image(rng, (80, 80, 3), 3)]
    reports = []
    for engine in ("compiled", "torch", "numpy"):
        with both_engines(engine):
            lut = fit_lut(images, method="em", bin_width=16, channel_axis=-1, device="cpu")
            reports.append((lut.report, lut.weights))
    for report, weights in reports[1:]:
        assert report == reports[0][0]
        np.testing.assert_allclose(weights, reports[0][1], atol=1e-9)


@pytest.mark.parametrize("method", ["em", "em-released"])
def test_bin_sets_need_a_hundred_pixels(engine, rng, method):
    for pixels, outcome in ((99, "too few pixels"), (100, "converged")):
        lut = fit_lut([make_image(rng, (1, pixels), 2)], method=method, bin_width=256, device="cpu")
        assert lut.report["outcomes"][outcome] == 1


def test_constant_candidate_has_no_solution(engine, rng):
    candidates, truth = make_image(rng, (40, 40), 2)
    truth, candidates[0] = truth // 8 + 100, candidates[0] // 8 + 100
    candidates[1] = np.full_like(truth, 101)
    lut = fit_lut([(candidates, truth)], method="em", bin_width=64, device="cpu")
    assert lut.report["outcomes"]["no solution"] == len(lut.rows) - lut.report["outcomes"]["too few pixels"]
    np.testing.assert_array_equal(lut.weights, 0.5)


def test_too_few_pixels_of_a_constant_candidate_are_too_few(engine, rng):
    candidates, truth = make_image(rng, (1, 99), 2)
    candidates[1] = np.full_like(truth, 101)
    lut = fit_lut([(candidates, truth)], method="em", bin_width=256, device="cpu")
    assert lut.report["outcomes"]["too few pixels"] == 1


def test_collapsing_component_has_no_solution(engine):
    """Half of the truth equals a candidate's mean exactly, so the variance of its component tends to zero."""
    truth = np.tile(np.array([100, 100, 100, 90, 110, 130], np.uint8), 100)
    spiky = np.tile(np.array([99, 101, 100, 100, 99, 101], np.uint8), 100)
    wide = np.tile(np.array([97, 115, 99, 88, 112, 127], np.uint8), 100)
    lut = fit_lut([((spiky, wide), truth)], method="em", bin_width=256, device="cpu")
    assert np.isfinite(lut.weights).all()
    np.testing.assert_allclose(lut.weights.sum(axis=1), 1, atol=1e-12)
    assert lut.report["outcomes"]["no solution"] == 1
    np.testing.assert_array_equal(lut.weights, 0.5)
    np.testing.assert_array_equal(lut.fallback, 0.5)


def test_released_start_weights_of_equal_candidates_are_equal(engine):
    """Two of four candidates equal the candidates' mean; rounding must not favour one."""
    base = np.tile(np.arange(60, dtype=np.uint8) * 3 + 9, 1)
    candidates = [base, base.copy(), base - 7, base + 7]
    lut = fit_lut([(candidates, base + 1)], method="em-released", bin_width=256, device="cpu")
    np.testing.assert_allclose(lut.weights[0], [0.5, 0.5, 0, 0], atol=1e-9)


def test_unseen_bin_set_takes_the_weights_of_the_one_before_it(engine, rng):
    images = [make_image(rng, (40, 40, 3), 3)]
    lut = fit_lut(images, method="em-released", bin_width=64, channel_axis=-1, device="cpu")
    keys = [tuple(int(t) for t in row) for row in lut.rows]
    for a in range(4):
        for b in range(4):
            for c in range(4):
                for channel in range(3):
                    before = [i for i, key in enumerate(keys) if key <= (a, b, c, channel)]
                    wanted = lut.weights[before[-1]] if before else np.full(3, 1 / 3)
                    got = lut.weights_for((a * 64 + 5, b * 64 + 63, c * 64), channel=channel)
                    np.testing.assert_array_equal(got, wanted)
    assert len(keys) < 4**3 * 3


def test_groups_have_similar_lengths_and_a_limit_of_entries():
    lengths = np.random.default_rng(0).permutation(np.repeat([5, 16, 17, 31, 33, 500, 900, 5000], 40))
    groups = list(_groups(lengths, 2, 4000))
    np.testing.assert_array_equal(np.sort(np.concatenate(groups)), np.arange(len(lengths)))
    for group in groups:
        longest = lengths[group].max()
        assert longest <= 2 * max(16, lengths[group].min())
        assert len(group) == 1 or len(group) * longest <= 4000
    assert max(map(len, groups)) == 4000 // 32


def test_exponential_and_logarithm_equal_those_of_numpy():
    def buffers(n):
        work = np.empty((4, n))
        return work, work.view(np.int64)

    x = -np.concatenate([np.linspace(0, 708, 20001), np.logspace(-20, 2.85, 20000)])
    x = np.append(x, [np.nan, -np.inf, -709.0])
    work, bits = buffers(len(x))
    work[0], work[1] = 2.0, 1.0
    found = x + 2.0
    kernels._add_exponential(found, work, bits, len(x))
    wanted = np.exp(x + 2.0 - 2.0)
    assert (np.abs(found - wanted)[:-3] <= 2 * np.spacing(wanted[:-3])).all()
    np.testing.assert_array_equal(found[-3:], [np.nan, 0, 0])
    np.testing.assert_array_equal(work[1], 1.0 + found)
    y = np.concatenate([np.linspace(1, 40, 20001), 1 + np.logspace(-16, 0, 20000), [np.nan]])
    work, bits = buffers(len(y))
    work[1] = y
    kernels._compute_logarithm(work, bits, len(y))
    logs = work[2]
    assert (np.abs(logs - np.log(y))[:-1] <= 2 * np.spacing(np.maximum(logs, 1)[:-1])).all()
    assert np.isnan(logs[-1])


def test_em_as_released_does_one_iteration_more_than_its_limit(rng):
    statistics = collect_reference([make_image(rng, (40, 50), 2)], bin_width=128, device="cpu").statistics
    assert max(em_released(statistics, Settings(max_iter=3, tolerance=0.0)).iterations) == 4
    assert max(em(statistics, Settings(max_iter=3, tolerance=0.0)).iterations) == 3
