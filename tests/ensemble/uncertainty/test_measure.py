"""Sums of errors: compiled kernels against numpy, and independence of blocks and threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_ensir import fit_lut
from napari_ensir.ensemble.arrays.image_set import make_field
from napari_ensir.ensemble.statistics.reference import collect_reference
from napari_ensir.ensemble.uncertainty import error_table as measuring
from napari_ensir.ensemble.uncertainty.error_table import (
    BIAS_CLASSES,
    INTENSITIES,
    MAX_STEPS,
    SPREADS,
    ErrorSums,
    fit_error_table,
)

DTYPES = (np.uint8, np.int16, np.uint16, np.float32, np.float64)


@st.composite
def blocks(draw):
    """A field, an ensemble with NaNs, a mask or none, and a data range that some pixels lie outside."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(draw(st.lists(st.integers(1, 40), min_size=2, max_size=3)))
    axis = draw(st.none() | st.integers(0, len(shape) - 1))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    truth = rng.uniform(0, 250, shape)
    spread = draw(st.sampled_from((0.0, 1.0, 60.0)))
    candidates = [
        (truth + rng.normal(0, 1, shape) * spread).clip(0, 255).astype(dtype)
        for _ in range(draw(st.integers(1, 4)))
    ]
    ensemble = np.mean(candidates, axis=0, dtype=np.float32)
    ensemble[rng.random(shape) < 0.1] = np.nan
    keep = rng.random(shape) < 0.7 if draw(st.booleans()) else None
    field = make_field(candidates, truth.astype(dtype), channel_axis=axis)
    return field, ensemble, keep, draw(st.sampled_from(((0.0, 255.0), (20.0, 90.0), (-5e4, 5e4))))


def measure_in_numpy(zeros, ensemble, field, keep):
    """What :meth:`ErrorSums.measure_block` computes, and the classes of all pixels."""
    low, high, n_channels = zeros.low, zeros.high, len(zeros.counts)
    truth = np.asarray(field.truth, np.float64)
    good = np.isfinite(ensemble) & np.isfinite(truth)
    good = good if keep is None else good & keep
    along = [1] * ensemble.ndim
    if field.channel_axis is not None:
        along[field.channel_axis] = n_channels
    channel = np.broadcast_to(np.arange(n_channels).reshape(along), ensemble.shape)

    def class_of(values, n):
        place = (values - low) * values.dtype.type(n / (high - low))
        return np.clip(np.where(np.isnan(place), 0, place), 0, n - 1).astype(int)

    def steps(values):
        return np.rint(
            np.clip((values[good].astype(np.float64) - truth[good]) / zeros.step, -MAX_STEPS, MAX_STEPS)
        )

    # About the first candidate and in float32, as the kernels compute it.
    above = [np.asarray(one, np.float32) - np.float32(field.candidates[0]) for one in field.candidates]
    n = np.float32(len(above))
    mean = sum(above) / n
    variance = np.maximum(sum(one * one for one in above) / n - mean * mean, 0)
    edges = np.exp2((np.arange(1, SPREADS) - 4) / 2).astype(np.float32)
    units = np.sqrt(variance) / np.float32((high - low) / 255) + np.float32(0.25)
    classes = (channel, class_of(ensemble, INTENSITIES), np.searchsorted(edges, units, side="right"))
    found = ErrorSums.zeros(low, high, n_channels, len(field.candidates))
    here = tuple(one[good] for one in classes)
    np.add.at(found.squares, here, (steps(ensemble) ** 2).astype(int))
    np.add.at(found.counts, here, 1)
    for m, image in enumerate((*field.candidates, ensemble)):
        for kind, values in enumerate((truth, image.astype(np.float64))):
            place = (kind, channel[good], m, class_of(values, BIAS_CLASSES)[good])
            np.add.at(found.bias_errors, place, steps(image).astype(int))
            np.add.at(found.bias_counts, place, 1)
    return found, classes


@settings(max_examples=60, deadline=None)
@given(blocks())
def test_kernels_count_what_numpy_counts(block):
    field, ensemble, keep, limits = block
    zeros = ErrorSums.zeros(*limits, field.n_channels, len(field.candidates))
    found = zeros.measure_block(ensemble, field, keep)
    expected, classes = measure_in_numpy(zeros, ensemble, field, keep)
    for name in ("squares", "counts", "bias_errors", "bias_counts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    table = fit_error_table([found])
    errors = table.predict(ensemble, field.candidates, field.channel_axis)
    np.testing.assert_array_equal(errors, np.where(np.isfinite(ensemble), table.rmse[classes], np.nan))
    assert errors.dtype == np.float32


def test_blocks_and_threads_do_not_change_the_sums(monkeypatch):
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4000, (6, 50, 40)).astype(np.uint16)
    candidates = [(truth + rng.integers(0, s, truth.shape)).astype(np.uint16) for s in (9, 90, 900)]
    lut = fit_lut([(candidates, truth)], method="least-squares", device="cpu")
    whole = lut.calibrated([(candidates, truth)], device="cpu")
    reports: list[int] = []
    monkeypatch.setattr(measuring, "BLOCK_PIXELS", {"cpu": 700, "gpu": 700})
    cut = lut.calibrated(
        [(candidates, truth)], device="cpu", progress=lambda done, total, text: reports.append(done)
    )
    np.testing.assert_array_equal(cut.errors.counts, whole.errors.counts)
    np.testing.assert_array_equal(cut.errors.squares, whole.errors.squares)
    assert cut.report["bias"] == whole.report["bias"]
    assert reports[-1] == truth.size
    np.testing.assert_array_equal(
        cut.expected_error(candidates, "cpu"), whole.expected_error(candidates, "cpu")
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("n_images", [1, 5])
def test_statistics_of_the_parts_replace_reading_them_again(n_images, dtype, monkeypatch):
    rng = np.random.default_rng(2)
    pairs = []
    for _ in range(n_images):
        truth = rng.uniform(0, 200, (40, 44))
        pairs.append(([(truth + rng.uniform(0, s, truth.shape)).astype(dtype) for s in (9, 50)], truth))
    pairs = [(candidates, truth.astype(dtype)) for candidates, truth in pairs]
    kept = collect_reference(pairs, device="cpu", folds=4, refine=None)
    lut = fit_lut(pairs, device="cpu")
    assert kept.statistics.binning.n_bins > lut.binning.n_bins
    read = lut.calibrated(pairs, device="cpu")
    monkeypatch.setattr("napari_ensir.ensemble.uncertainty.calibrate.collect", None)  # must not be called
    served = lut.calibrated(pairs, device="cpu", folds=kept.folds)
    np.testing.assert_array_equal(served.errors.squares, read.errors.squares)
    assert served.errors.trust == read.errors.trust
    assert served.report == read.report
