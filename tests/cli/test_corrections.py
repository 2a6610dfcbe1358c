"""``--match``, ``--align`` and ``--squeeze`` correct candidates as the buttons of the Fit panel do."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from napari_ensir import load_lut
from napari_ensir.cli.app import app
from napari_ensir.files import read_image, write_image
from tests.helpers.commands import run_both as run


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A ground truth, a good candidate, and one that is shifted by three rows and darker."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=(144, 144)), 2)
    wide = 2000 + 6000 * (smooth - smooth.min()) / np.ptp(smooth)
    good, poor = (wide + rng.normal(0, sigma, wide.shape) for sigma in (80, 120))
    written = {"truth": wide[8:136, 8:136], "good": good[8:136, 8:136]}
    written |= {"poor": poor[8:136, 8:136], "moved": poor[5:133, 8:136]}
    written["dark"] = (written["poor"] - 150) / 3
    for name, image in written.items():
        write_image(f"{name}.tif", image.astype(np.uint16))
    return written


def test_corrections_are_made_recorded_and_asked_for_again(images):
    candidates = ["-c", "A=good.tif", "-c", "B=moved.tif", "-c", "C=dark.tif"]
    _, said = run("fit", *candidates, "-t", "truth.tif", "-o", "plain")
    assert '"B": shifted by 3 pixels down against the ground truth; align them (--align).' in said
    assert "match its intensities (--match)." in said
    corrections = ["--match", "--align"]
    _, said = run("fit", *candidates, "-t", "truth.tif", "-o", "mended", *corrections)
    assert said == ""
    recorded = load_lut("mended.lut.safetensors").report["corrections"]
    assert recorded["B"]["align"]["values"] == pytest.approx([-3, 0], abs=0.1)
    assert recorded["C"]["match-intensities"]["values"] == pytest.approx([3, 150], rel=0.2)
    scores = {}
    for name, options in (("plain", []), ("mended", corrections)):
        table = ["--lut", f"{name}.lut.safetensors", *candidates]
        run("apply", *table, "-o", f"{name}.tif", *options)
        scores[name] = np.mean((read_image(f"{name}.tif") - images["truth"]) ** 2)
    assert scores["mended"] < 0.8 * scores["plain"]
    _, said = run("apply", *table, "-o", "other.tif")
    assert 'learned with --align from candidate "B"; give --align here, too' in said
    assert 'learned with --match from candidate "C"; give --match here, too' in said
    rows = json.loads(run("evaluate", *candidates, "-t", "truth.tif", *corrections, "--json", "-")[0])["rows"]
    peak = np.ptp(images["truth"].astype(np.uint16).astype(float))
    noise = np.mean((images["poor"] - images["truth"]) ** 2)
    assert rows[2]["psnr"] == pytest.approx(10 * np.log10(peak**2 / noise), abs=0.5)


def test_axes_of_length_1_are_dropped(images):
    write_image("deep.tif", images["poor"].astype(np.uint16)[None, None])
    candidates = ["-c", "A=good.tif", "-c", "B=deep.tif"]
    refused = CliRunner().invoke(app, ["fit", *candidates, "-t", "truth.tif", "-o", "table"])
    assert refused.exit_code == 1
    assert "Drop the axes of length 1 with --squeeze." in refused.stderr
    run("fit", *candidates, "-t", "truth.tif", "-o", "table", "--squeeze")
    run("apply", "--lut", "table.lut.safetensors", *candidates, "-o", "out.tif", "--squeeze")
    flat = ["-c", "A=good.tif", "-c", "B=poor.tif"]
    run("apply", "--lut", "table.lut.safetensors", *flat, "-o", "flat.tif")
    np.testing.assert_array_equal(read_image("out.tif"), read_image("flat.tif"))
