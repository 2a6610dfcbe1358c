"""Denoisers that learn without clean images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_ensir.restorers import begin_training, estimate_noise_model
from napari_ensir.restorers.training.noise2void import (
    Noise2Noise,
    Noise2NoiseModel,
    Noise2Void,
    Noise2VoidModel,
    NoisySettings,
    _hide,
)

SMALL = {"width": 8, "depth": 2, "patch": 32, "batch": 4, "learning_rate": 4e-3, "device": "cpu"}


def exposures(count: int, photons: float = 1.0) -> tuple[np.ndarray, list[np.ndarray]]:
    """A clean image of 64 x 64 pixels, and exposures with photon noise."""
    rows, columns = np.mgrid[:64, :64]
    clean = 60 + 40 * np.sin(rows / 7) * np.cos(columns / 9) + 30 * (((rows // 16) + (columns // 16)) % 2)
    rng = np.random.default_rng(0)
    return clean, [rng.poisson(clean * photons) / photons for _ in range(count)]


@pytest.mark.parametrize("recipe", ["noise2void", "noise2noise"])
def test_noise_is_removed_without_a_clean_image(recipe):
    clean, noisy = exposures(2)
    images = [noisy[0]] if recipe == "noise2void" else [tuple(noisy)]
    trainer = begin_training(recipe, images, steps=80, **SMALL)
    list(trainer.run())
    restorer = trainer.restorer()
    error, before = (np.mean((image - clean) ** 2) for image in (restorer(noisy[0]), noisy[0]))
    assert error < 0.5 * before
    assert abs(restorer(noisy[0]).mean() - clean.mean()) < 0.02 * clean.mean()  # the inverse has no bias


def test_only_hidden_pixels_change_and_never_to_themselves():
    image = torch.arange(2 * 32 * 32.0).reshape(1, 2, 32, 32)
    hidden, where = _hide(image, 0.1, torch.Generator().manual_seed(0))
    changed = (hidden != image)[0]
    assert bool((changed[0] == changed[1]).all())  # channels together
    assert bool((changed[0] == where[0, 0]).all())
    assert 50 < int(where.sum()) < 160


def test_the_loss_ignores_pixels_that_are_not_hidden(monkeypatch):
    model = Noise2VoidModel(NoisySettings(width=8, depth=1, hidden=0.25))
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))

    def loss():
        return model.loss(image, image, torch.Generator().manual_seed(0), 0.0)

    expected = loss()
    _, where = _hide(image, 0.25, torch.Generator().manual_seed(0))
    monkeypatch.setattr(model, "forward", lambda x: torch.where(where, 0.0, 9.0))
    torch.testing.assert_close(loss(), expected)  # an untrained network returns 0


def test_either_exposure_is_predicted():
    model = Noise2NoiseModel(NoisySettings(width=8, depth=1))
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].mean((1, 2, 3))))
    model.loss(torch.zeros(64, 1, 8, 8), torch.ones(64, 1, 8, 8), torch.Generator().manual_seed(0), 0.0)
    assert 16 < int(seen[0].sum()) < 48


def test_the_noise_is_stabilised():
    _, (noisy,) = exposures(1, photons=4.0)
    trainer = begin_training("noise2void", [noisy], steps=1, **SMALL)
    low, high = trainer.pairs.data_range
    settings = trainer.model.settings
    assert settings.gain * (high - low) == pytest.approx(estimate_noise_model(noisy).gain, rel=1e-3)
    stabilised = trainer.model.stabilise(torch.from_numpy(trainer.pairs.degraded[0]))
    assert float(stabilised.mean()) == pytest.approx(0, abs=1e-3)
    assert float(stabilised.std()) == pytest.approx(1, abs=1e-3)


def test_restoring_does_not_depend_on_the_orientation():
    model = Noise2VoidModel(NoisySettings(width=8, depth=1))
    torch.manual_seed(0)
    for each in model.parameters():
        torch.nn.init.normal_(each, std=0.05)
    image = np.random.default_rng(0).random((24, 32))
    for kind in (Noise2Void, Noise2Noise):
        restorer = kind(model=model, data_range=(0.0, 1.0), device="cpu")
        turned = np.rot90(restorer(np.ascontiguousarray(np.rot90(image))), -1)
        np.testing.assert_allclose(turned, restorer(image), atol=1e-4)


def test_images_of_several_sizes_and_colours():
    _, noisy = exposures(3)
    colours = [np.stack(noisy, axis=-1), np.stack(noisy, axis=-1)[:40]]
    trainer = begin_training("noise2void", colours, channel_axis=-1, steps=2, **SMALL)
    list(trainer.run())
    assert trainer.restorer().channels == 3
