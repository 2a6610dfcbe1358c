"""List of restorers to tick, with their settings and buttons that open networks."""

from __future__ import annotations

import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, Container
from psygnal import Signal
from qtpy.QtWidgets import QFileDialog

from napari_ensir.errors import MissingRestorer
from napari_ensir.restorers import RESTORERS, SelfEnsemble, open_restorer, open_restorers
from napari_ensir.restorers.base import takes_noise, with_settings
from napari_ensir.settings import RestoreSettings, settings_of
from napari_ensir.viewer.code_export import Chosen
from napari_ensir.viewer.controls.checklist import Checklist
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.controls.dialogs import open_asked
from napari_ensir.viewer.controls.forms import Form, button, row
from napari_ensir.viewer.controls.inputs import Message, create_control, create_controls
from napari_ensir.viewer.controls.section import Section
from napari_ensir.viewer.layers.layers import unique_name
from napari_ensir.viewer.layers.session import preference

if TYPE_CHECKING:
    from napari_ensir.restorers import Restorer
    from napari_ensir.settings import Setting

NETWORK_FILTER = "Restorers (*.safetensors *.pt *.onnx *.pth *.ckpt *.zip);;All files (*)"
"""File types that a dialog for networks offers."""

_OWN = ""
_PARTS = {
    "ir": ("IR network", "Restorer that DP-IR improves: its own, or another of the list."),
    "denoiser": ("Denoiser", "Denoiser of DP-IR: its own, or another of the list that takes a noise level."),
}

DEFAULT_RESTORERS = ("total-variation", "wavelet", "non-local-means", "gaussian")
"""Keys of the restorers that are ticked at first: the first three estimate the noise."""


class RestorerForm(Form):
    """Settings of a restorer, and the choices of restorers that replace the parts of a DP-IR.

    The device has no control here, since it is set for all restorers.

    Parameters
    ----------
    key : str
        Start of the names of the controls.
    restorer : Restorer
    file : Path or None
        Of a network.
    """

    def __init__(self, key: str, restorer: Restorer, file: Path | None) -> None:
        self.restorer, self.file = restorer, file
        has_parts = "ir" in getattr(restorer, "__dataclass_fields__", ())
        self.parts = {
            name: Choice({}, name=_control_name(key, name), label=label, tooltip=tip)
            for name, (label, tip) in (_PARTS.items() if has_parts else ())
        }
        found: tuple[Setting, ...] = settings_of(restorer) if is_dataclass(restorer) else ()
        self._settings = [each for each in found if each.name != "device"]
        self.controls = {
            each.name: create_control(each, getattr(restorer, each.name), name=_control_name(key, each.name))
            for each in self._settings
        }
        controls = (*self.parts.values(), *self.controls.values())
        super().__init__(*controls, name=_control_name(key, "form"), visible=False)

    def values(self) -> dict[str, Any]:
        """Return the settings by name.

        Raises
        ------
        EnsembleError
            If a setting is invalid.
        """
        return {each.name: each.checked(self.controls[each.name].value) for each in self._settings}

    def chosen_parts(self) -> dict[str, str]:
        """Return the keys of the restorers that replace the parts, by part."""
        return {name: each.value for name, each in self.parts.items() if each.value != _OWN}


