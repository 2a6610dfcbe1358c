"""Times in the viewer, with a real canvas and event loop.

    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/viewer.py [PLANES]

A stack of PLANES (100) x 1024 x 1024 uint16 in memory with three candidates; then twice as many planes in
dask arrays; then one megapixel of RGB. A timer of 20 ms measures the longest stall of the event loop, and a
thread the memory of the process. Stalls of napari alone, when layers come and go, are measured on the same
canvas. Kernels are compiled before. Prints the rows of ``viewer.md``, with the processor time, which other
load hardly changes: of the process, and of the main thread for stalls.
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


def clock():
    """Return wall-clock time and processor time of the process."""
    return np.array([time.perf_counter(), time.process_time()])


def main_clock():
    """Return wall-clock time and processor time of this thread."""
    return np.array([time.perf_counter(), time.thread_time()])


class Watch:
    """Measure the longest interval of a timer of 20 ms, and peak memory."""

    def __init__(self) -> None:
        self.stall = np.zeros(2)
        self.last = main_clock()
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
        now = main_clock()
        self.stall = np.maximum(self.stall, now - self.last)
        self.last = now

    def _look(self) -> None:
        while self.running:
            self.peak = max(self.peak, self.process.memory_info().rss)
            time.sleep(0.01)

    def fresh(self):
        """Return the longest stall since the last call, in wall-clock and processor time."""
        stall, self.stall, self.last = self.stall, np.zeros(2), main_clock()
        return stall

    def stop(self) -> None:
        """Stop measuring."""
        self.running = False
        self.timer.stop()


def until(condition, limit=600.0):
    """Run the event loop until a condition holds; return the seconds."""
    start = time.perf_counter()
    while not condition() and time.perf_counter() - start < limit:
        QApplication.processEvents()
        time.sleep(0.001)
    return time.perf_counter() - start


def drawn(layer):
    """Count how often the displayed pixels of a layer are set."""
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


def planes_of_dask(planes):
    """Return a stack of dask arrays whose planes are computed when they are read."""
    import dask.array as da

    def plane(sigma, block_info=None):
        number = block_info[None]["chunk-location"][0]
        truth = np.random.default_rng(number).integers(300, 3800, (1, 1024, 1024), np.uint16)
        if not sigma:
            return truth
        noise = np.random.default_rng((number, sigma)).integers(0, sigma, truth.shape, np.uint16)
        return truth + noise

    chunks = ((1,) * planes, (1024,), (1024,))
    images = [da.map_blocks(plane, sigma, chunks=chunks, dtype=np.uint16) for sigma in (30, 60, 90, 0)]
    return images[:-1], images[-1]


def live(widget, ensemble, rest):
    """Seconds from a change of method to the canvas, median of five; ``rest()`` is called after each."""
    changes = []
    for method in ("least-squares", "em", "em-released", "least-squares", "em"):
        count = drawn(ensemble)
        begun = clock()
        widget.method.value = method
        until(lambda count=count: bool(count))
        QApplication.processEvents()
        changes.append(clock() - begun)
        rest()
    return np.median(changes, axis=0)


def opened(viewer, candidates, truth, **look):
    """Add the layers, open the Fit panel and choose them."""
    import napari_ensir.viewer.fit.widget  # noqa: F401 -- the import is not measured

    layers = [
        viewer.add_image(image, name=name, **look) for name, image in zip(NAMES, candidates, strict=True)
    ]
    true = viewer.add_image(truth, name="ground truth", visible=False, **look)
    dock, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.value, widget.ground_truth.value = layers, true
    until(lambda: False, 2.0)
    # Kernels are compiled in the background, which takes about a minute the first time.
    until(lambda: not any(thread.name == "napari-ensir warm-up" for thread in threading.enumerate()))
    return dock, widget


def ensemble_of(viewer):
    return next(layer for layer in viewer.layers if layer.name.startswith("ensemble"))


def closed(viewer, dock):
    viewer.window.remove_dock_widget(dock)
    viewer.layers.clear()
    until(lambda: False, 1.0)


def without_us(viewer, truth, watch):
    """Measure stalls when napari adds and removes layers of numpy arrays, one by one."""
    rows, middle = [], tuple(slice(n // 2, n // 2 + 1) for n in truth.shape[: truth.ndim - 2])
    plain = np.asarray(truth[..., 0] if truth.shape[-1] == 3 else truth[middle], np.float32)
    look = {"contrast_limits": (0, 4000), "rgb": False, "visible": False}
    kinds = {
        "an image": lambda: viewer.add_image(plain, **look),
        "an image of one axis more": lambda: viewer.add_image(np.stack([plain] * 2), **look),
        "labels": lambda: viewer.add_labels((plain > 2000).astype(np.uint8)),
    }
    for kind, add in kinds.items():
        until(lambda: False, 0.5)
        watch.fresh()
        layer = add()
        until(lambda: False, 0.5)
        rows.append((f"napari alone: longest stall, {kind} added", watch.fresh()))
        viewer.layers.remove(layer)
        until(lambda: False, 0.5)
        rows.append((f"napari alone: longest stall, {kind} removed", watch.fresh()))
    return rows


def printed(title, rows):
    print(f"\n| {title} | seconds | processor seconds |\n|---|---|---|")
    for name, (seconds, busy) in rows:
        print(f"| {name} | {seconds:.2f} | {busy:.2f} |", flush=True)


def measure(viewer, candidates, truth, title):
    dock, widget = opened(viewer, candidates, truth)
    watch = Watch()
    until(lambda: False, 0.3)
    watch.fresh()
    rows = []
    start = clock()
    widget.fit()
    until(lambda: widget.result is not None)
    rows.append(("Fit pressed -> ensemble on the canvas", clock() - start))
    until(lambda: not widget.is_running)
    rows.append(("scores complete, with expected errors", clock() - start))
    stalls = {"fit and scores": watch.fresh()}

    def rest():
        until(lambda: not widget.is_running)

    change = live(widget, ensemble_of(viewer), rest)
    rows.append(("change of method -> canvas, median of five", change))
    stalls["changes of method"] = watch.fresh()
    for view in ("layers", "trusted", "slider"):
        widget.weights.value = view
        until(lambda: False, 0.2)
        rest()
        stalls[f"weights shown as: {view}"] = watch.fresh()
    rows.append(
        (
            "longest stall of the event loop, all views of weights included",
            np.max(list(stalls.values()), axis=0),
        )
    )
    rows += [(f"longest stall: {name}", stall) for name, stall in stalls.items()]
    rows += without_us(viewer, truth, watch)
    watch.stop()
    printed(title, rows)
    print(f"| peak memory beyond the layers, GB | {(watch.peak - watch.base) / 2**30:.2f} | |", flush=True)
    closed(viewer, dock)


def measure_lazy(viewer, candidates, truth, title):
    """Measure the fit and changes of method; scores and errors of all planes are computed meanwhile."""
    dock, widget = opened(viewer, candidates, truth, contrast_limits=(0, 4000))
    watch = Watch()
    start = clock()
    widget.fit()
    until(lambda: widget.result is not None)
    rows = [("Fit pressed -> ensemble on the canvas, estimated from a sample", clock() - start)]
    until(lambda: not widget.result.is_estimate)
    rows.append(("Fit pressed -> ensemble of all pixels on the canvas", clock() - start))
    until(lambda: not widget.queue.is_active)
    watch.fresh()
    change = live(widget, ensemble_of(viewer), lambda: until(lambda: False, 1.0))
    rows.append(("change of method -> canvas, median of five", change))
    rows.append(("longest stall: changes of method", watch.fresh()))
    watch.stop()
    printed(title, rows)
    widget.cancel()
    until(lambda: not widget.is_running, 60)
    closed(viewer, dock)


def main() -> None:
    import napari

    planes = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    rng = np.random.default_rng(0)
    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1366, 768)
    measure(viewer, *stack(planes, rng), f"{planes} x 1024 x 1024 uint16 in memory, three candidates")
    title = f"{2 * planes} x 1024 x 1024 uint16, dask, three candidates"
    measure_lazy(viewer, *planes_of_dask(2 * planes), title)
    measure(viewer, *colour(rng), "1024 x 1024 RGB, uint8, three candidates")
    viewer.close()


if __name__ == "__main__":
    main()
