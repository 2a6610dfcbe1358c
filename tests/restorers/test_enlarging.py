"""Networks that enlarge images."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

from napari_ensir.cli.app import app
from napari_ensir.errors import EnsembleError
from napari_ensir.files import write_image
from napari_ensir.restorers import SelfEnsemble, open_restorer
from napari_ensir.restorers.base import check_keeps_size, enlarged_transform, scale_of
from napari_ensir.restorers.classical import Gaussian
from napari_ensir.restorers.networks.external import ExternalNetwork
from napari_ensir.restorers.networks.tiling import Tiles
from napari_ensir.restorers.self_supervised.learn import learn_blind
from napari_ensir.restorers.training.dp_ir import DPIR, FusionModel, FusionSettings


def own(times: int, **settings: object) -> ExternalNetwork:
    def enlarge(x):
        return functional.interpolate(x, scale_factor=times, mode="bilinear")

    return ExternalNetwork(network=enlarge, label=f"x{times}", device="cpu", **settings)


@pytest.mark.parametrize("times", [2, 3, 4])
@pytest.mark.parametrize(("scale", "translate", "turn"), [((1, 1), (0, 0), 0), ((0.5, 2), (7, -3), 30)])
def test_an_enlarged_ramp_keeps_its_world_coordinates(
    tmp_path, write_enlarging, times, scale, translate, turn
):
    angle = np.deg2rad(turn)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def world(shape, scale, translate):
        index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
        return (index * scale) @ linear.T + translate

    def ramp(at):
        return 3 * at[..., 0] - 2 * at[..., 1] + 5

    image = ramp(world((40, 50), scale, translate))
    larger = open_restorer(write_enlarging(tmp_path / "x.pt", times), device="cpu")(image)
    assert larger.shape == (40 * times, 50 * times)
    at = world(larger.shape, *enlarged_transform(scale, translate, times, linear))
    inner = (slice(4 * times, -4 * times),) * 2  # interpolation extrapolates at the border
    np.testing.assert_allclose(larger[inner], ramp(at)[inner], atol=1e-3)


def test_axes_that_keep_their_size_keep_their_transform():
    scale, translate = enlarged_transform((3, 1, 2), (10, 20, 30), (1, 2, 2))
    assert scale.tolist() == [3, 0.5, 1]
    assert translate.tolist() == [10, 19.75, 29.5]


@pytest.mark.parametrize(
    ("axis", "shape", "larger"), [(None, (3, 20, 30), (3, 40, 60)), (-1, (20, 30, 3), (40, 60, 3))]
)
def test_only_rows_and_columns_grow(axis, shape, larger):
    image = np.random.default_rng(0).random(shape)
    assert own(2, channel_axis=axis, tiles=Tiles(size=16, overlap=4))(image).shape == larger


def test_the_self_ensemble_enlarges_as_its_restorer():
    image = np.random.default_rng(0).random((20, 30))
    both = SelfEnsemble(restorer=own(3, enlarges=3))
    assert scale_of(both) == 3
    np.testing.assert_allclose(both(image), own(3)(image), atol=1e-5)  # interpolation is symmetric


def test_a_network_whose_scale_is_not_the_declared_one_is_refused():
    with pytest.raises(EnsembleError, match="multiply rows and columns by its scale"):
        own(2, enlarges=4)(np.zeros((16, 16)))


def test_enlarging_networks_are_refused_where_the_size_has_to_stay():
    image = np.random.default_rng(0).random((48, 48))
    for restorer in (own(2, enlarges=2), own(2)):
        with pytest.raises(EnsembleError, match="x2 enlarges images"):
            learn_blind(image, [restorer, Gaussian()], device="cpu")
    with pytest.raises(EnsembleError, match="enlarges images"):
        check_keeps_size(own(2, enlarges=2))
    check_keeps_size(Gaussian(), image, image)


@pytest.mark.parametrize("times", [2, 4])
def test_dp_ir_enlarges_as_its_network(tmp_path, write_enlarging, times):
    image = np.random.default_rng(0).random((16, 24))
    network = open_restorer(write_enlarging(tmp_path / "x.pt", times), device="cpu")
    dp_ir = DPIR(model=FusionModel(FusionSettings(width=8)), ir=network, tau=1, device="cpu")
    assert dp_ir(image).shape == (16 * times, 24 * times)


def test_refesr_finds_the_inputs_of_networks_that_enlarge(tmp_path, write_enlarging):
    rng = np.random.default_rng(0)
    smooth = [
        functional.avg_pool2d(torch.from_numpy(rng.uniform(0, 255, (1, 1, 44, 52))), 5, 1) for _ in "abc"
    ]
    for number, image in enumerate(smooth):
        truth = 5 * (image - 127.5) + 127.5
        small = functional.interpolate(truth, scale_factor=0.5, mode="bicubic", antialias=True)
        for folder, each in (("truth", truth), ("small", small)):
            (tmp_path / folder).mkdir(exist_ok=True)
            pixels = each[0, 0].round().clip(0, 255).numpy().astype(np.uint8)
            write_image(tmp_path / folder / f"{number}.png", pixels)
    write_enlarging(tmp_path / "linear.pt", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still what people have
        torch.jit.trace(nn.Upsample(scale_factor=2.0), torch.zeros(1, 1, 16, 16)).save(
            tmp_path / "nearest.pt"
        )

    def run(*arguments: object) -> None:
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        assert result.exit_code == 0, result.stderr

    networks = ["--network", tmp_path / "linear.pt", "--network", tmp_path / "nearest.pt"]
    run("restore", tmp_path / "small", *networks, "--device", "cpu", "--out", tmp_path / "large")
    candidates = [f"--candidate={name}={tmp_path / 'large' / name}" for name in ("linear", "nearest")]
    report = tmp_path / "report.json"
    inputs = ["--low-resolution", tmp_path / "small", "--folds", "3", "--json", report]
    methods = ["--method", "RefESR", "--method", "average", "--method", "linear", "--method", "nearest"]
    run("compare", *candidates, "--truth", tmp_path / "truth", *inputs, *methods)
    psnr = {row["name"]: row["psnr"] for row in json.loads(report.read_text())["rows"]}
    assert psnr["linear"] > psnr["nearest"] + 0.5
    assert psnr["RefESR"] > psnr["average"]
    assert psnr["RefESR"] > psnr["nearest"]
