"""Held-out scores of the baselines on the parts of a fit session."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir import FitSession
from napari_ensir.ensemble.compare import baselines
from napari_ensir.ensemble.compare.baselines import (
    GlobalLeastSquares,
    RefESR,
    Regression,
    _downsampled,
    baseline_scores,
    regressors_left_out,
)

FAST = {name: baselines.REGRESSORS[name] for name in ("linear regression", "HistGradientBoosting")}


@pytest.fixture(autouse=True)
def _few_regressors(monkeypatch):
    monkeypatch.setattr(baselines, "REGRESSORS", FAST)


@pytest.fixture
def pair():
    rng = np.random.default_rng(5)
    truth = np.clip(rng.normal(120, 40, (48, 32)), 0, 255)
    images = [np.clip(truth + rng.normal(0, sigma, truth.shape), 0, 255).astype(np.uint8) for sigma in (4, 8)]
    return images, truth.astype(np.uint8)


def expected_psnr(predict, pair, learned_from, scored):
    """PSNR of a method that learns from some rows and is scored on others, in turn."""
    candidates, truth = pair
    squares = []
    for rows, others in zip(scored, learned_from, strict=True):
        found = predict([([x[others] for x in candidates], truth[others])], [x[rows] for x in candidates])
        squares.append(((found - truth[rows]) ** 2).ravel())
    return 10 * np.log10(255**2 / np.mean(np.concatenate(squares)))


def quarters():
    rows = np.split(np.arange(48), 4)
    return [np.setdiff1d(np.arange(48), part) for part in rows], rows


def fitted(method):
    def predict(pairs, candidates):
        method.fit(pairs)
        return method.predict(candidates)

    return predict


def test_each_part_is_predicted_from_the_others(pair):
    session = FitSession([pair], device="cpu")
    found = {row.name: row for row in baseline_scores(session)}
    assert list(found) == ["global least squares", *FAST]
    learned_from, scored = quarters()
    methods = [GlobalLeastSquares(), *(Regression(name, None) for name in FAST)]
    for method in methods:
        psnr = expected_psnr(fitted(method), pair, learned_from, scored)
        assert found[method.name].held_out == pytest.approx(psnr, abs=1e-9)
        assert found[method.name].role == "baseline"


def test_test_images_are_predicted_from_all_others(pair):
    """Outside the mask, as in the viewer."""
    mask = np.zeros((48, 32), bool)
    mask[:30] = True
    session = FitSession([pair], mask=[mask], held_out=([pair], [~mask]), device="cpu")
    rows = ([np.arange(30)], [np.arange(30, 48)])
    for row in baseline_scores(session):
        method = GlobalLeastSquares() if row.name == "global least squares" else Regression(row.name, None)
        assert row.held_out == pytest.approx(expected_psnr(fitted(method), pair, *rows), abs=1e-9)


def test_refesr_prefers_the_candidates_that_are_best_on_the_other_parts(pair):
    candidates, truth = pair
    small = _downsampled(truth.astype(float), (24, 16))
    session = FitSession([pair], device="cpu")
    found = {row.name: row for row in baseline_scores(session, (candidates, small))}

    def predict(pairs, parts):
        method = RefESR()
        method.fit(pairs)
        return np.tensordot(method.weights(candidates, small), np.asarray(parts, float), axes=1)

    assert found["RefESR"].held_out == pytest.approx(expected_psnr(predict, pair, *quarters()), abs=1e-9)


def test_regressors_are_left_out_of_large_images(pair, monkeypatch):
    session = FitSession([pair], device="cpu")
    assert regressors_left_out(session) == ""
    monkeypatch.setattr(baselines, "MOST_PIXELS", 1000)
    assert "1,536 pixels, and the limit is 1,000" in regressors_left_out(session)
    assert [row.name for row in baseline_scores(session)] == ["global least squares"]
