"""Many fits and applies in one viewer: nothing may pile up.

``NAPARI_ENSIR_ROUNDS=1000`` makes it the long form; figures are printed with ``-s``. What the process
holds (its resident memory) is judged in the long form only: over a few rounds the allocator and the
canvas move it by more than a leak would. Whether the layers and arrays of each round have gone is
exact, and judged in both.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections import Counter

import numpy as np
import psutil
import pytest
from qtpy.QtCore import QObject
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_ensir.viewer.layers.session import MOST_TABLES, session_of

ROUNDS = int(os.environ.get("NAPARI_ENSIR_ROUNDS", "6"))
WARM_UP = 4
LONG = 100
WIDGETS = ("Fit ensemble", "Apply lookup table", "Inspect lookup table", "Restore", "Train a restorer")


def objects() -> Counter:
    """Living objects of our own types."""
    for _ in range(2):
        QTest.qWait(1)  # unlike processEvents it also deletes what is to be deleted later
        gc.collect()
    kinds = Counter(type(each) for each in gc.get_objects())
    return Counter(
        {kind.__name__: n for kind, n in kinds.items() if str(kind.__module__).startswith("napari_ensir.")}
    )


def callbacks(viewer) -> int:
    """How many listen to the viewer, its layers and their list."""
    emitters = [*viewer.events.emitters.values(), *viewer.layers.events.emitters.values()]
    for layer in viewer.layers:
        emitters += layer.events.emitters.values()
    return sum(len(emitter.callbacks) for emitter in emitters) + len(viewer.mouse_drag_callbacks)


def qt_objects(viewer) -> Counter:
    return Counter(type(each).__name__ for each in viewer.window._qt_window.findChildren(QObject))


def census(viewer) -> dict[str, int]:
    """What must not grow."""
    counted = objects()
    process = psutil.Process()
    return {
        "threads": threading.active_count(),
        "open files": process.num_fds() if hasattr(process, "num_fds") else process.num_handles(),
        "layers": len(viewer.layers),
        "callbacks": callbacks(viewer),
        "Qt objects": qt_objects(viewer).total(),
        "tasks": counted["Task"],
        "outputs": counted["Outputs"],
        "results": counted["FitResult"],
        "combos": counted["LayerChoice"],
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
        assert len(viewer.layers) == len(mine) + 4, (fit.message.value, apply.message.value)
        made = [layer for layer in viewer.layers if layer not in mine]
        rounds.append({layer.name: watched(layer) for layer in made})
        for layer in made:
            viewer.layers.remove(layer)

    for _ in range(WARM_UP):
        one_round()
    before, start, parts = census(viewer), megabytes(), qt_objects(viewer)
    began = time.monotonic()
    print(f"\nafter {WARM_UP} rounds: {start:.0f} MB, {before}")
    for number in range(1, ROUNDS + 1):
        one_round()
        if number == ROUNDS or number % 100 == 0:
            print(f"after {number} more: {megabytes():.0f} MB, {time.monotonic() - began:.0f} s")
    after = census(viewer)
    grown = {key: (before[key], after[key]) for key in before if after[key] > before[key] + 3}
    assert not grown, f"grown in {ROUNDS} rounds: {grown}; Qt objects: {qt_objects(viewer) - parts}"
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
    assert len(session_of(viewer).tables) <= MOST_TABLES


@pytest.mark.parametrize("name", WIDGETS)
def test_a_widget_closed_leaves_nothing(filled, qtbot, name):
    def open_and_close() -> None:
        _, widget = filled.window.add_plugin_dock_widget("napari-ensir", name)
        QApplication.processEvents()
        native = getattr(widget, "native", widget)
        filled.window.remove_dock_widget(native)
        native.deleteLater()
        qtbot.wait(20)

    open_and_close()
    before, heard = objects(), callbacks(filled)
    for _ in range(3):
        open_and_close()
    grown = {kind: (before[kind], n) for kind, n in objects().items() if n > before[kind]}
    assert not grown
    assert callbacks(filled) == heard
