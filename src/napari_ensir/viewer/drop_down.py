"""How drop-downs of ours look: no wider than the dock, their text shortened where it has to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QComboBox, QSizePolicy, QStyle, QStyleOptionComboBox, QStylePainter

from napari_ensir.viewer.forms import EventFilter

if TYPE_CHECKING:
    from qtpy.QtCore import QObject

__all__ = ["elided_text", "narrow"]


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
