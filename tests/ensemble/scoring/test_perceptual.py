"""Metrics of pyiqa, tested with a module of the same interface; the package itself is not installed."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from skimage.metrics import normalized_root_mse
from typer.testing import CliRunner

from napari_ensir import EnsembleError, compare
from napari_ensir.cli.app import app
from napari_ensir.ensemble.scoring.metrics import open_metrics
from napari_ensir.files import write_image

TRUTH = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), np.uint8)


@pytest.fixture
def pyiqa(monkeypatch):
    """Metrics of which one is the mean difference, and one cannot be loaded; shapes are noted."""
    shapes = []

    def create_metric(name, device=None):
        if name == "offline":
            raise OSError("no route to host")

        def difference(restored, reference):
            shapes.append(tuple(restored.shape))
            return (restored - reference).abs().mean()

        difference.lower_better = True
        return difference

    module = SimpleNamespace(
        create_metric=create_metric, list_models=lambda metric_mode: ["lpips", "offline"], shapes=shapes
    )
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    return module


@pytest.mark.parametrize(
    ("shape", "axis", "networks"),
    [
        ((24, 30), None, [(1, 3, 24, 30)]),
        ((24, 30, 3), -1, [(1, 3, 24, 30)]),
        ((4, 24, 30), None, [(1, 3, 24, 30)] * 4),
        ((2, 24, 30), 0, [(1, 3, 24, 30)] * 2),
    ],
)
def test_images_reach_the_network_as_rgb_planes_from_0_to_1(pyiqa, shape, axis, networks):
    truth = np.full(shape, 1000.0)
    score = open_metrics(["lpips"])[0].function(truth, truth + 500, (0, 2000), axis)
    assert score == pytest.approx(0.25)
    assert pyiqa.shapes == networks


def test_unusable_metrics_are_one_sentence(pyiqa, monkeypatch):
    with pytest.raises(
        EnsembleError, match="no full-reference metric 'niqe'; choose from ms-ssim, nrmse, lpips"
    ):
        open_metrics(["niqe"])
    with pytest.raises(EnsembleError, match=r"weights of the metric offline could not be loaded .*network"):
        open_metrics(["offline"])
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(
        EnsembleError, match=r'not one of ms-ssim, nrmse; .* pip install "napari-ensir\[perceptual\]"'
    ):
        open_metrics(["lpips"])


def test_evaluate_and_compare_add_a_column(pyiqa, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    near, far = TRUTH // 2 + 60, TRUTH // 3 + 40
    for name, images in (("truth", TRUTH), ("near", near), ("far", far)):
        (tmp_path / name).mkdir()
        for number, image in enumerate(images):
            write_image(f"{name}/{number}.png", image)
    given = ["-c", "near=near", "-c", "far=far", "-t", "truth", "--metric", "lpips"]
    expected = np.abs(near.astype(float) - TRUTH).mean() / 255
    for command in (["evaluate"], ["compare", "--method", "near"]):
        result = CliRunner().invoke(app, [*command, *given, "--json", "found.json", "--overwrite"])
        assert result.exit_code == 0, result.stderr
        assert "lpips" in result.stdout.splitlines()[0]
        (row,) = (
            one for one in json.loads((tmp_path / "found.json").read_text())["rows"] if one["name"] == "near"
        )
        assert row["lpips"] == pytest.approx(expected, rel=1e-5)
    own = [*given[:-1], "NRMSE", "--metric", "ms-ssim"]
    for command in ("evaluate", "compare"):
        result = CliRunner().invoke(app, [command, *own, "--json", "found.json", "--overwrite"])
        assert result.stdout.splitlines()[0].split()[3:5] == ["NRMSE", "MS-SSIM"], result.stderr
        assert "MS-SSIM is not shown, because it needs at least 176 rows" in result.stdout
        row = next(
            one for one in json.loads((tmp_path / "found.json").read_text())["rows"] if one["name"] == "near"
        )
        expected = [normalized_root_mse(*pair) for pair in zip(TRUTH, near, strict=True)]
        assert row["nrmse"] == pytest.approx(np.mean(expected))
        assert row["ms-ssim"] is None  # the images are too small
    refused = CliRunner().invoke(app, ["evaluate", *given, "--truth-noise", "5"])
    assert "need a clean one" in refused.stderr
    with pytest.raises(EnsembleError, match="need a clean one"):
        compare([([near[0], far[0]], TRUTH[0])], metrics=["lpips"], truth_noise=5.0)
