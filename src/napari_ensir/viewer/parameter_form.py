"""Controls for a restorer's settings, built from its dataclass fields. Runs no restorer."""

from __future__ import annotations

from dataclasses import Field, replace
from typing import TYPE_CHECKING, Any, cast

from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QLineEdit, QSpinBox, QWidget

from napari_ensir.restorers.base import parameters

if TYPE_CHECKING:
    from napari_ensir.restorers.base import Restorer

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
        for field in parameters(restorer):
            control = _control(field, getattr(restorer, field.name))
            control.setToolTip(field.metadata["description"])
            control.setAccessibleName(field.metadata["title"])
            self._controls[field.name] = control
            form.addRow(field.metadata["title"], control)

    def restorer(self) -> Restorer:
        """The restorer with the settings shown."""
        settings = {name: _value(control) for name, control in self._controls.items()}
        # One without settings need not be a dataclass.
        return replace(cast("Any", self._base), **settings) if settings else self._base


def _control(field: Field[Any], value: Any) -> QWidget:
    limits = field.metadata
    # As written: a restorer's other annotations may name what exists for type checkers alone.
    written = field.type.__name__ if isinstance(field.type, type) else str(field.type)
    kinds = {kind.strip() for kind in written.split("|")}
    optional = "None" in kinds
    if "choices" in limits:
        combo = QComboBox()
        for choice in dict.fromkeys([*limits["choices"], value]):
            combo.addItem(str(choice), choice)
        combo.setCurrentIndex(combo.findData(value))
        return combo
    if "bool" in kinds:
        box = QCheckBox()
        box.setChecked(bool(value))
        return box
    if "int" in kinds and "float" not in kinds:
        whole = QSpinBox()
        _bound(whole, limits, optional, value)
        return whole
    if "float" in kinds:
        real = QDoubleSpinBox()
        step = limits.get("step", 0.1)
        real.setDecimals(max(2, len(f"{step:g}".partition(".")[2]) + 1))
        _bound(real, limits, optional, value)
        return real
    return QLineEdit("" if value is None else str(value))


def _bound(box: Any, limits: Any, optional: bool, value: Any) -> None:
    box.setRange(limits.get("minimum", 0), limits.get("maximum", 10**9))
    box.setSingleStep(limits.get("step", 1))
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
