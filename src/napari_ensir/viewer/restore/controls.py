"""The controls of the Restore panel: which image, which restorers, with what settings. Restores nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from magicgui.widgets import CheckBox
from qtpy.QtWidgets import QFileDialog

from napari_ensir.errors import MissingRestorer
from napari_ensir.restorers import CLASSICAL, SelfEnsemble, open_restorer, open_restorers
from napari_ensir.restorers.base import with_settings
from napari_ensir.settings import BlindSettings, RestoreSettings, settings_of
from napari_ensir.viewer.code_export import copy_buttons
from napari_ensir.viewer.controls.checklist import TickList
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.controls.forms import Form, button, row
from napari_ensir.viewer.controls.inputs import control_of
from napari_ensir.viewer.layers.combo import LayerChoice
from napari_ensir.viewer.layers.layers import RECORD_KEY, is_named_truth, unwrapped, why_not
from napari_ensir.viewer.layers.session import preference
from napari_ensir.viewer.panel import Panel, shows_errors
from napari_ensir.viewer.restore.forms import RestorerForms
from napari_ensir.viewer.restore.rank_table import RankTable
from napari_ensir.viewer.restore.sweep import SweepForm
from napari_ensir.viewer.results.layers import WEIGHT_VIEWS

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

    from napari_ensir.restorers import Restorer

__all__ = ["BLIND", "CHECKPOINTS", "RestoreControls"]

CHECKPOINTS = "Restorers (*.safetensors *.pt *.onnx *.pth *.ckpt *.zip);;All files (*)"
"""What a file dialog offers."""

BLIND = ("stride", "offsets", "bin_width", "shrinkage", "data_range", "seed")
"""Settings of learning without a ground truth, but for those that the image or the panel tell."""


class RestoreControls(Panel):
    """Everything that can be chosen for restoring, by name; opens networks.

    Parameters
    ----------
    napari_viewer
        Whose layers to offer.

    Attributes
    ----------
    sources : dict
        By the keys of networks opened: their files, and the restorers that they were opened around.
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        image = LayerChoice(
            napari_viewer,
            lambda layer: not why_not(layer),
            "choose an image",
            choose_only=True,
            name="image",
            label="Image",
            tooltip="The degraded image that candidates are made of.",
        )
        image.value = _likely_input(napari_viewer)
        self._make_choices(napari_viewer)
        self._make_buttons()
        settings = {each.name: each for each in settings_of(RestoreSettings)}
        self.sources: dict[str, tuple[Path, Restorer | None]] = {}
        super().__init__(
            napari_viewer,
            Form(image, name="choice"),
            self._ticks,
            row(self.open_button, self.folder_button, name="opening", gui_only=True),
            self._forms,
            self._trying,
            self.sweep_form,
            Form(
                control_of(settings["self_ensemble"]),
                control_of(settings["device"], preference("device")),
                name="how",
            ),
            self._more,
            self._blind,
            self._combine_copies,
            action="Restore",
            about="Add one candidate layer for each restorer ticked.",
            below=[
                copy_buttons(what="restores"),
                row(self.combine_button, self.rank_button, name="together", gui_only=True),
                self.ranking,
                self.best_button,
            ],
        )
        for part in (self._blind, self._combine_copies, self.sweep_form):
            part.visible = False
        self._connect()
        self._ticks.select(self._ticks.keys()[0])

    def _make_choices(self, viewer: napari.Viewer) -> None:
        self._ticks = TickList(
            {key: (kind.title, kind.description) for key, kind in CLASSICAL.items()},
            name="restorers",
            label="Restorers",
            tooltip="Tick one or more: each adds a candidate. Drag them into order; select one to see its "
            "settings.",
        )
        self._forms = RestorerForms(left_out=("device",), name="restorer_forms")
        for key, kind in CLASSICAL.items():
            self._forms.add(key, kind())
        self._trying = CheckBox(
            name="trying",
            text="Try values of a setting",
            tooltip="Find the value of a restorer's setting that has the least error on this image.",
            gui_only=True,
        )
        self.sweep_form = SweepForm(viewer, name="sweep_form")
        self._more = CheckBox(
            name="more",
            text="Settings of combining",
            tooltip="Show how weights are learned without a ground truth.",
            gui_only=True,
        )
        self._blind = _blind_form()
        self._combine_copies = copy_buttons("combine_", "Combining", "restores and combines")

    def _make_buttons(self) -> None:
        self.open_button = button(
            "Open a network…",
            "A restorer trained here (*.safetensors), a TorchScript or ONNX network (*.pt, *.onnx), or, "
            "with the extra spandrel, a published checkpoint. Only tensors and graphs are read from it.",
            "open_button",
        )
        self.folder_button = button(
            "A folder…",
            "Open every network in a folder; files that are none are passed over.",
            "folder_button",
        )
        self.combine_button = button(
            "Restore and combine",
            "Without any ground truth: learn from the noisy image alone how far to trust each restorer, and "
            "add candidates, ensemble and weight maps. Each restorer runs several times more.",
            "combine_button",
        )
        self.rank_button = button(
            "Rank",
            "Without any ground truth: put the restorers ticked in the order of their errors on this image. "
            "Adds no layers.",
            "rank_button",
        )
        self.ranking = RankTable(name="ranking", label="Ranking", tooltip="The restorers, the best first.")
        self.best_button = button(
            "Tick the best", "Tick the first and no others.", "best_button", visible=False
        )

    def _connect(self) -> None:
        self._more.changed.connect(self.safely(self._show_more))
        self._ticks.selected.connect(self._show_settings)
        self.open_button.changed.connect(self.safely(self._ask_and_open))
        self.folder_button.changed.connect(self.safely(self._ask_for_folder))
        self._trying.changed.connect(self.safely(self._show_trying))
        self.tie(self.viewer.events.theme, self.sweep_form.redraw)

    # -- choosing ---------------------------------------------------------------------------------

    def add_restorer(self, restorer: Restorer, title: str, tip: str = "", *, ticked: bool = False) -> str:
        """Offer one more restorer; the key that it got, its name where that was free."""
        key, number = restorer.name, 2
        while key in self._ticks.keys():  # noqa: SIM118 - a method of its own
            key, number = f"{restorer.name} {number}", number + 1
        self._forms.add(key, restorer)
        self._ticks.add(key, title, tip, ticked=ticked)
        self._ticks.select(key)
        return key

    def chosen(self) -> list[Restorer]:
        """The restorers ticked, with the settings shown, wrapped where the self-ensemble is on."""
        return [self._restorer(key) for key in self._ticks.value]

    def _restorer(self, key: str) -> Restorer:
        restorer = with_settings(self._forms.restorer(key), device=self.device.value)
        return SelfEnsemble(restorer=restorer) if self.self_ensemble.value else restorer

    @shows_errors
    def open(self, path: str | Path) -> None:
        """Offer a network from a file, or all of a folder: trained here, TorchScript and such; tick them."""
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
        """Offer what a file holds, with the restorer that it was trained around, if any."""
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
        self._offer_values()

    def _offer_values(self) -> None:
        if self._trying.value and self.selected:
            self.sweep_form.offer(self._forms.restorer(self.selected))

    def _show_trying(self) -> None:
        self.sweep_form.visible = self._trying.value
        self._offer_values()

    @property
    def selected(self) -> str:
        """Key of the restorer whose settings are shown."""
        return self._forms.selected_key

    def _show_more(self) -> None:
        self._blind.visible = self._combine_copies.visible = self._more.value

    def _ask_and_open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self.native, "Open a network", "", CHECKPOINTS)
        if path:
            self.open(path)

    def _ask_for_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self.native, "Open a folder of networks")
        if path:
            self.open(path)


def _blind_form() -> Form:
    """The settings of learning without a ground truth, but for those that the image or the panel tell."""
    settings = {each.name: each for each in settings_of(BlindSettings)}
    weights = Choice(
        WEIGHT_VIEWS,
        value=preference("weights"),
        name="weights",
        label="Weights as",
        tooltip="How the weight maps are shown.",
    )
    return Form(*(control_of(settings[name]) for name in BLIND), weights, name="blind_form")


def _likely_input(viewer: napari.Viewer) -> Layer | None:
    """The layer that is most likely to be restored, if any."""
    # What is looked at, unless it is one of our outputs, says that it was restored itself, or is named as a
    # ground truth: the topmost layer then that is none of these.
    likely = [
        layer
        for layer in map(unwrapped, viewer.layers)
        if not why_not(layer) and RECORD_KEY not in layer.metadata and not is_named_truth(layer)
    ]
    active = unwrapped(viewer.layers.selection.active)
    return active if active in likely else next(reversed(likely), None)


def _with_name(name: str, sentence: str) -> str:
    """A sentence that says of which file it is."""
    return sentence if name in sentence else f"{name}: {sentence}"
