"""Fourier ring correlation finds the frequency up to which two images agree."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir import EnsembleError
from napari_ensir.ensemble.scoring.metrics import fourier_ring_correlation, resolution


def exposures(limit, shape=(128, 160), noise=0.05, n=2):
    """Images without frequencies above a limit, with independent noise."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    image = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * (frequency < limit)).real
    return [image + rng.normal(0, noise * image.std(), shape) for _ in range(n)]


@pytest.mark.parametrize("limit", [0.1, 0.2, 0.35])
def test_the_resolution_is_that_of_the_band_limit(limit):
    found = resolution(*exposures(limit))
    # The window and the average over three rings blur the limit by about two rings.
    assert 1 / (limit + 3 / 128) < found < 1 / (limit - 1 / 128)


def test_correlations_are_high_below_the_limit_and_low_above():
    frequencies, correlations = fourier_ring_correlation(*exposures(0.2))
    assert len(frequencies) == 65
    assert correlations[(frequencies > 0.02) & (frequencies < 0.18)].min() > 0.95
    assert np.abs(correlations[frequencies > 0.24]).mean() < 0.1


def test_equal_images_are_resolved_to_two_pixels_and_noise_is_not_resolved():
    (image,) = exposures(0.2, n=1)
    assert resolution(image, 3 * image + 7) == 2.0
    assert np.isnan(resolution(*np.random.default_rng(1).normal(size=(2, 64, 64))))


def test_planes_and_channels_are_pooled():
    one, other = (np.stack([image, image]) for image in exposures(0.2))
    expected = resolution(*exposures(0.2))
    assert resolution(one, other) == pytest.approx(expected)
    assert resolution(np.moveaxis(one, 0, -1), np.moveaxis(other, 0, -1), -1) == pytest.approx(expected)


def test_images_that_cannot_be_compared_are_refused():
    for one, other in (((64, 64), (64, 65)), ((20, 64), (20, 64)), ((64,), (64,))):
        with pytest.raises(EnsembleError, match="two images of one shape with at least 32 rows"):
            resolution(np.ones(one), np.ones(other))


def test_denoising_does_not_change_the_resolution_of_a_real_exposure(reference_folder):
    with np.load(reference_folder / "microscopy" / "confocal.npz") as file:
        first, second = (file[f"Confocal_FISH|{name}"].astype(float) for name in ("noisy", "second"))
        steps = [file[f"Confocal_FISH|bm3d~{part}"] for part in ("lo", "hi")]
    steps = (steps[0].astype(np.uint16) | (steps[1].astype(np.uint16) << 8)).astype(np.int64)
    restored = np.cumsum(steps, axis=1).astype(np.uint16)
    exposed = resolution(first, second)
    assert 3.5 < exposed < 4.5
    assert resolution(restored, second) == pytest.approx(exposed, rel=0.05)
