"""``napari-ensir train``: recipes from files, validation, resuming."""

from __future__ import annotations

import csv
from functools import partial

import numpy as np
import pytest

from napari_ensir.files import write_image
from napari_ensir.restorers import load_restorer
from tests.helpers import commands

run = partial(commands.run, "train")

SMALL = ("--width", 8, "--depth", 1, "--batch", 2, "--patch", 16, "--device", "cpu")


@pytest.fixture
def folders(tmp_path):
    """Four noisy and clean images of 24 x 32 pixels, and clean ones of twice the size."""
    rng = np.random.default_rng(0)
    for name in ("noisy", "clean", "large"):
        (tmp_path / name).mkdir()
    rows, columns = np.mgrid[:24, :32]
    for stem in "abcd":
        clean = 120 + 60 * np.sin(rows / rng.uniform(3, 6)) * np.cos(columns / 7)
        noisy = clean + rng.normal(0, 20, clean.shape)
        images = {"noisy": noisy, "clean": clean, "large": np.kron(clean, np.ones((2, 2)))}
        for name, image in images.items():
            write_image(tmp_path / name / f"{stem}.png", image.clip(0, 255).astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize(
    ("recipe", "more"), [("regression", ()), ("ir-cm-paper", ()), ("dp-ir", ("--ir", "median"))]
)
def test_a_recipe_is_trained_on_folders(folders, recipe, more):
    out = folders / "mine.safetensors"
    pairs = ("--degraded", folders / "noisy", "--clean", folders / "clean")
    assert "for 4 of 4 steps" in run(recipe, *pairs, "--out", out, "--steps", 4, *SMALL, *more)
    restorer = load_restorer(out)
    assert restorer.trained_steps == 4
    assert restorer.model.settings.width == 8
    assert restorer.data_range == (0, 255)


def test_a_denoiser_is_trained_on_clean_images_alone(folders):
    options = ("--clean", folders / "clean", "--steps", 3, *SMALL)
    run("denoiser", *options, "--out", folders / "alone")
    run("denoiser", *options, "--degraded", folders / "noisy", "--out", folders / "pairs")
    alone, pairs = (load_restorer(folders / f"{name}.safetensors").tensors() for name in ("alone", "pairs"))
    assert all(bool((each == pairs[name]).all()) for name, each in alone.items())


def test_the_network_with_the_least_validation_loss_is_kept(folders):
    out, log = folders / "mine.safetensors", folders / "log.csv"
    # With this learning rate the loss rises after some steps.
    options = ("--steps", 20, "--validation", 0.25, "--log", log, "--learning-rate", 0.1, *SMALL)
    run("noise2void", "--degraded", folders / "noisy", "--out", out, *options)
    rows = list(csv.DictReader(log.read_text("utf-8").splitlines()))
    losses = [float(row["validation"]) for row in rows]
    assert [int(row["step"]) for row in rows] == list(range(1, 21))
    assert load_restorer(out).trained_steps == 1 + int(np.argmin(losses)) < 20
    assert load_restorer(folders / "mine.last.safetensors").trained_steps == 20


@pytest.mark.parametrize("average", [0, 0.9])
def test_a_resumed_training_equals_an_uninterrupted_one(folders, average, monkeypatch):
    from napari_ensir.restorers.training.trainer import Trainer

    common = ("noise2void", "--degraded", folders / "noisy", "--steps", 8, "--average", average, *SMALL)
    run(*common, "--out", folders / "whole")

    advance = Trainer._advance

    def interrupted(trainer):
        if trainer.step == 5:
            raise KeyboardInterrupt
        return advance(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_advance", interrupted)
        run(*common, "--out", folders / "half", status=130)
    assert load_restorer(folders / "half.last.safetensors").trained_steps == 5
    run(*common, "--out", folders / "half", "--resume")
    whole, half = (load_restorer(folders / f"{name}.safetensors").tensors() for name in ("whole", "half"))
    assert all(bool((each == half[name]).all()) for name, each in whole.items())


def test_a_resumed_training_keeps_its_recipe_settings_and_validation_images(folders):
    noisy, out = ("--degraded", folders / "noisy"), ("--out", folders / "mine")
    run("noise2void", *noisy, *out, "--steps", 2, "--validation", 0.25, *SMALL)
    last = folders / "mine.last.safetensors"
    before = last.read_bytes()
    again = ("noise2void", *noisy, *out, "--resume", "--device", "cpu")
    pairs = ("--degraded", folders / "noisy", "--clean", folders / "clean")
    assert "not of regression" in run("regression", *pairs, *out, "--resume", "--steps", 4, status=1)
    assert "has 8" in run(*again, "--steps", 4, "--width", 16, status=1)
    assert "has 0" in run(*again, "--steps", 4, "--seed", 7, status=1)
    assert "0.25 of the images" in run(*again, "--steps", 4, "--validation", 0.5, status=1)
    assert "All 2 steps are completed" in run(*again, status=1)
    assert last.read_bytes() == before
    assert "least validation loss" in run(*again, "--steps", 4)


def test_wrong_choices_are_refused_before_anything_is_written(folders):
    noisy, clean = ("--degraded", folders / "noisy"), ("--clean", folders / "clean")
    out = ("--out", folders / "mine.safetensors")
    before = sorted(folders.rglob("*"))
    assert "choose one of regression" in run("magic", *noisy, *out, status=1)
    assert "needs --degraded" in run("regression", *clean, *out, status=1)
    assert "regression needs --clean" in run("regression", *noisy, *out, status=1)
    assert "second exposure" in run("noise2noise", *noisy, *out, status=1)
    assert "leave out --clean" in run("noise2void", *noisy, *clean, *out, status=1)
    assert "IR network" in run("dp-ir", *noisy, *clean, *out, status=1)
    assert "are for dp-ir" in run("noise2void", *noisy, *out, "--denoiser", "wavelet", status=1)
    assert "to resume" in run("noise2void", *noisy, *out, "--resume", status=1)
    assert sorted(folders.rglob("*")) == before
    (folders / "mine.safetensors").write_bytes(b"mine")
    assert "With --resume, the training continues." in run("noise2void", *noisy, *out, status=1)
    assert (folders / "mine.safetensors").read_bytes() == b"mine"


def test_an_odd_image_out_is_named(folders):
    (folders / "clean" / "d.png").unlink()
    pairs = ("--degraded", folders / "noisy", "--clean", folders / "clean")
    assert "has no image d" in run("regression", *pairs, "--out", folders / "mine", status=1)
