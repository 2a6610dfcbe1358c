from __future__ import annotations

import sys

import numpy as np
import pytest

from napari_ensir import EnsembleError
from napari_ensir.ensemble.compare.baselines import (
    REGRESSORS,
    ZZPM,
    Average,
    BinSets,
    GlobalLeastSquares,
    OneCandidate,
    RefESR,
    Regression,
    _downsampled,
)
from napari_ensir.ensemble.estimators.zzpm import zzpm_weights_from_gram


@pytest.fixture
def pairs():
    rng = np.random.default_rng(11)
    made = []
    for _ in range(3):
        truth = rng.uniform(20, 230, (24, 28))
        made.append(([np.clip(truth + rng.normal(0, s, truth.shape), 0, 255) for s in (3, 6, 12)], truth))
    return made


def error(combiner, pairs):
    return np.mean([np.mean((combiner.predict(xs) - truth) ** 2) for xs, truth in pairs])


def test_average_and_single_candidate(pairs):
    candidates, _ = pairs[0]
    np.testing.assert_allclose(Average().predict(candidates), np.mean(candidates, axis=0))
    np.testing.assert_array_equal(OneCandidate(2, "C").predict(candidates), candidates[2])


def test_zzpm_weights_follow_the_formulas(pairs):
    candidates = pairs[0][0]
    mean = np.mean(candidates, axis=0)
    mse = np.array([np.mean((x - mean) ** 2) for x in candidates])
    np.testing.assert_allclose(ZZPM().weights(candidates), (1 / mse) / (1 / mse).sum())
    score = np.exp(1 / (1e-3 + mse))
    np.testing.assert_allclose(ZZPM(released=True).weights(candidates), score / score.sum())


def test_zzpm_weights_follow_from_the_gram_matrix_of_errors(pairs):
    candidates, truth = pairs[0]
    errors = np.stack(candidates).reshape(3, -1) - truth.ravel()
    for scale in (1, 1e-9):  # in any unit
        weights = zzpm_weights_from_gram(scale * errors @ errors.T)
        np.testing.assert_allclose(weights, ZZPM().weights(candidates))


def test_zzpm_weighs_equal_candidates_equally():
    same = [np.ones((4, 4))] * 3
    for released in (False, True):
        np.testing.assert_allclose(ZZPM(released).weights(same), 1 / 3)


def test_zzpm_depends_on_the_scaled_intensities(pairs):
    candidates = pairs[0][0]
    scaled = [x / 255 for x in candidates]
    for released in (False, True):
        small = ZZPM(released, (0.0, 1.0)).weights(scaled)
        np.testing.assert_allclose(small, ZZPM(released).weights(candidates))


def test_global_least_squares_beats_every_candidate(pairs):
    combiner = GlobalLeastSquares()
    combiner.fit(pairs)
    assert combiner.weights.sum() == pytest.approx(1)
    assert (combiner.weights >= 0).all()
    assert error(combiner, pairs) < min(error(OneCandidate(i, ""), pairs) for i in range(3))
    assert error(combiner, pairs) <= error(Average(), pairs)


def test_global_least_squares_ignores_nan(pairs):
    whole = GlobalLeastSquares()
    whole.fit(pairs)
    pairs[1][0][0][:5] = np.nan
    pairs[2][1][:5] = np.inf
    holed = GlobalLeastSquares()
    holed.fit(pairs)
    np.testing.assert_allclose(holed.weights, whole.weights, atol=0.05)


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors_learn_from_a_reproducible_sample(pairs, name, one_thread):
    pytest.importorskip("sklearn")
    combiner = Regression(name, samples=300)
    combiner.fit(pairs)
    assert "300 pixels of 2,016" in combiner.note
    assert error(combiner, pairs) < error(OneCandidate(2, ""), pairs)
    again = Regression(name, samples=300)
    again.fit(pairs)
    np.testing.assert_allclose(again.predict(pairs[0][0]), combiner.predict(pairs[0][0]), rtol=1e-6)


