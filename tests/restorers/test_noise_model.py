from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.data import camera, hubble_deep_field, moon

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.classical import CLASSICAL, estimate_noise
from napari_ensir.restorers.noise_model import (
    NoiseModel,
    estimate_noise_model,
    find_hot_pixels,
    replace_hot_pixels,
)


def scene(size: int = 192) -> np.ndarray:
    """Smooth blobs between 10 and 180 on a dark background."""
    rng = np.random.default_rng(3)
    blobs = gaussian_filter(rng.random((size, size)), 6)
    blobs = np.clip((blobs - np.quantile(blobs, 0.3)) / np.ptp(blobs), 0, None)
    return 10 + 170 * blobs / blobs.max()


def recorded(clean: np.ndarray, gain: float, offset: float, seed: int = 0) -> np.ndarray:
    """The scene with photon noise of this gain and Gaussian noise of this variance."""
    rng = np.random.default_rng(seed)
    photons = gain * rng.poisson(clean / gain) if gain else clean
    return photons + rng.normal(0, np.sqrt(offset), clean.shape)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=float))))


@pytest.mark.parametrize("offset", [0, 5, 20])
@pytest.mark.parametrize("gain", [0.5, 2, 7, 20])
def test_gain_offset_and_level_are_recovered(gain, offset):
    clean = scene()
    noisy = recorded(clean, gain, offset)
    model = estimate_noise_model(noisy)
    assert model.is_signal_dependent
    assert model.gain == pytest.approx(gain, rel=0.1)
    assert abs(model.gain - gain) < 4 * model.gain_error + 0.05 * gain
    assert abs(model.offset - offset) < 4 * model.offset_error + 0.5 * gain
    assert model.level == pytest.approx(rms(noisy - clean), rel=0.05)
    assert model.correlation is None


@pytest.mark.parametrize("sigma", [2.0, 10.0])
@pytest.mark.parametrize("image", [np.full((128, 128), 80.0), scene(), camera()[::2, ::2].astype(float)])
def test_noise_of_one_level_is_not_signal_dependent(image, sigma):
    image = gaussian_filter(image, 0.7)
    noisy = image + np.random.default_rng(0).normal(0, sigma, image.shape)
    model = estimate_noise_model(noisy)
    assert not model.is_signal_dependent
    assert model.level == pytest.approx(sigma, rel=0.2)
    np.testing.assert_allclose(model.unstabilise(model.stabilise(noisy)), noisy)
    assert "the same at all intensities" in str(model)


def test_a_flat_image_with_photon_noise_has_the_right_level():
    noisy = recorded(np.full((128, 128), 80.0), 5, 10)
    assert estimate_noise_model(noisy).level == pytest.approx(np.sqrt(410), rel=0.05)


@pytest.mark.parametrize("gain", [2, 10])
def test_texture_changes_gain_and_level_little(gain):
    clean = camera().reshape(256, 2, 256, 2).mean(axis=(1, 3))
    noisy = recorded(clean, gain, 10)
    model = estimate_noise_model(noisy)
    assert model.gain == pytest.approx(gain, rel=0.15)
    assert model.level == pytest.approx(rms(noisy - clean), rel=0.1)


def test_a_pedestal_makes_the_offset_negative():
    model = estimate_noise_model(recorded(scene(), 4, 9) + 100)
    assert model.offset == pytest.approx(9 - 4 * 100, rel=0.1)
    assert " - (" in str(model)


def test_clipped_blacks_and_whites_are_left_out():
    clean = scene()
    for low, high in ((0, 150), (12, 255)):
        noisy = recorded(clean, 4, 20).round().clip(low, high).astype(np.uint8)
        model = estimate_noise_model(noisy)
        assert model.gain == pytest.approx(4, rel=0.15)
        assert model.level == pytest.approx(rms(noisy - clean), rel=0.1)


def test_bit_depth_does_not_matter():
    noisy = recorded(scene(), 4, 20).clip(0, 255)
    eight = estimate_noise_model(noisy.round().astype(np.uint8))
    sixteen = estimate_noise_model((noisy * 200).round().astype(np.uint16))
    assert sixteen.gain == pytest.approx(200 * eight.gain, rel=0.05)
    assert sixteen.level == pytest.approx(200 * eight.level, rel=0.05)


