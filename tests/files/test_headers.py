"""Headers of safetensors files: read within bounds, from a file or from its bytes alike."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from safetensors.numpy import save

from napari_ensir.files.tensors import metadata_of, read_metadata

ENTRIES = {"one": "1", "two": '{"a": 2}'}


def test_a_file_and_its_bytes_say_the_same(tmp_path):
    content = save({"a": np.zeros(3)}, metadata=ENTRIES)
    (tmp_path / "a.safetensors").write_bytes(content)
    assert read_metadata(tmp_path / "a.safetensors") == metadata_of(content) == ENTRIES
    assert metadata_of(save({"a": np.zeros(3)})) == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "too short"),
        (struct.pack("<Q", 2**40) + b"{}", "states a header of"),
        (struct.pack("<Q", 3) + b"{}", "states a header of 3 bytes"),
        (struct.pack("<Q", 2) + b"[]", "no JSON object"),
        (struct.pack("<Q", 22) + b'{"a": {}, "a": {} }   ', "'a' stands in it twice"),
        (struct.pack("<Q", 26) + b'{"__metadata__": {"a": 3}}', "not all text"),
    ],
)
def test_what_is_no_header(tmp_path, content, reason):
    (tmp_path / "a").write_bytes(content)
    for read in (lambda: read_metadata(tmp_path / "a"), lambda: metadata_of(content)):
        with pytest.raises(ValueError, match=reason):
            read()
