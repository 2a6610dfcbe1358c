"""Controls for a restorer's settings, built from its dataclass fields. Runs no restorer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QLineEdit, QSpinBox, QWidget

from napari_ensir.settings import settings_of

if TYPE_CHECKING:
    from napari_ensir.restorers.base import Restorer
    from napari_ensir.settings import Setting

__all__ = ["ParameterForm"]


class ParameterForm(QWidget):
    """One row per setting of a restorer.

    Parameters
    ----------
    restorer
        Whose settings to show; it stays as it is.
    """

    def __init__(self, restorer: Restorer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._base = restorer
        self._controls: dict[str, QWidget] = {}
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(3)
        for field in settings_of(restorer):
            control = _control(field, getattr(restorer, field.name))
            control.setToolTip(field.description)
            control.setAccessibleName(field.title)
            self._controls[field.name] = control
            form.addRow(field.title, control)

    def restorer(self) -> Restorer:
        """The restorer with the settings shown."""
        settings = {name: _value(control) for name, control in self._controls.items()}
        # One without settings need not be a dataclass.
        return replace(cast("Any", self._base), **settings) if settings else self._base


def _control(field: Setting, value: Any) -> QWidget:
    optional = field.none is not None
    if field.choices is not None:
        combo = QComboBox()
        for choice in dict.fromkeys([*field.choices, value]):
            combo.addItem(str(choice), choice)
        combo.setCurrentIndex(combo.findData(value))
        return combo
    if field.kind == "flag":
        box = QCheckBox()
        box.setChecked(bool(value))
        return box
    if field.kind == "integer":
        whole = QSpinBox()
        _bound(whole, field, optional, value)
        return whole
    if field.kind == "number":
        real = QDoubleSpinBox()
        step = field.step or 0.1
        real.setDecimals(max(2, len(f"{step:g}".partition(".")[2]) + 1))
        _bound(real, field, optional, value)
        return real
    return QLineEdit("" if value is None else str(value))


def _bound(box: Any, limits: Setting, optional: bool, value: Any) -> None:
    box.setRange(limits.minimum or 0, limits.maximum or 10**9)
    box.setSingleStep(limits.step or 1)
    if optional:
        # One step below the least value stands for None: the restorer's own estimate.
        box.setMinimum(box.minimum() - box.singleStep())
        box.setSpecialValueText("auto")
        box.setProperty("optional", True)
    box.setValue(box.minimum() if value is None else value)


def _value(control: QWidget) -> Any:
    if isinstance(control, QComboBox):
        return control.currentData()
    if isinstance(control, QCheckBox):
        return control.isChecked()
    if isinstance(control, QSpinBox | QDoubleSpinBox):
        if control.property("optional") and control.value() == control.minimum():
            return None
        return control.value()
    return control.text()
