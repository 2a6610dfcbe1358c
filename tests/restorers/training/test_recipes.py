"""Ready-made trainings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers import CLASSICAL, RECIPES, begin_training, continue_training, open_restorer
from napari_ensir.restorers.training.recipes import snapshot


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_trains_resumes_and_restores(images, recipe, tmp_path):
    settings = {"channel_axis": -1, "device": "cpu"}
    ir = CLASSICAL["gaussian"]() if recipe == "dp-ir" else None

    def begin():
        return begin_training(recipe, images, steps=4, width=8, seed=3, ir=ir, **settings)

    whole, half = begin(), begin()
    list(whole.run())
    for event in half.run():
        if event.step == 2:
            break
    half.save(tmp_path / "half.safetensors")
    resumed = continue_training(tmp_path / "half.safetensors", images, **settings)
    assert resumed.settings.steps == 4
    list(resumed.run())
    assert resumed.losses == whole.losses
    whole.save(tmp_path / "whole.safetensors")
    assert open_restorer(tmp_path / "whole.safetensors").trained_steps == 4


def test_a_snapshot_stays_and_the_random_state_is_left_alone(images):
    before = torch.random.get_rng_state()
    trainer = begin_training("regression", images, channel_axis=-1, steps=4, width=8, device="cpu")
    assert bool((torch.random.get_rng_state() == before).all())
    run = trainer.run()
    next(run)
    taken = snapshot(trainer)
    weights = {name: each.clone() for name, each in taken.model.state_dict().items()}
    list(run)
    assert all(bool((each == weights[name]).all()) for name, each in taken.model.state_dict().items())


def test_wrong_choices(images, tmp_path):
    with pytest.raises(EnsembleError, match="choose one of regression"):
        begin_training("magic", images)
    with pytest.raises(EnsembleError, match="built around a restorer"):
        begin_training("dp-ir", images, channel_axis=-1)
    grey = begin_training("denoiser", [(np.eye(16), np.eye(16))], width=8, device="cpu").restorer()
    with pytest.raises(EnsembleError, match="the denoiser takes 1 colour"):
        begin_training("dp-ir", images, channel_axis=-1, ir=CLASSICAL["median"](), denoiser=grey)
    (tmp_path / "a.lut.safetensors").write_bytes(b"")
    with pytest.raises(EnsembleError, match="lookup table"):
        open_restorer(tmp_path / "a.lut.safetensors")
