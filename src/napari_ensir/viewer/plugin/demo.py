"""Demonstration in a real viewer: ``python -m napari_ensir.viewer.plugin.demo --out demo``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ensir.viewer.layers.layers import OUTPUT_KEY

if TYPE_CHECKING:
    import napari

    from napari_ensir.viewer.fit.widget import FitWidget

__all__ = ["main", "run_blind", "run_demo"]


def run_demo(viewer: napari.Viewer, out: Path, sample: str = "tissue") -> FitWidget:
    """Open a sample, fit its candidates, and leave LUT, ensemble, weight maps and a screenshot in ``out``."""
    import tifffile
    from qtpy.QtWidgets import QApplication

    out.mkdir(parents=True, exist_ok=True)
    viewer.open_sample("napari-ensir", sample)
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    not_candidates = ("ground truth", "noisy", "blurred")
    widget.candidates.value = [layer for layer in viewer.layers if layer.name not in not_candidates]
    widget.fit()
    while widget.is_running:
        QApplication.processEvents()
    if widget.result is None:
        raise SystemExit(f"The fit failed: {widget.message.value}")
    result = widget.result
    tifffile.imwrite(out / "ensemble.tif", result.combined.exact)
    tifffile.imwrite(out / "weight_maps.tif", result.combined.maps)
    widget.save(str(out / "ensemble.lut.safetensors"))
    _settle()
    viewer.window._qt_window.grab().save(str(out / "screenshot.png"))
    return widget


def run_blind(viewer: napari.Viewer, out: Path) -> list[dict[str, Any]]:
    """Restore and combine one noisy image, with nothing else: ensemble, table and a screenshot in ``out``."""
    import tifffile
    from qtpy.QtWidgets import QApplication

    out.mkdir(parents=True, exist_ok=True)
    viewer.open_sample("napari-ensir", "exposures")
    noisy = viewer.layers["first exposure"]
    for layer in [each for each in viewer.layers if each.name != noisy.name]:
        viewer.layers.remove(layer)  # the noisy image is all there is
    noisy.visible = True
    dock, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Restore")
    widget.image.value = noisy
    widget.restorers.value = ["non-local-means", "total-variation", "wavelet"]
    widget.restore_and_combine()
    while widget.is_running:
        QApplication.processEvents()
    made = [layer for layer in viewer.layers if layer.metadata.get(OUTPUT_KEY, {}).get("kind") == "ensemble"]
    if not made:
        raise SystemExit(f"Restoring failed: {widget.message.value}")
    tifffile.imwrite(out / "blind_ensemble.tif", made[0].data)
    lut = made[0].metadata[OUTPUT_KEY]["lut"]
    lut.save(out / "blind.lut.safetensors", overwrite=True)
    _settle()
    viewer.window._qt_window.grab().save(str(out / "blind_screenshot.png"))
    viewer.window.remove_dock_widget(dock)
    viewer.layers.clear()
    rows: list[dict[str, Any]] = lut.report["scores"]["rows"]
    return rows


def _settle(milliseconds: int = 800) -> None:
    """Let the window draw itself."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


def main(arguments: list[str] | None = None) -> Any:
    """Run the demo from a shell."""
    import napari

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results")
    parser.add_argument("--sample", default="tissue", choices=["tissue", "coins", "stack"])
    parser.add_argument("--close", action="store_true", help="close the viewer at the end")
    options = parser.parse_args(arguments)
    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1500, 950)
    print("One noisy image, nothing else; differences of mean squared error to the average:")
    for row in run_blind(viewer, options.out):
        print(f"{row['name']:>20}  {row['difference']:+10.4g}")
    widget = run_demo(viewer, options.out, options.sample)
    for score in widget.result.scores if widget.result else ():
        figures = f"PSNR {score.psnr:6.2f} dB  held out {score.held_out:6.2f} dB  SSIM {score.ssim:.4f}"
        print(f"{score.name:>20}  {figures}")
    print(f"Written to {options.out}/: " + ", ".join(sorted(file.name for file in options.out.iterdir())))
    if options.close:
        viewer.close()
    else:
        napari.run()


if __name__ == "__main__":
    sys.exit(main())
