"""What is asked for, taken from layers: masks, planes, channels."""

from __future__ import annotations

import tracemalloc

import dask.array as da
import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_ensir.errors import EnsembleError
from napari_ensir.settings import FitSettings
from napari_ensir.viewer.fit.request import FitRequest
from napari_ensir.viewer.fit.worker import fit
from napari_ensir.viewer.layers.channels import leading_axes


@pytest.fixture
def stack():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 255, (6, 20, 24)).astype(np.uint8)
    noisy = [np.clip(truth + rng.normal(0, s, truth.shape), 0, 255).astype(np.uint8) for s in (5, 20)]
    return [Image(truth, name="truth"), *(Image(a, name=n) for a, n in zip(noisy, "ab", strict=True))]


@pytest.mark.parametrize("planes", [None, (0, 5), (1, 3), (5, 5)])
@pytest.mark.parametrize("masked", ["everywhere", "a part of each plane", "a part of the stack"])
def test_what_is_learned_from_and_the_rest_are_all_pixels_once(stack, planes, masked):
    truth, *candidates = stack
    shape = truth.data.shape
    where, mask = np.ones(shape, bool), None
    if masked != "everywhere":
        marks = np.zeros(shape if masked.endswith("stack") else shape[1:], int)
        marks[..., 4:15, :7] = 2
        mask, where = Labels(marks, name="mask"), np.broadcast_to(marks > 0, shape).copy()
    if planes is not None:
        where[: planes[0]] = where[planes[1] + 1 :] = False
    request = FitRequest.of_layers(candidates, truth, FitSettings(planes=planes, device="cpu"), mask)
    result = fit(request)
    assert result.session.reference.statistics.n_pixels == where.sum()
    rest = 0 if result.session.unseen is None else result.session.unseen.statistics.n_pixels
    assert rest == (~where).sum()


def test_lazy_stacks_take_the_same_mask(stack):
    da = pytest.importorskip("dask.array")
    truth, *candidates = stack
    marks = np.zeros((20, 24), int)
    marks[3:9] = 1
    lazy = [Image(da.from_array(layer.data, chunks=(2, 20, 24)), name=layer.name) for layer in stack]
    chosen = FitSettings(device="cpu")
    whole = fit(FitRequest.of_layers(candidates, truth, chosen, Labels(marks)))
    parts = fit(FitRequest.of_layers(lazy[1:], lazy[0], chosen, Labels(marks)))
    np.testing.assert_array_equal(parts.lut.weights, whole.lut.weights)


@pytest.mark.parametrize("planes", [None, (16, 31)])
def test_a_sample_is_every_eighth_chunk_of_the_planes_and_their_mask(monkeypatch, planes):
    monkeypatch.setattr("napari_ensir.viewer.fit.request.SAMPLED_FROM", 1)
    stack = np.arange(32).repeat(48 * 24).reshape(32, 48, 24).astype(np.uint8)
    mask = np.arange(32).reshape(-1, 1, 1) % 3 > np.zeros((48, 24))
    lazy = da.from_array(stack, chunks=(1, 20, 24))
    request = FitRequest((lazy, stack), ("a", "b"), stack + 1, False, FitSettings(planes=planes), mask)
    [(candidates, truth)], [where], share = request.sample()
    chosen = [4, 12, 20, 28] if planes is None else [20, 28]
    assert share == 1 / 8
    for array in candidates:
        np.testing.assert_array_equal(array, stack[chosen])
    np.testing.assert_array_equal(truth, stack[chosen] + 1)
    np.testing.assert_array_equal(where, mask[chosen])


def test_there_is_no_sample_of_arrays_in_memory_and_of_few_chunks(monkeypatch):
    lazy = da.zeros((32, 48, 24), chunks=(1, 20, 24), dtype=np.uint8)
    assert FitRequest((lazy,), ("a",), lazy, False).sample() is None
    monkeypatch.setattr("napari_ensir.viewer.fit.request.SAMPLED_FROM", 1)
    assert FitRequest((lazy,), ("a",), lazy, False).sample() is not None
    for array in (lazy.compute(), lazy.rechunk((10, 48, 24))):
        assert FitRequest((array,), ("a",), array, False).sample() is None


def test_planes_lie_along_the_first_axis_that_is_no_channel(stack):
    truth, *candidates = stack
    chosen = FitSettings(channel_axis=0, device="cpu")
    request = FitRequest.of_layers(candidates, truth, chosen)
    assert request.spatial_shape == (20, 24)
    assert fit(request).lut.n_channels == 6
    with pytest.raises(EnsembleError, match="planes are 4 to 9, but the images have 6; use 0 to 5"):
        FitRequest.of_layers(candidates, truth, FitSettings(planes=(4, 9)))


def test_axes_are_called_by_their_labels():
    layer = Image(np.zeros((2, 3, 4, 5)), axis_labels=("t", "channel", "y", "x"))
    assert leading_axes(layer) == {0: "t (2)", 1: "channel (3)"}
    assert leading_axes(Image(np.zeros((3, 4, 5)))) == {0: "axis 0 (3)"}
    assert leading_axes(Image(np.zeros((4, 5, 3)), rgb=True)) == {}


def test_no_mask_of_the_whole_stack_is_made():
    """Of 500 planes 10 are learned from, each masked: nothing of the size of the stack is ever held."""
    n = 500
    truth = da.random.default_rng(0).integers(0, 255, (n, 256, 256), np.uint8, chunks=(1, 256, 256))
    limits = {"contrast_limits": (0, 255)}
    layers = [Image(truth + np.uint8(k), name=str(k), **limits) for k in range(3)]
    marks = np.zeros((256, 256), np.uint8)
    marks[:100] = 1
    mask = Labels(marks, name="mask")
    tracemalloc.start()
    request = FitRequest.of_layers(layers[1:], layers[0], FitSettings(planes=(3, 12), device="cpu"), mask)
    pairs, masks = request.seen()
    rest, outside = request.unseen()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < truth.size // 10, "a bool array of the stack has as many bytes as it has pixels"
    assert [pair[1].shape[0] for pair in (*pairs, *rest)] == [10, 3, n - 13, 10]
    assert np.asarray(masks[0][2:3]).sum() == 100 * 256
    assert np.asarray(outside[-1][2:3]).sum() == 156 * 256
