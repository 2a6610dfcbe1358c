"""Tensors read piece by piece are those that the library reads, and what it refuses is refused."""

from __future__ import annotations

import json
import struct
from io import BytesIO

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load, save

from napari_ensir.files import tensors
from napari_ensir.files.tensors import TensorFile

PARTS = {
    "a": np.arange(12, dtype=np.uint16).reshape(4, 3),
    "b": np.linspace(-1, 1, 10).reshape(5, 2),
    "c": np.array([-5, 2**40]),
    "d": np.array([-1, 0, 1], np.int8),
    "none": np.zeros((0, 3)),
}
CONTENT = save(PARTS, metadata={"of": "me"})


def read(content):
    held = TensorFile(BytesIO(content), len(content))
    return {name: held.read(name) for name in held.entries}


@pytest.mark.parametrize("piece", [1, 16, 2**23])
def test_the_same_as_the_library(monkeypatch, piece):
    monkeypatch.setattr(tensors, "_PIECE", piece)
    assert read(CONTENT).keys() == PARTS.keys()
    for name, tensor in read(CONTENT).items():
        assert tensor.dtype == PARTS[name].dtype
        np.testing.assert_array_equal(tensor, PARTS[name])


def test_a_check_sees_every_row_and_can_stop(monkeypatch):
    monkeypatch.setattr(tensors, "_PIECE", 16)
    seen = []
    TensorFile(BytesIO(CONTENT), len(CONTENT)).read("b", lambda rows: seen.append(rows.copy()))
    np.testing.assert_array_equal(np.concatenate(seen), PARTS["b"])
    assert len(seen) == 5

    def refuse(rows):
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        TensorFile(BytesIO(CONTENT), len(CONTENT)).read("b", refuse)


def altered(rng):
    """A file with something off in its bytes or in its header."""
    size = int.from_bytes(CONTENT[:8], "little")
    header, body = json.loads(CONTENT[8 : 8 + size]), CONTENT[8 + size :]
    kind = rng.integers(4)
    if kind == 0:
        content = bytearray(CONTENT)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            content[place] = rng.integers(256)
        return bytes(content)
    if kind == 1:
        return (
            CONTENT[: rng.integers(len(CONTENT))] if rng.integers(2) else CONTENT + bytes(rng.integers(1, 9))
        )
    entry = header[str(rng.choice(list(PARTS)))]
    if kind == 2:
        change = rng.integers(-24, 25, 2)
        entry["data_offsets"] = [int(end + by) for end, by in zip(entry["data_offsets"], change, strict=True)]
    if kind == 3:
        values = ([], [3], [0], [2, 3], [12], [1, 5, 2], [-1, 4], [2.0], ["2"], None, 7, [True], [2**62, 4])
        entry["shape"] = values[rng.integers(len(values))]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_thousands_of_altered_files():
    """Whatever is read is what the library reads of the same bytes; never more than it takes."""
    rng, taken = np.random.default_rng(0), 0
    for _ in range(3000):
        content = altered(rng)
        try:
            found = read(content)
        except (ValueError, KeyError):
            continue
        try:
            wanted = load(content)
        except SafetensorError as error:
            raise AssertionError(f"{content!r} was read") from error
        assert found.keys() == wanted.keys()
        for name, tensor in found.items():
            np.testing.assert_array_equal(tensor, wanted[name])
        taken += 1
    assert taken > 100


def test_a_file_that_shrinks_meanwhile(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    with (tmp_path / "a").open("rb", buffering=0) as raw:
        held = TensorFile(raw)
        (tmp_path / "a").write_bytes(CONTENT[:-90])
        with pytest.raises(ValueError, match="ends too early"):
            held.read("b")
