"""What the command line says of scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from napari_ensir.cli import app
from napari_ensir.files import write_image

RNG = np.random.default_rng(8)


def run(*arguments):
    """Standard output and standard error of a command that must succeed."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout, result.stderr


@pytest.fixture
def write(tmp_path):
    """Writes images of given names and says where."""

    def write_all(**images):
        return {name: write_image(tmp_path / f"{name}.tif", image) for name, image in images.items()}

    return write_all


def noisy(truth, sigma):
    limits = np.iinfo(truth.dtype)
    return np.clip(truth + RNG.normal(0, sigma, truth.shape), limits.min, limits.max).astype(truth.dtype)


@pytest.mark.parametrize("name", ["ensemble", "the ground truth", "Part.TRUTH", "average", "em"])
def test_a_candidate_may_have_any_name(write, tmp_path, name):
    truth = RNG.integers(0, 256, (32, 32), np.uint8)
    paths = write(a=noisy(truth, 3), b=noisy(truth, 9), truth=truth)
    given = ["-c", f"{name}={paths['a']}", "-c", f"B={paths['b']}", "-t", paths["truth"]]
    run("fit", *given, "-o", tmp_path / "x")
    table = ["--lut", tmp_path / "x.lut.safetensors"]
    rows = json.loads(run("evaluate", *given, *table, "--json", "-")[0])["rows"]
    assert [(row["name"], row["role"]) for row in rows] == [
        (name, "candidate"),
        ("B", "candidate"),
        ("ensemble", "ensemble"),
    ]
    assert rows[0]["psnr"] > rows[2]["psnr"] - 3 > rows[1]["psnr"] - 3
    assert "by x.lut.safetensors" in run("evaluate", *given, *table)[0]