def test_regressors_have_default_parameters(pairs):
    linear_model = pytest.importorskip("sklearn.linear_model")
    combiner = Regression("linear regression", None)
    combiner.fit(pairs)
    assert combiner.note == "all pixels"
    values = np.concatenate([np.stack(xs, -1).reshape(-1, 3) for xs, _ in pairs])
    model = linear_model.LinearRegression().fit(values, np.concatenate([t.ravel() for _, t in pairs]))
    np.testing.assert_allclose(combiner.model.coef_, model.coef_)


def test_regression_predicts_nan_at_nan(pairs):
    pytest.importorskip("sklearn")
    combiner = Regression("linear regression")
    combiner.fit(pairs)
    candidates = [np.array([1.0, np.nan]), np.array([1.0, 2.0]), np.array([1.0, 2.0])]
    assert np.isnan(combiner.predict(candidates)).tolist() == [False, True]


def test_missing_scikit_learn_is_an_error(pairs, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(EnsembleError, match=r"pip install \"napari-ensir\[compare\]\""):
        Regression("Bagging").fit(pairs)


@pytest.mark.parametrize("method", ["em", "em-released", "least-squares"])
def test_lookup_tables_equal_fit_lut(pairs, method):
    combiner = BinSets(method, method, bin_width=32, data_range=(0, 255), device="cpu")
    combiner.fit(pairs)
    np.testing.assert_array_equal(combiner.predict(pairs[0][0]), combiner.lut.apply(pairs[0][0], "cpu"))


def _low(image):
    return _downsampled(np.asarray(image, float), (6, 7))


def test_refesr_finds_the_weights_of_the_low_resolution_image(pairs):
    """Where the references' PSNRs say nothing, the low-resolution image decides."""
    (first, second, third), _ = pairs[0]
    combiner = RefESR((0.0, 255.0))
    combiner.preferred = np.full(3, 1 / 3)
    combiner.TRUST = 1e-9
    weights = combiner.weights([first, second, third], _low(1.5 * first - 0.5 * second))
    np.testing.assert_allclose(weights, [1.5, -0.5, 0], atol=1e-2)
    assert weights.sum() == pytest.approx(1)


def test_refesr_minimises_its_objective(pairs):
    combiner = RefESR((0.0, 255.0))
    combiner.fit(pairs)
    assert combiner.preferred.argmax() == 0
    candidates, truth = pairs[0]
    low = _low(truth)
    weights = combiner.weights(candidates, low)
    shrunk = np.stack([_low(x).ravel() for x in candidates], 1) / 255

    def objective(w):
        return np.sum((low.ravel() / 255 - shrunk @ w) ** 2) + 0.8 * np.sum((w - combiner.preferred) ** 2)

    rng = np.random.default_rng(0)
    for _ in range(50):
        step = rng.normal(0, 1e-2, 3)
        assert objective(weights) <= objective(weights + step - step.mean()) + 1e-9


def test_refesr_needs_low_resolution_inputs(pairs):
    combiner = RefESR((0.0, 255.0))
    combiner.fit(pairs)
    with pytest.raises(EnsembleError, match="low-resolution"):
        combiner.predict(pairs[0][0])
    with pytest.raises(EnsembleError, match="larger than"):
        combiner.predict(pairs[0][0], np.zeros((48, 56)))
    with pytest.raises(EnsembleError, match="two dimensions"):
        combiner.predict([np.zeros((2, 8, 8))] * 3, np.zeros((2, 4, 4)))


def test_downsampling_keeps_constants_and_ramps():
    np.testing.assert_allclose(_downsampled(np.full((16, 12), 0.3), (4, 3)), 0.3)
    ramp = np.tile(np.arange(32.0), (8, 1))
    np.testing.assert_allclose(_downsampled(ramp, (2, 8))[0, 2:-2], (np.arange(8) * 4 + 1.5)[2:-2], atol=1e-9)
