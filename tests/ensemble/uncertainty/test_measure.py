"""Errors counted by the compiled loops are those counted without, pixel for pixel and in any pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_ensir import fit_lut
from napari_ensir.ensemble.arrays.image_set import make_field
from napari_ensir.ensemble.statistics.reference import collect_reference
from napari_ensir.ensemble.uncertainty import measure as measuring
from napari_ensir.ensemble.uncertainty.bias import BiasSums
from napari_ensir.ensemble.uncertainty.error_table import ErrorTable
from tests.helpers.images import using

DTYPES = (np.uint8, np.int16, np.uint16, np.float32, np.float64)


@st.composite
def blocks(draw):
    """A field, an ensemble with holes in it, a mask or none, and limits that some pixels lie beyond."""
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


@settings(max_examples=60, deadline=None)
@given(blocks())
def test_the_loops_count_what_numpy_counts(block):
    field, ensemble, keep, limits = block
    n = field.n_channels
    tables = (ErrorTable.empty(*limits, n), BiasSums.empty(*limits, n, len(field.candidates)))
    found = [one.counted(ensemble, field, keep) for one in tables]
    expected = found[0].looked_up(ensemble, field.candidates, field.channel_axis)
    with using("torch"):
        plain = [one.counted(ensemble, field, keep) for one in tables]
        plainly = found[0].looked_up(ensemble, field.candidates, field.channel_axis)
    np.testing.assert_array_equal(found[0].counts, plain[0].counts)
    np.testing.assert_array_equal(found[0].squares, plain[0].squares)
    np.testing.assert_array_equal(found[1].counts, plain[1].counts)
    np.testing.assert_array_equal(found[1].errors, plain[1].errors)
    np.testing.assert_array_equal(expected, plainly)
    assert expected.dtype == np.float32


def test_pieces_and_threads_make_no_difference(monkeypatch):
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
    assert cut.report["fidelity"] == whole.report["fidelity"]
    assert reports[-1] == truth.size
    np.testing.assert_array_equal(
        cut.expected_error(candidates, "cpu"), whole.expected_error(candidates, "cpu")
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("n_images", [1, 5])
def test_parts_that_were_kept_serve_as_well_as_pixels_read_again(n_images, dtype, monkeypatch):
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
    monkeypatch.setattr("napari_ensir.ensemble.uncertainty.calibrate.collect", None)  # not called any more
    served = lut.calibrated(pairs, device="cpu", folds=kept.folds)
    np.testing.assert_array_equal(served.errors.squares, read.errors.squares)
    assert served.errors.trust == read.errors.trust
    assert served.report == read.report
