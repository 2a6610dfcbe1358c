"""TIFFs whose metadata do not fit their content, or that need what is not supported, are refused."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_ensir import EnsembleError
from napari_ensir.files import open_image, read_image
from napari_ensir.files import tiff as tiff_module

IMAGE = np.random.default_rng(0).integers(1, 65535, (64, 48)).astype(np.uint16)

OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="Image:0"><Pixels DimensionOrder="XYCZT" ID="Pixels:0" SizeC="1" SizeT="{t}" SizeX="48" '
    'SizeY="64" SizeZ="1" Type="uint16"><TiffData IFD="0" PlaneCount="{planes}">{uuid}</TiffData></Pixels>'
    "{reference}</Image>{annotations}</OME>"
)


def write_ome(path, t=1, planes=1, uuid="", reference="", annotations=""):
    text = OME.format(t=t, planes=planes, uuid=uuid, reference=reference, annotations=annotations)
    tifffile.imwrite(path, IMAGE, metadata=None, description=text)
    return path


def modulo(last):
    return {
        "reference": '<AnnotationRef ID="A:0"/>',
        "annotations": '<StructuredAnnotations><XMLAnnotation ID="A:0" Namespace="x/modulo"><Value><Modulo>'
        f'<ModuloAlongT Type="phase" Start="0" End="{last}" Step="1"/>'
        "</Modulo></Value></XMLAnnotation></StructuredAnnotations>",
    }


@pytest.mark.parametrize(
    "stated",
    [{"t": 10**8}, {"t": 2}, {"planes": 10**9}, modulo(1e12), modulo("nan")],
    ids=["frames", "one frame", "planes", "modulo", "not a number"],
)
def test_ome_xml_that_states_more_than_the_file_holds(tmp_path, stated, monkeypatch):
    monkeypatch.setattr(tifffile.TiffFile, "series", property(lambda self: pytest.fail("series were made")))
    with pytest.raises(EnsembleError, match="states more pixels than it holds"):
        open_image(write_ome(tmp_path / "a.ome.tif", **stated))


def test_ome_xml_that_fits_is_read(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", uuid='<UUID FileName="A.ome.TIF">urn:uuid:1</UUID>')
    np.testing.assert_array_equal(read_image(path), IMAGE)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_files_that_ome_xml_names_are_not_opened(tmp_path):
    """Opening a pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "../secret.tif"):
        path = write_ome(tmp_path / "a.ome.tif", uuid=f'<UUID FileName="{name}">urn:uuid:1</UUID>')
        with pytest.raises(EnsembleError, match="one of several files"):
            open_image(path)


def test_external_entities_and_entity_bombs_in_ome_xml(tmp_path):
    (tmp_path / "secret").write_text("secret")
    bomb = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(12))
    for doctype, name in (
        (f'<!DOCTYPE OME [<!ENTITY e SYSTEM "file://{tmp_path}/secret">]>', "&e;"),
        (f'<!DOCTYPE OME [<!ENTITY e0 "aaaaaaaaaa">{bomb}]>', "&e12;"),
    ):
        text = OME.format(
            t=1, planes=1, uuid="", reference=f"<Description>{name}</Description>", annotations=""
        )
        tifffile.imwrite(
            tmp_path / "a.ome.tif",
            IMAGE,
            metadata=None,
            description=text.replace("?><OME", f"?>{doctype}<OME"),
        )
        with pytest.raises(EnsembleError, match="could not be read"):
            open_image(tmp_path / "a.ome.tif")


def test_imagej_metadata_that_state_more_than_the_file_holds(tmp_path):
    for text in ("images=100000000\nframes=100000000\n", "images=4\nslices=4\nhyperstack=true\n"):
        tifffile.imwrite(tmp_path / "a.tif", IMAGE, metadata=None, description=f"ImageJ=1.11a\n{text}")
        with pytest.raises(EnsembleError, match="truncated or damaged"):
            open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_page_that_is_stated_larger_than_the_file_can_hold(tmp_path, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, metadata=None, compression=compression)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for name in ("ImageWidth", "ImageLength"):
            tag = file.pages.first.tags[name]
            content[tag.offset + 2 : tag.offset + 12] = struct.pack("<HII", 4, 1, 2**20)
    path.write_bytes(content)
    with pytest.raises(EnsembleError, match="truncated or damaged"):
        open_image(path)


