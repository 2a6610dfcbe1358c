from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from napari_ensir import EnsembleError
from napari_ensir.ensemble.fit import collect_reference
from napari_ensir.ensemble.scoring.metrics import Scoring, finite_everywhere, psnr, psnr_of_error, ssim
from napari_ensir.ensemble.scoring.score_range import score_range, score_range_of

WINDOW = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def plain_range(truths):
    """By sorting every pixel: the shortest range that leaves out one in ten thousand at most."""
    pixels = np.sort(np.concatenate([truth[np.isfinite(truth)].ravel() for truth in truths]).astype(float))
    strays = len(pixels) // 10_000
    ranges = [(pixels[k], pixels[len(pixels) - 1 - strays + k]) for k in range(strays + 1)]
    return min(ranges, key=lambda ends: ends[1] - ends[0])


# -- the peak -----------------------------------------------------------------------------------------


def of_all(scoring, truth, images):
    """Scores on the pixels where the ground truth and all images are finite."""
    valid = finite_everywhere([truth, *images])
    return [tuple(scoring(truth, image, valid).values()) for image in images]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("sizes", [[(7, 9)], [(300, 200), (3, 100, 50), (20_001,)]])
def test_the_range_is_the_shortest_of_all_but_one_in_ten_thousand_pixels(dtype, sizes):
    rng = np.random.default_rng(len(sizes))
    truths = [rng.normal(2000, 300, size).astype(dtype) for size in sizes]
    if len(sizes) > 1:
        truths[1].flat[:3] = [30_000, 0, 29_000]  # hot and dead pixels
        if np.dtype(dtype).kind == "f":
            truths[0][:40] = np.nan
    found = score_range(truths)
    exact = np.dtype(dtype).itemsize == 2
    assert (found.low, found.high) == pytest.approx(plain_range(truths), rel=0 if exact else 2**-10)
    assert (found.source, found.peak) == ("truth", found.high - found.low)
    if len(sizes) > 1:
        assert found.peak < 3000


def test_the_range_does_not_depend_on_blocks_and_order(monkeypatch):
    da = pytest.importorskip("dask.array")
    rng = np.random.default_rng(0)
    truths = [rng.standard_cauchy(size) for size in ((150, 200), (99, 301))]
    whole = score_range(truths)
    assert score_range(truths[::-1]) == whole
    assert score_range([da.from_array(truth, chunks=40) for truth in truths]) == whole
    monkeypatch.setattr("napari_ensir.ensemble.scoring.score_range.BLOCK", 1000)
    assert score_range(truths) == whole


def test_the_range_of_8_bit_is_that_of_the_dtype():
    assert score_range([np.full((2, 2), 7, np.uint8)]).peak == 255
    found = score_range([np.zeros((2, 2), np.int8)])
    assert (found.low, found.high, found.source) == (-128, 127, "dtype")
    assert str(found) == "255 (from -128 to 127, the range of the dtype)"


def test_a_given_range_is_used():
    found = score_range([np.zeros((2, 2), np.uint8)], (0, 100))
    assert (found.peak, found.source) == (100, "given")
    for wrong in ((1, 1), (0, np.nan), 7, (1, 2, 3)):
        with pytest.raises(EnsembleError, match="give two finite, increasing numbers"):
            score_range([np.zeros((2, 2))], wrong)


def test_sparse_spots_on_a_constant_background_set_the_range():
    """Where all but a few pixels are equal, those few are the signal."""
    truth = np.zeros((200, 200), np.uint16)
    truth[5, 5] = 900
    assert score_range([truth]).peak == 900
    with pytest.raises(EnsembleError, match=r"is constant, .*give the data range"):
        score_range([np.full((4, 4), 3.0)])
    with pytest.raises(EnsembleError, match="no finite pixel"):
        score_range([np.full((4, 4), np.nan)])


@pytest.mark.parametrize("hot", [0, 1, 40])
def test_the_range_from_statistics_equals_that_from_images(hot):
    rng = np.random.default_rng(hot)
    truth = rng.normal(3000, 200, (250, 260)).astype(np.uint16)
    truth.flat[rng.permutation(truth.size)[:hot]] = 65535
    candidates = [np.clip(truth + rng.integers(-90, 90, truth.shape), 0, 65535).astype(np.uint16)] * 2
    for bin_width in (None, 64):
        counted = collect_reference([(candidates, truth)], bin_width=bin_width, device="cpu").statistics
        assert score_range_of([counted], truth.dtype) == score_range([truth])
        assert score_range_of([counted], np.dtype(np.uint8)).peak == 255
        assert score_range_of([counted], truth.dtype, (0, 5)).peak == 5
    floats = [x / 65535 for x in (*candidates, truth)]
    counted = collect_reference([(floats[:-1], floats[-1])], device="cpu").statistics
    expected = score_range(floats[-1:])
    assert score_range_of([counted], np.dtype(float)).peak == pytest.approx(
        expected.peak, rel=2**-10, abs=2 * counted.binning.step
    )


