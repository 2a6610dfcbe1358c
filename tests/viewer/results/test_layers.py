"""Results as layers: one layer at a step, the latest last; limits follow unless the user has set them."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_ensir import fit_lut
from napari_ensir.viewer.layers.layers import LayerSnapshot
from napari_ensir.viewer.results.combining import combine
from napari_ensir.viewer.results.layers import PALETTE, Errors, Outputs

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 200, (32, 32)).astype(np.uint8)
ARRAYS = [np.clip(TRUTH + RNG.normal(0, s, TRUTH.shape), 0, 255).astype(np.uint8) for s in (4, 9, 20)]


@pytest.fixture(scope="module")
def results():
    """The same candidates by two methods."""
    luts = [fit_lut([(ARRAYS, TRUTH)], method=method) for method in ("em", "least-squares")]
    return [(lut, combine(lut, ARRAYS, False, "cpu")) for lut in luts]


@pytest.fixture
def viewer():
    made = ViewerModel()
    for number, image in enumerate(ARRAYS):
        made.add_image(image, name=str(number))
    return made


def ours(viewer):
    return [layer.name for layer in viewer.layers][len(ARRAYS) :]


def test_a_step_creates_adds_or_removes_one_layer(viewer, results):
    outputs = Outputs(viewer, LayerSnapshot(viewer.layers[0]))
    numbers = [len(ours(viewer)) for _ in outputs.showing(*results[0], "layers")]
    assert numbers == [0, 1, 1, 2, 2, 3, 3, 4]
    assert ours(viewer) == ["ensemble · EM (paper)", *weights(results[0][0])]
    numbers = [len(ours(viewer)) for _ in outputs.showing(*results[0], "trusted")]
    assert numbers == [3, 2, 1, 1, 1, 2]
    assert ours(viewer)[1] == "most trusted"


def weights(lut):
    return [f"weight of {name}" for name in lut.names]


def test_a_later_result_replaces_what_is_left_of_an_earlier_one(viewer, results):
    outputs = Outputs(viewer, LayerSnapshot(viewer.layers[0]))
    early = outputs.showing(*results[0], "layers")
    assert [len(ours(viewer)) for _ in islice(early, 4)] == [0, 1, 1, 2]
    late = outputs.showing(*results[1], "layers")
    next(late)
    assert next(early, "ended") == "ended"
    for _ in late:
        pass
    assert ours(viewer) == ["ensemble · Least squares", *weights(results[1][0])]
    for layer, data in zip(viewer.layers[len(ARRAYS) + 1 :], results[1][1].maps, strict=True):
        np.testing.assert_array_equal(layer.data, data)


def test_the_most_trusted_bear_the_candidates_colours_and_names(viewer, results):
    for _ in Outputs(viewer, LayerSnapshot(viewer.layers[0])).showing(*results[0], "trusted"):
        pass
    layer = viewer.layers[-1]
    expected = [f"{colour}ff" for colour in ("#000000", *PALETTE[:3])]
    found = np.rint(255 * layer.colormap.map(np.arange(4, dtype=np.uint8))).astype(int)
    assert ["#" + "".join(f"{value:02x}" for value in one) for one in found][1:] == expected[1:]
    assert found[0, 3] == 0
    assert list(layer.features["candidate"]) == ["", *results[0][0].names]


def test_limits_follow_the_table_unless_the_user_has_set_them(viewer, results):
    outputs = Outputs(viewer, LayerSnapshot(viewer.layers[0]))

    def show(limit):
        image = np.ones(TRUTH.shape, np.float32)
        errors = Errors([image], [image], "0", limit)
        for _ in outputs.showing(*results[0], "trusted", errors=errors):
            pass

    show(5.0)
    layer = viewer.layers[-1]
    show(12.0)
    assert tuple(layer.contrast_limits) == (-12, 12)
    assert layer.contrast_limits_range[1] >= 12
    layer.contrast_limits = (1, 4)
    show(7.0)
    assert tuple(layer.contrast_limits) == (1, 4)
