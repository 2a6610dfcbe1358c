"""Bad input raises one clear sentence; default data ranges and planes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_ensir import EnsembleError, fit_lut
from napari_ensir.ensemble.estimators.base import METHODS
from napari_ensir.ensemble.fit import collect_reference, estimate_lut
from napari_ensir.ensemble.statistics.binning import choose_binning
from tests.helpers.images import make_image

A = np.arange(48, dtype=np.uint8).reshape(6, 8)
TRUTH = A + 1


def assert_raises(words, *args, **kwargs):
    with pytest.raises(EnsembleError, match=words) as caught:
        fit_lut(*args, device="cpu", **kwargs)
    assert str(caught.value).endswith(".")
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("words", "pairs", "options"),
    [
        (r"reference set is empty; give at least one image", [], {}),
        (r"image 2 of the reference set is not a pair", [((A,), TRUTH), 5], {}),
        (r"image 1: there is no candidate; give at least one", [((), TRUTH)], {}),
        (r"image 1 of the reference set is not a pair; give \(candidates, ground truth\)", [A], {}),
        (r"image 1: the candidates are a single number", [(np.uint8(3), TRUTH)], {}),
        (
            r'candidate 2 \("N2V"\) has shape \(6, 7\) but candidate 1 \("CARE"\) has \(6, 8\)',
            [((A, A[:, 1:]), TRUTH)],
            {"names": ("CARE", "N2V")},
        ),
        (r"ground truth has shape \(5, 8\) but candidate 1 has \(6, 8\)", [((A,), TRUTH[1:])], {}),
        (r"candidate 2 is the ground truth itself; remove it", [((A, TRUTH), TRUTH)], {}),
        (r"candidate 2 is the ground truth itself", [((A, TRUTH[:]), TRUTH)], {}),
        (r"candidate 1 is empty \(shape \(0, 8\)\); it must hold", [((A[:0],), TRUTH[:0])], {}),
        (r"the ground truth is empty", [((A,), TRUTH[:0])], {}),
        (r"candidate 1 is of dtype bool", [((A > 3,), TRUTH)], {}),
        (r"the ground truth is of dtype bool", [((A,), TRUTH > 3)], {}),
        (r"candidate 1: pixels of dtype complex128 cannot be combined; convert", [((A * 1j,), TRUTH)], {}),
        (r"candidate 1: pixels of dtype <U1 cannot be combined", [((A.astype("U1"),), TRUTH)], {}),
        (
            r"candidate 1: pixels of dtype complex64 cannot",
            [((torch.zeros(6, 8, dtype=torch.complex64),), TRUTH)],
            {},
        ),
        (r"candidate 1: pixels of dtype object cannot", [((A.astype(object),), TRUTH)], {}),
        (r"there are 2 candidates but 3 names \(a, b, c\)", [((A, A + 2), TRUTH)], {"names": "abc"}),
        (r"name 'x' is used for two candidates", [((A, A + 2), TRUTH)], {"names": "xx"}),
        (r"a candidate's name is empty", [((A, A + 2), TRUTH)], {"names": ("x", " ")}),
        (r"method is 'gmm'; use one of \"auto\"", [((A,), TRUTH)], {"method": "gmm"}),
        (
            r"channel_axis is 2, but the images have 2 axes \(shape \(6, 8\)\)",
            [((A,), TRUTH)],
            {"channel_axis": 2},
        ),
        (r"channel_axis is -3, but .* use -2 to 1", [((A,), TRUTH)], {"channel_axis": -3}),
        (r"mask has shape \(6, 7\); it must have shape \(6, 8\)", [((A,), TRUTH)], {"mask": [A[:, 1:] > 0]}),
        (r"there are 1 masks but 2 images", [((A,), TRUTH)] * 2, {"mask": [None]}),
        (r"there are 1 masks but more images", iter([((A,), TRUTH)] * 2), {"mask": [None]}),
        (r"there are 3 masks but 2 images", [((A,), TRUTH)] * 2, {"mask": [None] * 3}),
        (r"image 2 has 2 candidates, but image 1 has 1", [((A,), TRUTH), ((A, A), TRUTH)], {}),
        (
            r"image 2 has pixels of dtype uint16, but image 1 of uint8; convert",
            [((A,), TRUTH), ((A.astype(np.uint16),), TRUTH)],
            {},
        ),
        (
            r"image 2 has 6 channels, but image 1 has 8",
            [((A,), TRUTH), ((A[:, :6],), TRUTH[:, :6])],
            {"channel_axis": -1},
        ),
        (r"prior is \[0.5, 0.6\]; give 1 non-negative", [((A,), TRUTH)], {"prior": (0.5, 0.6)}),
        (r"prior is .*not all zero", [((A, A + 2), TRUTH)], {"prior": (0, 0)}),
        (
            r"prior is \(-1.0, 2.0\); use numbers that are not negative",
            [((A, A + 2), TRUTH)],
            {"prior": (-1.0, 2.0)},
        ),
        (r"prior is \(nan, 1.0\); use numbers", [((A, A + 2), TRUTH)], {"prior": (np.nan, 1.0)}),
        (
            r"prior is 'ab'; use numbers that are not negative, one for each candidate",
            [((A, A + 2), TRUTH)],
            {"prior": "ab"},
        ),
        (
            r"data_range is \(9, 9\); use two finite numbers, the lower first",
            [((A,), TRUTH)],
            {"data_range": (9, 9)},
        ),
        (r"data_range is \(0, inf\); use two finite", [((A,), TRUTH)], {"data_range": (0, np.inf)}),
        (r"data_range is 7; use two finite", [((A,), TRUTH)], {"data_range": 7}),
        (r"data_range is \(1, 2, 3\); use two finite", [((A,), TRUTH)], {"data_range": (1, 2, 3)}),
        (r"bin_width is 0; use a number above 0", [((A,), TRUTH)], {"bin_width": 0}),
        (r"bin_width is nan; use a number above 0", [((A,), TRUTH)], {"bin_width": np.nan}),
        (r"bin_width is 'x'; use a number", [((A,), TRUTH)], {"bin_width": "x"}),
        (
            r"bin_width is 2.4, but .* integers; use an integer width, such as 2",
            [((A,), TRUTH)],
            {"bin_width": 2.4},
        ),
        (
            r"bin_width 1e-05 divides .* into 25500000 bins; at most 65535 .* use 0.0039 or more",
            [((A * 1.0,), TRUTH)],
            {"bin_width": 1e-5, "data_range": (0, 255)},
        ),
        (
            r"every pixel of every image is 7; there is nothing to learn",
            [((np.full((4, 4), 7.0),), np.full((4, 4), 7.0))],
            {},
        ),
        (r"every pixel is NaN or infinite", [((A * np.nan,), TRUTH * np.inf)], {}),
        (
            r"there are no pixels to learn from: 48 are NaN or infinite",
            [((A * np.nan,), TRUTH)],
            {"data_range": (0, 255)},
        ),
        (
            r"there are no pixels to learn from: 0 are NaN.* outside the mask",
            [((A,), TRUTH)],
            {"mask": [A > 99]},
        ),
        (r"max_iter is 0; use a whole number from 1", [((A,), TRUTH)], {"max_iter": 0}),
    ],
)
def test_bad_reference_set_raises(words, pairs, options):
    assert_raises(words, pairs, **options)


def test_unavailable_device_raises():
    for device, words in (("tpu9", "not known to torch"), ("cuda:77", "not available on this machine")):
        with pytest.raises(EnsembleError, match=words):
            fit_lut([((A,), TRUTH)], device=device)


@pytest.mark.parametrize("reference", [7, None])
def test_reference_that_is_not_iterable_raises(reference):
    assert_raises(r"reference set is .*; give .*\(candidates, ground truth\)", reference)


def test_refining_by_a_factor_that_does_not_divide_the_levels_raises():
    binning = choose_binning(np.uint8, (0, 255), 30)
    with pytest.raises(
        EnsembleError, match=r"30 levels cannot be divided into 4 equal parts; use a divisor of 30"
    ):
        binning.refined(4)


def test_default_range_and_width():
    for dtype, span in ((np.uint8, (0, 255)), (np.int8, (-128, 127))):
        lut = fit_lut([((A.astype(dtype),), TRUTH.astype(dtype))], device="cpu")
        assert (lut.data_range, lut.bin_width) == (span, 32)
        assert lut.report["data_range_from"] == "dtype"
    wide = fit_lut([((A.astype(np.uint16),), TRUTH.astype(np.uint16))], device="cpu")
    assert (wide.data_range, wide.bin_width) == ((0, 48), 7)
    assert wide.report["data_range_from"] == "data"
    unit = fit_lut([((A / 10,), TRUTH / 10)], device="cpu")
    assert unit.data_range == (0, 4.8)
    assert unit.bin_width == pytest.approx(0.6)


def test_candidates_that_do_not_match_the_table_raise(rng):
    lut = fit_lut([make_image(rng, (9, 9, 3), 2)], ("A", "B"), channel_axis=-1, device="cpu")
    good = np.zeros((4, 4, 3), np.uint8)
    for words, candidates in [
        (r"combines 2 candidates \(A, B\), but 1 were given", [good]),
        (r'candidate 2 \("B"\) has shape \(4, 3, 3\)', [good, good[:, 1:]]),
        (
            r"has 3 channels, but the candidates have 4 along axis -1 \(shape \(4, 4, 4\)\)",
            [good[..., [0, 0, 1, 2]]] * 2,
        ),
        (r'candidate 1 \("A"\) is empty', [good[:0]] * 2),
        (r'candidate 1 \("A"\) is of dtype bool', [good > 0] * 2),
    ]:
        for work in (lut.apply, lut.weight_maps):
            with pytest.raises(EnsembleError, match=words):
                work(candidates)
    with pytest.raises(EnsembleError, match=r"3 intensities were given; give 2, one for each of A, B"):
        lut.weights_for((1, 2, 3))
    with pytest.raises(EnsembleError, match=r"no channel 3; the table has 0 to 2"):
        lut.weights_for((1, 2), channel=3)
    with pytest.raises(EnsembleError, match=r"intensit.* NaN|not a number"):
        lut.weights_for((1, np.nan))


def test_bins_that_cannot_be_coarsened_to_raise(rng):
    kept = collect_reference([make_image(rng, (20, 20), 2)], bin_width=32, refine=4, device="cpu")
    for method in METHODS:
        for width in (8, 16, 32, 64, 24):
            binning = choose_binning(np.uint8, (0, 255), width)
            assert estimate_lut(kept, method, binning=binning).bin_width == width
    with pytest.raises(EnsembleError, match="not a multiple"):
        estimate_lut(kept, binning=choose_binning(np.uint8, (0, 255), 12))
    with pytest.raises(EnsembleError, match="another data range"):
        estimate_lut(kept, binning=choose_binning(np.uint8, (0, 239), 8))
    with pytest.raises(EnsembleError, match="cannot be divided"):
        collect_reference([((A,), TRUTH)], bin_width=32, refine=5, device="cpu")


def test_planes_give_the_same_table_as_cut_out_planes():
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 200, (6, 16, 16)).astype(np.uint8)
    near, far = (np.clip(truth + rng.normal(0, s, truth.shape), 0, 255).astype(np.uint8) for s in (3, 9))
    cut = slice(2, 5)
    some = fit_lut([((near, far), truth)], planes=(2, 4), device="cpu")
    same = fit_lut([((near[cut], far[cut]), truth[cut])], device="cpu")
    np.testing.assert_array_equal(some.weights, same.weights)
    np.testing.assert_array_equal(some.counts, same.counts)
    mask = rng.random(truth.shape) < 0.5
    masked = fit_lut([((near, far), truth)], planes=(2, 4), mask=[mask], device="cpu")
    assert masked.report["pixels"] == mask[cut].sum()
    for planes, axis, words in (((2, 6), None, "use 0 to 5"), ((0, 1), 0, "channel axis")):
        with pytest.raises(EnsembleError, match=words):
            fit_lut([((near, far), truth)], planes=planes, channel_axis=axis, device="cpu")
