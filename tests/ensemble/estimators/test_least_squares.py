"""Least squares on the simplex: optimality conditions, comparison with scipy, and the estimator."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, nnls

from napari_ensir import EnsembleError, fit_lut
from napari_ensir.ensemble.estimators.base import Settings
from napari_ensir.ensemble.estimators.least_squares import minimise_on_simplex
from tests.helpers.images import make_image


def random_grams(rng, n, m, rank=None):
    rank = m + 3 if rank is None else rank
    # Candidates of different quality that share part of their error, so that some weights are zero.
    shared = rng.normal(size=(n, 1, rank))
    errors = shared + rng.uniform(0.2, 2.0, (n, m, 1)) * rng.normal(size=(n, m, rank))
    return errors @ errors.transpose(0, 2, 1) * rng.uniform(1e-6, 1e9, (n, 1, 1))


def assert_optimal(matrices, weights, tolerance=1e-9):
    """Assert the Karush-Kuhn-Tucker conditions on the simplex."""
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)
    scale = np.maximum(np.einsum("rmm->r", matrices) / matrices.shape[1], 1e-300)
    gradient = np.einsum("rij,rj->ri", matrices, weights) / scale[:, None]
    level = np.einsum("ri,ri->r", gradient, weights)[:, None]
    assert (gradient - level >= -tolerance).all()  # dual feasibility
    assert (np.abs(gradient - level) * weights <= tolerance).all()  # complementary slackness


@pytest.mark.parametrize("m", [1, 2, 3, 5, 8, 16])
def test_weights_are_optimal(rng, m):
    matrices = random_grams(rng, 400, m)
    weights, rounds = minimise_on_simplex(matrices)
    assert_optimal(matrices, weights)
    assert (rounds > 0).all()
    if m >= 5:  # some constraints are active
        assert (weights == 0).any()
        assert (weights > 0).any()


@pytest.mark.parametrize("m", [2, 5, 16])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_weights_of_singular_and_zero_matrices_are_optimal(rng, m, rank):
    matrices = random_grams(rng, 200, m, rank) if rank else np.zeros((50, m, m))
    weights, _ = minimise_on_simplex(matrices)
    assert_optimal(matrices, weights)
    if rank == 0:
        np.testing.assert_allclose(weights, 1 / m, atol=1e-6)


def test_weights_of_nearly_singular_and_badly_scaled_matrices_are_optimal(rng):
    base = random_grams(rng, 300, 6, 3)
    matrices = base + 1e-12 * np.einsum("rmm->r", base)[:, None, None] * np.eye(6)
    matrices = matrices * 10.0 ** rng.uniform(-150, 150, (300, 1, 1))
    assert_optimal(matrices, minimise_on_simplex(matrices)[0])
    uneven = random_grams(rng, 300, 6) * (10.0 ** rng.uniform(-3, 3, (300, 6)))[:, :, None]
    uneven = uneven @ uneven.transpose(0, 2, 1)
    assert_optimal(uneven, minimise_on_simplex(uneven)[0])


def test_equal_candidates_share_their_weight(rng):
    single = random_grams(rng, 50, 3)
    twins = single[:, [0, 1, 2, 2]][:, :, [0, 1, 2, 2]]
    alone, together = minimise_on_simplex(single)[0], minimise_on_simplex(twins)[0]
    np.testing.assert_allclose(together[:, 2] + together[:, 3], alone[:, 2], atol=1e-8)
    np.testing.assert_allclose(together[:, 2], together[:, 3], atol=1e-4)
    assert_optimal(twins, together)


@pytest.mark.parametrize("m", [2, 3, 6, 16])
def test_weights_equal_those_of_slsqp_and_nnls(rng, m):
    for matrix in random_grams(rng, 6, m):
        matrix = matrix / np.trace(matrix)
        weights, _ = minimise_on_simplex(matrix[None])
        ours = weights[0] @ matrix @ weights[0]
        theirs = minimize(
            lambda w, a=matrix: w @ a @ w,
            np.full(m, 1 / m),
            jac=lambda w, a=matrix: 2 * a @ w,
            bounds=[(0, 1)] * m,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(m)},
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        assert ours <= theirs.fun * (1 + 1e-7) + 1e-12
        np.testing.assert_allclose(weights[0], theirs.x, atol=2e-3)
        # nnls has no equality constraint: a row with a large factor makes the weights sum to one.
        root = np.linalg.cholesky(matrix + 1e-14 * np.eye(m)).T
        heavy = 1e4
        solution, _ = nnls(np.vstack([root, np.full((1, m), heavy)]), np.append(np.zeros(m), heavy))
        np.testing.assert_allclose(weights[0], solution / solution.sum(), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 16), st.integers(0, 2**32 - 1), st.integers(0, 18))
def test_weights_of_small_integer_errors_are_optimal(m, seed, rank):
    rng = np.random.default_rng(seed)
    errors = rng.integers(-3, 4, (20, m, max(rank, 1))).astype(float) * (rank > 0)
    matrices = errors @ errors.transpose(0, 2, 1)
    assert_optimal(matrices, minimise_on_simplex(matrices)[0])


def pooled_error(weights, candidates, truth):
    x = np.stack([c.ravel().astype(float) for c in candidates])
    return float(((np.asarray(weights) @ x - truth.ravel()) ** 2).sum())


def test_no_other_weights_have_a_smaller_error(engine, rng):
    candidates, truth = make_image(rng, (60, 60), 3)
    lut = fit_lut(
        [(candidates, truth)],
        method="least-squares",
        bin_width=256,
        shrinkage=0,
        data_range=(0, 255),
        device="cpu",
    )
    best = pooled_error(lut.weights[0], candidates, truth)
    for _ in range(200):
        assert best <= pooled_error(rng.dirichlet(np.ones(3)), candidates, truth) * (1 + 1e-12)
    np.testing.assert_allclose(lut.weights[0], lut.fallback[0], atol=1e-9)


def test_shrinkage_moves_weights_toward_the_global_solution(rng):
    images = [make_image(rng, (60, 60, 2), 3)]
    distances = []
    for shrinkage in (0, 100, 1e4, 1e12):
        lut = fit_lut(images, method="least-squares", shrinkage=shrinkage, channel_axis=-1, device="cpu")
        distances.append(float(np.abs(lut.weights - lut.fallback[lut.rows[:, -1]]).mean()))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-6
    assert distances[0] > 0.01


def test_unseen_bin_sets_take_the_global_solution_of_the_channel(rng):
    images = [make_image(rng, (30, 30, 3), 2)]
    lut = fit_lut(images, method="least-squares", channel_axis=-1, device="cpu")
    for channel in range(3):
        assert lut.count_for((0, 255), channel) == 0
        np.testing.assert_array_equal(lut.weights_for((0, 255), channel), lut.fallback[channel])


@pytest.mark.parametrize("shrinkage", [-1.0, np.nan, np.inf])
def test_shrinkage_must_be_a_number_of_pixels(rng, shrinkage):
    with pytest.raises(EnsembleError, match=r"shrinkage is .*a number from 0"):
        fit_lut([make_image(rng, (9, 9), 2)], method="least-squares", shrinkage=shrinkage, device="cpu")


def test_settings_of_a_report_are_read_and_invalid_ones_become_defaults():
    assert Settings.from_dict({"shrinkage": 0, "max_iterations": 7}, 2) == Settings(shrinkage=0, max_iter=7)
    for value in (-1, 2**53, True, "5", None):
        assert Settings.from_dict({"shrinkage": value, "min_pixels": value}, 2) == Settings()
    assert Settings.from_dict("nothing", 2) == Settings()
