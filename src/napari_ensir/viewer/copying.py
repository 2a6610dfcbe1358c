"""Layers as paths, buttons that copy, and the clipboard: what panels share of "Copy as". Writes no code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_ensir.viewer.as_code import path_of
from napari_ensir.viewer.forms import button, row

if TYPE_CHECKING:
    from magicgui.widgets import Container
    from napari.layers import Layer

__all__ = ["copied", "copy_buttons", "path_of_layer"]


def copy_buttons(before: str = "", verb: str = "Copy", what: str = "does the same") -> Container:
    """The two buttons, ``python_button`` and ``command_button``, with something put before their names."""
    return row(
        *(
            button(
                f"{verb} as {how}", f"Copy a {noun} that {what} without the viewer.", f"{before}{name}_button"
            )
            for how, noun, name in (("Python", "program", "python"), ("command", "command", "command"))
        ),
        name=f"{before}copies",
        gui_only=True,
    )


def path_of_layer(layer: Layer) -> str:
    """The file that napari has read a layer from, or what stands for it."""
    return path_of(layer.name, layer.source.path)


def copied(text: str) -> str:
    """Put text on the clipboard; what to say of it."""
    from qtpy.QtWidgets import QApplication

    QApplication.clipboard().setText(text)
    missing = "PATH OF" in text
    return "Copied." + (
        " Put a path where it says PATH OF: those layers are from no file." if missing else ""
    )
