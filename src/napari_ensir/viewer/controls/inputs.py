"""Value widgets that magicgui lacks, and the controls of settings."""

from __future__ import annotations

from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.types import Undefined
from magicgui.widgets import (
    CheckBox,
    FileEdit,
    FloatSpinBox,
    Label,
    LineEdit,
    RangeSlider,
    SpinBox,
    TupleEdit,
)
from magicgui.widgets.bases import ValuedContainerWidget
from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QSizePolicy

from napari_ensir.settings import settings_of
from napari_ensir.viewer.controls.combo import Choice, EditableChoice
from napari_ensir.viewer.controls.forms import EventFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from magicgui.widgets import PushButton
    from magicgui.widgets.bases import BaseValueWidget
    from qtpy.QtWidgets import QWidget

    from napari_ensir.settings import Setting

LARGEST = 1e12
"""Limit of number boxes of settings without a limit."""

NUMBER_WIDTH = 104
"""Width of number boxes in pixels, including their buttons."""

PADDING = 20
"""Part of that width that napari's style sheet leaves empty."""

BY_HAND = "by hand"
"""Entry of :class:`OptionalValue` for a value that the user enters."""


class Number(FloatSpinBox):
    """Number box with as many decimals as its value needs.

    Parameters
    ----------
    value, min, max, step
        See magicgui; the default limits are wide.
    """

    def __init__(
        self,
        value: Any = Undefined,
        min: float | None = None,  # noqa: A002 - names of magicgui
        max: float | None = None,  # noqa: A002
        step: float | None = None,
        **kwargs: Any,
    ) -> None:
        self._min_decimals = self._step_decimals = 0 if step is None else _decimals(step)
        super().__init__(
            min=-LARGEST if min is None else min, max=LARGEST if max is None else max, step=step, **kwargs
        )
        # Otherwise the text of the largest value would determine the width.
        self.native.setMinimumWidth(NUMBER_WIDTH)
        self.native.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        # Otherwise each typed digit would be a change of the value.
        self.native.setKeyboardTracking(False)
        if step is None:
            self.suit(1.0)
        if value is not Undefined:
            self.value = value

    def suit(self, span: float) -> None:
        """Allow enough decimals for a thousandth of this span."""
        if span > 0:
            self._min_decimals = max(self._step_decimals, min(15, 3 - floor(log10(span))))
            self._set_decimals(self.value)

    def set_value(self, value: Any) -> None:
        """See magicgui."""
        self._set_decimals(float(value))
        super().set_value(float(value))

    def _set_decimals(self, value: float) -> None:
        self.native.setDecimals(max(self._min_decimals, _decimals(value)))


def _decimals(value: float) -> int:
    """Number of decimals of nine significant digits."""
    shown = f"{abs(value):.9g}"
    mantissa, _, exponent = shown.partition("e")
    return max(0, min(15, len(mantissa.partition(".")[2]) - int(exponent or 0)))


