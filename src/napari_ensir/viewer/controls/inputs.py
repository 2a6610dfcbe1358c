"""Controls that magicgui lacks, and the one way from a setting to its control. Knows no layers, runs nothing.

Each is a magicgui value widget: it has a name, a label, a tooltip and a value, so a script, the console and a
test speak to it as to any other.
"""

from __future__ import annotations

from math import floor, log10
from typing import TYPE_CHECKING, Any

from magicgui.types import Undefined
from magicgui.widgets import CheckBox, FloatSpinBox, Label, LineEdit, RangeSlider, SpinBox
from magicgui.widgets.bases import ValuedContainerWidget
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QSizePolicy

from napari_ensir.viewer.controls.combo import Choice, Suggested

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magicgui.widgets import PushButton
    from magicgui.widgets.bases import BaseValueWidget

    from napari_ensir.settings import Setting

__all__ = [
    "Between",
    "Message",
    "Number",
    "Numbers",
    "Places",
    "ValueOrWord",
    "WithButton",
    "control_of",
]

LARGEST = 1e12
"""What a number box goes up to where a setting has no limit."""

NUMBER_WIDTH = 104
"""Pixels that a number box takes, its two buttons included."""

PADDING = 20
"""Of these, what napari's style sheet keeps free at both ends of a box."""

BY_HAND = "by hand"
"""The entry beside a setting's words that stands for a value of one's own."""


class Number(FloatSpinBox):
    """A number box that shows whatever digits its value has, around 1e-5 as well as around 1e5.

    Parameters
    ----------
    value, min, max, step
        As for magicgui's; the limits are wide where none are given.
    unit
        Shown behind the number.
    """

    def __init__(
        self,
        value: Any = Undefined,
        min: float | None = None,  # noqa: A002 - magicgui's names
        max: float | None = None,  # noqa: A002
        step: float | None = None,
        unit: str = "",
        **kwargs: Any,
    ) -> None:
        self._least_digits = self._step_digits = 0 if step is None else _digits(step)
        super().__init__(
            min=-LARGEST if min is None else min, max=LARGEST if max is None else max, step=step, **kwargs
        )
        self.native.setSuffix(f" {unit}" if unit else "")
        # The text of the largest value would else make the box wider than the dock.
        self.native.setMinimumWidth(NUMBER_WIDTH)
        self.native.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        # A number is taken when it is whole: each digit typed would be a value of its own otherwise.
        self.native.setKeyboardTracking(False)
        if step is None:
            self.suit(1.0)
        if value is not Undefined:
            self.value = value

    def suit(self, span: float) -> None:
        """Let values be typed down to a thousandth of this span."""
        if span > 0:
            self._least_digits = max(self._step_digits, min(15, 3 - floor(log10(span))))
            self._take_digits(self.value)

    def set_value(self, value: Any) -> None:
        """See magicgui."""
        self._take_digits(float(value))
        super().set_value(float(value))

    def _take_digits(self, value: float) -> None:
        self.native.setDecimals(max(self._least_digits, _digits(value)))


def _digits(value: float) -> int:
    """Decimals that nine significant digits of a number take."""
    shown = f"{abs(value):.9g}"
    mantissa, _, exponent = shown.partition("e")
    return max(0, min(15, len(mantissa.partition(".")[2]) - int(exponent or 0)))


