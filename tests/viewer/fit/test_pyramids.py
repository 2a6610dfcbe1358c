"""Candidates that are pyramids give results that are pyramids."""

from __future__ import annotations

import numpy as np

from napari_ensir import fit_lut
from napari_ensir.viewer.layers.layers import OUTPUT_KEY
from napari_ensir.viewer.layers.session import get_session


def pyramid(image):
    return [image, image[::2, ::2], image[::4, ::4]]


def test_results_of_pyramids_are_pyramids(viewer, images, wait_for):
    for name, image in images.items():
        viewer.add_image(pyramid(image), name=name, multiscale=True)
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.choose_all()
    widget.method.value = "least-squares"
    widget.fit()
    wait_for(widget)
    widget.show_errors()
    wait_for(widget)
    widget.show_expected_error()
    wait_for(widget)
    made = {layer.name.split(" · ")[0]: layer for layer in viewer.layers if OUTPUT_KEY in layer.metadata}
    assert len(made) == 1 + 2 + 2 + 1
    for layer in made.values():
        assert layer.multiscale
        assert [level.shape for level in layer.data] == [(96, 96), (48, 48), (24, 24)]
    truth, *candidates = images.values()
    lut = fit_lut([(candidates, truth)], method="least-squares")
    for level, *arrays in zip(made["ensemble"].data, *map(pyramid, candidates), strict=True):
        np.testing.assert_allclose(level, lut.apply(arrays), rtol=1e-6)
    widget.weights.value = "trusted"
    wait_for(widget)
    assert next(layer for layer in viewer.layers if layer.name.startswith("most")).multiscale


def test_a_table_applied_to_pyramids_gives_pyramids(viewer, images, wait_for):
    truth, *candidates = images.values()
    names = list(images)[1:]
    lut = fit_lut([(candidates, truth)], names, method="least-squares").calibrated([(candidates, truth)])
    for name, image in zip(names, candidates, strict=True):
        viewer.add_image(pyramid(image), name=name, multiscale=True)
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Apply lookup table")
    get_session(viewer).keep("table", lut)
    widget.expected_error.value = True
    widget.apply()
    wait_for(widget)
    made = {layer.name.split(" · ")[0]: layer for layer in viewer.layers if OUTPUT_KEY in layer.metadata}
    assert len(made) == 1 + 2 + 1
    assert all(layer.multiscale and len(layer.data) == 3 for layer in made.values())
    for level, *arrays in zip(made["ensemble"].data, *map(pyramid, candidates), strict=True):
        np.testing.assert_allclose(level, lut.apply(arrays), rtol=1e-6)
