"""Objects, threads and callbacks of this package that remain in a process."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from typing import Any

from qtpy.QtCore import QEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_ensir.viewer.controls.worker import Task
from napari_ensir.viewer.layers.combo import LayerChoice
from napari_ensir.viewer.panel import Panel
from napari_ensir.viewer.results.layers import Outputs


def our_threads() -> list[str]:
    """Return the names of running threads of this package."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("napari-ensir")]


def our_objects() -> list[str]:
    """Return living panels, tasks, results and layer choices of this package."""
    watched = (Panel, Task, LayerChoice, Outputs)
    counts = Counter(map(type, gc.get_objects()))  # by type, because issubclass is slow
    ours = Counter({kind.__name__: n for kind, n in counts.items() if issubclass(kind, watched)})
    return sorted(ours.elements())


def our_callbacks(viewer: Any) -> list[str]:
    """Return functions of this package that are connected to a viewer, its layers or its dimensions."""
    groups = [viewer.events, viewer.layers.events, viewer.layers.selection.events, viewer.dims.events]
    groups += [layer.events for layer in viewer.layers]
    emitters = [emitter for group in groups for emitter in getattr(group, "emitters", {}).values()]
    found = [callback for emitter in emitters for callback in emitter.callbacks]
    functions = [each[0]() if isinstance(each, tuple) else each for each in found]
    modules = [
        getattr(each, "__module__", "") or type(each).__module__ for each in functions if each is not None
    ]
    return [name for name in modules if name.startswith("napari_ensir")]


def process_deletions() -> None:
    """Process Qt's deferred deletions, which ``processEvents`` does not."""
    QTest.qWait(1)
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    QApplication.processEvents()


def count_objects() -> Counter[str]:
    """Count living objects of this package by type."""
    for _ in range(2):
        process_deletions()
        gc.collect()
    kinds = Counter(type(each) for each in gc.get_objects())
    return Counter(
        {kind.__name__: n for kind, n in kinds.items() if str(kind.__module__).startswith("napari_ensir.")}
    )