# -- the scores ---------------------------------------------------------------------------------------


def test_scores_equal_those_of_scikit_image():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (40, 44, 3), np.uint8)
    image = np.clip(truth + rng.normal(0, 9, truth.shape), 0, 255)
    found = Scoring((0, 255), crop_border=4)(truth, image)
    inner = np.s_[4:-4, 4:-4]
    assert found["psnr"] == pytest.approx(
        peak_signal_noise_ratio(truth[inner] * 1.0, image[inner], data_range=255)
    )
    expected = structural_similarity(
        truth[inner] * 1.0, image[inner], data_range=255, channel_axis=-1, **WINDOW
    )
    assert found["ssim"] == pytest.approx(expected, abs=1e-12)
    y_psnr = Scoring((0, 255), y_channel=True, crop_border=4)(truth, image)["psnr"]
    y = [16 + x[inner] @ np.array([65.481, 128.553, 24.966]) / 255 for x in (truth * 1.0, image)]
    assert y_psnr == pytest.approx(peak_signal_noise_ratio(*y, data_range=255))
    first = Scoring((0, 255), y_channel=True, crop_border=4, channel_axis=0)
    moved = first(np.moveaxis(truth, -1, 0), np.moveaxis(image, -1, 0))
    np.testing.assert_allclose(moved["psnr"], y_psnr)
    scaled = Scoring((0, 1), y_channel=True, crop_border=4)(truth / 255, image / 255)
    assert scaled["psnr"] == pytest.approx(y_psnr)


def test_images_are_not_clipped():
    truth = np.full((16, 16), 250, np.uint8)
    score = Scoring((0, 255))(truth, np.full((16, 16), 350.0))
    assert score["psnr"] == pytest.approx(psnr_of_error(1e4, 255))


def test_excluded_pixels_do_not_change_the_score_of_the_others():
    """A border of NaN scores as the image without it: windows that touch it do not count."""
    rng = np.random.default_rng(1)
    truth = rng.uniform(0, 1, (50, 60))
    near, far = (truth + rng.normal(0, sigma, truth.shape) for sigma in (0.05, 0.1))
    holed = near.copy()
    holed[:, :13] = [np.nan, np.inf, -np.inf] * 4 + [np.nan]
    scores = of_all(Scoring((0, 1)), truth, [holed, far])
    alone = of_all(Scoring((0, 1)), truth[:, 13:], [near[:, 13:], far[:, 13:]])
    np.testing.assert_allclose(scores, alone, rtol=1e-12)
    colour = [np.stack([x] * 3, axis=-1) for x in (truth, holed, far)]
    np.testing.assert_allclose(of_all(Scoring((0, 1)), colour[0], colour[1:]), alone, rtol=1e-12)
    luma = Scoring((0, 1), y_channel=True)
    for one, other in zip(
        of_all(luma, colour[0], colour[1:]),
        of_all(luma, *(lambda t, *xs: (t, xs))(*(x[:, 13:] for x in colour))),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_scores_are_nan_without_valid_pixels():
    nothing = np.full((12, 12), np.nan)
    assert np.isnan(psnr(nothing, nothing, 1.0))
    assert np.isnan(ssim(nothing, nothing, 1.0))
    with pytest.raises(EnsembleError, match="no pixel is finite in every candidate"):
        finite_everywhere([np.zeros((12, 12)), nothing])
    hole = np.zeros((12, 12))
    hole[6, 6] = np.nan  # in every window
    score = Scoring((0, 1))(np.zeros((12, 12)), hole)
    assert score["psnr"] == np.inf
    assert np.isnan(score["ssim"])


def test_a_score_does_not_depend_on_other_candidates():
    rng = np.random.default_rng(2)
    truth = rng.integers(100, 2000, (64, 64)).astype(np.uint16)
    near = truth + rng.integers(0, 20, truth.shape).astype(np.uint16)
    hot = near.copy()
    hot[0, 0] = 65535
    scale = score_range([truth])
    scoring = Scoring((scale.low, scale.high))
    assert of_all(scoring, truth, [near])[0] == of_all(scoring, truth, [near, hot])[0]
