"""Forms, rows and buttons of magicgui controls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.widgets import Container, PushButton
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLineEdit,
    QWidget,
)

from napari_ensir.viewer.controls.worker import delayed

if TYPE_CHECKING:
    from collections.abc import Callable

    from magicgui.widgets.bases import Widget


_WHEELED = (QComboBox, QAbstractSpinBox, QAbstractSlider)
_NAMED = (QAbstractButton, QAbstractSpinBox, QAbstractSlider, QComboBox, QLineEdit)


class EventFilter(QObject):
    """Event filter that calls a function; it is deleted with the object that it watches.

    Parameters
    ----------
    watched
    handle
        Called with the object and the event; True stops the event.
    """

    # Without a value on the class, events that garbage collection causes would find no attribute.
    _handle: Callable[[Any, Any], bool | None] | None = None

    def __init__(self, watched: QObject, handle: Callable[[Any, Any], bool | None]) -> None:
        super().__init__(watched)
        self._handle = handle
        watched.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """See Qt."""
        return self._handle is not None and bool(self._handle(watched, event))


def _ignore_wheel(watched: QWidget, event: QEvent) -> bool:
    """Let the wheel scroll the panel instead of changing a control without focus."""
    if event.type() != QEvent.Type.Wheel or watched.hasFocus():
        return False
    event.ignore()  # passes it on to the scroll area
    return True


def set_accessible_names(widget: Widget, name: str = "") -> None:
    """Set the accessible name of a control and its parts, and let them ignore the wheel without focus.

    Parameters
    ----------
    widget
        Any magicgui widget; calling this again has no effect.
    name
        Default: the text or label of the widget.
    """
    if isinstance(widget, Container):
        for part in widget:
            set_accessible_names(part)
        return
    name = name or getattr(widget, "text", "") or widget.label
    native: QWidget = widget.native
    native.setAccessibleName(name)
    for child in [native, *native.findChildren(QWidget)]:
        if isinstance(child, _NAMED) and not child.accessibleName():
            child.setAccessibleName(name)
        if isinstance(child, _WHEELED) and child.focusPolicy() != Qt.FocusPolicy.StrongFocus:
            child.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            EventFilter(child, _ignore_wheel)


def button(text: str, tooltip: str, name: str, **kwargs: Any) -> PushButton:
    """Create a button, which is not a value of its panel."""
    return PushButton(text=text, tooltip=tooltip, name=name, gui_only=True, **kwargs)


def row(*widgets: Widget, **kwargs: Any) -> Container:
    """Create a row of widgets without labels."""
    box = Container(widgets=widgets, layout="horizontal", labels=False, **kwargs)
    box.margins = (0, 0, 0, 0)
    box.native.layout().setSpacing(6)
    set_accessible_names(box)
    return box


class Form(Container):
    """Controls below each other, with labels of equal width.

    Parameters
    ----------
    *widgets
    **kwargs
        Passed to magicgui's container.
    """

    _RESIZING = (QEvent.Type.Show, QEvent.Type.StyleChange, QEvent.Type.FontChange)

    def __init__(self, *widgets: Widget, **kwargs: Any) -> None:
        super().__init__(labels=True, **kwargs)
        self.margins = (0, 0, 0, 0)
        self.native.layout().setSpacing(3)
        self._align_timer = delayed(self.native, self._align)
        EventFilter(self.native, self._watch_size)
        self.extend(widgets)

    def insert(self, key: int, widget: Widget) -> None:
        """See magicgui."""
        super().insert(key, widget)
        set_accessible_names(widget)
        self._align_timer.start()

    def refill(self, *widgets: Widget) -> None:
        """Replace all controls and delete the old ones."""
        gone = [each.native.parentWidget() or each.native for each in self]
        self.clear()
        for each in gone:
            if each is not self.native:
                each.setParent(self.native)  # magicgui has removed it; without a parent it would be a window
                each.hide()
                each.deleteLater()
        self.extend(widgets)

    def _watch_size(self, _: object, event: QEvent) -> None:
        if event.type() in self._RESIZING:
            self._align_timer.start()

    def _align(self) -> None:
        """Give all labels the width of the widest, since magicgui measures them in another font."""
        layout = self.native.layout()
        rows = [layout.itemAt(row).widget() for row in range(layout.count())]
        inner = {id(each.native) for each in self}
        labels = [each.layout().itemAt(0).widget() for each in rows if id(each) not in inner]
        widest = max((label.sizeHint().width() for label in labels), default=0)
        for label in labels:
            label.setMinimumWidth(widest)