class RestorerPicker(Container):
    """Checklist of restorers, buttons that open networks, and a form for the settings of each restorer.

    Values: ``restorers`` (keys of the ticked restorers, in order), ``self_ensemble``, ``float_output``,
    ``device``, and the settings of the restorers as ``<restorer>_<setting>``, such as ``gaussian_sigma``.
    """

    requested = Signal(str)
    """Emitted with the path of a network, or of a folder of networks, that the user wants to open."""

    def __init__(self, **kwargs: Any) -> None:
        self._forms: dict[str, RestorerForm] = {}
        self.selected = ""
        """Key of the restorer whose settings are shown."""
        self.ticks = Checklist(
            name="restorers",
            label="Restorers",
            tooltip="Tick the restorers to use: each adds a candidate. Click one to see its settings; drag "
            "rows to change the order.",
        )
        self.open_button = button(
            "Open a network…",
            "A restorer trained in napari-ensir (*.safetensors), a TorchScript or ONNX network (*.pt, "
            "*.onnx), a CAREamics or bioimage.io file (*.ckpt, *.zip), or, with the extra spandrel, a "
            "published checkpoint. Open only files that you trust.",
            "open_button",
        )
        self.folder_button = button(
            "A folder…", "Open all networks in a folder; files of other kinds are ignored.", "folder_button"
        )
        self._heading = Message(name="heading", gui_only=True)
        self._form_box: Container = Container(layout="vertical", labels=False, name="restorer_forms")
        self._form_box.margins = (0, 0, 0, 0)
        self.self_ensemble, self.device = create_controls(
            RestoreSettings, "self_ensemble", "device", device=preference("device")
        )
        self.float_output = CheckBox(
            name="float_output",
            text="Keep float results",
            tooltip="Results are 32-bit floating-point images. Otherwise restored intensities are rounded, "
            "and clipped to the range of the image's dtype.",
        )
        how = Form(self.self_ensemble, self.float_output, self.device, name="how")
        parts = (self._heading, self._form_box, how)
        self.section = Section("Settings of the restorers", *parts, name="settings")
        super().__init__(layout="vertical", labels=False, **kwargs)
        self.margins = (0, 0, 0, 0)
        opening = row(self.open_button, self.folder_button, name="opening", gui_only=True)
        self.extend([self.ticks, opening, self.section])
        for key, kind in RESTORERS.items():
            self.add(kind(), kind.title, kind.description, key=key)
        self.ticks.selected.connect(self._show_settings)
        self.open_button.changed.connect(self._ask_for_file)
        self.folder_button.changed.connect(self._ask_for_folder)
        self.ticks.value = list(DEFAULT_RESTORERS)

    def add(
        self,
        restorer: Restorer,
        title: str,
        tip: str = "",
        *,
        key: str = "",
        ticked: bool = False,
        file: Path | None = None,
    ) -> str:
        """Add a restorer to the list.

        Returns
        -------
        str
            Its key; by default its name, with a number if the name is taken.
        """
        key = unique_name(key or restorer.name, self._forms)
        form = self._forms[key] = RestorerForm(key, restorer, file)
        self._form_box.append(form)
        self.ticks.add(key, title, tip, ticked=ticked)
        self._offer_parts()
        self.ticks.select(key)
        return key

    def _offer_parts(self) -> None:
        """Offer the other restorers as parts of each DP-IR."""
        others = {key: form.restorer for key, form in self._forms.items() if not form.parts}
        for form in self._forms.values():
            for name, choice in form.parts.items():
                fitting = [key for key, each in others.items() if name == "ir" or takes_noise(each)]
                entries = {key: (self.ticks.title_of(key), "With its settings below.") for key in fitting}
                choice.offer({_OWN: ("its own", "That of the file."), **entries})

    def open(self, path: str | Path) -> str:
        """Open a network, or all networks in a folder, and tick them; return a sentence for the user.

        Raises
        ------
        EnsembleError
            If a file cannot be opened; in a folder, the sentence names it instead.
        """
        path, device = Path(path), self.device.value
        if path.is_dir():
            found, failed = open_restorers(path, device=device)
            opened = {path / name: restorer for name, restorer in found.items()}
            lines = [f"Opened {len(found)} network{'s' * (len(found) != 1)} of {path.name}."]
            lines += [
                f"{error}" if name in f"{error}" else f"{name}: {error}" for name, error in failed.items()
            ]
        else:
            opened, lines = {path: self._open_file(path, device)}, [f"Opened {path.name}."]
        for file, restorer in opened.items():
            self.add(restorer, f"{restorer.name} ({file.name})", str(file), ticked=True, file=file)
        return "\n".join(lines)

    def _open_file(self, path: Path, device: str) -> Restorer:
        try:
            return open_restorer(path, device=device)
        except MissingRestorer as missing:
            offered = (form.restorer for form in self._forms.values())
            ir = next((each for each in offered if each.name == missing.name), None)
            return open_restorer(path, ir=ir, device=device)

    def restorer(self, key: str) -> Restorer:
        """Return a restorer with the settings shown, in a self-ensemble if that is ticked.

        Raises
        ------
        EnsembleError
            If a setting is invalid.
        """
        restorer = self._alone(key)
        return SelfEnsemble(restorer=restorer) if self.self_ensemble.value else restorer

    def _alone(self, key: str) -> Restorer:
        form = self._forms[key]
        parts = {name: self._alone(part) for name, part in form.chosen_parts().items()}
        return with_settings(form.restorer, **form.values(), device=self.device.value, **parts)

    def chosen(self) -> list[Restorer]:
        """Return the ticked restorers, in order."""
        return [self.restorer(key) for key in self.ticks.value]

    def chosen_files(self) -> list[Path]:
        """Return the files of the ticked networks."""
        files = (self._forms[key].file for key in self.ticks.value)
        return [file for file in files if file is not None]

    def as_code(self) -> list[Chosen]:
        """Return the ticked restorers with the settings that were changed, for a program."""
        return [self._as_code(key) for key in self.ticks.value]

    def _as_code(self, key: str) -> Chosen:
        form = self._forms[key]
        offered, parts = form.restorer, form.chosen_parts()
        changed = {name: value for name, value in form.values().items() if value != getattr(offered, name)}
        if key in RESTORERS:
            return Chosen(key, changed)
        own = getattr(offered, "ir", None)
        given = [other for other, each in self._forms.items() if each.restorer is own]
        parts = {"ir": given[0], **parts} if given else parts
        path = form.file or f"PATH OF {key}.safetensors"
        return Chosen(key, changed, str(path), {name: self._as_code(part) for name, part in parts.items()})

    def set_value(self, key: str, setting: str, value: Any) -> None:
        """Set a setting of a restorer, and show it."""
        self._forms[key].controls[setting].value = value
        self.ticks.select(key)

    def _show_settings(self, key: str) -> None:
        self.selected = key
        for each, form in self._forms.items():
            form.visible = each == key and len(form) > 0
        title = self.ticks.title_of(key)
        self._heading.value = f"Settings of {title}" if len(self._forms[key]) else f"{title} has no settings."

    def _ask_for_file(self) -> None:
        open_asked(self.native, "Open a network", NETWORK_FILTER, self.requested.emit)

    def _ask_for_folder(self) -> None:
        if path := QFileDialog.getExistingDirectory(self.native, "Open a folder of networks"):
            self.requested.emit(path)


def _control_name(key: str, name: str) -> str:
    """Name of the control of a setting.

    Examples
    --------
    >>> _control_name("DP-IR, dim (2)", "steps")
    'dp_ir_dim_2_steps'
    """
    prefix = re.sub(r"\W+", "_", key).strip("_").lower()
    return f"{prefix}_{name}"
