"""Many fits and applies in one viewer leave nothing of this package behind.

``NAPARI_ENSIR_ROUNDS=1000`` runs the long form, which also measures the memory of the process.
"""

from __future__ import annotations

import gc
import os
import weakref

import numpy as np
import psutil
import pytest
from qtpy.QtWidgets import QApplication

from napari_ensir.viewer.layers.session import MAX_TABLES, get_session
from tests.helpers.leftovers import count_objects, our_callbacks, our_threads

ROUNDS = int(os.environ.get("NAPARI_ENSIR_ROUNDS", "1"))
WARM_UP = 2
LONG = 100
WIDGETS = (
    "Fit ensemble",
    "Apply lookup table",
    "Inspect lookup table",
    "Look side by side",
    "Restore",
    "Train a restorer",
)


def census(viewer) -> dict[str, int]:
    """Numbers that must not grow from round to round."""
    counted = count_objects()
    process = psutil.Process()
    return {
        "threads": len(our_threads()),
        "open files": process.num_fds() if hasattr(process, "num_fds") else process.num_handles(),
        "layers": len(viewer.layers),
        "callbacks": len(our_callbacks(viewer)),
        "tasks": counted["Task"],
        "outputs": counted["Outputs"],
        "results": counted["FitResult"],
        "layer choices": counted["LayerChoice"],
    }


def megabytes() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def watched(layer) -> list[weakref.ref]:
    """The layer, its data, and what the data is a view of."""
    found, array = [weakref.ref(layer)], layer.data
    while isinstance(array, np.ndarray):
        found.append(weakref.ref(array))
        array = array.base
    return found


def test_rounds_of_fit_and_apply_leave_nothing(viewer, wait_for):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 255, (16, 16)).astype(np.uint8)
    for name, image in (("ground truth", truth), ("a", truth // 4 * 4), ("b", truth // 32 * 32)):
        viewer.add_image(image, name=name)
    mine = list(viewer.layers)
    _, fit = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    _, apply = viewer.window.add_plugin_dock_widget("napari-ensir", "Apply lookup table")
    fit.device.value = "cpu"
    fit.candidates.value = mine[1:]

    rounds: list[dict[str, list[weakref.ref]]] = []

    def one_round() -> None:
        for widget in (fit, apply):
            widget.run()
            wait_for(widget)
        assert len(viewer.layers) == len(mine) + 6, (fit.message.value, apply.message.value)
        made = [layer for layer in viewer.layers if layer not in mine]
        rounds.append({layer.name: watched(layer) for layer in made})
        for layer in made:
            viewer.layers.remove(layer)

    for _ in range(WARM_UP):
        one_round()
    before, start = census(viewer), megabytes()
    print(f"\nafter {WARM_UP} rounds: {start:.0f} MB, {before}")
    for number in range(1, ROUNDS + 1):
        one_round()
        if number == ROUNDS or number % 100 == 0:
            print(f"after {number} more: {megabytes():.0f} MB")
    after = census(viewer)
    grown = {key: (before[key], after[key]) for key in before if after[key] > before[key]}
    assert not grown, f"grown in {ROUNDS} rounds: {grown}"
    gc.collect()
    # napari itself may hold on to the layer it showed last.
    kept = {
        name
        for made in rounds[:-1]
        for name, references in made.items()
        if any(reference() is not None for reference in references)
    }
    assert not kept, f"layers of earlier rounds still held: {kept}"
    if ROUNDS >= LONG:
        grew = (megabytes() - start) / ROUNDS
        assert grew < 0.4, f"{grew:.2f} MB a round"
    assert len(get_session(viewer).tables) <= MAX_TABLES


@pytest.mark.parametrize("name", WIDGETS)
def test_a_widget_closed_leaves_nothing(viewer, qtbot, name):
    for layer in ("a", "b"):
        viewer.add_image(np.eye(16, dtype=np.uint8), name=layer)

    def open_and_close() -> None:
        _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", name)
        QApplication.processEvents()
        native = getattr(widget, "native", widget)
        viewer.window.remove_dock_widget(native)
        native.deleteLater()
        qtbot.wait(20)

    open_and_close()
    before, callbacks = count_objects(), len(our_callbacks(viewer))
    open_and_close()
    grown = {kind: (before[kind], n) for kind, n in count_objects().items() if n > before[kind]}
    assert not grown
    assert len(our_callbacks(viewer)) == callbacks
