"""Controls put together: forms, rows, buttons, and how every control behaves. Knows none of their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.widgets import Container, PushButton
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLineEdit,
    QWidget,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from magicgui.widgets.bases import Widget

__all__ = ["EventFilter", "Form", "button", "dress", "row"]

_WHEELED = (QComboBox, QAbstractSpinBox, QAbstractSlider)
_NAMED = (QAbstractButton, QAbstractSpinBox, QAbstractSlider, QComboBox, QLineEdit)


class EventFilter(QObject):
    """Sees a widget's events before the widget does; lives as long as the widget.

    Parameters
    ----------
    watched
        A Qt object.
    handle
        Called with the object and the event; True keeps the event from the object.
    """

    def __init__(self, watched: QObject, handle: Callable[[Any, Any], bool | None]) -> None:
        super().__init__(watched)
        self._handle = handle
        watched.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """See Qt."""
        return bool(self._handle(watched, event))


def _quiet_wheel(watched: QWidget, event: QEvent) -> bool:
    """Let the wheel scroll the panel, and not change a control that happens to lie under the pointer."""
    if event.type() != QEvent.Type.Wheel or watched.hasFocus():
        return False
    event.ignore()  # so that it goes on to the scroll area
    return True


def dress(widget: Widget, name: str = "") -> None:
    """Give a control, and all that it is made of, an accessible name, and a wheel that needs the focus.

    Parameters
    ----------
    widget
        Any magicgui widget; may be dressed more than once.
    name
        What to call it; its text or its label where empty.
    """
    if isinstance(widget, Container):
        for part in widget:
            dress(part)
        return
    name = name or getattr(widget, "text", "") or widget.label
    native: QWidget = widget.native
    native.setAccessibleName(name)
    for child in [native, *native.findChildren(QWidget)]:
        if isinstance(child, _NAMED) and not child.accessibleName():
            child.setAccessibleName(name)
        if isinstance(child, _WHEELED) and child.focusPolicy() != Qt.FocusPolicy.StrongFocus:
            child.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            EventFilter(child, _quiet_wheel)


def button(text: str, tooltip: str, name: str, **kwargs: Any) -> PushButton:
    """A button; it has no value to keep."""
    return PushButton(text=text, tooltip=tooltip, name=name, gui_only=True, **kwargs)


def row(*widgets: Widget, **kwargs: Any) -> Container:
    """Widgets side by side, without labels."""
    box = Container(widgets=widgets, layout="horizontal", labels=False, **kwargs)
    box.margins = (0, 0, 0, 0)
    box.native.layout().setSpacing(6)
    dress(box)
    return box


class Form(Container):
    """Controls one under another, their labels of one width.

    Parameters
    ----------
    *widgets
        In order.
    **kwargs
        As for magicgui's container.
    """

    _TIMES = (QEvent.Type.Show, QEvent.Type.StyleChange, QEvent.Type.FontChange)

    def __init__(self, *widgets: Widget, **kwargs: Any) -> None:
        super().__init__(labels=True, **kwargs)
        self.margins = (0, 0, 0, 0)
        self.native.layout().setSpacing(3)
        self._soon = QTimer(self.native)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self._align)
        EventFilter(self.native, self._seen)
        self.extend(widgets)

    def insert(self, key: int, widget: Widget) -> None:
        """See magicgui."""
        super().insert(key, widget)
        dress(widget)
        self._soon.start(0)

    def refill(self, *widgets: Widget) -> None:
        """Put these controls where others were, which are gone for good."""
        gone = [each.native.parentWidget() or each.native for each in self]
        self.clear()
        for each in gone:
            if each is not self.native:
                each.setParent(
                    self.native
                )  # magicgui has taken it out: without a parent it would be a window
                each.hide()
                each.deleteLater()
        self.extend(widgets)

    def _seen(self, _: object, event: QEvent) -> None:
        if event.type() in self._TIMES:
            self._soon.start(0)

    def _align(self) -> None:
        """Give all labels the width of the widest: magicgui measures them in another font than is drawn."""
        layout = self.native.layout()
        rows = [layout.itemAt(place).widget() for place in range(layout.count())]
        inner = {id(each.native) for each in self}
        labels = [each.layout().itemAt(0).widget() for each in rows if id(each) not in inner]
        widest = max((label.sizeHint().width() for label in labels), default=0)
        for label in labels:
            label.setMinimumWidth(widest)
