"""A drop-down of layers that follows the viewer and holds layers, not names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QSizePolicy, QStyle, QStyleOptionComboBox, QStylePainter, QWidget

from napari_ensir.viewer.layers import LayerWatcher

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari
    from napari.layers import Layer

__all__ = ["LayerCombo"]


class LayerCombo(QComboBox):
    """One layer out of those that a rule admits.

    Parameters
    ----------
    viewer
        Whose layers to offer.
    admits
        Says of a layer whether it is offered.
    nothing
        Text of the entry that stands for no layer.
    """

    changed = Signal()

    def __init__(
        self,
        viewer: napari.Viewer,
        admits: Callable[[Layer], bool],
        nothing: str = "choose a layer",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._admits, self._nothing = viewer, admits, nothing
        self._offered: list[Layer] = []
        # Long layer names must not widen the dock.
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.view().setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self._watcher = LayerWatcher(viewer, self._refresh)
        self.destroyed.connect(self._watcher.stop)
        self.activated.connect(lambda _: self.changed.emit())
        self._refresh()

    def layer(self) -> Layer | None:
        """The chosen layer."""
        place = self.currentIndex() - 1
        return self._offered[place] if 0 <= place < len(self._offered) else None

    def choose(self, layer: Layer | None) -> None:
        """Choose a layer, or none."""
        before = self.layer()
        self.setCurrentIndex(self._offered.index(layer) + 1 if layer in self._offered else 0)
        if self.layer() is not before:
            self.changed.emit()

    def shown_text(self) -> str:
        """The entry chosen, shortened in the middle: names often differ at the end."""
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        part = QStyle.SubControl.SC_ComboBoxEditField
        room = self.style().subControlRect(QStyle.ComplexControl.CC_ComboBox, option, part, self).width()
        return self.fontMetrics().elidedText(self.currentText(), Qt.TextElideMode.ElideMiddle, room - 4)

    def paintEvent(self, event: object) -> None:
        """Paint the shortened text."""
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        option.currentText = self.shown_text()
        painter = QStylePainter(self)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def _refresh(self) -> None:
        before = self.layer()
        self._offered = [layer for layer in self._viewer.layers if self._admits(layer)]
        self.blockSignals(True)
        self.clear()
        self.addItem(self._nothing)
        for layer in self._offered:
            self.addItem(layer.name)
            self.setItemData(self.count() - 1, layer.name, Qt.ItemDataRole.ToolTipRole)
        self.setCurrentIndex(self._offered.index(before) + 1 if before in self._offered else 0)
        self.blockSignals(False)
        if self.layer() is not before:
            self.changed.emit()
