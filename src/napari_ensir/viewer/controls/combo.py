"""Drop-downs whose values are keys, or text: what magicgui's own lacks. Knows no layers and no settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.types import Undefined
from magicgui.widgets import ComboBox
from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QComboBox, QSizePolicy, QStyle, QStyleOptionComboBox, QStylePainter

from napari_ensir.viewer.controls.forms import EventFilter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qtpy.QtCore import QObject

__all__ = ["Choice", "Suggested", "elided_text", "narrow"]


def narrow(box: QComboBox, mode: Qt.TextElideMode = Qt.TextElideMode.ElideRight) -> None:
    """Keep the widest entry of a drop-down from widening the dock.

    Parameters
    ----------
    box
        The drop-down.
    mode
        Where its text is shortened; Qt itself cuts it off without a sign.
    """
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(4)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    box.view().setTextElideMode(mode)

    def paint(_: QObject, event: QEvent) -> bool:
        if event.type() != QEvent.Type.Paint or box.isEditable():
            return False
        option = _option(box)
        option.currentText = elided_text(box, mode)
        painter = QStylePainter(box)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()
        return True

    EventFilter(box, paint)


def elided_text(box: QComboBox, mode: Qt.TextElideMode) -> str:
    """A drop-down's text as it is painted."""
    part = QStyle.SubControl.SC_ComboBoxEditField
    room = box.style().subControlRect(QStyle.ComplexControl.CC_ComboBox, _option(box), part, box).width()
    return box.fontMetrics().elidedText(box.currentText(), mode, room - 4)


def _option(box: QComboBox) -> QStyleOptionComboBox:
    option = QStyleOptionComboBox()
    box.initStyleOption(option)
    return option


class Choice(ComboBox):
    """A drop-down of titles, each with a tooltip of its own; its value is the entry's key, which may be None.

    Parameters
    ----------
    entries
        Key to title and sentence.
    value
        The key chosen at first; the first one where it is not given.
    """

    def __init__(self, entries: Mapping[Any, tuple[str, str]], value: Any = Undefined, **kwargs: Any) -> None:
        super().__init__(choices=_pairs(entries), **kwargs)
        narrow(self.native)
        self.offer(entries)
        if value is not Undefined:
            self.value = value

    @property
    def value(self) -> Any:
        """The key chosen; None where there are no entries."""
        return self.get_value()

    @value.setter
    def value(self, value: Any) -> None:
        if value is not None or self.choices:
            ComboBox.value.fset(self, value)

    def offer(self, entries: Mapping[Any, tuple[str, str]]) -> None:
        """Offer other entries; the key chosen stays if it is among them."""
        before = self.value
        with self.changed.blocked():
            self.choices = ()  # or else magicgui would match old and new entries by their text
            self._default_choices = _pairs(entries)
            self.choices = self._default_choices
            if before in entries:
                self.value = before
        for place, (_, tip) in enumerate(entries.values()):
            self.native.setItemData(place, tip or None, Qt.ItemDataRole.ToolTipRole)
        if self.value != before:
            self.changed.emit(self.value)

    def _on_value_change(self, value: Any = None) -> None:
        # The key None is a value like any other; magicgui would take it for the absence of one.
        self.changed.emit(value)


def _pairs(entries: Mapping[Any, tuple[str, str]]) -> list[tuple[str, Any]]:
    return [(title, key) for key, (title, _) in entries.items()]


class Suggested(ComboBox):
    """A line of text with suggestions: any other text may be typed as well."""

    def __init__(self, suggestions: Iterable[str], value: Any = Undefined, **kwargs: Any) -> None:
        super().__init__(choices=list(suggestions), **kwargs)
        narrow(self.native)
        self.native.setEditable(True)
        self.native.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self._last = self.get_value()
        self.native.lineEdit().editingFinished.connect(self._on_value_change)
        if value is not Undefined:
            self.value = value

    @property
    def value(self) -> Any:
        """See magicgui."""
        return self.get_value()

    @value.setter
    def value(self, value: Any) -> None:
        self.set_value(value)

    def get_value(self) -> Any:
        """See magicgui."""
        return self.native.currentText()

    def set_value(self, value: Any) -> None:
        """See magicgui."""
        self.native.setCurrentText(str(value))
        self._on_value_change()

    def _on_value_change(self, value: Any = None) -> None:
        if self.native.isEditable() and self.get_value() != self._last:
            self._last = self.get_value()
            self.changed.emit(self._last)