class Numbers(LineEdit):
    """Numbers separated by commas; other text is returned as it is, so that the setting reports it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.native.editingFinished.connect(lambda: self.changed.emit(self.get_value()))

    def get_value(self) -> Any:
        """Return a tuple of numbers, or the text."""
        text = super().get_value()
        try:
            return tuple(float(part) for part in text.replace(",", " ").split())
        except ValueError:
            return text

    def set_value(self, value: Any) -> None:
        """See magicgui."""
        super().set_value(value if isinstance(value, str) else ", ".join(f"{one:.9g}" for one in value))

    def _on_value_change(self, value: Any = None) -> None:
        if not self.native.hasFocus():  # the user is typing
            self.changed.emit(self.get_value())


class NumberRange(TupleEdit):
    """Pair of numbers, the lower first."""

    def __init__(self, value: Any = Undefined, **kwargs: Any) -> None:
        value = (0.0, 1.0) if value is Undefined else value
        super().__init__(value=value, options={"widget_type": Number}, **kwargs)
        self[0].label, self[1].label = "Lowest", "Highest"

    def set_value(self, value: Any) -> None:
        """See magicgui."""
        if tuple(value) != self.get_value():
            super().set_value(tuple(map(float, value)))

    def suit(self, span: float) -> None:
        """See :meth:`Number.suit`."""
        for part in self:
            part.suit(span)


class IndexRange(RangeSlider):
    """First and last index along an axis; a script may set values above the maximum, which is raised."""

    def __init__(self, value: Any = (0, 1), **kwargs: Any) -> None:
        super().__init__(value=value, min=0, max=max(1, value[1]), **kwargs)
        # The handles have labels; labels at the ends do not fit.
        self.native.setEdgeLabelMode(type(self.native).EdgeLabelMode.NoLabel)

    def get_value(self) -> Any:
        """Return two integers."""
        first, last = super().get_value()
        return int(first), int(last)

    def set_value(self, value: Any) -> None:
        """See magicgui."""
        self.max = max(self.max, value[1])
        super().set_value(tuple(value))

    def _on_value_change(self, value: Any = None) -> None:
        self.changed.emit(self.get_value())


class OptionalValue(ValuedContainerWidget):
    """Value that may be None or "auto".

    A combo box, and a control for the value, which is shown if the user chooses "by hand".

    Parameters
    ----------
    inner
        Control of the value.
    words
        None, "auto" or both -> title and tooltip.
    value
        A word or a value.
    by_hand
        Title and tooltip of the entry for a value of one's own.
    """

    def __init__(
        self,
        inner: BaseValueWidget,
        words: Mapping[Any, tuple[str, str]],
        value: Any = None,
        by_hand: tuple[str, str] = (BY_HAND, "Enter a value."),
        **kwargs: Any,
    ) -> None:
        self.inner, self._entries = inner, {**words, BY_HAND: by_hand}
        self._word = Choice(self._entries, name="word", label="which")
        kwargs.setdefault("layout", "horizontal")
        super().__init__(widgets=[self._word, inner], labels=False, **kwargs)
        self.margins = (0, 0, 0, 0)
        self.native.layout().setSpacing(4)
        if isinstance(inner, Number | SpinBox):
            inner.native.setMaximumWidth(NUMBER_WIDTH)  # leaves space for the combo box
            # napari's style sheet overrides the minimum width of the widget.
            inner.native.setStyleSheet(f"QAbstractSpinBox {{ min-width: {NUMBER_WIDTH - PADDING}px; }}")
        self.value = value
        self._show_inner()
        self._word.changed.connect(self._part_changed)
        inner.changed.connect(self._part_changed)

    def get_value(self) -> Any:
        """See magicgui."""
        word = self._word.value
        return self.inner.value if word == BY_HAND else word

    def set_value(self, value: Any) -> None:
        """See magicgui."""
        before = self.get_value()
        is_word = (value is None or isinstance(value, str)) and value in self._entries
        with self._word.changed.blocked(), self.inner.changed.blocked():
            if not is_word:
                self.inner.value = value
            self._word.value = value if is_word else BY_HAND
        self._show_inner()
        if self.get_value() != before:
            self.changed.emit(self.get_value())

    def show_value_in_use(self, value: float) -> None:
        """Show the number that None or "auto" resulted in, without changing the value of this control."""
        entries, word = dict(self._entries), self._word.value
        if word != BY_HAND:
            with self.inner.changed.blocked():
                self.inner.value = value
            title, tooltip = entries[word]
            entries[word] = (f"{value:.6g}: {title}", tooltip)
        self._word.offer(entries)

    def _part_changed(self, _: object) -> None:
        self._show_inner()
        self.changed.emit(self.get_value())

    def _show_inner(self) -> None:
        self.inner.native.setVisible(self._word.value == BY_HAND)


class WithButton(ValuedContainerWidget):
    """Control with a button; its value is that of the control."""

    def __init__(self, inner: BaseValueWidget, beside: PushButton, **kwargs: Any) -> None:
        self.inner, self.button = inner, beside
        kwargs.setdefault("name", inner.name)
        kwargs.setdefault("label", inner.label)
        kwargs.setdefault("tooltip", inner.tooltip)
        super().__init__(widgets=[inner, beside], layout="horizontal", labels=False, **kwargs)
        self.margins = (0, 0, 0, 0)
        self.native.layout().setSpacing(4)
        beside.native.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        inner.changed.connect(self.changed.emit)

    def get_value(self) -> Any:
        """See magicgui."""
        return self.inner.value

    def set_value(self, value: Any) -> None:
        """See magicgui."""
        self.inner.value = value


def path_control(name: str, label: str, tooltip: str, mode: Any = "d", **kwargs: Any) -> FileEdit:
    """Return a control for a path, or None; by default for a folder."""
    control = FileEdit(mode=mode, nullable=True, name=name, label=label, tooltip=tooltip, **kwargs)
    control.choose_btn.text = "Choose…"
    control.margins = (0, 0, 0, 0)
    accept_drops(control.line_edit.native, lambda path: setattr(control, "value", path))
    return control


def accept_drops(widget: QWidget, take: Callable[[Path], object]) -> None:
    """Call a function with the path of each file or folder that is dropped on a widget."""

    def handle(_: Any, event: QEvent) -> bool:
        if event.type() not in (QEvent.Type.DragEnter, QEvent.Type.Drop):
            return False
        paths = [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
        if paths:
            event.acceptProposedAction()
        if event.type() == QEvent.Type.Drop:
            for path in paths:
                take(path)
        return bool(paths)

    widget.setAcceptDrops(True)
    EventFilter(widget, handle)


class Message(Label):
    """Text that wraps and can be copied; hidden if empty."""

    def __init__(self, value: str = "", **kwargs: Any) -> None:
        super().__init__(value=value, **kwargs)
        self.native.setWordWrap(True)
        self.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.native.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.native.setTextFormat(Qt.TextFormat.PlainText)
        if not value:
            self.native.setVisible(False)

    def set_value(self, value: Any) -> None:
        """See magicgui."""
        super().set_value(value)
        # Without a parent it would open as a window.
        if self.native.parent() is not None:
            self.native.setVisible(bool(value))


def create_control(setting: Setting, value: Any = Undefined, **kwargs: Any) -> BaseValueWidget:
    """Create the control of a setting, with its name, title and description.

    Parameters
    ----------
    setting : napari_ensir.settings.Setting
    value
        Default: the default of the setting.
    **kwargs
        Further keywords of the control, such as ``visible``.
    """
    value = setting.default if value is Undefined else value
    common = {"name": setting.name, "label": setting.title, "tooltip": setting.description, **kwargs}
    if setting.others:
        return EditableChoice(setting.choices or (), value=value, **common)
    if setting.kind == "choice":
        default = {} if setting.none is None else {None: (f"default: {setting.none}", setting.description)}
        return Choice({**default, **(setting.choices or {})}, value=value, **common)
    texts = {None: setting.none, setting.word: setting.auto}
    words = {word: (text.partition(",")[0], text) for word, text in texts.items() if text is not None}
    if not words:
        return _value_control(setting, value, common)
    inner = _value_control(setting, Undefined, {"name": "own_value", "label": setting.title})
    if setting.kind in ("range", "places", "numbers"):
        common["layout"] = "vertical"
    return OptionalValue(inner, words, value=value, **common)


def create_controls(owner: Any, *names: str, **values: Any) -> list[BaseValueWidget]:
    """Create the controls of the settings of a class: of those named, or of all.

    Parameters
    ----------
    owner
        A class of :mod:`napari_ensir.settings`.
    *names
    **values
        Values by name; default: those of the settings.
    """
    declared = {each.name: each for each in settings_of(owner)}
    return [create_control(declared[name], values.get(name, Undefined)) for name in names or declared]


def _value_control(setting: Setting, value: Any, common: Mapping[str, Any]) -> BaseValueWidget:
    low, high, step = setting.minimum, setting.maximum, setting.step
    if setting.kind == "flag":
        without_label = {key: given for key, given in common.items() if key != "label"}
        return CheckBox(value=False if value is Undefined else value, text=setting.title, **without_label)
    if setting.kind == "integer":
        low, high = (-(10**9) if low is None else int(low)), (10**9 if high is None else int(high))
        step = None if step is None else int(step)
        whole = SpinBox(value=value, min=low, max=high, step=step, **common)
        whole.native.setMinimumWidth(NUMBER_WIDTH)
        whole.native.setKeyboardTracking(False)
        return whole
    if setting.kind == "number":
        return Number(value, low, high, step, **common)
    if setting.kind == "places":
        return IndexRange((0, 1) if value is Undefined else value, **common)
    kinds = {"range": NumberRange, "numbers": Numbers}
    return kinds.get(setting.kind, LineEdit)(value=value, **common)
