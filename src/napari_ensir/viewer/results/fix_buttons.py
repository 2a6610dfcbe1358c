"""Buttons for what can be done about diagnostics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.widgets import Container
from psygnal import Signal
from qtpy.QtWidgets import QSizePolicy

from napari_ensir.viewer.controls.forms import button

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_ensir.ensemble.checks.diagnostic import Diagnostic

_N_BUTTONS = 4

_TITLES = {
    "match-intensities": "Match intensities",
    "align": "Align",
    "transform": "Flip or rotate",
    "reverse-channels": "Reverse channels",
    "crop": "Learn outside the empty region",
    "crop-to-common-size": "Crop to common size",
    "drop-axes": "Drop singleton axes",
    "drop-candidate": "Drop candidate",
    "set-noise": "Use this noise",
    "set-bin-width": "Use wider bins",
}


class FixButtons(Container):
    """One button for each diagnostic with a fix; a click emits ``chosen`` with the diagnostic.

    Parameters
    ----------
    actions
        Actions of :class:`~napari_ensir.ensemble.checks.diagnostic.Diagnostic` that are offered.
    """

    chosen = Signal(object)

    def __init__(self, actions: Iterable[str] = _TITLES, **kwargs: Any) -> None:
        self._actions = frozenset(actions)
        self._shown: list[Diagnostic] = []
        super().__init__(layout="vertical", labels=False, gui_only=True, **kwargs)
        self.margins = (0, 0, 0, 0)
        self.native.layout().setSpacing(3)
        for number in range(_N_BUTTONS):
            each = button("", "", f"fix_button_{number}", visible=False)
            # A long name of a layer may not widen the dock.
            each.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            each.changed.connect(lambda _, number=number: self.chosen.emit(self._shown[number]))
            self.append(each)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """The diagnostics that have a button."""
        return tuple(self._shown)

    def show_fixes(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Show a button for each of these diagnostics that has a fix; of many, for the most severe."""
        self._shown = [each for each in diagnostics if self._can_fix(each)][:_N_BUTTONS]
        for number, each in enumerate(self):
            shown = number < len(self._shown)
            if shown:
                each.text, each.tooltip = _text(self._shown[number]), self._shown[number].message
            each.visible = shown

    def _can_fix(self, diagnostic: Diagnostic) -> bool:
        fix = diagnostic.fix or {}
        action = fix.get("action")
        return action in self._actions and (action != "match-intensities" or "gain" in fix)


def _text(diagnostic: Diagnostic) -> str:
    fix = diagnostic.fix or {}
    title = str(fix.get("title", _TITLES[fix["action"]]))
    names = ", ".join(fix.get("candidates", ()))
    return f"{title}: {names}" if names else title
