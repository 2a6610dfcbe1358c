"""``napari-ensir sweep``: values of a setting, ranked on noisy images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from skimage import data
from typer.testing import CliRunner

from napari_ensir.cli.app import app
from napari_ensir.files import read_image, write_image
from napari_ensir.files.image import read_record
from napari_ensir.restorers import CLASSICAL, calibrate_restorer
from tests.helpers.commands import run

GAUSSIAN = ("-m", "gaussian", "--setting", "sigma", "--offsets", 3)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    truth = data.camera()[100:160, 100:160].astype(float)
    (tmp_path / "in").mkdir()
    for name in "ab":
        noisy = np.clip(truth + rng.normal(0, 25, truth.shape), 0, 255)
        write_image(tmp_path / "in" / f"{name}.png", noisy.astype(np.uint8))
    return tmp_path


def test_the_best_value_comes_first_and_is_written(folder):
    image = read_image(folder / "in" / "a.png")
    given = [*GAUSSIAN, "--set", "gaussian.sigma=2.5", "--out", folder / "best.tif"]
    said = run("sweep", folder / "in" / "a.png", *given)
    expected = calibrate_restorer(
        CLASSICAL["gaussian"](),
        "sigma",
        [0.625, 0.992, 1.57, 2.5, 3.97, 6.3, 10.0],  # from a quarter of the one set to four times it
        image,
        offsets=3,
    )
    first, *lines, last = said.splitlines()
    assert first.split()[0] == "sigma"
    ranked = [expected.values[place] for place in expected.scores.ranked]
    assert [float(line.split()[0]) for line in lines[:7]] == ranked
    assert lines[-1] == expected.in_words()
    assert last == f"1 written to {folder / 'best.tif'}"
    restored = CLASSICAL["gaussian"](sigma=expected.best)(image)
    np.testing.assert_array_equal(read_image(folder / "best.tif"), np.rint(restored.clip(0, 255)))
    record = read_record(folder / "best.tif")
    assert record["restorer"]["settings"]["sigma"] == expected.best == ranked[0]
    assert record["sweep"]["values"] == list(expected.values)


def test_all_values_can_be_written_for_a_folder(folder):
    given = [*GAUSSIAN, "--values", "0.5,1,4", "--set", "gaussian.spatial_ndim=2", "--json", "-"]
    found = json.loads(run("sweep", folder / "in", *given, "--out", folder / "out", "--all"))
    images = [read_image(folder / "in" / f"{stem}.png") for stem in "ab"]
    expected = calibrate_restorer(CLASSICAL["gaussian"](), "sigma", [0.5, 1, 4], images, offsets=3)
    assert {key: found[key] for key in expected.to_dict()} == expected.to_dict()
    assert set(found["written"]["b"]) == {"sigma-0.5", "sigma-1", "sigma-4"}
    written = read_image(folder / "out" / "sigma-4" / "b.png")
    np.testing.assert_array_equal(written, np.rint(CLASSICAL["gaussian"](sigma=4)(images[1]).clip(0, 255)))


def test_choices_can_be_swept_without_output(folder):
    before = sorted(folder.rglob("*"))
    method = ["-m", "wavelet", "--setting", "method", "--values", "BayesShrink,VisuShrink", "--offsets", 1]
    assert "Least error at method " in run("sweep", folder / "in" / "a.png", *method)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ("-m median", 2, "give the setting to vary; median has spatial_ndim, hot_pixels, size"),
        (
            "-m median --setting radius",
            2,
            "there is no setting 'radius'; median has spatial_ndim, hot_pixels, size",
        ),
        ("-m median --setting size --values 3", 2, "3 is one value; give two or more"),
        ("-m median --setting size --values 3,big", 2, "size is 'big'; use a whole number from 1 to 51"),
        ("-m median --setting size --values 3,3", 2, "3 is given twice"),
        (
            "-m median --setting size --values 3,5 --count 9",
            2,
            "values are given, so --between and --count cannot be",
        ),
        ("-m median --setting size --between 3 60", 2, "size is 60; use a whole number from 1 to 51"),
        ("-m bilateral --setting noise", 2, "noise has no value to start from"),
        ("-m wavelet --setting wavelet", 2, 'give the values of wavelet, which can be one of "db1"'),
        ("-m median --setting size --all", 2, "there is no output folder; give --out"),
        (
            "-m median -m gaussian --setting size",
            1,
            "a sweep needs one restorer, but there are 2: median, gaussian",
        ),
        ("--setting size", 1, "there is no restorer"),
    ],
)
def test_wrong_values_are_refused(folder, given, status, words):
    result = CliRunner().invoke(app, ["sweep", str(folder / "in" / "a.png"), *given.split()])
    assert result.exit_code == status
    assert words in " ".join(result.stderr.replace("│", " ").split())
