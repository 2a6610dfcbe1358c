"""Zarr: what its metadata may ask for, sizes, replacement of an array that is being read."""

from __future__ import annotations

import json
import os
import pickle

import dask.array as da
import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from napari_ensir import EnsembleError
from napari_ensir.cli.app import app
from napari_ensir.files import open_image, read_image, write_image
from napari_ensir.files.zarr import check_zarr_codecs

V2 = {
    "zarr_format": 2,
    "shape": [32, 32],
    "chunks": [32, 32],
    "dtype": "<u2",
    "compressor": None,
    "filters": None,
    "fill_value": 0,
    "order": "C",
}
V3 = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [32, 32],
    "data_type": "uint16",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [32, 32]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0,
    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
}
BYTES = V3["codecs"][0]


def sharded(*codecs):
    return [
        {
            "name": "sharding_indexed",
            "configuration": {"chunk_shape": [8, 8], "codecs": [BYTES, *codecs], "index_codecs": [BYTES]},
        }
    ]


UNSAFE = {
    "objects": V2 | {"dtype": "|O", "filters": [{"id": "vlen-utf8"}], "compressor": {"id": "pickle"}},
    "compressor": V2 | {"compressor": {"id": "pickle", "protocol": 4}},
    "filter": V2 | {"filters": [{"id": "delta", "dtype": "<u2"}, {"id": "json2"}]},
    "dtype of a filter": V2 | {"filters": [{"id": "fixedscaleoffset", "dtype": "|O"}]},
    "structured": V2 | {"dtype": [["a", "<u2"]]},
    "text": V2 | {"dtype": "<U8"},
    "v3 codec": V3 | {"codecs": [BYTES, {"name": "numcodecs.pickle", "configuration": {}}]},
    "v3 within a shard": V3 | {"codecs": sharded({"name": "vlen-utf8"})},
    "v3 dtype": V3 | {"data_type": "string"},
    "v3 dtype with settings": V3 | {"data_type": {"name": "numpy.datetime64", "configuration": {}}},
}  # fmt: skip


def write_store(path, metadata):
    """An array with these metadata whose only chunk is a pickle that makes a folder when it is loaded."""

    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(path.parent / "it_ran"),)

    path.mkdir(parents=True)
    name, chunk = (".zarray", "0.0") if metadata["zarr_format"] == 2 else ("zarr.json", "c/0/0")
    (path / name).write_text(json.dumps(metadata))
    (path / chunk).parent.mkdir(parents=True, exist_ok=True)
    (path / chunk).write_bytes(pickle.dumps(Harm()))
    return path


@pytest.fixture
def closed(monkeypatch):
    """The Zarr library must not be asked to open anything."""

    def fail(*args, **options):
        raise AssertionError("opened")

    for name in ("open", "open_array", "open_group"):
        monkeypatch.setattr(zarr, name, fail)


