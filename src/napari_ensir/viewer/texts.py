"""What the widgets say about their controls, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_ensir.devices import DEVICES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qtpy.QtWidgets import QComboBox, QWidget

__all__ = ["TOOLTIPS", "combo_of", "device_combo", "explain"]

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
        "have fewer pixels each to learn from. At the lowest value: an eighth of the range, 32 for 8 bit.",
    ),
    "best_width": (
        "Best bin width",
        "Choose bin width (and shrinkage) by what does best on parts of the image held out in turn.",
    ),
    "shrinkage": (
        "Shrinkage",
        "How many pixels' worth of trust the solution for all intensities gets in each bin set: more makes "
        "sparse bin sets follow it.",
    ),
    "mask": (
        "Where to learn",
        "A labels or shapes layer, laid on the images pixel by pixel: learn where it is marked; what lies "
        "outside is held out for the scores.",
    ),
    "planes": (
        "Planes to learn from",
        "First and last place along the first axis to learn from; the others are held out for the scores.",
    ),
    "weight_view": ("Weights as", "How the weight maps are shown."),
    "compare": (
        "Compare methods",
        "Rank candidates, average and every method on parts of the image held out in turn.",
    ),
    "device": ("Device", "Where to compute. Auto takes an accelerator if torch finds one."),
    "fit": ("Fit", "Learn the weights, then show the ensemble, the weight map and the scores."),
    "cancel": ("Cancel", "Stop; no layer is changed or added."),
    "save": ("Save LUT", "Write the lookup table to a file, to be applied where there is no ground truth."),
    "scores": (
        "Scores",
        "How close each image is to the ground truth: PSNR in dB and SSIM, higher is better.",
    ),
    "table": ("Lookup table", "A table fitted or opened in this viewer."),
    "plot": ("Plot", "What to show of the table."),
    "channel": ("Channel", "Which colour's table to show."),
    "pair": ("Pair of candidates", "The candidate whose weight is shown, and the one it is shown against."),
    "canvas": ("Plot of the lookup table", "Drawn in the viewer's theme; export it below."),
    "pixel": ("Pixel", "What the table knows of the pixel clicked last."),
    "export_png": ("Export PNG", "Save the plot as an image."),
    "export_csv": ("Export CSV", "Save every bin set with its weights and its number of pixels."),
    "all_sets": (
        "Apply to all matching sets",
        "Combine every set of layers whose names contain the candidates' names and are alike otherwise.",
    ),
    "degraded": ("Image to restore", "The degraded image that candidates are made of."),
    "restorers": ("Restorers", "Tick one or more: each adds a candidate. Select one to see its settings."),
    "open_network": (
        "Open a network",
        "A restorer trained here (*.safetensors), a TorchScript or torch.export file (*.pt, *.pt2), or, with "
        "the extra spandrel, a published checkpoint. Only tensors and graphs are read from it.",
    ),
    "self_ensemble": (
        "Self-ensemble",
        "Restore eight rotations and reflections of the image and average them: eight times the time.",
    ),
    "restore": ("Restore", "Add one candidate layer for each restorer ticked."),
    "train": ("Train", "Train anew on the two layers, then add what the network makes of the degraded one."),
    "cancel_training": ("Cancel", "Stop; the training so far is kept, to be saved or resumed."),
    "recipe": ("What to train", "The kind of network, and how it is trained."),
    "train_degraded": ("Degraded image", "What the network is given: noisy, blurred, with rain..."),
    "train_clean": ("Clean image", "What it is to make of it: the same field, pixel by pixel."),
    "ir": (
        "IR network",
        "The restorer that DP-IR is built around: a classical one, one trained here, or one from a file.",
    ),
    "open_ir": ("Open an IR network or a denoiser", "Choose a network's file, as in Restore."),
    "denoiser": ("Denoiser", "The Gaussian denoiser of DP-IR: train one first, or open one."),
    "steps": (
        "Steps",
        "Steps of training in all; the learning rate falls over them. A resumed training goes on up to them.",
    ),
    "minutes": (
        "At most",
        "Stop after this time, even if steps are left; Resume makes them. At 0: when the steps are made.",
    ),
    "width": ("Width", "Features at the network's finest level: more learn more, slowly."),
    "seed": ("Seed", "The same seed, images and settings give the same network."),
    "loss": ("Plot of the loss", "Each step's loss as a dot, and its running mean."),
    "save_training": ("Save checkpoint", "Write the network and the state of its training to a file."),
    "resume": ("Resume", "Go on with the training kept, up to the steps shown."),
    "resume_file": (
        "Resume from a checkpoint",
        "Go on with a training from a file, on the layers chosen. DP-IR around a network of another kind of "
        "file needs that network opened and chosen above first.",
    ),
    "open": ("Open LUT", "Choose a lookup table file."),
    "match": ("Layers for candidates", "Which layer plays which candidate of the table."),
    "apply": ("Apply", "Combine these layers by the table; no ground truth is needed."),
}
"""For each control: its accessible name and its tooltip."""


def combo_of(entries: Mapping[str, tuple[str, str]], key: str, chosen: str = "") -> QComboBox:
    """A drop-down of titles with tooltips; ``currentData()`` is the entry's key."""
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QComboBox, QSizePolicy

    combo = QComboBox()
    for name, (title, tip) in entries.items():
        combo.addItem(title, name)
        combo.setItemData(combo.count() - 1, tip or None, Qt.ItemDataRole.ToolTipRole)
    combo.setCurrentIndex(max(0, combo.findData(chosen)))
    # The widest entry must not widen the dock.
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(8)
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    explain(combo, key)
    return combo


def device_combo(chosen: str) -> QComboBox:
    """Where to compute."""
    return combo_of({name: (name, "") for name in DEVICES}, "device", chosen)


def explain(control: QWidget, key: str) -> QWidget:
    """Give a control its tooltip and accessible name, and hand it back."""
    name, tip = TOOLTIPS[key]
    control.setAccessibleName(name)
    control.setToolTip(tip)
    return control
