"""Tiles give the same as the whole image, also at borders, in volumes and for networks that enlarge."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.networks.tiling import Tiles, apply_tiled


def blur(x: torch.Tensor) -> torch.Tensor:
    weight = torch.ones(x.shape[1], 1, 5, 5) / 25
    return functional.conv2d(functional.pad(x, (2, 2, 2, 2), mode="reflect"), weight, groups=x.shape[1])


@pytest.mark.parametrize("shape", [(1, 40, 40), (2, 100, 73), (3, 33, 257), (1, 200, 31)])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_local_operator_gives_the_same_as_on_the_whole_image(shape, batch):
    plane = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    tiled = apply_tiled(blur, plane, tiles=Tiles(size=40, overlap=12, batch=batch))
    torch.testing.assert_close(tiled, blur(plane[None])[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(1, 5, 6), (1, 3, 50), (1, 41, 95)])
def test_tile_sides_are_multiples_and_small_planes_are_padded(shape):
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape)
        return 2 * x

    plane = torch.rand(shape)
    tiled = apply_tiled(look, plane, tiles=Tiles(size=36, overlap=8), multiple=8)
    torch.testing.assert_close(tiled, 2 * plane)
    assert all(side % 8 == 0 and side <= 36 for each in seen for side in each[-2:])


def test_blending_is_smooth():
    # Two tiles that differ by a constant are blended without a step.
    values = iter([0.0, 1.0])
    plane = torch.zeros(1, 32, 56)
    tiled = apply_tiled(
        lambda x: torch.full_like(x, next(values)), plane, tiles=Tiles(size=32, overlap=8, batch=1)
    )
    line = tiled[0, 0]
    assert (line[:26] == 0).all()
    assert (line[30:] == 1).all()
    assert line.diff().max() < 0.5


def test_progress_is_reported_for_each_batch():
    ticks = []
    tiles = Tiles(size=32, overlap=8, batch=2)
    apply_tiled(lambda x: x, torch.zeros(1, 70, 70), tiles=tiles, tick=lambda: ticks.append(1))
    assert len(ticks) == tiles.batches((70, 70), 1) == 5


def test_a_function_that_changes_the_size_is_refused():
    for change in (lambda x: x[..., ::2], lambda x: functional.pad(x, (0, 1)), lambda x: x[..., None]):
        with pytest.raises(EnsembleError, match="keep the size"):
            apply_tiled(change, torch.zeros(1, 16, 16), tiles=Tiles(size=16, overlap=4))


@pytest.mark.parametrize("times", [2, 3, 4])
@pytest.mark.parametrize("shape", [(2, 100, 73), (1, 21, 60), (1, 9, 5)])
def test_a_function_that_enlarges_gives_the_same_as_on_the_whole_image(times, shape):
    def enlarge(x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(blur(x), scale_factor=times, mode="nearest")

    plane = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    tiled = apply_tiled(enlarge, plane, tiles=Tiles(size=40, overlap=12))
    torch.testing.assert_close(tiled, enlarge(plane[None])[0], atol=1e-6, rtol=0)


def test_volumes_are_tiled_along_three_axes():
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape[2:]))
        return functional.avg_pool3d(functional.pad(x, (1,) * 6, mode="replicate"), 3, stride=1)

    volume = torch.rand(2, 30, 50, 37, generator=torch.Generator().manual_seed(0))
    tiles = Tiles(size=(16, 24, 24), overlap=(8, 12, 8))
    tiled = apply_tiled(look, volume, tiles=tiles)
    assert set(seen) == {(16, 24, 24)}
    torch.testing.assert_close(tiled, look(volume[None])[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("length", [64, 70, 131])
def test_tiles_start_at_multiples_for_networks_that_downsample(length):
    def halve(x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(functional.max_pool2d(x, 4), scale_factor=4, mode="nearest")

    plane = torch.rand(1, length, length, generator=torch.Generator().manual_seed(0))
    whole = apply_tiled(halve, plane, tiles=Tiles(size=256), multiple=4)
    tiled = apply_tiled(halve, plane, tiles=Tiles(size=36, overlap=12), multiple=4)
    torch.testing.assert_close(tiled, whole)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 4},
        {"margin": 17},
        {"size": (8, 16), "overlap": (1, 2, 3)},
        {"overlap": 200},
        {"overlap": -1},
        {"batch": 0},
    ],
)
def test_impossible_tiles_are_refused(settings):
    with pytest.raises(EnsembleError, match="overlap"):
        Tiles(**settings)
