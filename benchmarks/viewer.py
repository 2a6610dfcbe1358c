"""Times in the viewer: a real canvas, a real event loop, what a user waits for.

    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/viewer.py [PLANES]

A stack of PLANES (100) x 1024 x 1024 uint16 in memory, three candidates, then one megapixel of RGB. A timer
of 20 ms measures the longest stall of the event loop, a thread the memory of the process. Prints the rows of
``viewer.md``.
"""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import psutil
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

NAMES = ("a", "b", "c")


class Watch:
    """Longest time between two ticks of a timer that should come every 20 ms, and the peak of memory."""

    def __init__(self) -> None:
        self.stall = 0.0
        self.last = time.perf_counter()
        self.timer = QTimer()
        self.timer.setInterval(20)
        self.timer.timeout.connect(self._tick)
        self.timer.start()
        self.process = psutil.Process()
        self.base = self.peak = self.process.memory_info().rss
        self.running = True
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.stall = max(self.stall, now - self.last)
        self.last = now

    def _look(self) -> None:
        while self.running:
            self.peak = max(self.peak, self.process.memory_info().rss)
            time.sleep(0.01)

    def fresh(self) -> None:
        """Forget what was before."""
        self.stall, self.last = 0.0, time.perf_counter()


def until(condition, limit=600.0):
    """Seconds until it holds, the event loop running."""
    start = time.perf_counter()
    while not condition() and time.perf_counter() - start < limit:
        QApplication.processEvents()
        time.sleep(0.001)
    return time.perf_counter() - start


def drawn(layer):
    """Counts how often the layer's shown pixels were set anew."""
    count = []
    layer.events.set_data.connect(lambda event: count.append(1))
    return count


def stack(planes, rng):
    truth = rng.integers(300, 3800, (planes, 1024, 1024), np.uint16)
    candidates = []
    for sigma in (30, 60, 90):
        noise = rng.integers(-sigma, sigma, truth.shape, np.int16)
        candidates.append((truth.astype(np.int32) + noise).clip(0, 65535).astype(np.uint16))
    return candidates, truth


def colour(rng):
    truth = rng.integers(30, 220, (1024, 1024, 3)).astype(np.uint8)
    return [
        np.clip(truth + rng.normal(0, s, truth.shape), 0, 255).astype(np.uint8) for s in (4, 8, 12)
    ], truth


def measure(viewer, candidates, truth, title):
    import napari_ensir.viewer.fit_widget  # noqa: F401 -- its import is not what is measured

    layers = [viewer.add_image(image, name=name) for name, image in zip(NAMES, candidates, strict=True)]
    true = viewer.add_image(truth, name="ground truth", visible=False)
    dock, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.value, widget.ground_truth.value = layers, true
    until(lambda: False, 3.0)  # compiles while the user ticks
    watch = Watch()
    until(lambda: False, 0.3)
    watch.fresh()
    rows = []
    start = time.perf_counter()
    widget.fit()
    until(lambda: widget.result is not None)
    rows.append(("Fit pressed -> ensemble on the canvas", time.perf_counter() - start))
    until(lambda: not widget.is_running)
    rows.append(("scores complete", time.perf_counter() - start))
    ensemble = next(layer for layer in viewer.layers if layer.name.startswith("ensemble"))
    changes = []
    for method in ("least-squares", "em", "em-released", "least-squares", "em"):
        count = drawn(ensemble)
        begun = time.perf_counter()
        widget.method.value = method
        until(lambda count=count: bool(count))
        QApplication.processEvents()
        changes.append(time.perf_counter() - begun)
        until(lambda: not widget.is_running)
    rows.append(("live change of method -> canvas, median of five", float(np.median(changes))))
    for view in ("layers", "trusted", "slider"):
        widget.weights.value = view
        until(lambda: False, 0.2)
        until(lambda: not widget.is_running)
    rows.append(("longest stall of the event loop, all ways to show weights included", watch.stall))
    watch.running = False
    watch.timer.stop()
    print(f"\n| {title} | seconds |\n|---|---|")
    for name, seconds in rows:
        print(f"| {name} | {seconds:.2f} |")
    print(f"| peak memory beyond the layers, GB | {(watch.peak - watch.base) / 2**30:.2f} |", flush=True)
    viewer.window.remove_dock_widget(dock)
    viewer.layers.clear()


def main() -> None:
    import napari

    planes = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    rng = np.random.default_rng(0)
    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1366, 768)
    measure(viewer, *stack(planes, rng), f"{planes} x 1024 x 1024 uint16 in memory, three candidates")
    measure(viewer, *colour(rng), "1024 x 1024 RGB, uint8, three candidates")
    viewer.close()


if __name__ == "__main__":
    main()
