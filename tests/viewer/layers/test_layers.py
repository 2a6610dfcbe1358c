"""Layers as candidates."""

from __future__ import annotations

import json

import numpy as np
import zarr
from napari.layers import Image

from napari_ensir.viewer.layers.layers import why_not


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
        reason = why_not(layer)
        assert expected in reason
        assert bool(reason) == bool(expected)
    assert why_not(Image(np.zeros((8, 8)))) == ""