class Numbers(LineEdit):
    """Several numbers, with commas between them; what is none of that stays text, for a check to refuse."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.native.editingFinished.connect(lambda: self.changed.emit(self.get_value()))

    def get_value(self) -> Any:
        """A tuple of numbers, or the text where it is none."""
        text = super().get_value()
        try:
            return tuple(float(part) for part in text.replace(",", " ").split())
        except ValueError:
            return text

    def set_value(self, value: Any) -> None:
        """See magicgui."""
        super().set_value(value if isinstance(value, str) else ", ".join(f"{one:.9g}" for one in value))

    def _on_value_change(self, value: Any = None) -> None:
        if not self.native.hasFocus():  # while it is typed, it is not yet what is meant
            self.changed.emit(self.get_value())


class Between(ValuedContainerWidget):
    """Two numbers, the lower first; the value is the pair of them."""

    def __init__(self, value: Any = Undefined, **kwargs: Any) -> None:
        self.low = Number(0.0, name="low", label="Lowest")
        self.high = Number(1.0, name="high", label="Highest")
        kwargs.update(widgets=[self.low, self.high], layout="horizontal", labels=False)
        super().__init__(value, **kwargs)
        self.margins = (0, 0, 0, 0)
        for part in (self.low, self.high):
            part.changed.connect(self._tell)

    def get_value(self) -> Any:
        """See magicgui."""
        return self.low.value, self.high.value

    def set_value(self, value: Any) -> None:
        """See magicgui."""
        low, high = value
        before = self.get_value()
        with self.low.changed.blocked(), self.high.changed.blocked():
            self.low.value, self.high.value = low, high
        if self.get_value() != before:
            self._tell()

    def suit(self, span: float) -> None:
        """See Number."""
        self.low.suit(span)
        self.high.suit(span)

    def _tell(self) -> None:
        self.changed.emit(self.get_value())


class Places(RangeSlider):
    """First and last place along an axis; set by a script, it reaches as far as is set."""

    def __init__(self, value: Any = (0, 1), **kwargs: Any) -> None:
        super().__init__(value=value, min=0, max=max(1, value[1]), **kwargs)
        # The handles say where they stand; labels at the ends as well do not fit.
        self.native.setEdgeLabelMode(type(self.native).EdgeLabelMode.NoLabel)

    def get_value(self) -> Any:
        """Two whole numbers."""
        first, last = super().get_value()
        return int(first), int(last)

    def set_value(self, value: Any) -> None:
        """See magicgui."""
        self.max = max(self.max, value[1])
        super().set_value(tuple(value))

    def _on_value_change(self, value: Any = None) -> None:
        self.changed.emit(self.get_value())


class ValueOrWord(ValuedContainerWidget):
    """A value, or a word that stands for one: None ("an eighth of the range") or "auto".

    A drop-down of the words, with the value's own control beside it once the value is one's own, or once
    :meth:`show_in_use` told what the word came to. Changing that control makes the value one's own.

    Parameters
    ----------
    inner
        The value's control.
    words
        What each word is called, and a sentence: keys are None, "auto" or both.
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
        by_hand: tuple[str, str] = (BY_HAND, "A value of your own."),
        **kwargs: Any,
    ) -> None:
        self._inner, self._words = inner, tuple(words)
        entries = {**words, BY_HAND: by_hand}
        self._word = Choice(entries, name="word", label="which")
        self._in_use = False
        kwargs.setdefault("layout", "horizontal")
        super().__init__(widgets=[self._word, inner], labels=False, **kwargs)
        self.margins = (0, 0, 0, 0)
        self.native.layout().setSpacing(4)
        if isinstance(inner, Number | SpinBox):
            inner.native.setMaximumWidth(NUMBER_WIDTH)  # the words are longer
            # napari's style sheet lets it be narrower than its digits, and wins over a least width set by Qt.
            inner.native.setStyleSheet(f"QAbstractSpinBox {{ min-width: {NUMBER_WIDTH - PADDING}px; }}")
        self.value = value
        self._follow()
        self._word.changed.connect(self._word_chosen)
        inner.changed.connect(self._inner_changed)

    @property
    def inner(self) -> BaseValueWidget:
        """The value's own control."""
        return self._inner

    def get_value(self) -> Any:
        """See magicgui."""
        word = self._word.value
        return self._inner.value if word == BY_HAND else word

    def set_value(self, value: Any) -> None:
        """See magicgui."""
        before = self.get_value()
        is_word = (value is None or isinstance(value, str)) and value in self._words
        with self._word.changed.blocked(), self._inner.changed.blocked():
            if not is_word:
                self._inner.value = value
            self._word.value = value if is_word else BY_HAND
        self._in_use = self._in_use and not is_word
        self._follow()
        if self.get_value() != before:
            self.changed.emit(self.get_value())

    def show_in_use(self, value: Any) -> None:
        """Show what a word came to; neither the value nor the word chosen changes."""
        if self._word.value == BY_HAND or value is None:
            return
        with self._inner.changed.blocked():
            self._inner.value = value
        self._in_use = True
        self._follow()

    def _word_chosen(self, _: object) -> None:
        self._in_use = False
        self._follow()
        self.changed.emit(self.get_value())

    def _inner_changed(self, _: object) -> None:
        with self._word.changed.blocked():
            self._word.value = BY_HAND
        self._follow()
        self.changed.emit(self.get_value())

    def _follow(self) -> None:
        self._inner.native.setVisible(self._in_use or self._word.value == BY_HAND)


class WithButton(ValuedContainerWidget):
    """A control with a button beside it; its value is the control's."""

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


class Message(Label):
    """Words that wrap and can be copied; gone where there are none."""

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
        # Not before it has a place: it would open as a window.
        if self.native.parent() is not None:
            self.native.setVisible(bool(value))


# -- from a setting to its control --------------------------------------------------------------------


def control_of(setting: Setting, value: Any = Undefined, **kwargs: Any) -> BaseValueWidget:
    """The control of a setting: named, labelled and explained as the setting is.

    Parameters
    ----------
    setting : napari_ensir.settings.Setting
    value
        What it shows at first; the setting's default where it is not given.
    **kwargs
        Further keywords of the control, such as ``visible``.
    """
    value = setting.default if value is Undefined else value
    common = {"name": setting.name, "label": setting.title, "tooltip": setting.description, **kwargs}
    if setting.others:
        return Suggested(setting.choices or (), value=value, **common)
    if setting.kind == "choice":
        entries = dict(setting.choices or {})
        if setting.none is not None:
            entries = {None: (f"default: {setting.none}", setting.description), **entries}
        return Choice(entries, value=value, **common)
    words: dict[Any, tuple[str, str]] = {}
    if setting.none is not None:
        words[None] = (setting.none, setting.none)
    if setting.auto is not None:
        words[setting.word] = (setting.auto, setting.auto)
    if not words:
        return _plain(setting, value, common)
    inner = _plain(setting, Undefined, {"name": "own_value", "label": setting.title})
    if setting.kind in ("range", "places", "numbers"):
        common["layout"] = "vertical"
    return ValueOrWord(inner, words, value=value, **common)


def _plain(setting: Setting, value: Any, common: Mapping[str, Any]) -> BaseValueWidget:
    low, high, step = setting.minimum, setting.maximum, setting.step
    if setting.kind == "flag":
        without_label = {key: given for key, given in common.items() if key != "label"}
        return CheckBox(value=False if value is Undefined else value, text=setting.title, **without_label)
    if setting.kind == "integer":
        whole = SpinBox(
            value=value,
            min=-(10**9) if low is None else int(low),
            max=10**9 if high is None else int(high),
            step=None if step is None else int(step),
            **common,
        )
        whole.native.setMinimumWidth(NUMBER_WIDTH)
        whole.native.setKeyboardTracking(False)
        return whole
    if setting.kind == "number":
        return Number(value, low, high, step, **common)
    if setting.kind == "range":
        return Between(value, **common)
    if setting.kind == "places":
        return Places(value=(0, 1) if value is Undefined else value, **common)
    if setting.kind == "numbers":
        return Numbers(value=value, **common)
    return LineEdit(value=value, **common)
