"""LUTEnsemble behaves as a scikit-learn estimator; the table's report and HTML can be read."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir import EnsembleError, LUTEnsemble, WeightLUT, fit_lut
from tests.ensemble.test_fit import equal, noisy_pair


def test_predict_is_the_ensemble_of_the_table():
    pair = noisy_pair()
    ensemble = LUTEnsemble(method="em", bin_width=16, device="cpu")
    assert ensemble.fit([pair], names=("a", "b", "c")) is ensemble
    lut = fit_lut([pair], names=("a", "b", "c"), method="em", bin_width=16, device="cpu")
    equal(ensemble.lut_, lut)
    image = ensemble.predict(pair[0])
    np.testing.assert_array_equal(image, lut.apply(pair[0], "cpu"))
    wanted = 10 * np.log10(255**2 / np.mean((image - pair[1].astype(float)) ** 2))
    assert ensemble.score([pair]) == pytest.approx(wanted)


def test_scikit_learn_clones_and_sets_it():
    base = pytest.importorskip("sklearn.base")
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    ensemble = LUTEnsemble(method="em", prior=(1, 2))
    copy = base.clone(ensemble)
    assert copy.get_params() == ensemble.get_params()
    assert copy is not ensemble
    for name in ("check_no_attributes_set_in_init", "check_get_params_invariance", "check_set_params"):
        getattr(checks, name)("LUTEnsemble", LUTEnsemble())


def test_parameters_are_set_by_name_and_checked_in_fit():
    ensemble = LUTEnsemble().set_params(method="best", bin_width=8)
    assert repr(ensemble) == "LUTEnsemble(method='best', bin_width=8)"
    with pytest.raises(EnsembleError, match="method is 'best'"):
        ensemble.fit([noisy_pair()])
    with pytest.raises(EnsembleError, match="no parameter 'bins'"):
        ensemble.set_params(bins=3)
    with pytest.raises(EnsembleError, match="not fitted"):
        LUTEnsemble().predict([])


def test_the_report_is_a_mapping_with_attributes():
    lut = fit_lut([noisy_pair()], device="cpu")
    report = lut.report
    assert isinstance(report, dict)
    assert report.pixels == report["pixels"] == 64 * 64
    assert report.warnings == report["warnings"]
    assert report.scores is None
    assert report.method_choice["summary"]
    with pytest.raises(AttributeError, match="no 'colour'"):
        _ = report.colour
    assert (report | {"pixels": 3}).pixels == 3


def test_html_has_the_candidates_escaped():
    lut = fit_lut([noisy_pair()], names=("<b>", "near & far", "c"), device="cpu")
    html = lut._repr_html_()
    assert "&lt;b&gt;" in html
    assert "near &amp; far" in html
    assert "<b>" not in html
    empty = WeightLUT(
        lut.names, "em", lut.binning, lut.rows[:0], lut.weights[:0], lut.counts[:0], lut.fallback
    )
    assert "mean weight" in empty._repr_html_()


def test_match_exposure_finds_gain_and_offset():
    candidates, truth = noisy_pair()
    lut = fit_lut([([c.astype(float) for c in candidates], truth.astype(float))], device="cpu")
    moved = [2.0 * image + 30 for image in candidates]
    matched = lut.match_exposure(moved)
    assert matched.report["rescaled"] == pytest.approx([2, 30], abs=0.01)
    np.testing.assert_allclose(matched.apply(moved, "cpu"), 2 * lut.apply(candidates, "cpu") + 30, atol=1e-2)
    with pytest.raises(EnsembleError, match="3 candidates"):
        lut.match_exposure(moved[:2])
