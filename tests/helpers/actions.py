"""What a user does in a viewer, counted: a menu command, a click, a choice, or a path given in a dialog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari._app_model import get_app_model
from qtpy.QtWidgets import QFileDialog

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

__all__ = ["Actions"]


class Actions:
    """Actions in a viewer; ``count`` is their number."""

    def __init__(self, viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.viewer, self._monkeypatch = viewer, monkeypatch
        self.count = 0

    def open_panel(self, name: str) -> Any:
        """Open a panel from the Plugins menu."""
        self.count += 1
        return self.viewer.window.add_plugin_dock_widget("napari-ensir", name)[1]

    def click(self, button: Any) -> None:
        """Press a button."""
        assert button.enabled, button.tooltip
        self.count += 1
        button.native.click()

    def choose(self, control: Any, value: Any) -> None:
        """Choose an entry of a drop-down list or a check box."""
        self.count += 1
        control.value = value

    def click_and_give(self, button: Any, path: Path) -> None:
        """Press a button that opens a dialog, and give a path there."""
        self._answer(path)
        self.click(button)
        self.count += 1

    def save_selected_layers(self, path: Path) -> None:
        """Save the selected layers from the File menu, and give a path in the dialog."""
        self._answer(path)
        self.count += 2
        get_app_model().commands.execute_command("napari.window.file.save_layers_dialog.selected").result()

    def _answer(self, path: Path) -> None:
        """Let every file dialog return a path."""
        self._monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_, **__: str(path))
        for dialog in ("getOpenFileName", "getSaveFileName"):
            self._monkeypatch.setattr(QFileDialog, dialog, lambda *_, **__: (str(path), ""))
