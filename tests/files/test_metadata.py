"""What an output carries of where it came from: written into every format, and found again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from typer.testing import CliRunner

from napari_ensir import EnsembleError, fit_lut
from napari_ensir.cli.app import app
from napari_ensir.files.image import open_image, read_image, read_record, write_image

RECORD = {
    "kind": "ensemble",
    "date": "2026-11-24",
    "versions": {"numpy": "2.4"},
    "from": {"a <b>": 'ä "quoted" & such.tif'},
    "table": {"names": ["a", "b"], "method": "em", "report": {"low": float("nan"), "braces": "{0} {}"}},
}
FOUND = {**RECORD, "table": {**RECORD["table"], "report": {"low": None, "braces": "{0} {}"}}}

IMAGE = np.random.default_rng(0).integers(0, 255, (5, 16, 17)).astype(np.uint8)


@pytest.mark.parametrize("name", ["o.ome.tif", "o.tif", "o.png", "deep.png", "colour.png", "o.zarr"])
def test_it_goes_in_and_out_and_the_pixels_are_as_ever(name, tmp_path):
    pixels = {"deep.png": IMAGE[0] * np.uint16(257), "colour.png": np.moveaxis(IMAGE[:3], 0, -1)}
    image = pixels.get(name, IMAGE[0] if name.endswith("png") else IMAGE)
    path = write_image(tmp_path / name, image, record=RECORD)
    assert read_record(path) == FOUND
    np.testing.assert_array_equal(read_image(path), image)
    assert read_record(write_image(tmp_path / f"none-{name}", image)) is None


def test_imagej_shows_it_as_info(tmp_path):
    given = {"axes": "ZYX", "unit": "um", "spacing": 0.5}
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, imagej=True, resolution=(10, 20), metadata=given)
    path = write_image(tmp_path / "o.tif", IMAGE, like=open_image(tmp_path / "a.tif"), record=RECORD)
    assert read_record(path) == FOUND
    with tifffile.TiffFile(path) as file:
        assert file.is_imagej
        assert file.imagej_metadata["spacing"] == 0.5
        assert file.imagej_metadata["Info"].startswith("napari-ensir = {")


def test_ome_xml_is_as_other_programs_want_it(tmp_path):
    metadata = {"axes": "CYX", "Channel": {"Name": ["405", "µ", "x", "y", "z"]}, "PhysicalSizeX": 0.1}
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE, metadata=metadata)
    like = open_image(tmp_path / "a.ome.tif")
    path = write_image(tmp_path / "o.ome.tif", IMAGE, like=like, record=RECORD)
    with tifffile.TiffFile(path) as file:
        assert file.series[0].axes == "CYX"
        ome = tifffile.xml2dict(file.ome_metadata)["OME"]
    assert ome["Image"]["Pixels"]["PhysicalSizeX"] == 0.1
    annotation = ome["StructuredAnnotations"]["MapAnnotation"]
    assert annotation["Namespace"] == "napari-ensir"
    assert ome["Image"]["AnnotationRef"]["ID"] == annotation["ID"]
    pairs = {pair["K"]: pair["value"] for pair in annotation["Value"]["M"]}
    assert {key: pairs[key] for key in ("kind", "method", "candidates")} == {
        "kind": "ensemble",
        "method": "em",
        "candidates": "a, b",
    }
    assert json.loads(pairs["record"]) == FOUND


def test_ome_zarr_keeps_it_beside_omes_own(tmp_path):
    pytest.importorskip("dask")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=3)
    group.create_array("0", data=IMAGE, chunks=(5, 8, 8))
    axes = [{"name": name, "type": "space"} for name in "zyx"]
    scale = [{"type": "scale", "scale": [2.0, 0.5, 0.5]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    like = open_image(tmp_path / "a.zarr")
    path = write_image(tmp_path / "o.ome.zarr", like.array, like=like, record=RECORD)
    attributes = dict(zarr.open_group(str(path), mode="r").attrs)
    assert set(attributes) == {"ome", "napari-ensir"}
    assert attributes["ome"]["multiscales"][0]["axes"] == axes
    assert read_record(path) == FOUND


@pytest.mark.parametrize("how", ["apply", "restore", "blind"])
def test_what_the_command_line_writes_says_where_it_came_from(how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    truth = (np.mgrid[:48, :48].sum(0) * 2).astype(np.uint8)
    noisy = {name: (truth + rng.integers(0, 40, truth.shape)).astype(np.uint8) for name in "AB"}
    for name, image in noisy.items():
        write_image(tmp_path / f"{name}.tif", image)
    pairs = [(list(noisy.values()), truth)]
    lut = fit_lut(pairs, names=tuple(noisy), method="least-squares", device="cpu").calibrated(pairs)
    lut.save(tmp_path / "t")

    def run(*words):
        done = CliRunner().invoke(app, [*words, "--quiet"])
        assert done.exit_code == 0, done.output

    images = ["-c", "A=A.tif", "-c", "B=B.tif"]
    if how == "apply":
        more = ["--weight-maps", "w.ome.tif", "--expected-error", "e.tif"]
        run("apply", "--lut", "t.lut.safetensors", *images, "--out", "o.ome.tif", *more)
        kinds = {name: read_record(name)["kind"] for name in ("o.ome.tif", "w.ome.tif", "e.tif")}
        assert list(kinds.values()) == ["ensemble", "weight maps", "expected error"]
        record = read_record("o.ome.tif")
        assert record["from"] == {"A": "A.tif", "B": "B.tif"}
        assert record["lut_file"] == "t.lut.safetensors"
        kept = record["table"]["report"]
        assert kept["held_out"] == lut.report["held_out"]
        assert kept["inputs"]["listed"] == lut.report["inputs"]["listed"]
        assert "iterations" not in kept
        assert "bias" not in kept
    elif how == "restore":
        run("restore", "A.tif", "-m", "median", "--out", "o.ome.tif")
        record = read_record("o.ome.tif")
        assert record["from"] == {"image": "A.tif"}
        assert record["restorer"] == {
            "name": "Median",
            "settings": {"spatial_ndim": 2, "hot_pixels": True, "size": 3},
        }
    else:
        run("blind", "A.tif", "-m", "median", "-m", "gaussian", "--out", "o.ome.tif", "--offsets", "2")
        record = read_record("o.ome.tif")
        assert record["kind"] == "ensemble"
        assert set(record["restorers"]) == {"median", "gaussian"}
        assert record["settings"]["offsets"] == 2
        assert record["table"]["report"]["truth_noise"] == "unknown"
    assert record["versions"].keys() == {"napari-ensir", "numpy", "torch"}
    told = CliRunner().invoke(app, ["info", "o.ome.tif"]).output
    for text in (record["kind"], record["date"], f"torch {record['versions']['torch']}"):
        assert text in told
    shown = json.loads(CliRunner().invoke(app, ["info", "o.ome.tif", "--json", "-"]).output)
    assert shown == record


def test_info_of_what_says_nothing_is_one_sentence(tmp_path):
    write_image(tmp_path / "plain.tif", IMAGE)
    Image.fromarray(IMAGE[0]).save(tmp_path / "photo.jpg")
    (tmp_path / "bad.tif").write_bytes(b"II*\0nonsense")
    (tmp_path / "folder").mkdir()
    for name, said in (
        ("bad.tif", "holds no image"),
        ("none.tif", "there is no"),
        ("folder", "holds no image"),
    ):
        done = CliRunner().invoke(app, ["info", str(tmp_path / name)])
        assert done.exit_code == 1, name
        assert said in done.output


def test_records_of_somebody_else_are_no_matter(tmp_path):
    """Whatever stands in our place is a record, or none."""
    for number, text in enumerate(("[]", "{", '{"a": 1, "a": 2}', "[" * 9999, '{"table": 3, "date": []}')):
        tifffile.imwrite(tmp_path / f"{number}.tif", IMAGE, metadata={"napari-ensir": text})
        given = {"MapAnnotation": {"Namespace": "napari-ensir", "Value": {"record": text}}}
        tifffile.imwrite(tmp_path / f"{number}.ome.tif", IMAGE, metadata={"axes": "ZYX", **given})
        for name in (f"{number}.tif", f"{number}.ome.tif"):
            assert read_record(tmp_path / name) == (json.loads(text) if number == 4 else None)
            done = CliRunner().invoke(app, ["info", str(tmp_path / name)])
            assert done.exit_code == 0
            assert ("noise" in done.output) == (number != 4)
    other = {"MapAnnotation": [{"Namespace": "x", "Value": {"record": "{}"}}, {"Value": {"k": "v"}}]}
    tifffile.imwrite(tmp_path / "o.ome.tif", IMAGE, metadata={"axes": "ZYX", **other})
    assert read_record(tmp_path / "o.ome.tif") is None
    with pytest.raises(EnsembleError, match="there is no"):
        read_record(tmp_path / "nothing.zarr")
