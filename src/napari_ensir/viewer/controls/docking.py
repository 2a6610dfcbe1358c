"""How panels share one side of the window: one under another while there is room, else as tabs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDockWidget, QMainWindow

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

__all__ = ["LEAST_HEIGHT", "find_room", "mark"]

LEAST_HEIGHT = 400
"""Pixels of the window for a panel to be worked with: a laptop's screen has room for one."""

_MARK = "napari-ensir panel"


def mark(panel: QWidget) -> None:
    """Tell a panel's widget from those of others."""
    panel.setProperty(_MARK, True)


def find_room(panel: QWidget) -> None:
    """Give a panel just docked its share of the side, or put it as a tab over the last of ours.

    napari gives it whatever the others leave: 120 pixels, of a laptop's screen as of any. Nothing is moved
    where no other panel of ours is seen on that side.

    Parameters
    ----------
    panel
        What was docked, marked by :func:`mark`.
    """
    dock, window = panel.parent(), panel.window()
    if not isinstance(dock, QDockWidget) or not isinstance(window, QMainWindow):
        return  # closed or afloat
    side = window.dockWidgetArea(dock)
    if side not in (Qt.DockWidgetArea.LeftDockWidgetArea, Qt.DockWidgetArea.RightDockWidgetArea):
        return
    if window.tabifiedDockWidgets(dock):
        return  # somebody has put it there
    # What lies behind a tab has no visible part, and takes no room.
    seen = [
        each
        for each in window.findChildren(QDockWidget)
        if each is not dock
        and not each.isFloating()  # it keeps the side that it came from
        and window.dockWidgetArea(each) == side
        and not each.visibleRegion().isEmpty()
    ]
    ours = [each for each in seen if each.widget() is not None and each.widget().property(_MARK)]
    if not ours:
        return
    rows, sized = len(seen) + 1, [*seen, dock]
    if window.height() // rows < LEAST_HEIGHT:
        rows, sized = len(seen), ours  # which were squeezed as it came
        window.tabifyDockWidget(ours[-1], dock)
        dock.show()
        dock.raise_()
    share = window.height() // rows  # their own heights may not be settled yet
    window.resizeDocks(sized, [share] * len(sized), Qt.Orientation.Vertical)
