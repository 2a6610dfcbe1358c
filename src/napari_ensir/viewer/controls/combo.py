"""Combo boxes with tooltips, and with editable text."""

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


class Choice(ComboBox):
    """Combo box whose value is the key of an entry, which may be None; each entry has a tooltip.

    Parameters
    ----------
    entries
        Key -> title and tooltip.
    value
        Key that is chosen at first; default: the first.
    elide
        Where titles are elided if the box is too narrow for them.
    """

    def __init__(
        self,
        entries: Mapping[Any, tuple[str, str]],
        value: Any = Undefined,
        elide: Qt.TextElideMode = Qt.TextElideMode.ElideRight,
        **kwargs: Any,
    ) -> None:
        self._elide = elide
        super().__init__(choices=[], **kwargs)
        make_narrow(self.native, elide)
        if entries:
            self.offer(entries)
        if value is not Undefined:
            self.value = value

    @property
    def value(self) -> Any:
        """The chosen key; None if there are no entries."""
        return self.get_value()

    @value.setter
    def value(self, value: Any) -> None:
        if value is not None or self.choices:
            ComboBox.value.fset(self, value)

    def offer(self, entries: Mapping[Any, tuple[str, str]], value: Any = Undefined) -> None:
        """Replace the entries, and choose a key; by default the chosen one if it is among them."""
        before = self.value
        value = before if value is Undefined else value
        with self.changed.blocked():
            self.choices = ()  # otherwise magicgui would match old and new entries by their text
            self._default_choices = [(title, key) for key, (title, _) in entries.items()]
            self.choices = self._default_choices
            if value in entries:
                self.value = value
        for index, (_, tooltip) in enumerate(entries.values()):
            self.native.setItemData(index, tooltip or None, Qt.ItemDataRole.ToolTipRole)
        if self.value != before:
            self.changed.emit(self.value)

    def shown_text(self) -> str:
        """Return the title of the chosen entry as it is painted."""
        return elided_text(self.native, self._elide)

    def _on_value_change(self, value: Any = None) -> None:
        # magicgui would not emit None, which is a key here.
        self.changed.emit(value)


class EditableChoice(Choice):
    """Combo box of suggestions that accepts any other text, too."""

    def __init__(self, suggestions: Iterable[str], value: Any = Undefined, **kwargs: Any) -> None:
        self._last = ""
        super().__init__({each: (each, "") for each in suggestions}, **kwargs)
        self.native.setEditable(True)
        self.native.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self._last = self.get_value()
        self.native.lineEdit().editingFinished.connect(self._on_value_change)
        if value is not Undefined:
            self.value = value

    @property
    def value(self) -> Any:
        """The text."""
        return self.get_value()

    @value.setter
    def value(self, value: Any) -> None:
        self.native.setCurrentText(str(value))
        self._on_value_change()

    def get_value(self) -> Any:
        """See magicgui."""
        return self.native.currentText()

    def _on_value_change(self, value: Any = None) -> None:
        if self.native.isEditable() and self.get_value() != self._last:
            self._last = self.get_value()
            self.changed.emit(self._last)


def make_narrow(box: QComboBox, mode: Qt.TextElideMode = Qt.TextElideMode.ElideRight) -> None:
    """Keep long entries from widening the dock.

    Parameters
    ----------
    box
    mode
        Where the text is elided; Qt would cut it off without an ellipsis.
    """
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(4)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    box.view().setTextElideMode(mode)

    def paint(_: QObject, event: QEvent) -> bool:
        if event.type() != QEvent.Type.Paint or box.isEditable():
            return False
        option = _style_option(box)
        option.currentText = elided_text(box, mode)
        painter = QStylePainter(box)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()
        return True

    EventFilter(box, paint)


def elided_text(box: QComboBox, mode: Qt.TextElideMode) -> str:
    """Return the text of a combo box as it is painted."""
    part = QStyle.SubControl.SC_ComboBoxEditField
    field = box.style().subControlRect(QStyle.ComplexControl.CC_ComboBox, _style_option(box), part, box)
    return box.fontMetrics().elidedText(box.currentText(), mode, field.width() - 4)


def _style_option(box: QComboBox) -> QStyleOptionComboBox:
    option = QStyleOptionComboBox()
    box.initStyleOption(option)
    return option
