"""Controls of the Restore panel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox
from qtpy.QtWidgets import QFileDialog

from napari_ensir.errors import MissingRestorer
from napari_ensir.restorers import RESTORERS, SelfEnsemble, open_restorer, open_restorers
from napari_ensir.restorers.base import with_settings
from napari_ensir.settings import BlindSettings, RestoreSettings, settings_of
from napari_ensir.viewer.code_export import copy_buttons
from napari_ensir.viewer.controls.checklist import Checklist
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.controls.forms import Form, button, row
from napari_ensir.viewer.controls.inputs import Message, create_control
from napari_ensir.viewer.controls.section import Section
from napari_ensir.viewer.fit.request import channel_axes, likely_channel_axis
from napari_ensir.viewer.layers.combo import LayerChoice
from napari_ensir.viewer.layers.layers import RECORD_KEY, exclusion_reason, has_truth_name, unwrap_proxy
from napari_ensir.viewer.layers.session import preference
from napari_ensir.viewer.panel import shows_errors
from napari_ensir.viewer.restore.forms import RestorerForms
from napari_ensir.viewer.restore.rank_table import RankTable
from napari_ensir.viewer.restore.sweep import SweepForm
from napari_ensir.viewer.results.layers import WEIGHT_VIEWS
from napari_ensir.viewer.results.table_panel import TablePanel, save_button

if TYPE_CHECKING:
    from collections.abc import Mapping

    import napari
    from napari.layers import Layer

    from napari_ensir.restorers import Restorer

__all__ = ["BLIND", "CHECKPOINTS", "DEFAULT_RESTORERS", "RestoreControls"]

CHECKPOINTS = "Restorers (*.safetensors *.pt *.onnx *.pth *.ckpt *.zip);;All files (*)"
"""What a file dialog offers."""

BLIND = ("stride", "offsets", "bin_width", "shrinkage", "data_range", "seed")
"""Settings of learning without a ground truth that the panel shows in a section of their own."""

DEFAULT_RESTORERS = ("total-variation", "wavelet", "non-local-means", "gaussian")
"""Keys of the restorers that are ticked at first: the first three estimate the noise."""

_ONE_CHANNEL = ("no channel axis", "The image has one channel.")


class RestoreControls(TablePanel):
    """All controls of the Restore panel, by name.

    Parameters
    ----------
    napari_viewer
        The viewer whose layers are offered.

    Attributes
    ----------
    sources : dict
        For each network that was opened, by its key: its file, and the restorer that it was opened around.
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        image = LayerChoice(
            napari_viewer,
            lambda layer: not exclusion_reason(layer),
            "choose an image",
            choose_only=True,
            name="image",
            label="Image",
            tooltip="The degraded image to restore.",
        )
        image.value = _likely_input(napari_viewer)
        self._make_choices(napari_viewer)
        self._make_buttons()
        settings = {each.name: each for each in settings_of(RestoreSettings)}
        self.sources: dict[str, tuple[Path, Restorer | None]] = {}
        self.plan = Message(name="plan", gui_only=True)
        how = Form(
            create_control(settings["self_ensemble"]),
            CheckBox(
                name="float_output",
                text="Keep float results",
                tooltip="Add 32-bit floating-point layers. Otherwise restored intensities are rounded, and "
                "clipped to the range of the image's dtype.",
            ),
            create_control(settings["device"], preference("device")),
            name="how",
        )
        self.settings_section = Section("Settings of the restorers", self._forms, how, name="settings")
        self.sweep_section = Section("Try values of a setting", self.sweep_form, name="trying")
        self.combining_section = Section(
            "Settings of combining", _blind_form(), name="combining", gui_only=False
        )
        super().__init__(
            napari_viewer,
            Form(image, self._channels, name="choice"),
            self._ticks,
            row(self.open_button, self.folder_button, name="opening", gui_only=True),
            self.settings_section,
            self.sweep_section,
            self.combining_section,
            self.plan,
            action="Restore and combine",
            about="Without a ground truth: learn from the noisy image the weight of each restorer at each "
            "intensity, and add candidates, ensemble and weight maps. Each restorer runs several times.",
            below=[
                self.ranking,
                row(save_button(), self.best_button, name="files", gui_only=True),
                row(self.restore_button, self.rank_button, name="together", gui_only=True),
                copy_buttons("combine_", what="restores and combines"),
                copy_buttons(verb="Restore", what="restores, but does not combine,"),
            ],
        )
        self._connect()
        self.restorers.value = list(DEFAULT_RESTORERS)
        self._follow_image()

    def _make_choices(self, viewer: napari.Viewer) -> None:
        self._channels = Choice(
            {None: _ONE_CHANNEL},
            name="channel_axis",
            label="Channels",
            tooltip=(
                "Channel axis of the image. Restorers process all channels together; each channel "
                "has its own table."
            ),
        )
        self._ticks = Checklist(
            {key: (kind.title, kind.description) for key, kind in RESTORERS.items()},
            name="restorers",
            label="Restorers",
            tooltip="Tick the restorers to use: each adds a candidate. Click one to see its settings; drag "
            "rows to change the order.",
        )
        self._forms = RestorerForms(left_out=("device",), name="restorer_forms")
        for key, kind in RESTORERS.items():
            self._forms.add(key, kind())
        self.sweep_form = SweepForm(viewer, name="sweep_form")

    def _make_buttons(self) -> None:
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
        self.restore_button = button(
            "Restore only", "Add one candidate layer for each ticked restorer.", "restore_button"
        )
        self.rank_button = button(
            "Rank",
            "Without a ground truth: rank the ticked restorers by their estimated errors on this image. No "
            "layers are added.",
            "rank_button",
        )
        self.ranking = RankTable(name="ranking", label="Scores", tooltip="Scores, the best first.")
        self.best_button = button("Tick the best", "Tick only the best restorer.", "best_button")

    def _connect(self) -> None:
        self._ticks.selected.connect(self._show_settings)
        self._ticks.changed.connect(self.safely(self.update_run_button))
        self.image.changed.connect(self.safely(self._follow_image))
        self.open_button.changed.connect(self.safely(self._ask_and_open))
        self.folder_button.changed.connect(self.safely(self._ask_for_folder))
        self.connect_while_open(self.viewer.events.theme, self.sweep_form.redraw)

    # -- following the image ----------------------------------------------------------------------

    def layers_changed(self) -> None:
        """See Panel."""
        super().layers_changed()
        offered = [layer for layer in self.image.choices if layer is not None]
        if self.image.value is None and len(offered) == 1:
            self.image.value = offered[0]
        self.update_run_button()

    def _follow_image(self) -> None:
        layer = self.image.value
        axes = channel_axes(layer)
        self._channels.visible = bool(axes)
        entries: Mapping[Any, tuple[str, str]] = {
            axis: (f"along {label}", f"Each channel along {label} has its own table.")
            for axis, label in axes.items()
        }
        self._channels.offer({None: _ONE_CHANNEL, **entries} if entries else {None: _ONE_CHANNEL})
        self._channels.value = likely_channel_axis(layer)
        self.update_run_button()

    # -- what can run -----------------------------------------------------------------------------

    def missing_input(self) -> str:
        """See Panel."""
        if reason := self._missing():
            return reason
        if len(self._ticks.value) < 2:
            return "There is nothing to combine; tick two or more restorers."
        return ""

    def _missing(self) -> str:
        """What is missing before anything can be restored."""
        if self.image.value is None:
            return "No image is chosen; choose the degraded image to restore."
        if not self._ticks.value:
            return "No restorer is ticked; tick one or more."
        return ""

    def obstacles(self) -> Mapping[str, str]:
        """See TablePanel."""
        missing, combining = self._missing(), self.missing_input()
        return {
            **super().obstacles(),
            "restore_button": missing,
            "rank_button": combining,
            "python_button": missing,
            "command_button": missing,
            "combine_python_button": combining,
            "combine_command_button": combining,
            "best_button": "" if self.ranking.best is not None else "Nothing has been ranked yet.",
        }

    def update_run_button(self) -> None:
        """See TablePanel."""
        super().update_run_button()
        self.plan.value = self.missing_input() or (
            f"Restores the image with {len(self._ticks.value)} restorers, learns their "
            "weights from the noisy image, and adds the candidates, the ensemble and the weight maps."
        )

    # -- choosing ---------------------------------------------------------------------------------

    def add_restorer(self, restorer: Restorer, title: str, tip: str = "", *, ticked: bool = False) -> str:
        """Add a restorer to the list.

        Returns
        -------
        str
            Its key: its name, with a number if the name was taken.
        """
        key, number = restorer.name, 2
        while key in self._ticks.keys():  # noqa: SIM118 - a method of its own
            key, number = f"{restorer.name} {number}", number + 1
        self._forms.add(key, restorer)
        self._ticks.add(key, title, tip, ticked=ticked)
        self._ticks.select(key)
        return key

    def chosen(self) -> list[Restorer]:
        """Return the ticked restorers with the settings shown, in a self-ensemble if that is ticked."""
        return [self._restorer(key) for key in self._ticks.value]

    def _restorer(self, key: str) -> Restorer:
        restorer = with_settings(self._forms.restorer(key), device=self.device.value)
        return SelfEnsemble(restorer=restorer) if self.self_ensemble.value else restorer

    @shows_errors
    def open(self, path: str | Path) -> None:
        """Open a network, or all networks in a folder, and tick them."""
        device, ir = self.device.value, None
        if Path(path).is_dir():
            self._open_folder(Path(path), device)
            return
        try:
            restorer = open_restorer(path, device=device)
        except MissingRestorer as missing:
            offered = self._forms.restorers().values()
            ir = next((one for one in offered if one.name == missing.name), None)
            restorer = open_restorer(path, ir=ir, device=device)
        name = Path(path).name
        self._add_network(restorer, Path(path), ir)
        self.say(f"Opened {name}.")

    def _add_network(self, restorer: Restorer, path: Path, ir: Restorer | None) -> None:
        key = self.add_restorer(restorer, f"{restorer.name} ({path.name})", str(path), ticked=True)
        self.sources[key] = (path, ir)

    def _open_folder(self, folder: Path, device: str) -> None:
        opened, failed = open_restorers(folder, device=device)
        for name, restorer in opened.items():
            self._add_network(restorer, folder / name, getattr(restorer, "ir", None))
        n = len(opened)
        first = f"Opened {n} network{'s' * (n != 1)} of {folder.name}."
        self.say("\n".join([first, *(_with_name(name, str(error)) for name, error in failed.items())]))

    def _show_settings(self, key: str) -> None:
        self._forms.show_settings(key, self._ticks.title_of(key))
        self.sweep_form.offer(self._forms.restorer(key))

    @property
    def selected(self) -> str:
        """Key of the restorer whose settings are shown."""
        return self._forms.selected_key

    def _ask_and_open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self.native, "Open a network", "", CHECKPOINTS)
        if path:
            self.open(path)

    def _ask_for_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self.native, "Open a folder of networks")
        if path:
            self.open(path)


def _blind_form() -> Form:
    settings = {each.name: each for each in settings_of(BlindSettings)}
    weights = Choice(
        WEIGHT_VIEWS,
        value=preference("weights"),
        name="weights",
        label="Weights as",
        tooltip="How the weight maps are shown.",
    )
    return Form(*(create_control(settings[name]) for name in BLIND), weights, name="blind_form")


def _likely_input(viewer: napari.Viewer) -> Layer | None:
    """The layer that is most likely to be restored, if any."""
    # The active layer, or else the topmost, unless it is our output, was restored itself, or is named as a
    # ground truth.
    likely = [
        layer
        for layer in map(unwrap_proxy, viewer.layers)
        if not exclusion_reason(layer) and RECORD_KEY not in layer.metadata and not has_truth_name(layer)
    ]
    active = unwrap_proxy(viewer.layers.selection.active)
    return active if active in likely else next(reversed(likely), None)


def _with_name(name: str, sentence: str) -> str:
    """Put a file's name before a sentence that lacks it."""
    return sentence if name in sentence else f"{name}: {sentence}"
