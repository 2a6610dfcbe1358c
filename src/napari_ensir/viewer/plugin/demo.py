"""Demonstration in a real viewer: ``python -m napari_ensir.viewer.plugin.demo --out demo``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import napari
import tifffile
from qtpy.QtCore import QEventLoop, QTimer
from qtpy.QtWidgets import QApplication

from napari_ensir.ensemble.scoring.scores import verdict
from napari_ensir.viewer.layers.layers import OUTPUT_KEY


def main(arguments: list[str] | None = None) -> None:
    """Run both demonstrations, print their scores and write their results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results")
    parser.add_argument("--sample", default="tissue", choices=["tissue", "coins", "stack"])
    parser.add_argument("--close", action="store_true", help="close the viewer at the end")
    options = parser.parse_args(arguments)
    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1500, 950)
    print("One noisy image without a ground truth:")
    print(run_blind(viewer, options.out), end="\n\n")
    print("Candidates with a ground truth:")
    print(run_demo(viewer, options.out, options.sample), end="\n\n")
    print(f"Written to {options.out}/: " + ", ".join(sorted(file.name for file in options.out.iterdir())))
    if options.close:
        viewer.close()
    else:
        napari.run()


def run_blind(viewer: napari.Viewer, out: Path) -> str:
    """Restore and combine a noisy image; write ensemble, lookup table and screenshot; return the scores."""
    out.mkdir(parents=True, exist_ok=True)
    viewer.open_sample("napari-ensir", "exposures")
    noisy = viewer.layers["first exposure"]
    for layer in [each for each in viewer.layers if each.name != noisy.name]:
        viewer.layers.remove(layer)
    noisy.visible = True
    dock, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Restore")
    widget.image.value = noisy
    widget.restorers.value = ["non-local-means", "total-variation", "wavelet"]
    widget.restore_and_combine()
    _wait_for(widget)
    ensembles = [
        each for each in viewer.layers if each.metadata.get(OUTPUT_KEY, {}).get("kind") == "ensemble"
    ]
    if not ensembles:
        raise SystemExit(f"The restoration failed: {widget.message.value}")
    tifffile.imwrite(out / "blind_ensemble.tif", ensembles[0].data)
    ensembles[0].metadata[OUTPUT_KEY]["lut"].save(out / "blind.lut.safetensors", overwrite=True)
    _save_screenshot(viewer, out / "blind_screenshot.png")
    scores = widget.scores
    table = scores.table()
    text = str(table) if table.summary else f"{verdict(scores)}\n{table}"
    viewer.window.remove_dock_widget(dock)
    viewer.layers.clear()
    return text


def run_demo(viewer: napari.Viewer, out: Path, sample: str = "tissue") -> str:
    """Fit the candidates of a sample; write table, ensemble, maps and screenshot; return the scores."""
    out.mkdir(parents=True, exist_ok=True)
    viewer.open_sample("napari-ensir", sample)
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    not_candidates = ("ground truth", "noisy", "blurred")
    widget.candidates.value = [layer for layer in viewer.layers if layer.name not in not_candidates]
    widget.fit()
    _wait_for(widget)
    if widget.result is None:
        raise SystemExit(f"The fit failed: {widget.message.value}")
    result = widget.result
    tifffile.imwrite(out / "ensemble.tif", result.combined.exact)
    tifffile.imwrite(out / "weight_maps.tif", result.combined.maps)
    result.lut.save(out / "ensemble.lut.safetensors", overwrite=True)
    _save_screenshot(viewer, out / "screenshot.png")
    return f"{result.verdict}\n{widget.scores.table}"


def _wait_for(widget: Any) -> None:
    while widget.is_running:
        QApplication.processEvents()


def _save_screenshot(viewer: napari.Viewer, path: Path, milliseconds: int = 800) -> None:
    """Let the window draw itself, then save a picture of it."""
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()
    viewer.window._qt_window.grab().save(str(path))


if __name__ == "__main__":
    main()
