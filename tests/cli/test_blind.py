"""``napari-ensir blind``: an ensemble from the noisy image alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from skimage import data

from napari_ensir import load_lut
from napari_ensir.files import read_image, write_image
from napari_ensir.restorers import CLASSICAL, restore_and_combine
from napari_ensir.restorers.classical import ClassicalRestorer
from tests.helpers.commands import run

METHODS = ("-m", "gaussian", "-m", "median", "-m", "total-variation")


@pytest.fixture
def noisy(tmp_path):
    rng = np.random.default_rng(0)
    truth = data.camera()[100:196, 100:196].astype(float)
    for name in ("a", "b"):
        image = np.clip(truth + rng.normal(0, 25, truth.shape), 0, 255).astype(np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        write_image(tmp_path / "in" / f"{name}.png", image)
    return tmp_path, truth


@pytest.fixture
def runs(monkeypatch):
    """Names of the restorers, each as often as it has run."""
    found, call = [], ClassicalRestorer.__call__

    def counted(self, image, **how):
        found.append(self.name)
        return call(self, image, **how)

    monkeypatch.setattr(ClassicalRestorer, "__call__", counted)
    return found


def test_one_image_gives_its_ensemble_table_and_scores(noisy, runs):
    folder, truth = noisy
    image = read_image(folder / "in" / "a.png")
    arguments = ["blind", folder / "in" / "a.png", *METHODS, "-o", folder / "out.tif", "--dtype", "float32"]
    said = run(*arguments, "--save-lut", folder / "t", "--seed", 3, "--offsets", 4)
    assert "difference of MSE" in said
    assert len(runs) == 3 * (4 + 1)  # with pixels hidden four times, and once with none
    combined = restore_and_combine(
        image,
        [CLASSICAL[name]() for name in METHODS[1::2]],
        METHODS[1::2],
        seed=3,
        offsets=4,
    )
    written = read_image(folder / "out.tif")
    np.testing.assert_allclose(written, combined.ensemble, atol=1e-3)
    table = load_lut(folder / "t.lut.safetensors")
    np.testing.assert_array_equal(table.weights, combined.lut.weights)
    assert np.mean((written - truth) ** 2) < 0.5 * np.mean((image - truth) ** 2)


def test_a_folder_shares_one_table(noisy, runs):
    folder, _ = noisy
    found = json.loads(run("blind", folder / "in", *METHODS[:4], "-o", folder / "out", "--json", "-"))
    assert set(found["written"]) == {"a", "b"}
    rows = {row["name"]: row for row in found["scores"]["rows"]}
    assert set(rows) == {"gaussian", "median", "average", "ensemble", "noisy input"}
    assert rows["noisy input"]["difference"] > 0 > rows["ensemble"]["difference"]
    assert found["scores"]["summary"].startswith("The ensemble is ")
    assert read_image(folder / "out" / "b.png").dtype == np.uint8
    assert len(runs) == 2 * 2 * (6 + 1)
    again = run("blind", folder / "in", *METHODS[:4], "-o", folder / "out", status=1)
    assert "a.png exists already" in again
    assert len(runs) == 2 * 2 * (6 + 1)  # found out before any work


def test_wrong_usage_writes_nothing(noisy):
    folder, _ = noisy
    image, out = folder / "in" / "a.png", folder / "out.tif"
    assert "there is no restorer" in run("blind", image, "-o", out, status=1)
    assert "no method" in run("blind", image, "-m", "magic", "-o", out, status=1)
    run("blind", image, *METHODS, "-o", out, "--stride", "1", status=2)
    (folder / "t.lut.safetensors").write_bytes(b"mine")
    assert "exists already" in run("blind", image, *METHODS, "-o", out, "--save-lut", folder / "t", status=1)
    assert not out.exists()


def test_evaluate_corrects_for_the_noise_of_the_ground_truth(noisy):
    """If the noise is unknown, there are only differences."""
    folder, truth = noisy
    rng = np.random.default_rng(1)
    near, far = truth + rng.normal(0, 6, truth.shape), truth + rng.normal(0, 12, truth.shape)
    second = truth + rng.normal(0, 10, truth.shape)
    for name, image in (("near", near), ("far", far), ("second", second)):
        write_image(folder / f"{name}.tif", image.astype(np.float32))
    arguments = ["evaluate", "-t", folder / "second.tif", "-c", f"near={folder}/near.tif"]
    arguments += ["-c", f"far={folder}/far.tif", "--data-range", 0, 255, "--json", "-"]
    known = json.loads(run(*arguments, "--truth-noise", 10))
    rows = {row["name"]: row for row in known["rows"]}
    true = 10 * np.log10(255**2 / np.mean((near - truth) ** 2))
    assert abs(rows["near"]["psnr"] - true) < max(0.15, 3 * rows["near"]["psnr_error"])
    assert rows["far"]["difference"] > rows["near"]["difference"]
    unknown = json.loads(run(*arguments, "--truth-noise", "unknown"))
    assert all(row["psnr"] is None for row in unknown["rows"])
    refused = run(*arguments[:-2], "--truth-noise", "unknown", "--y-channel", status=1)
    assert "y_channel" in refused
