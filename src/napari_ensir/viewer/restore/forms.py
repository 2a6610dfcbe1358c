"""Forms for the settings of restorers, of which one is shown at a time."""

from __future__ import annotations

import re
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from magicgui.widgets import Container

from napari_ensir.settings import settings_of
from napari_ensir.viewer.controls.forms import Form
from napari_ensir.viewer.controls.inputs import Message, create_control

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_ensir.restorers import Restorer
    from napari_ensir.settings import Setting

__all__ = ["RestorerForms"]


class RestorerForms(Container):
    """A form for each restorer: its settings, named ``<restorer>_<setting>``.

    Parameters
    ----------
    left_out
        Names of settings that are set elsewhere for all restorers.
    **kwargs
        As for magicgui's container.
    """

    def __init__(self, left_out: Iterable[str] = (), **kwargs: Any) -> None:
        self._left_out = frozenset(left_out)
        self._restorers: dict[str, Restorer] = {}
        self._forms: dict[str, Form] = {}
        self.selected_key = ""
        """Key of the restorer whose settings are shown."""
        self._heading = Message(name="heading", gui_only=True)
        super().__init__(layout="vertical", labels=False, **kwargs)
        self.margins = (0, 0, 0, 0)
        self.append(self._heading)

    def add(self, key: str, restorer: Restorer) -> None:
        """Add a form for a restorer."""
        form = Form(
            *(
                create_control(each, getattr(restorer, each.name), name=f"{_identifier(key)}_{each.name}")
                for each in self._settings(restorer)
            ),
            name=f"{_identifier(key)}_form",
            visible=False,
        )
        self._restorers[key], self._forms[key] = restorer, form
        self.append(form)

    def show_settings(self, key: str, title: str) -> None:
        """Show only the settings of this restorer."""
        self.selected_key = key
        for each, form in self._forms.items():
            form.visible = each == key and len(form) > 0
        self._heading.value = f"Settings of {title}" if len(self._forms[key]) else f"{title} has no settings."

    def restorer(self, key: str) -> Restorer:
        """Return a restorer with the settings in its form.

        Raises
        ------
        EnsembleError
            If a setting is invalid.
        """
        restorer = self._restorers[key]
        controls = {control.name: control for control in self._forms[key]}
        chosen = {
            each.name: each.checked(controls[f"{_identifier(key)}_{each.name}"].value)
            for each in self._settings(restorer)
        }
        # A restorer without settings need not be a dataclass.
        return replace(cast("Any", restorer), **chosen) if chosen else restorer

    def changed_settings(self, key: str) -> dict[str, Any]:
        """Return the settings that differ from those that the restorer was added with."""
        before, now = self._restorers[key], self.restorer(key)
        names = [each.name for each in self._settings(before)]
        return {name: getattr(now, name) for name in names if getattr(now, name) != getattr(before, name)}

    def set_value(self, key: str, setting: str, value: Any) -> None:
        """Let a setting of a restorer have this value."""
        self._forms[key][f"{_identifier(key)}_{setting}"].value = value

    def restorers(self) -> dict[str, Restorer]:
        """All of them, as they were offered, by key."""
        return dict(self._restorers)

    def _settings(self, restorer: Restorer) -> list[Setting]:
        found: tuple[Setting, ...] = settings_of(restorer) if is_dataclass(restorer) else ()
        return [each for each in found if each.name not in self._left_out]


def _identifier(key: str) -> str:
    """A key as the beginning of a control's name.

    Examples
    --------
    >>> _identifier("DP-IR, dim (2)")
    'dp_ir_dim_2'
    """
    return re.sub(r"\W+", "_", key).strip("_").lower()
