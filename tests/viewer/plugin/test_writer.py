"""Layers saved as OME-TIFF and OME-Zarr: pixels, placement and provenance."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr

from napari_ensir import fit_lut
from napari_ensir.files.image import read_image, read_record
from napari_ensir.viewer.layers.layers import RECORD_KEY, LayerSnapshot
from napari_ensir.viewer.plugin.writer import write_layer
from napari_ensir.viewer.results.combining import combine
from napari_ensir.viewer.results.layers import Outputs


@pytest.fixture
def outputs(filled, images):
    """Lookup table, and the layers that Apply adds."""
    names = list(images)[1:]
    pairs = [([images[name] for name in names], images["ground truth"])]
    lut = fit_lut(pairs, names=names, device="cpu").calibrated(pairs, device="cpu")
    for layer in filled.layers:
        layer.units = ("um", "um")
    combined = combine(lut, pairs[0][0], False, "cpu")
    for _ in Outputs(filled, LayerSnapshot(filled.layers[1])).showing(lut, combined, "slider"):
        pass
    return lut, [layer for layer in filled.layers if "napari-ensir" in layer.metadata]


@pytest.mark.parametrize("name", ["o.ome.tif", "o.ome.zarr"])
def test_saved_outputs_have_provenance(name, outputs, tmp_path):
    lut, layers = outputs
    for layer, kind in zip(layers, ("ensemble", "weights"), strict=True):
        (path,) = layer.save(str(tmp_path / f"{kind} {name}"))
        np.testing.assert_array_equal(read_image(path), layer.data)
        record = read_record(path)
        assert (record["kind"], record["layer"]) == (kind, layer.name)
        assert record["table"]["names"] == list(lut.names)
        assert record["table"]["report"]["held_out"] == lut.report["held_out"]
        layer.save(str(path))  # overwrites
    if name.endswith("tif"):
        with tifffile.TiffFile(tmp_path / f"weights {name}") as file:
            assert file.series[0].axes == "CYX"
            pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        assert [pixels[f"PhysicalSize{axis}"] for axis in "YX"] == [0.5, 0.25]
        assert pixels["PhysicalSizeXUnit"] == "µm"
        return
    (image,) = zarr.open_group(str(tmp_path / f"weights {name}")).attrs["ome"]["multiscales"]
    assert [axis["name"] for axis in image["axes"]] == ["c", "y", "x"]
    assert image["axes"][-1]["unit"] == "micrometer"
    scale, translation = image["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == [1, 0.5, 0.25]
    assert translation["translation"] == [0, 3, 4]


def test_other_layers_are_saved_without_provenance(filled, tmp_path):
    colour = np.random.default_rng(0).integers(0, 255, (16, 17, 3)).astype(np.uint8)
    for name, layer in {
        "colour": filled.add_image(colour, rgb=True, name="colour"),
        "labels": filled.add_labels(np.eye(9, dtype=np.int32), name="labels"),
        "stack": filled.add_image(np.random.default_rng(0).random((2, 5, 16, 17), np.float32), name="stack"),
        "pyramid": filled.add_image([colour[..., 0], colour[::2, ::2, 0]], name="p", multiscale=True),
    }.items():
        data = layer.data[0] if name == "pyramid" else layer.data
        for ending in (".ome.tif", ".ome.zarr"):
            (path,) = layer.save(str(tmp_path / f"{name}{ending}"))
            np.testing.assert_array_equal(read_image(path), data)
            assert read_record(path) is None


def test_restored_layers_have_the_record_of_their_restorer(tmp_path):
    record = {"kind": "restored", "restorer": {"name": "Median"}}
    given = {"name": "r", "metadata": {RECORD_KEY: record}}
    (path,) = write_layer(str(tmp_path / "r.ome.tif"), np.eye(9, dtype=np.uint8), given)
    assert read_record(path) == record


def test_plain_tiff_files_are_written_by_napari(filled, tmp_path):
    (path,) = filled.layers[0].save(str(tmp_path / "plain.tif"))
    assert read_record(path) is None


@pytest.mark.parametrize("name", ["o.ome.tif", "o.ome.zarr"])
def test_time_steps_and_their_unit_are_saved(name, tmp_path):
    place = {"name": "t", "scale": (2.0, 0.1, 0.1), "units": ("second", "micrometer", "micrometer")}
    pixels = np.zeros((3, 8, 9), np.uint8)
    (path,) = write_layer(str(tmp_path / name), pixels, {**place, "axis_labels": ("t", "y", "x")})
    if name.endswith("tif"):
        with tifffile.TiffFile(path) as file:
            assert file.series[0].axes == "TYX"
            saved = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        assert (saved["TimeIncrement"], saved["TimeIncrementUnit"]) == (2, "s")
        return
    (image,) = zarr.open_group(path).attrs["ome"]["multiscales"]
    assert image["axes"][0] == {"name": "t", "type": "time", "unit": "second"}
    assert image["datasets"][0]["coordinateTransformations"][0]["scale"] == [2, 0.1, 0.1]
