"""CZI, ND2 and LIF files: what is read, when, and what is refused before it is read."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from napari_ensir import EnsembleError
from napari_ensir.cli.app import app
from napari_ensir.files import read_image
from napari_ensir.files.image import images_in, open_image
from napari_ensir.files.sets import Part, open_set

PIXELS = np.random.default_rng(0).integers(0, 4000, (2, 3, 4, 24, 32)).astype(np.uint16)  # P, Z, C, Y, X


@pytest.fixture
def nd2(tmp_path, monkeypatch):
    """A file with the signature of ND2, and stand-ins of its readers that note what is read."""
    state = SimpleNamespace(sizes={"P": 2, "T": 1, "Z": 3, "C": 4, "Y": 24, "X": 32}, read=[], opened=0)
    state.scenes, state.path = ["field 1", "day/field 2"], tmp_path / "cells.nd2"
    state.path.write_bytes(b"\xda\xce\xbe\x0a" + bytes(1000))

    class File:
        dtype = np.dtype(np.uint16)

        def __init__(self, path):
            self.sizes = state.sizes

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    class Reader:
        dtype = np.dtype(np.uint16)
        dims = SimpleNamespace(order="TZCYX")
        shape = (1, 3, 4, 24, 32)

        def __init__(self, path):
            state.opened += 1
            self.scenes, self.scene = tuple(state.scenes), 0
            self.physical_pixel_sizes = SimpleNamespace(_asdict=lambda: {"Z": 0.5, "Y": 0.1, "X": None})

        def set_scene(self, number):
            self.scene = number

        def get_image_data(self, axes, **parts):
            state.read.append(parts)
            if self.scenes[0] == "broken":
                raise RuntimeError("chunk not found")
            assert axes == "CZYX"
            return np.moveaxis(PIXELS[self.scene], 1, 0)[tuple(parts[axis] for axis in axes)]

    monkeypatch.setitem(sys.modules, "nd2", SimpleNamespace(ND2File=File))
    monkeypatch.setitem(sys.modules, "bioio_nd2", SimpleNamespace(Reader=Reader))
    return state


def test_planes_are_read_when_they_are_needed(nd2):
    image = open_image(nd2.path / "day" / "field 2")
    assert (image.array.shape, image.array.dtype, nd2.read) == ((4, 3, 24, 32), np.uint16, [])
    np.testing.assert_array_equal(image.array, np.moveaxis(PIXELS[1], 1, 0))
    nd2.read.clear()
    np.testing.assert_array_equal(np.asarray(image.array[2, 1, 5:9]), PIXELS[1, 1, 2, 5:9])
    assert len(nd2.read) == 1
    assert [axis["name"] for axis in image.ome["axes"]] == ["c", "z", "y", "x"]
    assert image.ome["datasets"][0]["coordinateTransformations"] == [
        {"type": "scale", "scale": [1.0, 0.5, 0.1, 1.0]}
    ]


def test_a_file_of_several_images_is_a_set(nd2, tmp_path):
    assert list(images_in(nd2.path)) == ["field 1", "day_field 2"]
    found = open_set({}, {Part.IMAGE: nd2.path})
    assert found.from_folders
    assert [stem for stem, _ in found.fields] == ["day_field 2", "field 1"]
    np.testing.assert_array_equal(found.array(1, Part.IMAGE), np.moveaxis(PIXELS[0], 1, 0))
    with pytest.raises(EnsembleError, match="holds 2 images; give the path of one of them, such as"):
        read_image(nd2.path)
    with pytest.raises(EnsembleError, match="holds no image 'field 3'; it holds field 1, day/field 2"):
        read_image(nd2.path / "field 3")
    nd2.scenes[:] = ["", "/etc"]
    assert list(images_in(nd2.path)) == ["0", "1"]
    result = CliRunner().invoke(app, ["info", str(nd2.path)])
    assert "2: 0, 1" in result.stdout, result.stderr


def test_commands_restore_the_images_of_a_file(nd2, tmp_path):
    nd2.scenes[:] = ["A", "B"]
    given = ["restore", str(nd2.path), "-m", "median", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.stderr
    made = open_image(tmp_path / "out" / "B.ome.zarr")
    assert made.array.shape == (4, 3, 24, 32)
    assert made.ome["datasets"][0]["coordinateTransformations"][0]["scale"] == [1.0, 0.5, 0.1, 1.0]
    assert "2 were there already" in CliRunner().invoke(app, [*given, "--resume"]).stdout


def test_sizes_that_a_file_cannot_hold_are_refused_before_its_reader_opens_it(nd2):
    for axis, size in (("T", 2**31), ("Y", 2**20), ("X", 0)):
        nd2.sizes[axis], before = size, nd2.sizes[axis]
        with pytest.raises(EnsembleError, match="which cannot be read; crop it"):
            open_image(nd2.path / "field 1")
        nd2.sizes[axis] = before
    assert nd2.opened == 0


def test_damaged_and_foreign_files_are_one_sentence(nd2, monkeypatch):
    nd2.scenes[:] = ["broken"]
    with pytest.raises(EnsembleError, match=r"nd2 could not be read \(chunk not found\); it is damaged"):
        np.asarray(open_image(nd2.path).array)
    other = nd2.path.with_suffix(".czi")
    other.write_bytes(nd2.path.read_bytes())
    with pytest.raises(EnsembleError, match="is not a CZI file"):
        open_image(other)
    colons = nd2.path.with_name("a::b.nd2")
    colons.write_bytes(nd2.path.read_bytes())
    with pytest.raises(EnsembleError, match="rename it"):
        open_image(colons)
    monkeypatch.setitem(sys.modules, "bioio_nd2", None)
    with pytest.raises(EnsembleError, match=r'need bioio-nd2; install it with: pip install "napari-e'):
        open_image(nd2.path)


def test_a_czi_is_read(tmp_path):
    pytest.importorskip("bioio_czi")
    from pylibCZIrw.czi import create_czi

    with create_czi(str(tmp_path / "a.czi")) as file:
        for z, planes in enumerate(PIXELS[0]):
            for c, plane in enumerate(planes):
                file.write(plane[..., np.newaxis], plane={"C": c, "Z": z, "T": 0})
        file.write_metadata(scale_x=1e-7, scale_y=1e-7, scale_z=3e-7)
    image = open_image(tmp_path / "a.czi")
    np.testing.assert_array_equal(image.array, np.moveaxis(PIXELS[0], 1, 0))
    np.testing.assert_array_equal(np.asarray(image.array[3, 1:, 5, ::2]), PIXELS[0, 1:, 3, 5, ::2])
    assert image.ome["datasets"][0]["coordinateTransformations"] == [
        {"type": "scale", "scale": pytest.approx([1.0, 0.3, 0.1, 0.1])}
    ]
