"""Mixed kinds of arrays give the same table and image as numpy arrays."""

from __future__ import annotations

from itertools import combinations_with_replacement

import dask.array as da
import numpy as np
import pytest
import torch
import zarr

from napari_ensir import EnsembleError, fit_lut
from tests.helpers.images import make_image


class Labelled:
    """A labelled array, like xarray's DataArray, which may be lazy."""

    def __init__(self, data):
        self.data = data
        self.dims = tuple(f"dim_{axis}" for axis in range(data.ndim))
        self.shape, self.dtype = data.shape, data.dtype
        self.chunks = getattr(data, "chunks", None)

    def __dask_graph__(self):
        return self.data.__dask_graph__() if self.chunks else None

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.data, dtype)

    def __getitem__(self, where):
        return Labelled(self.data[where])


KINDS = {
    "numpy": lambda array, path: array,
    "memmap": lambda array, path: in_a_file(array, path),
    "torch": lambda array, path: torch.from_numpy(array.copy()),
    "torch with gradient": lambda array, path: torch.from_numpy(array.astype(np.float32)).requires_grad_(),
    "dask": lambda array, path: da.from_array(array, chunks=(7, 9)),
    "dask in other chunks": lambda array, path: da.from_array(array, chunks=(16, 5)),
    "zarr": lambda array, path: zarr.array(array, chunks=(6, 10)),
    "labelled": lambda array, path: Labelled(array),
    "labelled dask": lambda array, path: Labelled(da.from_array(array, chunks=(5, 16))),
}


def in_a_file(array, path):
    stored = np.memmap(
        path / f"{np.random.default_rng().integers(2**40)}.raw", array.dtype, "w+", shape=array.shape
    )
    stored[:] = array
    return stored


def computed(image):
    image = image.compute() if isinstance(image, da.Array) else image
    return np.asarray(image.detach() if isinstance(image, torch.Tensor) else image)


@pytest.mark.parametrize(("one", "other"), [*combinations_with_replacement(KINDS, 2)])
def test_every_pair_of_kinds_gives_the_same_results(rng, tmp_path, one, other):
    candidates, truth = make_image(rng, (16, 18), 2)
    mask = rng.random(truth.shape) < 0.8
    expected = fit_lut([(candidates, truth)], method="least-squares", mask=[mask], device="cpu")
    mixed = [KINDS[one](candidates[0], tmp_path), KINDS[other](candidates[1], tmp_path)]
    lut = fit_lut(
        [(mixed, KINDS[one](truth, tmp_path))],
        method="least-squares",
        data_range=(0, 255),
        mask=[KINDS[other](mask, tmp_path) if "gradient" not in other else mask],
        device="cpu",
    )
    assert lut.report["pixels"] == expected.report["pixels"]
    if "gradient" not in one + other:  # floats have other levels
        np.testing.assert_array_equal(lut.rows, expected.rows)
        np.testing.assert_array_equal(lut.weights, expected.weights)
    image, maps = expected.apply(candidates, device="cpu"), expected.weight_maps(candidates, device="cpu")
    np.testing.assert_allclose(computed(expected.apply(mixed, device="cpu")), image, rtol=1e-6)
    np.testing.assert_allclose(computed(expected.weight_maps(mixed, device="cpu")), maps, rtol=1e-6)
    is_lazy = any("dask" in kind for kind in (one, other))
    assert isinstance(expected.apply(mixed, device="cpu"), da.Array) == is_lazy


