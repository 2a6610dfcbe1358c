"""TIFF: axes, pixel sizes and names in and out; what is no stack of intensities, or not whole, is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_ensir import EnsembleError, fit_lut
from napari_ensir.files import open_image, read_image, write_image
from tests.helpers.commands import run

RNG = np.random.default_rng(3)
STACK = RNG.integers(0, 65536, (4, 20, 31)).astype(np.uint16)

OME = {
    "axes": "TZCYX",
    "PhysicalSizeX": 0.1,
    "PhysicalSizeXUnit": "nm",
    "PhysicalSizeY": 0.2,
    "PhysicalSizeZ": 0.5,
    "TimeIncrement": 2.5,
    "Channel": {"Name": ["405", "actin", "tubulin", "µ"]},
    "Name": "cells 3",
}


def described(path):
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        if not file.is_ome:
            return series.kind, series.axes, series.shape, file.imagej_metadata
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        sizes = {key: value for key, value in pixels.items() if key.startswith(("Physical", "Time"))}
        return series.kind, series.axes, series.shape, sizes, str(pixels["Channel"]), series.name


@pytest.fixture
def ome(tmp_path):
    truth = RNG.integers(0, 4000, (2, 3, 4, 16, 17)).astype(np.uint16)
    for name, image in {"A": truth + 1, "B": truth + 3, "g": truth}.items():
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", image, metadata=OME)
    pair = ((truth + 1, truth + 3), truth)
    fit_lut([pair], names=("A", "B"), device="cpu").save(tmp_path / "l")
    return tmp_path


@pytest.mark.parametrize("out", ["o.ome.tif", "o.tif"])
def test_ome_in_and_out(ome, out):
    images = [part for name in "AB" for part in ("-c", f"{name}={ome / name}.ome.tif")]
    table = ["--lut", ome / "l.lut.safetensors"]
    run("apply", *table, *images, "-o", ome / out, "--weight-maps", ome / "w.tif")
    assert described(ome / out) == described(ome / "A.ome.tif")
    assert open_image(ome / "w.tif").shape == (2, 2, 3, 4, 16, 17)
    run("restore", ome / "A.ome.tif", "-m", "median", "-o", ome / f"r{out}")
    assert described(ome / f"r{out}") == described(ome / "A.ome.tif")
    run("evaluate", "-c", f"E={ome / out}", "-t", ome / "g.ome.tif")


def test_folders_of_ome(ome):
    (ome / "in").mkdir()
    (ome / "A.ome.tif").rename(ome / "in" / "x.ome.tif")
    run("restore", ome / "in", "-m", "median", "-o", ome / "out")
    assert [path.name for path in (ome / "out").iterdir()] == ["x.ome.tif"]
    assert described(ome / "out" / "x.ome.tif") == described(ome / "in" / "x.ome.tif")


def test_weight_maps_of_a_volume_are_channels(tmp_path):
    volume = RNG.random((3, 16, 17)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.ome.tif", volume, metadata={"axes": "ZYX", "PhysicalSizeX": 0.1})
    like = open_image(tmp_path / "a.ome.tif")
    write_image(tmp_path / "w.tif", np.stack([volume, volume]), like=like)
    assert described(tmp_path / "w.tif")[:3] == ("ome", "CZYX", (2, 3, 16, 17))
    assert described(tmp_path / "w.tif")[3]["PhysicalSizeX"] == pytest.approx(0.1)


def test_imagej_in_and_out(tmp_path):
    image = RNG.integers(0, 4000, (2, 3, 4, 16, 17)).astype(np.uint16)
    given = {"axes": "TZCYX", "unit": "um", "spacing": 0.5, "finterval": 2.0}
    tifffile.imwrite(tmp_path / "a.tif", image, imagej=True, resolution=(10, 20), metadata=given)
    like = open_image(tmp_path / "a.tif")
    for dtype in (np.uint16, np.float32, np.float64):
        write_image(tmp_path / "b.tif", image.astype(dtype), like=like, overwrite=True)
        kind, axes, shape, found = described(tmp_path / "b.tif")
        assert (axes, shape) == ("TZCYX", image.shape)
        with tifffile.TiffFile(tmp_path / "b.tif") as file:
            assert file.pages.first.get_resolution(1) == (10, 20)
        if dtype != np.float64:  # which ImageJ does not know
            assert kind == "imagej"
            assert (found["unit"], found["spacing"], found["finterval"]) == ("um", 0.5, 2.0)
        np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), image.astype(dtype))


@pytest.mark.parametrize(
    "shape", [(1, 9, 10), (1, 1, 9, 10), (5, 9, 10), (9, 10), (1, 9, 10, 3), (2, 1, 9, 3)]
)
def test_axes_of_length_one_stay(tmp_path, shape):
    image = RNG.integers(0, 256, shape).astype(np.uint8)
    path = write_image(tmp_path / "a.tif", image, is_colour=shape[-1] == 3)
    again = write_image(tmp_path / "b.tif", read_image(path), is_colour=shape[-1] == 3, like=open_image(path))
    for each in (path, again):
        np.testing.assert_array_equal(read_image(each), image)


def test_pixels_of_an_enlarged_image_are_smaller(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.ome.tif", STACK, metadata={"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeZ": 2.0}
    )
    metadata = open_image(tmp_path / "a.ome.tif").tiff
    larger = metadata.enlarged((4, 40, 62))
    assert (larger.described["PhysicalSizeX"], larger.described["PhysicalSizeZ"]) == (0.25, 2.0)
    assert metadata.enlarged(STACK.shape) is metadata


@pytest.mark.parametrize(
    "how",
    [
        {"compression": "zlib", "metadata": None},
        {"compression": "zlib"},
        {"metadata": None},
        {},
        {"imagej": True},
        {"ome": True},
        {"tile": (16, 16), "metadata": None},
    ],
    ids=str,
)
def test_cut_short_anywhere(tmp_path, how):
    """All of it, or nothing: never fewer planes, never zeros."""
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack", **how)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), STACK)
    content = (tmp_path / "a.tif").read_bytes()
    refused = 0
    for cut in range(len(content) - 1, len(content) // 4, -41):
        (tmp_path / "c.tif").write_bytes(content[:cut])
        try:
            found = read_image(tmp_path / "c.tif")
        except EnsembleError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, STACK)
    assert refused > 50


def test_what_is_no_scale_of_intensities(tmp_path):
    colours = np.zeros((3, 256), np.uint16)
    image = np.full((8, 8), 7, np.uint8)
    tifffile.imwrite(tmp_path / "p.tif", image, photometric="palette", colormap=colours)
    tifffile.imwrite(tmp_path / "w.tif", image, photometric="miniswhite")
    turned = Image.Exif()
    turned[274] = 8
    Image.fromarray(image).save(tmp_path / "t.tif", exif=turned)
    for name, words in (("p", "has a palette"), ("w", "MinIsWhite"), ("t", "lies on its side")):
        with pytest.raises(EnsembleError, match=words):
            open_image(tmp_path / f"{name}.tif")


def test_one_of_several_files_of_an_image(tmp_path):
    tifffile.imwrite(tmp_path / "all.ome.tif", STACK, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(tmp_path / "all.ome.tif") as file:
        text = file.ome_metadata
    parts = [
        f'<TiffData FirstZ="{z}" IFD="0"><UUID FileName="{z}.ome.tif">urn:uuid:{z}</UUID></TiffData>'
        for z in range(4)
    ]
    xml = re.sub(r"<TiffData[^>]*/>|<TiffData.*</TiffData>", "".join(parts), text, flags=re.DOTALL)
    for z in range(4):
        tifffile.imwrite(tmp_path / f"{z}.ome.tif", STACK[z], description=xml, metadata=None)
    for number in (4, 3):
        for z in range(number, 4):
            (tmp_path / f"{z}.ome.tif").unlink()
        with pytest.raises(EnsembleError, match=r"one of several files|truncated"):
            open_image(tmp_path / "0.ome.tif")


def test_the_library_says_nothing_of_its_own(tmp_path, capfd):
    """Its messages hold names of files as they are."""
    tifffile.imwrite(tmp_path / "a\x1b[31m.tif", STACK, photometric="minisblack")
    content = (tmp_path / "a\x1b[31m.tif").read_bytes()
    (tmp_path / "a\x1b[31m.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(EnsembleError):
        read_image(tmp_path / "a\x1b[31m.tif")
    assert capfd.readouterr() == ("", "")
