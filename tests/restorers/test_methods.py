"""Restorer that trains on the image that it restores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_ensir.errors import Cancelled, EnsembleError
from napari_ensir.restorers import RESTORERS, SelfEnsemble, calibrate_restorer, restore_and_combine
from napari_ensir.restorers.training import recipes

NAME = "Noise2Void"
SMALL = RESTORERS["noise2void"](training_steps=3, width=8, device="cpu")


@pytest.fixture
def noisy():
    rows, columns = np.mgrid[:48, :56]
    clean = 100 + 40 * np.sin(rows / 7) * np.cos(columns / 9)
    return (clean + np.random.default_rng(0).normal(0, 10, clean.shape)).astype(np.uint8)


@pytest.fixture
def trainings(monkeypatch):
    """The images of each training."""
    begun, begin = [], recipes.begin_training

    def counting(recipe, images, **settings):
        begun.append(len(images))
        return begin(recipe, images, **settings)

    monkeypatch.setattr(recipes, "begin_training", counting)
    return begun


def test_it_trains_on_the_image_and_says_how_long(noisy, trainings):
    told = []
    restored = SMALL(noisy, progress=lambda *what: told.append(what))
    assert restored.shape == noisy.shape
    assert trainings == [1]
    assert [each[:2] for each in told] == [(1, 3), (2, 3), (3, 3)]
    assert all("left" in text for _, _, text in told)
    np.testing.assert_array_equal(SMALL.trained_on([noisy])(noisy), restored)


def test_colours_and_stacks(noisy):
    stack = np.stack([np.stack([noisy] * 3, axis=-1)] * 2)
    assert replace(SMALL, channel_axis=-1)(stack).shape == stack.shape


def test_an_ensemble_trains_once_on_all_images(noisy, trainings):
    restorers = [SMALL, RESTORERS["gaussian"](), SelfEnsemble(restorer=SMALL)]
    combined = restore_and_combine(noisy, restorers, offsets=2, device="cpu")
    assert combined.names == (NAME, "Gaussian", f"{NAME} x8")
    assert trainings == [1, 1]
    from napari_ensir import learn_blind

    learn_blind([noisy, noisy[::-1]], restorers[:2], offsets=2, device="cpu")
    assert trainings == [1, 1, 2]


def test_settings_and_cancelling(noisy, trainings):
    found = calibrate_restorer(SMALL, "width", [4, 8], noisy, offsets=1)
    assert found.values == (4, 8)
    assert trainings == [1, 1]
    with pytest.raises(EnsembleError, match="training_steps is 0"):
        replace(SMALL, training_steps=0)(noisy)

    def stop(done, total, text):
        raise Cancelled

    with pytest.raises(Cancelled):
        SMALL(noisy, progress=stop)