def test_bfloat16_beside_dask(rng):
    candidates, truth = make_image(rng, (16, 18), 2, np.float32)
    lut = fit_lut([(candidates, truth)], device="cpu")
    rough = torch.from_numpy(candidates[0]).bfloat16()
    mixed = lut.apply([rough, da.from_array(candidates[1], chunks=8)], device="cpu")
    np.testing.assert_allclose(
        mixed.compute(), lut.apply([rough.float().numpy(), candidates[1]], device="cpu"), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_masked_arrays(rng, engine, dtype):
    """Masked pixels are not counted, do not widen the range, and are NaN in the ensemble."""
    candidates, truth = make_image(rng, (30, 25), 2, dtype)
    hidden, given = rng.random((3, *truth.shape)) < 0.05, rng.random(truth.shape) < 0.9
    expected = fit_lut(
        [(candidates, truth)], mask=[given & ~hidden.any(axis=0)], data_range=(0, truth.max()), device="cpu"
    )
    spoilt = [
        np.where(gone, np.iinfo(np.uint8).max if dtype == np.uint8 else 65000, x).astype(dtype)
        for gone, x in zip(hidden, (*candidates, truth), strict=True)
    ]
    *masked, masked_truth = (np.ma.array(x, mask=gone) for x, gone in zip(spoilt, hidden, strict=True))
    lut = fit_lut([(masked, masked_truth)], mask=[given], data_range=(0, truth.max()), device="cpu")
    np.testing.assert_array_equal(lut.rows, expected.rows)
    np.testing.assert_allclose(lut.weights, expected.weights, atol=1e-12)
    assert lut.report["pixels"] == expected.report["pixels"]
    free = fit_lut([(masked, masked_truth)], device="cpu")
    assert free.data_range[1] <= (255 if dtype == np.uint8 else max(x.max() for x in (*candidates, truth)))
    image = lut.apply(masked, device="cpu")
    gone = hidden[:2].any(axis=0)
    assert np.isnan(image[gone]).all()
    np.testing.assert_allclose(image[~gone], lut.apply(candidates, device="cpu")[~gone], rtol=1e-5)
    assert isinstance(masked[0], np.ma.MaskedArray)
    np.testing.assert_array_equal(masked[0].mask, hidden[0])


def test_masked_pixels_of_a_mask_are_not_counted(rng):
    candidates, truth = make_image(rng, (20, 20), 2)
    mask = np.ma.array(np.ones(truth.shape, bool), mask=np.indices(truth.shape)[0] < 5)
    assert fit_lut([(candidates, truth)], mask=[mask], device="cpu").report["pixels"] == 300


def test_integers_above_2_to_the_63_do_not_become_negative(engine):
    truth = (np.random.default_rng(0).random((64, 64)) * 1.8e19).astype(np.uint64)
    half, near = truth // np.uint64(2), truth - truth // np.uint64(9)
    for kind in (lambda x: x, torch.from_numpy, da.from_array):
        arrays = [kind(x) for x in (half, near, truth)]
        lut = fit_lut([(arrays[:2], arrays[2])], method="least-squares", device="cpu")
        assert lut.data_range[1] > 1.79e19
        np.testing.assert_allclose(lut.fallback, [[0, 1]], atol=1e-6)
        np.testing.assert_allclose(computed(lut.apply(arrays[:2], device="cpu")), near, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda x: torch.from_numpy(x).to(torch.float8_e4m3fn),
            r"pixels of dtype torch.float8_e4m3fn cannot",
        ),
        (lambda x: torch.from_numpy(x).to_sparse(), r"a tensor that is sparse cannot be combined"),
        (lambda x: torch.empty(x.shape, device="meta"), r"a tensor without values cannot be combined"),
        (lambda x: torch.from_numpy(x).to(torch.complex64), r"pixels of dtype complex64 cannot"),
        (lambda x: da.ma.masked_less(da.from_array(x), 0.5), r"is a dask array of masked arrays; fill it"),
    ],
)
def test_unsupported_arrays_raise(rng, make, words):
    candidates, truth = make_image(rng, (12, 12), 2, np.float32)
    lut = fit_lut([(candidates, truth)], device="cpu")
    bad = [candidates[0], make(candidates[1])]
    for use in (lambda: fit_lut([(bad, truth)], device="cpu"), lambda: lut.apply(bad, device="cpu")):
        with pytest.raises(EnsembleError, match=f"candidate 2.*{words}"):
            use()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channel_axis": "a"}, "channel_axis is 'a'; use a whole number"),
        ({"channel_axis": 0.5}, "channel_axis is 0.5; use a whole number"),
        ({"shrinkage": None}, "shrinkage is None; use a number"),
        ({"mask": 5}, "mask is 5; give one mask .* per image"),
        ({"mask": [5]}, r"the mask has shape \(\); it must have shape \(12, 12\)"),
        ({"bin_width": 0}, "bin_width is 0; use a number above 0"),
        (
            {"data_range": (0, 65535), "bin_width": 1},
            r"65536 bins.* at most 65535 are possible, so use 2 or more",
        ),
    ],
)
def test_invalid_options_raise(rng, options, words):
    with pytest.raises(EnsembleError, match=words):
        fit_lut([make_image(rng, (12, 12), 2, np.uint16)], device="cpu", **options)


def test_suggested_bin_width_is_valid(rng):
    candidates, truth = make_image(rng, (12, 12), 2, np.float64)
    for high in (0.1, 1.0, 7.77, 65535.0, 1e9):
        with pytest.raises(EnsembleError, match=r"so use .* or more") as caught:
            fit_lut([(candidates, truth)], bin_width=high / 1e6, data_range=(0, high), device="cpu")
        width = float(str(caught.value).partition("so use ")[2].split()[0])
        assert width <= high / 65535 * 1.01
        assert fit_lut([(candidates, truth)], bin_width=width, data_range=(0, high), device="cpu")


def test_invalid_channel_axis_raises(rng):
    candidates, truth = make_image(rng, (12, 12, 3), 2)
    lut = fit_lut([(candidates, truth)], channel_axis=-1, device="cpu")
    with pytest.raises(EnsembleError, match="channel_axis is 'a'; use a whole number"):
        lut.apply(candidates, device="cpu", channel_axis="a")
    long = np.zeros(70_000, np.uint8)
    with pytest.raises(EnsembleError, match="at most 65536 channels can have a table each"):
        fit_lut([([long], long + np.uint8(1))], channel_axis=0, device="cpu")
