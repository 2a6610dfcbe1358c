"""Layers as candidates: all kinds of arrays, names, overlays."""

from __future__ import annotations

import json

import dask.array as da
import h5py
import numpy as np
import pytest
import xarray
import zarr
from napari.components import ViewerModel
from napari.layers import Image

from napari_ensir import fit_lut
from napari_ensir.settings import FitSettings
from napari_ensir.viewer.apply.widget import apply_table
from napari_ensir.viewer.fit.request import FitRequest
from napari_ensir.viewer.fit.worker import fit, refine
from napari_ensir.viewer.layers.layers import (
    LayerSnapshot,
    add_slider_caption,
    exclusion_reason,
    full_data,
    notice,
    pixel_shape,
)
from napari_ensir.viewer.results.combining import combine
from napari_ensir.viewer.results.layers import Outputs


def as_memmap(image, folder, number):
    made = np.memmap(folder / f"{number}.raw", image.dtype, "w+", shape=image.shape)
    made[:] = image
    return made


def as_hdf5(image, folder, number):
    return h5py.File(folder / f"{number}.h5", "w").create_dataset("image", data=image, chunks=(10, 11))


def as_xarray(image, folder, number):
    coordinates = {"y": np.arange(40) * (0.1 + 1e-7 * number), "x": np.arange(44) * 0.1}
    return xarray.DataArray(image, dims=("y", "x"), coords=coordinates)


KINDS = {
    "numpy": lambda image, *_: image,
    "memmap": as_memmap,
    "big-endian": lambda image, *_: image.astype(">u2"),
    "rolled axes": lambda image, *_: np.moveaxis(np.moveaxis(image, 0, 1).copy(), 1, 0),
    "reversed": lambda image, *_: image[::-1, ::-1].copy()[::-1, ::-1],
    "dask": lambda image, *_: da.from_array(image, chunks=(20, 22)),
    "zarr": lambda image, *_: zarr.array(image, chunks=(20, 22)),
    "h5py": as_hdf5,
    "xarray": as_xarray,
    "xarray of other dims": lambda image, _, number: xarray.DataArray(image, dims=(f"a{number}", "b")),
    "xarray of dask": lambda image, *_: xarray.DataArray(da.from_array(image, chunks=(20, 22))),
    "pyramid": lambda image, *_: [image, image[::2, ::2]],
}


@pytest.fixture(scope="module")
def pixels():
    """A ground truth and two candidates."""
    rng = np.random.default_rng(0)
    truth = np.cumsum(rng.random((40, 44)), axis=1) * 60 + 200
    noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (30, 60)]
    return [image.clip(0).astype(np.uint16) for image in (truth, *noisy)]


def results(truth, candidates):
    """Table, ensembles, errors and SSIM of layers."""
    settings = FitSettings(device="cpu", data_range=(0.0, 4000.0))
    fitted = fit(FitRequest.of_layers(candidates, truth, settings))
    *_, result = refine(fitted, {"error"}, lambda *_: None)
    errors = result.errors
    arrays = [LayerSnapshot(layer).data for layer in candidates]
    lut = result.lut.calibrated([(arrays, full_data(truth))], device="cpu")
    _, [(applied, applied_error)], _ = apply_table(lut, [[arrays]], False, "cpu", with_errors=True)
    images = {
        "weights of table": lut.weights,
        "ensemble": result.combined.exact,
        "applied": applied.exact,
        "weights": applied.maps,
        "expected error": applied_error,
        "error of ensemble": errors.ensemble[0],
        "error of candidate": errors.best[0],
        "ssim": [score.ssim for score in result.scores],
    }
    return {name: np.asarray(image) for name, image in images.items()}, notice(candidates, truth)


@pytest.fixture(scope="module")
def expected(pixels):
    return results(*as_layers(pixels))


def as_layers(arrays):
    truth, *candidates = [Image(data, name=str(number)) for number, data in enumerate(arrays)]
    return truth, candidates


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_arrays_give_the_results_of_numpy_arrays(kind, pixels, expected, tmp_path):
    truth, candidates = as_layers([KINDS[kind](image, tmp_path, i) for i, image in enumerate(pixels)])
    assert not any(exclusion_reason(layer, like=truth) for layer in candidates)
    found, warning = results(truth, candidates)
    for name, image in expected[0].items():
        np.testing.assert_array_equal(found[name], image, err_msg=name)
    assert warning == expected[1] == ""
    assert full_data(truth) is full_data(truth)
    assert pixel_shape(truth) == (40, 44)
    assert LayerSnapshot(truth).dtype.isnative


def test_zarr_layers_with_codecs_that_are_not_listed_are_not_candidates(tmp_path):
    metadata = {
        "zarr_format": 2,
        "shape": [8, 8],
        "chunks": [8, 8],
        "dtype": "<u2",
        "compressor": None,
        "fill_value": 0,
        "order": "C",
    }
    for filters, expected in (([{"id": "jenkins_lookup3"}], "uses the codec 'jenkins_lookup3'"), (None, "")):
        (tmp_path / ".zarray").write_text(json.dumps(metadata | {"filters": filters}))
        layer = Image(zarr.open_array(str(tmp_path), mode="r"), contrast_limits=(0, 1))
        reason = exclusion_reason(layer)
        assert expected in reason
        assert bool(reason) == bool(expected)
    assert exclusion_reason(Image(np.zeros((8, 8)))) == ""


def test_restored_layers_have_names_that_file_systems_accept():
    model = ViewerModel()
    layer = model.add_image(np.eye(8, dtype=np.uint8), name="a: b/c")
    added = LayerSnapshot(layer).add_candidate(model, np.eye(8), "a: b/c · Median?")
    assert added.name == "a_ b_c · Median_"


@pytest.fixture
def captioned():
    """A viewer model with weight maps above a candidate, and a function that returns the caption."""
    model = ViewerModel()
    model.add_image(np.zeros((8, 8)), name="candidate")
    weights = model.add_image(np.zeros((2, 8, 8)), name="weights")
    add_slider_caption(model, weights, ("A", "B"))

    def caption():
        overlay = getattr(model, "canvas", model)
        overlay = overlay.overlays.text if hasattr(overlay, "overlays") else model.text_overlay
        return overlay.text if overlay.visible else ""

    return model, caption


def test_the_candidate_of_visible_weight_maps_is_named(captioned):
    model, caption = captioned
    assert caption() == "weight of 1  A"
    model.dims.set_point(0, 1)
    assert caption() == "weight of 2  B"
    model.layers["weights"].visible = False
    assert caption() == ""
    model.layers["weights"].visible = True
    model.layers.remove("weights")
    assert caption() == ""


def test_weight_maps_below_another_image_are_not_named(captioned):
    model, caption = captioned
    above = model.add_image(np.zeros((8, 8)), name="expected error")
    assert caption() == ""
    above.visible = False
    assert caption() == "weight of 1  A"
    above.visible = True
    assert caption() == ""
    model.layers.move(2, 0)
    assert caption() == "weight of 1  A"


def test_the_colour_bar_of_the_expected_error_is_shown(pixels):
    model = ViewerModel()
    layer = model.add_image(pixels[1], name="candidate")
    lut = fit_lut([(pixels[1:], pixels[0])], device="cpu")
    error = np.zeros((40, 44), np.float32)
    images = combine(lut, pixels[1:], False, "cpu")
    for _ in Outputs(model, LayerSnapshot(layer)).showing(lut, images, "trusted", expected=[error]):
        pass
    assert model.layers[-1].colorbar.visible
    assert not layer.colorbar.visible
