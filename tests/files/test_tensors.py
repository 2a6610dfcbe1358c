"""Safetensors files are read in pieces, with bounded headers, and equal to what the library reads."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load, save

from napari_ensir.files import tensors
from napari_ensir.files.tensors import TensorFile, metadata_of

ENTRIES = {"one": "1", "two": '{"a": 2}'}
PARTS = {
    "a": np.arange(12, dtype=np.uint16).reshape(4, 3),
    "b": np.linspace(-1, 1, 10).reshape(5, 2),
    "c": np.array([-5, 2**40]),
    "d": np.array([-1, 0, 1], np.int8),
    "none": np.zeros((0, 3)),
}
CONTENT = save(PARTS, metadata=ENTRIES)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(CONTENT)
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("piece", [1, 16, 2**23])
def test_tensors_equal_those_of_the_library(path, monkeypatch, piece):
    monkeypatch.setattr(tensors, "_ROWS_BYTES", piece)
    file = TensorFile(path)
    assert file.metadata == metadata_of(CONTENT) == ENTRIES
    assert file.entries.keys() == PARTS.keys()
    for name, tensor in load(CONTENT).items():
        found = file.read(name)
        assert (file.entries[name].shape, found.dtype) == (tensor.shape, tensor.dtype)
        np.testing.assert_array_equal(found, tensor)


def test_a_check_gets_every_row_and_can_stop(path, monkeypatch):
    monkeypatch.setattr(tensors, "_ROWS_BYTES", 16)
    pieces = []
    TensorFile(path).read("b", lambda rows: pieces.append(rows.copy()))
    np.testing.assert_array_equal(np.concatenate(pieces), PARTS["b"])
    assert len(pieces) == 5

    def refuse(rows):
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        TensorFile(path).read("b", refuse)


def with_header(text):
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "too short"),
        (struct.pack("<Q", 2**40) + b"{}", "states a header of"),
        (struct.pack("<Q", 3) + b"{}", "states a header of 3 bytes"),
        (with_header(b"[]"), "not a JSON object"),
        (with_header(b'{"a": {}, "a": {} }   '), "the key 'a' occurs twice"),
        (with_header(b'{"__metadata__": {"a": 3}}'), "not all text"),
        (with_header(b" " * (tensors.MAX_HEADER + 1)), "states a header of"),
        (with_header(b'{"a": [' + b"[]," * 200_000 + b"[]]}"), "too large"),
        (with_header(b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"), "nested too deeply"),
    ],
)
def test_invalid_headers_are_refused(tmp_path, content, reason):
    (tmp_path / "a").write_bytes(content)
    for read in (lambda: TensorFile(tmp_path / "a"), lambda: metadata_of(content)):
        with pytest.raises(ValueError, match=reason):
            read()


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [0, 25]},
        {"data_offsets": [8, 32]},
        {"shape": [4, 4]},
        {"shape": [-4, 3]},
        {"shape": [2**62, 4]},
        {"shape": None},
        {"dtype": "U17"},
        {"dtype": "F64"},
    ],
    ids=str,
)
def test_tensors_that_do_not_fit_the_file_are_refused(tmp_path, change):
    size = int.from_bytes(CONTENT[:8], "little")
    header = json.loads(CONTENT[8 : 8 + size])
    header["a"] |= change
    (tmp_path / "a").write_bytes(with_header(json.dumps(header).encode()) + CONTENT[8 + size :])
    with pytest.raises(ValueError, match=r".+"):
        TensorFile(tmp_path / "a")


@pytest.mark.parametrize("content", [CONTENT[:-90], CONTENT + b"\0"])
def test_files_of_another_length_are_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=r".+"):
        TensorFile(tmp_path / "a")
