"""What the widgets say about their controls, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

__all__ = ["TOOLTIPS", "explain"]

TOOLTIPS = {
    "candidates": (
        "Candidates",
        "The restorations to combine, in the order of the table's axes. Tick them; drag them into order.",
    ),
    "filter": ("Filter layers", "Show only layers whose name contains this text."),
    "all": ("All candidates", "Tick every layer that can join."),
    "none": ("No candidate", "Untick every layer."),
    "selected": ("Use selected layers", "Tick the layers selected in napari's layer list, and no others."),
    "truth": ("Ground truth", "The image that the candidates should have been."),
    "method": ("Method", "How weights are learned from the pixels of each combination of intensities."),
    "bin_width": (
        "Bin width",
        "Width of an intensity bin, in the images' own units. Narrow bins follow intensity more closely and "
        "have fewer pixels each to learn from. Auto: an eighth of the range, 32 for 8-bit images.",
    ),
    "device": ("Device", "Where to compute. Auto takes an accelerator if torch finds one."),
    "fit": ("Fit", "Learn the weights, then show the ensemble, the weight map and the scores."),
    "cancel": ("Cancel", "Stop; no layer is changed or added."),
    "save": ("Save LUT", "Write the lookup table to a file, to be applied where there is no ground truth."),
    "scores": (
        "Scores",
        "How close each image is to the ground truth: PSNR in dB and SSIM, higher is better.",
    ),
    "lut_file": ("LUT file", "A lookup table that was saved before (*.lut.safetensors)."),
    "open": ("Open LUT", "Choose a lookup table file."),
    "match": ("Layers for candidates", "Which layer plays which candidate of the table."),
    "apply": ("Apply", "Combine these layers by the table; no ground truth is needed."),
}
"""For each control: its accessible name and its tooltip."""


def explain(control: QWidget, key: str) -> QWidget:
    """Give a control its tooltip and accessible name, and hand it back."""
    name, tip = TOOLTIPS[key]
    control.setAccessibleName(name)
    control.setToolTip(tip)
    return control