@pytest.mark.parametrize(("axis", "shape"), [(-1, (128, 128, 3)), (0, (3, 128, 128)), (None, (4, 96, 128))])
def test_colour_and_stacks_have_one_model(axis, shape):
    clean = (
        np.broadcast_to(scene(128)[:96] if axis is None else scene(128), (4, 96, 128))
        if axis is None
        else (np.moveaxis(np.stack([scene(128)] * 3), 0, axis))
    )
    assert clean.shape == shape
    model = estimate_noise_model(recorded(clean, 3, 5), axis)
    assert model.gain == pytest.approx(3, rel=0.1)


def test_large_images_are_sampled():
    clean = np.tile(scene(), (9, 8))
    noisy = recorded(np.stack([clean, clean]), 3, 5)
    assert estimate_noise_model(noisy).gain == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("shape", [(64, 64), (3, 3), (5, 40)])
def test_a_constant_image_has_no_noise(shape):
    model = estimate_noise_model(np.full(shape, 7.0))
    assert model.level == 0
    assert not model.is_signal_dependent
    assert not find_hot_pixels(np.full(shape, 7.0), model).any()


def test_small_images_have_one_level():
    noisy = np.random.default_rng(0).normal(100, 5, (30, 30))
    model = estimate_noise_model(noisy)
    assert model.gain == 0
    assert np.isinf(model.gain_error)
    assert model.level == pytest.approx(5, rel=0.15)


def test_nan_is_left_out_and_nothing_but_nan_is_refused():
    noisy = recorded(scene(), 4, 20)
    noisy[20:60, 30:90] = np.nan
    noisy[100, 100] = np.inf
    assert estimate_noise_model(noisy).gain == pytest.approx(4, rel=0.1)
    with pytest.raises(EnsembleError, match="no pixel of the image is finite"):
        estimate_noise_model(np.full((64, 64), np.nan))
    with pytest.raises(EnsembleError, match="rows and columns"):
        estimate_noise_model(np.arange(9.0))
    with pytest.raises(EnsembleError, match="3 x 3 finite pixels"):
        estimate_noise_model(np.ones((2, 9)))


def test_correlated_noise_has_its_full_level_and_its_autocorrelation():
    white = np.random.default_rng(0).normal(0, 1, (256, 256))
    noise = 10 * gaussian_filter(white, 0.8)
    noise *= 10 / noise.std()
    model = estimate_noise_model(100 + noise)
    assert model.level == pytest.approx(10, rel=0.1)
    assert model.correlation.shape == (5, 5)
    assert model.correlation[2, 2] == pytest.approx(1)
    assert model.correlation[2, 3] == pytest.approx(np.exp(-1 / (4 * 0.8**2)), abs=0.1)
    assert "correlation of neighbouring pixels 0.6" in str(model)


@pytest.mark.parametrize(("gain", "sigma"), [(1, 0), (1, 1), (5, 10), (20, 3)])
def test_the_inverse_is_unbiased(gain, sigma):
    """The mean of transformed pixels maps to the mean of the pixels, down to few photons."""
    model = NoiseModel(gain=gain, offset=sigma**2, level=1, is_signal_dependent=True)
    rng = np.random.default_rng(0)
    for photons in (0.5, 1, 2, 5, 20):
        pixels = gain * rng.poisson(photons, 400_000) + rng.normal(0, sigma, 400_000)
        found = model.unstabilise(model.stabilise(pixels).mean())
        assert found / gain == pytest.approx(photons, abs=0.03 + 0.02 * photons + 0.2 * (sigma > 0) / photons)


def test_the_transform_stabilises_the_variance():
    model = NoiseModel(gain=4, offset=16, level=1, is_signal_dependent=True)
    for intensity in (20, 80, 400):
        noisy = recorded(np.full(100_000, float(intensity)), 4, 16)
        assert model.stabilise(noisy).std() == pytest.approx(1, abs=0.05)


def test_estimate_noise_is_the_root_mean_variance():
    clean = scene()
    noisy = recorded(clean, 10, 5).astype(np.float32)
    assert estimate_noise(noisy) == pytest.approx(rms(noisy - clean), rel=0.05)
    both = np.stack([noisy, clean + np.random.default_rng(0).normal(0, 3, clean.shape)])
    assert estimate_noise(both) == pytest.approx((rms(noisy - clean) + 3) / 2, rel=0.1)


