"""Create the screenshots of the guides: ``python docs/make_screenshots.py [SCENE ...]``."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

# The screenshots must not depend on the user's napari settings.
os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")

import napari
import numpy as np
from PIL import Image
from qtpy.QtCore import QEventLoop, QTimer
from qtpy.QtWidgets import QApplication, QWidget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IMAGES = Path(__file__).parent / "images"
SIZE = (1366, 768)
MAX_BYTES = 250_000
NOT_CANDIDATES = ("ground truth", "noisy", "blurred")


def main(names: list[str]) -> None:
    """Create the named scenes, or all."""
    unknown = set(names) - set(SCENES)
    if unknown:
        raise SystemExit(f"Unknown scene: {', '.join(sorted(unknown))}; use one of: {', '.join(SCENES)}.")
    IMAGES.mkdir(exist_ok=True)
    for name in names or SCENES:
        SCENES[name]()


# -- helpers ----------------------------------------------------------------------------------------


@contextmanager
def viewer_with(sample: str, theme: str = "dark") -> Iterator[napari.Viewer]:
    """Open a viewer of a fixed size with a sample."""
    viewer = napari.Viewer(show=True)
    viewer.theme = theme
    viewer.window._qt_window.resize(*SIZE)
    viewer.open_sample("napari-ensir", sample)
    settle()
    yield viewer
    viewer.close()
    settle(100)


def dock(viewer: napari.Viewer, name: str) -> Any:
    """Open a panel as the Plugins menu does."""
    holder, widget = viewer.window.add_plugin_dock_widget("napari-ensir", name)
    holder.setMinimumWidth(370)
    settle(300)
    return widget


def candidates(viewer: napari.Viewer) -> list[Any]:
    """Return the candidates of the sample."""
    return [layer for layer in viewer.layers if layer.name not in NOT_CANDIDATES]


def fit_candidates(viewer: napari.Viewer, method: str = "em", chosen: list[Any] | None = None) -> Any:
    """Return the Fit panel after a fit, with scores."""
    widget = dock(viewer, "Fit ensemble")
    widget.candidates.value = chosen or candidates(viewer)
    widget.method.value = method
    widget.fit()
    wait_for(widget)
    return widget


def wait_for(widget: Any) -> None:
    """Wait until a panel is idle."""
    while widget.is_running:
        QApplication.processEvents()
    settle()


def panel(widget: Any) -> QWidget:
    """Return the whole panel, including what is scrolled out of view."""
    return widget.native.widget()


def settle(milliseconds: int = 700) -> None:
    """Process events while the window is drawn."""
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


def show_only(viewer: napari.Viewer, *names: str) -> None:
    """Show only these layers and select the first."""
    for layer in viewer.layers:
        layer.visible = layer.name in names
    viewer.layers.selection.active = viewer.layers[names[0]]


def window(viewer: napari.Viewer) -> QWidget:
    """Return the viewer's window."""
    return viewer.window._qt_window


