"""Arrangement of docked panels: below each other if there is enough space, else as tabs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDockWidget, QMainWindow

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

LEAST_HEIGHT = 400
"""Minimum height of a panel in pixels; the screen of a laptop has space for one."""

_MARK = "napari-ensir panel"


def mark_panel(panel: QWidget) -> None:
    """Mark a widget as a panel of this package."""
    panel.setProperty(_MARK, True)


def arrange_dock(panel: QWidget) -> None:
    """Resize the docks of a side after a panel was docked, or tabify the panel if there is too little space.

    napari gives a new dock only the height that the others leave. Without other panels of this package on
    that side nothing is changed.

    Parameters
    ----------
    panel
        Widget that was docked and marked by :func:`mark_panel`.
    """
    dock, window = panel.parent(), panel.window()
    if not isinstance(dock, QDockWidget) or not isinstance(window, QMainWindow):
        return  # closed or floating
    side = window.dockWidgetArea(dock)
    if side not in (Qt.DockWidgetArea.LeftDockWidgetArea, Qt.DockWidgetArea.RightDockWidgetArea):
        return
    if window.tabifiedDockWidgets(dock):
        return  # already a tab
    # Docks behind a tab have an empty visible region.
    visible = [
        each
        for each in window.findChildren(QDockWidget)
        if each is not dock
        and not each.isFloating()  # it still has the area that it came from
        and window.dockWidgetArea(each) == side
        and not each.visibleRegion().isEmpty()
    ]
    panels = [each for each in visible if each.widget() is not None and each.widget().property(_MARK)]
    if not panels:
        return
    rows, resized = len(visible) + 1, [*visible, dock]
    if window.height() // rows < LEAST_HEIGHT:
        rows, resized = len(visible), panels  # they shrank when it was docked
        window.tabifyDockWidget(panels[-1], dock)
        dock.show()
        dock.raise_()
    share = window.height() // rows  # the docks may not have their final heights yet
    window.resizeDocks(resized, [share] * len(resized), Qt.Orientation.Vertical)
