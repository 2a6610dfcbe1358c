"""Collapsible section of a form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.widgets import Container
from qtpy.QtGui import QIcon
from superqt import QCollapsible

if TYPE_CHECKING:
    from magicgui.widgets.bases import Widget

_UNLIMITED = 2**24 - 1
"""Qt's largest height of a widget."""


class Section(Container):
    """Widgets below a heading, which shows and hides them; hidden at first.

    Parameters
    ----------
    title : str
    *widgets
        In order.
    **kwargs
        As for magicgui's container.
    """

    def __init__(self, title: str, *widgets: Widget, **kwargs: Any) -> None:
        super().__init__(widgets=widgets, layout="vertical", labels=False, **kwargs)
        self.margins = (0, 0, 0, 0)
        # superqt draws its own arrows in a colour that cannot be seen in napari's dark theme.
        self._frame, self._title = QCollapsible(title, None, QIcon(), QIcon()), title
        heading = self._frame.toggleButton()
        heading.setAccessibleName(title)
        heading.setToolTip("Show or hide these settings.")
        self._frame.setDuration(0)
        self._frame.layout().setContentsMargins(0, 0, 0, 0)
        layout = self._frame.content().layout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        for widget in widgets:
            layout.addWidget(widget.native)
        self.native.layout().addWidget(self._frame)
        self._frame.toggled.connect(self._follow)
        self._follow(False)

    @property
    def is_open(self) -> bool:
        """Whether the widgets are shown."""
        return bool(self._frame.isExpanded())

    def open(self) -> None:
        """Show the widgets."""
        self._frame.expand(animate=False)

    def _follow(self, is_open: bool) -> None:
        self._frame.setText(f"{'▾' if is_open else '▸'} {self._title}")
        content = self._frame.content()
        content.setMaximumHeight(_UNLIMITED if is_open else 0)  # it may grow while it is open
        content.setVisible(is_open)