@pytest.mark.parametrize("method", ["total-variation", "non-local-means", "bilateral"])
def test_denoisers_gain_from_the_transform_under_photon_noise(method):
    clean = scene()
    noisy = recorded(clean, 15, 5)
    stabilised = CLASSICAL[method]()(noisy)
    plain = CLASSICAL[method](noise=None)(noisy)
    assert rms(stabilised - clean) < 0.9 * rms(plain - clean)
    assert stabilised.mean() == pytest.approx(clean.mean(), rel=0.03)


def test_channels_without_noise_are_not_changed_beside_noisy_ones():
    clean = scene()
    image = np.stack([recorded(clean, 15, 5), np.zeros_like(clean), np.full_like(clean, 40.0)])
    restored = CLASSICAL["total-variation"](channel_axis=0)(image)
    np.testing.assert_allclose(restored[1:], image[1:], atol=1e-4)
    assert rms(restored[0] - clean) < 0.5 * rms(image[0] - clean)


@pytest.mark.parametrize("method", ["total-variation", "wavelet", "bilateral"])
def test_noise_of_one_level_is_restored_as_without_the_transform(method):
    noisy = scene() + np.random.default_rng(0).normal(0, 10, (192, 192))
    np.testing.assert_array_equal(CLASSICAL[method]()(noisy), CLASSICAL[method](noise=None)(noisy))


def test_notes_name_the_transform_and_the_hot_pixels():
    noisy = recorded(scene(), 10, 5)
    noisy[50, 60] = 4000
    restorer = CLASSICAL["wavelet"]()
    replaced, used = restorer.notes(noisy)
    assert replaced == "replaced 1 hot pixel by the median of its neighbours"
    assert used.startswith("used a variance-stabilising transform (noise ")
    assert CLASSICAL["gaussian"]().notes(noisy) == [replaced]
    assert CLASSICAL["wavelet"](noise=20.0, hot_pixels=False).notes(noisy) == []


@pytest.mark.parametrize("method", sorted(CLASSICAL))
def test_a_hot_pixel_does_not_change_its_surroundings(method):
    noisy = recorded(scene(96), 1, 25).clip(0).round().astype(np.uint16)
    hot = noisy.copy()
    hot[50, 60] = 4000
    settings = {"data_range": (0.0, 4000.0)}
    difference = CLASSICAL[method](**settings)(hot) - CLASSICAL[method](**settings)(noisy)
    assert np.abs(difference).max() < 25
    kept = CLASSICAL[method](hot_pixels=False, **settings)(hot)
    if method != "median":
        assert np.abs(kept - noisy).max() > 100


def test_hot_pixels_are_found_in_every_plane_and_at_the_border():
    stack = np.stack([recorded(scene(96), gain, 20, seed) for seed, gain in enumerate((2, 2, 2))])
    places = [(0, 0, 0), (0, 95, 40), (1, 30, 30), (2, 31, 33)]
    for place in places:
        stack[place] = 2000
    hot = find_hot_pixels(stack, estimate_noise_model(stack))
    assert [tuple(at) for at in np.argwhere(hot)] == places
    assert replace_hot_pixels(stack, hot).max() < 300
    assert stack.max() == 2000


@pytest.mark.parametrize("gain", [0, 2, 20])
def test_noise_alone_has_no_hot_pixels(gain):
    noisy = recorded(scene(), gain, 20)
    assert not find_hot_pixels(noisy, estimate_noise_model(noisy)).any()
    sparse = recorded(np.full((128, 128), 1.0), 10, 1)
    assert not find_hot_pixels(sparse, estimate_noise_model(sparse)).any()


def test_stars_are_left_alone():
    for image in (*np.moveaxis(hubble_deep_field(), -1, 0), moon()):
        assert not find_hot_pixels(image, estimate_noise_model(image)).any()
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:128, :128]
    sky = np.full((128, 128), 20.0)
    for row, column in rng.uniform(5, 120, (20, 2)):
        sky += 3000 * rng.random() * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 0.7**2))
    noisy = recorded(sky, 1, 9)
    assert not find_hot_pixels(noisy, estimate_noise_model(noisy)).any()


def test_many_isolated_points_belong_to_the_image():
    rng = np.random.default_rng(0)
    noisy = rng.normal(100, 5, (128, 128))
    noisy[4::10, 4::10] = 4000
    assert not find_hot_pixels(noisy, estimate_noise_model(noisy)).any()
