"""Base class of the panels that make or use a lookup table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.controls.dialogs import ask_where_to_save
from napari_ensir.viewer.controls.forms import button
from napari_ensir.viewer.panel import Panel, shows_errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from magicgui.widgets import PushButton
    from magicgui.widgets.bases import Widget

    from napari_ensir.ensemble.lut.lut import WeightLUT

__all__ = ["TablePanel", "save_button"]


def save_button() -> PushButton:
    """Return the button that :class:`TablePanel` connects."""
    return button(
        "Save LUT…", "Write the lookup table to a file, for images without ground truth.", "save_button"
    )


class TablePanel(Panel):
    """Panel with a lookup table that can be saved, and buttons that are disabled while they cannot run.

    It contains one :func:`save_button`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._tooltips: dict[str, str] = {}
        self._revealed: tuple[Widget, ...] = ()
        super().__init__(*args, **kwargs)
        self._reveal_soon = QTimer(self.native)
        self._reveal_soon.setSingleShot(True)
        self._reveal_soon.timeout.connect(self._scroll)
        self.save_button.changed.connect(self.safely(self._ask_and_save))

    @property
    def lut(self) -> WeightLUT | None:
        """The lookup table that was made or chosen."""
        raise NotImplementedError

    def obstacles(self) -> Mapping[str, str]:
        """Return for each button what is missing before it can run, as a sentence; empty if nothing is."""
        return {"save_button": "" if self.lut is not None else "There is no lookup table yet."}

    def update_run_button(self) -> None:
        """Enable the buttons that can run; the tooltips of the others say what is missing."""
        super().update_run_button()
        busy = self.task is not None and not self._is_quiet
        for name, missing in self.obstacles().items():
            control = self[name]
            tooltip = self._tooltips.setdefault(name, control.tooltip)
            reason = missing or ("Wait until the work is done, or cancel it." if busy else "")
            control.tooltip = reason or tooltip
            control.enabled = not reason

    def reveal(self, *widgets: Widget) -> None:
        """Scroll until these widgets are in view; if they do not all fit, the first one is."""
        self._revealed = widgets
        self._reveal_soon.start(50)  # once the new texts are laid out

    def _scroll(self) -> None:
        for widget in reversed(self._revealed):
            self.native.ensureWidgetVisible(widget.native, 0, 0)

    @shows_errors
    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the lookup table to a file, and show the outcome under the buttons.

        Parameters
        ----------
        path : str or Path
        overwrite : bool
            Replace an existing file.
        """
        missing = self.obstacles()["save_button"]
        if self.lut is None or missing:
            raise EnsembleError(missing)
        self.say(f"Saved {self.lut.save(path, overwrite=overwrite).name}.")

    def _ask_and_save(self) -> None:
        path = ask_where_to_save(
            self.native, "Save the lookup table", "ensemble", "Lookup table", ".lut.safetensors"
        )
        if path is not None:
            self.save(path, overwrite=True)  # the dialog has asked