@pytest.mark.parametrize("metadata", UNSAFE.values(), ids=UNSAFE)
def test_unsafe_dtypes_and_codecs_are_refused_before_anything_is_opened(tmp_path, closed, metadata):
    path = write_store(tmp_path / "a.zarr", metadata)
    with pytest.raises(EnsembleError, match=r"has pixels of dtype|uses the codec"):
        read_image(path)
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("version", [2, 3])
def test_unsafe_arrays_in_an_ome_zarr_are_refused(tmp_path, closed, version, consolidated):
    """Consolidated metadata that show a harmless array are not consulted."""
    attributes = {"multiscales": [{"axes": [], "datasets": [{"path": "s/0"}]}]}
    harmless = {2: V2, 3: V3}[version]
    write_store(tmp_path / "a.zarr" / "s" / "0", UNSAFE["objects" if version == 2 else "v3 codec"])
    if version == 2:
        (tmp_path / "a.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
        (tmp_path / "a.zarr" / ".zattrs").write_text(json.dumps(attributes))
        if consolidated:
            entries = {".zattrs": attributes, ".zgroup": {"zarr_format": 2}, "s/0/.zarray": harmless}
            content = {"zarr_consolidated_format": 1, "metadata": entries}
            (tmp_path / "a.zarr" / ".zmetadata").write_text(json.dumps(content))
    else:
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": attributes}}
        if consolidated:
            group["consolidated_metadata"] = {
                "kind": "inline",
                "must_understand": False,
                "metadata": {"s/0": harmless},
            }
        (tmp_path / "a.zarr" / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(EnsembleError, match=r"has pixels of dtype|uses the codec"):
        read_image(tmp_path / "a.zarr")


@pytest.mark.parametrize("name", ["../b.zarr", "/b.zarr/../b.zarr", "s/../../b.zarr", ""])
def test_an_ome_zarr_cannot_name_an_array_outside(tmp_path, name):
    write_image(tmp_path / "b.zarr", np.eye(4))
    group = {"multiscales": [{"datasets": [{"path": name}]}]}
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text(
        json.dumps({"zarr_format": 3, "attributes": {"ome": group}})
    )
    with pytest.raises(EnsembleError, match="not a path within it"):
        open_image(tmp_path / "a.zarr")


def test_no_command_runs_what_a_zarr_holds(tmp_path, monkeypatch, closed):
    monkeypatch.chdir(tmp_path)
    path = str(write_store(tmp_path / "a.zarr", UNSAFE["objects"]))
    write_image("b.tif", np.arange(1024, dtype=np.uint16).reshape(32, 32))
    for arguments in (
        ["restore", path, "-m", "gaussian", "-o", "o.tif"],
        ["blind", path, "-m", "gaussian", "-m", "median", "-o", "o.tif"],
        ["sweep", path, "-m", "gaussian", "--setting", "sigma"],
        ["evaluate", "-c", f"a={path}", "-t", "b.tif"],
        ["fit", "-c", "a=b.tif", "-t", path, "-o", "x"],
        ["fit", "-c", "a=b.tif", "-t", "b.tif", "--mask", path, "-o", "x"],
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code != 0, arguments
        assert not (tmp_path / "it_ran").exists(), arguments


@pytest.mark.parametrize(
    "settings",
    [
        {"zarr_format": 2, "dtype": "bool"},
        {"zarr_format": 2, "dtype": "float32", "filters": None},
        {"zarr_format": 2, "dtype": "uint8", "compressors": None},
        {"zarr_format": 3, "dtype": "uint16", "shards": (16, 16)},
        {"zarr_format": 3, "dtype": "float16"},
    ],
    ids=str,
)
def test_ordinary_arrays_are_read(tmp_path, settings):
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(32, 32), chunks=(8, 8), **settings)
    array[:] = np.arange(1024).reshape(32, 32) % 2
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.zarr")), array[:])


def test_check_zarr_codecs_looks_at_open_arrays(tmp_path):
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    check_zarr_codecs(group.create_array("numbers", shape=(4,), dtype="uint16"), "numbers")
    with pytest.raises(EnsembleError, match="words has pixels of dtype"):
        check_zarr_codecs(group.create_array("words", shape=(4,), dtype="str"), "words")
    check_zarr_codecs(np.zeros(3), "not a Zarr")


# -- sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metadata",
    [
        V2 | {"shape": [2**31, 2**20], "chunks": [1, 1]},
        V2 | {"shape": [2**31, 2**20], "chunks": [2**31, 2**20]},
        V2 | {"shape": [2**50], "chunks": [2**21]},
        V3 | {"shape": [2**31, 2**20]},
        V3
        | {
            "shape": [2**14, 2**14],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2**14, 2**14]}},
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {"chunk_shape": [1, 1], "codecs": [BYTES], "index_codecs": [BYTES]},
                }
            ],
        },
    ],
    ids=["pixels", "one chunk", "one axis", "v3", "shards"],
)
def test_sizes_beyond_reason_are_refused(tmp_path, metadata, monkeypatch):
    monkeypatch.setattr(da, "from_array", lambda *args, **options: pytest.fail("a graph was made"))
    with pytest.raises(EnsembleError, match=r"more than can be processed|too large|too many chunks"):
        open_image(write_store(tmp_path / "a.zarr", metadata))


@pytest.mark.parametrize(
    "change", [{"shape": [-1, 4]}, {"shape": [2.5, 4]}, {"chunks": [0, 4]}, {"chunks": [4]}, {"shape": None}]
)
def test_malformed_sizes_are_refused(tmp_path, change):
    with pytest.raises(EnsembleError, match="could not be read as Zarr"):
        open_image(write_store(tmp_path / "a.zarr", V2 | change))


def test_blocks_hold_a_bounded_number_of_stored_chunks(tmp_path):
    array = open_image(write_store(tmp_path / "a.zarr", V2 | {"shape": [2048, 2048], "chunks": [1, 1]})).array
    assert max(np.prod(array.chunksize), array.npartitions) <= 4096


# -- replacement --------------------------------------------------------------------------------------


def test_only_a_zarr_is_replaced_by_a_zarr(tmp_path):
    (tmp_path / "mine.zarr" / "notes").mkdir(parents=True)
    (tmp_path / "mine.zarr" / "notes" / "thesis.txt").write_text("years of work")
    (tmp_path / "file.zarr").write_text("not a folder")
    for name in ("mine.zarr", "file.zarr"):
        with pytest.raises(EnsembleError, match="is not a Zarr, so it is not replaced"):
            write_image(tmp_path / name, np.eye(4), overwrite=True)
    write_image(tmp_path / "a.tif", np.eye(4, dtype=np.uint8))
    done = CliRunner().invoke(
        app,
        [
            "restore", str(tmp_path / "a.tif"), "-m", "median",
            "-o", str(tmp_path / "mine.zarr"), "--overwrite",
        ],
    )  # fmt: skip
    assert "is not a Zarr" in done.output + done.stderr
    assert (tmp_path / "mine.zarr" / "notes" / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "file.zarr").read_text() == "not a folder"


def test_an_array_that_was_replaced_is_not_mixed_with_the_new_one(tmp_path):
    path = write_image(tmp_path / "a.zarr", np.full((8, 8), 1, np.uint8))
    array = read_image(path)
    assert (np.asarray(array) == 1).all()
    for value in (2, 3):
        write_image(path, np.full((8, 8), value, np.uint8), overwrite=True)
        with pytest.raises(EnsembleError, match="was replaced while it was being read"):
            np.asarray(array)
    assert (np.asarray(read_image(path)) == 3).all()
