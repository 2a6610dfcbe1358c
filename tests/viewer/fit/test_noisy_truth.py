"""Fit and Compare where the ground truth is another noisy exposure: only what is true is shown."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir import compare


@pytest.fixture
def noisy(filled, fit_widget, images):
    """The Fit widget with a second exposure of sd 12 for its ground truth."""
    truth = images["ground truth"] + np.random.default_rng(5).normal(0, 12, images["ground truth"].shape)
    filled.layers["ground truth"].data = np.rint(np.clip(truth, 0, 255)).astype(np.uint8)
    fit_widget.method.value = "least-squares"
    return fit_widget


def headings(table):
    return [table.native.horizontalHeaderItem(place).text() for place in range(table.native.columnCount())]


def fitted(noisy, wait_for, noise):
    noisy.truth_noise.value = noise
    noisy.fit()
    wait_for(noisy)
    return {score.role + score.name: score for score in noisy.result.scores}


def test_scores_and_comparison_are_differences_not_psnr_against_noise(noisy, wait_for, images):
    found = fitted(noisy, wait_for, "unknown")
    assert headings(noisy.scores) == ["", "difference of MSE"]
    average = np.mean([images[name] for name in noisy.result.lut.names], axis=0)
    for name in noisy.result.lut.names:
        truth = images["ground truth"].astype(float)
        true = np.mean((images[name] - truth) ** 2) - np.mean((average - truth) ** 2)
        score = found["candidate" + name]
        assert abs(score.difference - true) < 4 * score.standard_error + 1, name
        assert np.isnan(score.psnr)
    best = found["methodLeast squares"]
    assert best.best
    assert best.difference < 0
    assert "only differences of errors are shown" in noisy.message.value
    texts = {row[0]: row for row in noisy.scores.value["data"]}
    assert texts["● Least squares"][1].startswith("★ \u2212")
    assert texts["average"][1] == "0"

    noisy.compare()
    wait_for(noisy)
    names = [score.name for score in noisy.scores.scores]
    assert names[0] == "Least squares"
    assert "ZZPM" in names
    assert "EM (paper)" not in names
    differences = [score.difference for score in noisy.scores.scores]
    assert differences == sorted(differences)
    assert headings(noisy.scores) == ["", "difference of MSE"]
    assert "The ground truth is noisy" in noisy.message.value
    table = compare(
        [([images[name] for name in noisy.result.lut.names], noisy.ground_truth.value.data)],
        noisy.result.lut.names,
        methods=[*noisy.result.lut.names, "average", "least-squares"],
        truth_noise="unknown",
    )
    assert table.noisy.ranked[0] == len(table.noisy.names) - 1  # the command line and Python agree


def test_with_the_noise_known_psnr_has_its_variance_taken_off(noisy, wait_for, images, tmp_path):
    found = fitted(noisy, wait_for, 12.0)
    assert headings(noisy.scores) == ["", "difference of MSE", "PSNR"]
    truth = images["ground truth"].astype(float)
    true = 10 * np.log10(255**2 / np.mean((images["good in the light"] - truth) ** 2))
    assert found["candidategood in the light"].psnr == pytest.approx(true, abs=0.5)
    noisy.export_scores(tmp_path / "scores.csv")
    heading, *rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert heading.startswith("name,role,difference of MSE (squared intensity),standard error of difference")
    assert heading.endswith(",PSNR (dB),note")
    assert len(rows) == len(noisy.result.scores)


def test_what_lies_outside_a_mask_is_scored(noisy, filled, wait_for):
    labels = np.zeros((96, 96), int)
    labels[:, :40] = 1
    like = filled.layers["ground truth"]
    place = {"scale": like.scale, "translate": like.translate, "rotate": like.rotate, "shear": like.shear}
    noisy.mask.value = filled.add_labels(labels, name="here", affine=like.affine, units=like.units, **place)
    found = fitted(noisy, wait_for, "unknown")
    unseen = noisy.result.session.unseen
    assert len(unseen.folds) == 8
    assert found["candidategood in the light"].standard_error > 0
    error = np.einsum("rmm->m", unseen.statistics.error_gram) / unseen.statistics.n_pixels
    gram = unseen.statistics.error_gram.sum(axis=0) / unseen.statistics.n_pixels
    place = noisy.result.lut.names.index("good in the light")
    assert found["candidategood in the light"].difference == pytest.approx(error[place] - gram.mean())