def test_too_many_pages_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_module, "_MAX_PAGES", 3)
    stack = np.zeros((4, 8, 8), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", metadata=None, compression="zlib")
    with pytest.raises(EnsembleError, match="has 4 pages; at most 3 are read"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("what", ["tile", "strip"])
def test_segments_that_were_never_written(tmp_path, what):
    """An unfinished file, or a sparse one of GDAL: zeros in their place would be taken for intensities."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, **({"tile": (16, 16)} if what == "tile" else {"rowsperstrip": 16}))
    np.testing.assert_array_equal(read_image(path), IMAGE)
    content = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        names = ("TileOffsets", "TileByteCounts") if what == "tile" else ("StripOffsets", "StripByteCounts")
        places = [tags[name].valueoffset + 2 * {3: 2, 4: 4}[tags[name].dtype] for name in names]
        sizes = [{3: 2, 4: 4}[tags[name].dtype] for name in names]
    for absent in ((0, 1), (0,), (1,)):
        bent = bytearray(content)
        for number in absent:
            bent[places[number] : places[number] + sizes[number]] = bytes(sizes[number])
        path.write_bytes(bent)
        with pytest.raises(EnsembleError, match="truncated or damaged"):
            read_image(path)


@pytest.mark.parametrize(
    ("mode", "compression"),
    [
        ("I;16", "tiff_lzw"),
        ("L", "packbits"),
        ("RGB", "tiff_lzw"),
        ("L", "tiff_adobe_deflate"),
        ("L", "jpeg"),
    ],
)
def test_compressions_of_other_programs(tmp_path, mode, compression):
    pytest.importorskip("imagecodecs")
    image = np.arange(4096, dtype=np.uint16 if mode == "I;16" else np.uint8).reshape(64, 64)
    image = np.stack([image, image // 2, image // 3], -1) if mode == "RGB" else image
    Image.fromarray(image).save(tmp_path / "a.tif", compression=compression)
    found = read_image(tmp_path / "a.tif")
    if compression == "jpeg":
        assert found.shape == image.shape
    else:
        np.testing.assert_array_equal(found, image)


def test_jpeg_tiff_in_ycbcr_is_read_as_rgb(tmp_path):
    pytest.importorskip("imagecodecs")
    colour = np.zeros((64, 64, 3), np.uint8)
    colour[..., 0], colour[..., 1], colour[..., 2] = 200, 40, 90
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="ycbcr", compression="jpeg")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages.first.photometric == 6
    found = read_image(tmp_path / "a.tif").astype(int)
    assert np.abs(found - np.asarray(Image.open(tmp_path / "a.tif"))).max() < 6  # as Pillow reads it


LZW = """
import sys
sys.modules["imagecodecs"] = None
from napari_ensir import EnsembleError
from napari_ensir.files import read_image
try:
    print(read_image(sys.argv[1]).shape)
except EnsembleError as error:
    print(error)
"""


def test_a_missing_package_is_named(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.tif", compression="tiff_lzw")
    done = subprocess.run(
        [sys.executable, "-c", LZW, tmp_path / "a.tif"], capture_output=True, text=True, check=True
    )
    assert "needs the package imagecodecs" in done.stdout
    assert "damaged" not in done.stdout


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("separated", (8, 9, 3)),
        ("cielab", (8, 9, 3)),
        ("logluv", (8, 9, 3)),
        ("cfa", (8, 9)),
        ("mask", (8, 9)),
    ],
)
def test_colour_spaces_other_than_grey_and_rgb_are_refused(tmp_path, kind, shape):
    written = "rgb" if len(shape) == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", np.ones(shape, np.uint8), photometric=written, metadata=None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        place = file.pages.first.tags["PhotometricInterpretation"].valueoffset
    content[place : place + 2] = struct.pack("<H", tifffile.PHOTOMETRIC[kind.upper()])
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(EnsembleError, match=f"colour space {kind.upper()}"):
        open_image(tmp_path / "a.tif")


def test_ycbcr_without_jpeg_is_refused(tmp_path):
    image = np.full((16, 16, 3), 100, np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", metadata=None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        place = file.pages.first.tags["PhotometricInterpretation"].valueoffset
    content[place : place + 2] = struct.pack("<H", 6)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(EnsembleError, match="colour space YCBCR"):
        open_image(tmp_path / "a.tif")