def save(shown: QWidget, name: str) -> None:
    """Write a screenshot of a widget with a palette that keeps it below MAX_BYTES."""
    settle()
    path = IMAGES / f"{name}.png"
    shown.grab().save(str(path))
    full = Image.open(path).convert("RGB")
    for colours in (256, 160, 96, 64):
        few = full.quantize(colours, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
        if path.stat().st_size <= MAX_BYTES:
            break
    else:
        raise SystemExit(f"{path.name} has {path.stat().st_size} bytes; show a smaller part.")
    print(f"{path.name}: {full.width} x {full.height}, {path.stat().st_size // 1000} kB, {colours} colours")


# -- scenes -----------------------------------------------------------------------------------------


def overview() -> None:
    """Ensemble and scores, dark and light."""
    for theme in ("dark", "light"):
        with viewer_with("tissue", theme) as viewer:
            fit_candidates(viewer)
            show_only(viewer, "ensemble · EM (paper)")
            save(window(viewer), f"overview-{theme}")


def first_steps() -> None:
    """Sample, ticked candidates, scores, comparison."""
    with viewer_with("tissue") as viewer:
        widget = dock(viewer, "Fit ensemble")
        save(window(viewer), "step-opened")
        widget.candidates.value = candidates(viewer)
        save(panel(widget), "step-ticked")
        widget.fit()
        wait_for(widget)
        save(panel(widget), "step-fitted")
        widget.compare()
        wait_for(widget)
        save(widget.scores.native, "compare")


def picker() -> None:
    """Layers that can be candidates, and others with the reason why not."""
    with viewer_with("tissue", "light") as viewer:
        tissue = viewer.layers["wavelet"].data
        chosen = candidates(viewer)
        place = {"scale": (0.5, 0.5), "units": ("um", "um"), "visible": False}
        viewer.add_image(tissue[:200, :300], name="a smaller crop", **place)
        viewer.add_image(tissue.mean(axis=-1), name="in grey", **place)
        viewer.add_labels(np.zeros(tissue.shape[:2], int), name="cells", **place)
        widget = fit_candidates(viewer, chosen=chosen)
        widget.candidates.native.setMinimumHeight(330)
        save(widget.candidates.native, "picker")


def places() -> None:
    """A stack with planes and a mask to learn from."""
    with viewer_with("stack") as viewer:
        viewer.dims.set_point(0, 2.0 * 8)
        mask = np.zeros(viewer.layers["median"].data.shape, np.uint8)
        mask[:, 40:210, 30:180] = 1
        place = {"scale": (2, 0.5, 0.5), "units": ("um", "um", "um"), "axis_labels": ("z", "y", "x")}
        viewer.add_labels(mask, name="learn here", opacity=0.35, **place)
        widget = dock(viewer, "Fit ensemble")
        widget.candidates.value = candidates(viewer)[:3]
        widget.mask.value = viewer.layers["learn here"]
        widget.planes.value = (4, 11)
        widget.method.value = "least-squares"
        widget.fit()
        wait_for(widget)
        show_only(viewer, "ensemble · Least squares", "learn here")
        viewer.layers.move(viewer.layers.index("learn here"), len(viewer.layers))
        save(window(viewer), "places")


def errors() -> None:
    """Errors of the ensemble and of the best candidate, side by side."""
    with viewer_with("coins") as viewer:
        widget = fit_candidates(viewer, "least-squares")
        widget.show_errors()
        wait_for(widget)
        show_only(viewer, *(layer.name for layer in viewer.layers if layer.name.startswith("error of")))
        grid = viewer.canvas.grid if hasattr(viewer, "canvas") else viewer.grid
        grid.enabled = True
        viewer.reset_view()
        save(window(viewer), "errors")


def weight_views() -> None:
    """The three views of the weight map, each in its own viewer."""
    for view in ("layers", "slider", "trusted"):
        with viewer_with("tissue") as viewer:
            widget = fit_candidates(viewer, "least-squares")
            widget.weights.value = view
            wait_for(widget)
            names = [layer.name for layer in viewer.layers if layer.name.startswith(("weight", "most"))]
            if view == "trusted":
                names.append("ensemble · Least squares")
            show_only(viewer, *names)
            if view == "layers":
                grid = viewer.canvas.grid if hasattr(viewer, "canvas") else viewer.grid
                grid.enabled = True
            if view == "slider":
                viewer.dims.set_point(0, 2)
            viewer.reset_view()
            save(window(viewer), f"weights-{view}")


def inspect() -> None:
    """All plots of Inspect, with the curves in both themes, and the description of a pixel."""
    with viewer_with("tissue") as viewer:
        fit_panel = fit_candidates(viewer, "least-squares")
        fit_panel.bin_width.value = 16
        wait_for(fit_panel)
        show_only(viewer, "ensemble · Least squares")
        viewer.window.remove_dock_widget("all")
        widget = dock(viewer, "Inspect lookup table")
        widget.pixel.value = widget.describe((90.0, 60.0))
        for theme in ("dark", "light"):
            viewer.theme = theme
            save(panel(widget), f"inspect-curves-{theme}")
        viewer.theme = "dark"
        for plot in ("counts", "pair", "fidelity", "reading"):
            widget.plot.value = plot
            save(panel(widget), f"inspect-{plot}")


def bin_set() -> None:
    """The bin set of a clicked pixel in Inspect, beside the Fit panel."""
    with viewer_with("tissue") as viewer:
        fit_candidates(viewer)
        show_only(viewer, "ensemble · EM (paper)")
        widget = dock(viewer, "Inspect lookup table")
        widget.plot.value = "bin-set"
        click = SimpleNamespace(button=1, position=(90.0, 60.0))
        for clicked in viewer.mouse_drag_callbacks:
            clicked(viewer, click)
        settle()
        save(panel(widget), "inspect-bin-set")


def profile() -> None:
    """Candidates, ensemble and truth along a line."""
    with viewer_with("tissue") as viewer:
        fit_candidates(viewer, "least-squares")
        viewer.window.remove_dock_widget("all")
        widget = dock(viewer, "Look side by side")
        viewer.add_shapes([[[150, 60], [150, 160]]], shape_type="line", name="profile")
        settle(300)
        save(panel(widget), "profile")


def expected() -> None:
    """Expected error, dark and light; what Restore copies."""
    for theme in ("dark", "light"):
        with viewer_with("tissue", theme) as viewer:
            fit_panel = fit_candidates(viewer, "least-squares")
            fit_panel.expected_button.native.click()
            settle(100)
            wait_for(fit_panel)
            show_only(viewer, *(layer.name for layer in viewer.layers if "expected error" in layer.name))
            save(window(viewer), f"expected-{theme}")
            if theme == "dark":
                continue
            viewer.window.remove_dock_widget("all")
            restore = dock(viewer, "Restore")
            restore.image.value = viewer.layers["noisy"]
            restore.update(restorers=["total-variation", "median"], median_size=5)
            restore.restorers.select("median")
            restore.combining_section.open()
            restore.program.value = "combine-command"
            restore.copy_button.native.click()
            save(panel(restore), "restore-copies")


def match() -> None:
    """A table on images of another exposure: the warning of Apply, and the result of matching."""
    with viewer_with("tissue", "light") as viewer:
        fit_panel = fit_candidates(viewer, "least-squares")
        names = [layer.name for layer in candidates(viewer) if "napari-ensir" not in layer.metadata]
        for name in names:
            data = viewer.layers[name].data
            viewer.add_image((data * 0.6 + 20).astype(data.dtype), name=f"dim {name}", rgb=True)
        viewer.window.remove_dock_widget("all")
        widget = dock(viewer, "Apply lookup table")
        for number, name in enumerate(fit_panel.result.lut.names, start=1):
            widget[f"candidate_{number}"].value = viewer.layers[f"dim {name}"]
        for match_exposure, picture in ((False, "apply-warned"), (True, "apply-matched")):
            widget.match.value = match_exposure
            widget.apply()
            wait_for(widget)
            save(panel(widget), picture)


def apply() -> None:
    """A table applied to two sets of layers without ground truth."""
    with viewer_with("coins", "light") as viewer:
        fit_candidates(viewer)
        for layer in candidates(viewer):
            if "napari-ensir" in layer.metadata:  # added by the fit
                viewer.layers.remove(layer)
        for name in ("ground truth", "blurred"):
            viewer.layers.remove(name)
        for layer in list(viewer.layers):
            name = layer.name
            layer.name = f"day 1 {name}"
            viewer.add_image(layer.data[::-1], name=f"day 2 {name}", contrast_limits=(0, 1))
        viewer.window.remove_dock_widget("all")
        widget = dock(viewer, "Apply lookup table")
        widget.apply_all()
        wait_for(widget)
        save(window(viewer), "apply")


def without_truth() -> None:
    """Restorers ranked on one noisy image, and values of a setting."""
    with viewer_with("exposures") as viewer:
        widget = dock(viewer, "Restore")
        show_only(viewer, viewer.layers[0].name)
        widget.image.value = viewer.layers[0]
        widget.restorers.value = ["total-variation", "wavelet", "gaussian", "median"]
        widget.rank()
        wait_for(widget)
        widget.ranking.native.setFocus()
        widget.native.ensureWidgetVisible(widget.best_button.native)
        save(window(viewer), "ranking")
        widget.sweep_section.open()
        widget.restorers.select("total-variation")
        widget.try_values()
        wait_for(widget)
        viewer.theme = "light"
        save(panel(widget), "sweep-light")


def folders() -> None:
    """A folder of noisy images, after it was processed."""
    from napari_ensir.files.image import write_image
    from napari_ensir.viewer.plugin.sample_data import two_exposures

    place = Path(tempfile.gettempdir()) / "microscope"
    shutil.rmtree(place, ignore_errors=True)
    folder = place / "day 1"
    folder.mkdir(parents=True)
    exposure = two_exposures()[1][0]
    for number, part in enumerate((exposure[:192, :192], exposure[192:, :192], exposure[:192, 192:])):
        write_image(folder / f"field {number + 1}.tif", part)
    (folder / "field 4.tif").write_bytes(b"not an image")
    viewer = napari.Viewer(show=True)
    viewer.theme = "light"
    viewer.window._qt_window.resize(*SIZE)
    widget = dock(viewer, "Process a folder")
    widget.images.value = folder
    widget.run()
    wait_for(widget)
    save(panel(widget), "folders-light")
    viewer.close()
    settle(100)
    shutil.rmtree(place)


SCENES: dict[str, Callable[[], None]] = {
    "overview": overview,
    "first-steps": first_steps,
    "picker": picker,
    "places": places,
    "errors": errors,
    "weight-views": weight_views,
    "inspect": inspect,
    "bin-set": bin_set,
    "profile": profile,
    "expected": expected,
    "match": match,
    "apply": apply,
    "without-truth": without_truth,
    "folders": folders,
}

if __name__ == "__main__":
    main(sys.argv[1:])
