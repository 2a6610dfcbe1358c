"""Buttons of the Fit panel that correct what the diagnostics report."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_ensir.viewer.code_export import CORRECTION_KEY, fit_as_command, fit_as_python


@pytest.fixture
def structured():
    """A truth with much structure, and a candidate close to it."""
    rng = np.random.default_rng(0)
    truth = gaussian_filter(rng.normal(0, 1, (96, 128)), 2)
    truth = (truth - truth.min()) / np.ptp(truth) * 180 + 30
    return truth.astype(np.uint8), np.clip(truth + rng.normal(0, 4, truth.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def fit_with(viewer, structured, wait_for):
    """Open Fit with the truth, the candidate "A" and another one, "B"."""

    def opened(other, **keywords):
        truth, good = structured
        viewer.add_image(truth, name="ground truth")
        viewer.add_image(good, name="A")
        viewer.add_image(other, name="B", **keywords)
        _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
        widget.method.value = "least-squares"
        widget.candidates.choose_all()
        return widget

    return opened


def click(widget, action, wait_for):
    number = [each.fix["action"] for each in widget.fixes.diagnostics].index(action)
    widget[f"fix_button_{number}"].native.click()
    wait_for(widget)


def test_a_shifted_candidate_is_aligned_as_a_new_layer(viewer, structured, fit_with, wait_for):
    moved = np.roll(structured[1], (0, 3), (0, 1))
    widget = fit_with(moved, scale=(0.5, 0.5))
    widget.fit()
    wait_for(widget)
    assert widget.fix_button_0.native.text() == "Align: B"
    click(widget, "align", wait_for)
    aligned = viewer.layers["B · aligned"]
    assert [layer.name for layer in widget.candidates.value] == ["A", "B · aligned"]
    np.testing.assert_array_equal(viewer.layers["B"].data, moved)
    np.testing.assert_allclose(aligned.scale, (0.5, 0.5))
    inside = np.s_[:, 8:-8]
    error = np.abs(aligned.data.astype(float) - structured[1])[inside].mean()
    assert error < np.abs(moved.astype(float) - structured[1])[inside].mean() / 5
    assert 'Added "B · aligned"' in widget.message.value
    text = widget.as_code(fit_as_python)
    assert "from napari_ensir.ensemble.corrections import shift_image" in text
    assert "candidates[1] = shift_image(candidates[1], " in text
    assert "--align" in widget.as_code(fit_as_command)


def test_intensities_are_matched_by_the_gain_and_offset_found(viewer, structured, fit_with, wait_for):
    widget = fit_with(structured[1].astype(np.float32) / 2 - 10)
    widget.fit()
    wait_for(widget)
    click(widget, "match-intensities", wait_for)
    matched = viewer.layers["B · matched"].data
    assert np.abs(matched - structured[1]).mean() < 3
    (code,) = viewer.layers["B · matched"].metadata[CORRECTION_KEY][1]
    assert code.startswith("match_intensities({}, ")


def test_layers_of_other_sizes_are_cropped_where_they_fit(viewer, structured, fit_with, wait_for):
    widget = fit_with(np.pad(structured[1], 4))
    assert [layer.name for layer in widget.candidates.value] == ["A"]
    assert "crop them to (96, 128)" in widget.message.value
    click(widget, "crop-to-common-size", wait_for)
    cropped = viewer.layers["B · cropped"]
    np.testing.assert_array_equal(cropped.data, structured[1])
    np.testing.assert_allclose(cropped.data_to_world((0, 0)), (4, 4))
    assert [layer.name for layer in widget.candidates.value] == ["A", "B · cropped"]


def test_singleton_axes_are_dropped(viewer, structured, fit_with, wait_for):
    widget = fit_with(structured[1][None], scale=(9, 2, 3))
    click(widget, "drop-axes", wait_for)
    np.testing.assert_array_equal(viewer.layers["B · squeezed"].data, structured[1])
    np.testing.assert_allclose(viewer.layers["B · squeezed"].scale, (2, 3))
    assert [layer.name for layer in widget.candidates.value] == ["A", "B · squeezed"]


def test_an_empty_region_is_left_out_by_a_mask(viewer, structured, fit_with, wait_for):
    broken = structured[1].copy()
    broken[10:20, 20:40] = 0
    widget = fit_with(broken)
    viewer.layers["ground truth"].scale = (2, 3)
    viewer.layers["ground truth"].translate = (5, 6)
    widget.fit()
    wait_for(widget)
    click(widget, "crop", wait_for)
    expected = np.ones(broken.shape, np.uint8)
    expected[10:20, 20:40] = 0
    np.testing.assert_array_equal(widget.mask.value.data, expected)
    widget.fit()
    wait_for(widget)
    assert widget.result.session.reference.statistics.n_pixels == expected.sum()


def test_an_equal_candidate_is_dropped(structured, fit_with, wait_for):
    widget = fit_with(structured[1])
    widget.fit()
    wait_for(widget)
    click(widget, "drop-candidate", wait_for)
    assert len(widget.candidates.value) == 1


def test_a_second_exposure_is_asked_about(viewer, structured, fit_with, wait_for):
    widget = fit_with(structured[0])
    assert widget.fixes.diagnostics == ()
    viewer.layers["ground truth"].name = "second exposure"
    widget.candidates.choose_none()
    widget.candidates.choose_all()
    assert widget.message.value.startswith('"second exposure" seems to be a second exposure')
    click(widget, "set-noise", wait_for)
    assert widget.truth_noise.value == "unknown"
    assert widget.fixes.diagnostics == ()


def test_a_ground_truth_much_noisier_than_the_candidates_is_asked_about(viewer, structured, wait_for):
    noisy = structured[0] + np.random.default_rng(1).normal(0, 20, structured[0].shape)
    viewer.add_image(noisy, name="gt")
    viewer.add_image(structured[0], name="A")
    viewer.add_image(gaussian_filter(structured[0], 1), name="B")
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.choose_all()
    assert '"gt" is much noisier' in widget.message.value
    assert widget.fix_button_0.native.text() == "It is a second exposure"
