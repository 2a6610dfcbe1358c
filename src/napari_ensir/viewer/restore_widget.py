"""The Restore panel: candidates from one degraded layer, by as many restorers as are ticked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from magicgui.widgets import CheckBox
from qtpy.QtWidgets import QFileDialog

from napari_ensir.ensemble.noise_checks import correlated_noise_warning
from napari_ensir.ensemble.record import record_of
from napari_ensir.errors import EnsembleError, MissingRestorer
from napari_ensir.files.image import as_dtype
from napari_ensir.restorers import CLASSICAL, SelfEnsemble, open_restorer
from napari_ensir.restorers.base import told_of, with_settings
from napari_ensir.restorers.blind import Combined as BlindResult
from napari_ensir.restorers.blind import restore_and_combine
from napari_ensir.restorers.unlike import unlike_warning
from napari_ensir.settings import BlindSettings, RestoreSettings, settings_of
from napari_ensir.viewer.as_code import (
    Chosen,
    Restoring,
    blind_as_command,
    blind_as_python,
    restore_as_command,
    restore_as_python,
)
from napari_ensir.viewer.choices import Choice
from napari_ensir.viewer.combining import Combined, combine
from napari_ensir.viewer.controls import control_of
from napari_ensir.viewer.copying import copied, copy_buttons, path_of_layer
from napari_ensir.viewer.forms import Form, button
from napari_ensir.viewer.layer_choice import LayerChoice
from napari_ensir.viewer.layers import RECORD_KEY, Origin, changed_meanwhile, why_not
from napari_ensir.viewer.matching import candidate_name
from napari_ensir.viewer.outputs import WEIGHT_VIEWS, add_outputs
from napari_ensir.viewer.panel import Panel, shows_errors
from napari_ensir.viewer.restorer_forms import RestorerForms
from napari_ensir.viewer.session import preference, session_of
from napari_ensir.viewer.tick_list import TickList

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari
    from numpy.typing import NDArray

    from napari_ensir.restorers import Progress, Restorer

__all__ = ["CHECKPOINTS", "RestoreWidget"]

CHECKPOINTS = "Restorers (*.safetensors *.pt *.pt2 *.pth *.ckpt *.zip);;All files (*)"
"""What a file dialog offers."""

_BLIND = ("stride", "offsets", "bin_width", "shrinkage", "data_range", "seed")


class RestoreWidget(Panel):
    """Restores a layer by every restorer ticked, each giving one candidate layer.

    Values: ``image``, ``restorers`` (keys of those ticked, in order), ``self_ensemble``, ``device``, every
    restorer's settings as ``<restorer>_<setting>``, such as ``gaussian_sigma``; for combining without a
    ground truth ``weights`` and the settings of :class:`~napari_ensir.settings.BlindSettings`.

    Parameters
    ----------
    napari_viewer
        The viewer to work in.

    Examples
    --------
    In napari's console::

        widget = RestoreWidget(viewer)
        widget.image.value = viewer.layers["noisy"]
        widget.restorers.value = ["median", "total-variation"]
        widget.restore()
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        image = LayerChoice(
            napari_viewer,
            lambda layer: not why_not(layer),
            "choose an image",
            name="image",
            label="Image",
            tooltip="The degraded image that candidates are made of.",
        )
        image.value = napari_viewer.layers.selection.active if _can_be(napari_viewer) else None
        self._ticks = TickList(
            {key: (kind.title, kind.description) for key, kind in CLASSICAL.items()},
            name="restorers",
            label="Restorers",
            tooltip="Tick one or more: each adds a candidate. Drag them into order; select one to see its "
            "settings.",
        )
        self.open_button = button(
            "Open a network…",
            "A restorer trained here (*.safetensors), a TorchScript or torch.export file (*.pt, *.pt2), or, "
            "with the extra spandrel, a published checkpoint. Only tensors and graphs are read from it.",
            "open_button",
        )
        settings = {each.name: each for each in settings_of(RestoreSettings)}
        self._forms = RestorerForms(left_out=("device",), name="restorer_forms")
        for key, kind in CLASSICAL.items():
            self._forms.add(key, kind())
        self.combine_button = button(
            "Restore and combine",
            "Without any ground truth: learn from the noisy image alone how far to trust each restorer, and "
            "add candidates, ensemble and weight maps. Each restorer runs several times more.",
            "combine_button",
        )
        self._more = CheckBox(
            name="more",
            text="Settings of combining",
            tooltip="Show how weights are learned without a ground truth.",
            gui_only=True,
        )
        self._blind = _blind_form()
        self._combine_copies = copy_buttons("combine_", "restores and combines")
        self._sources: dict[str, tuple[Path, Restorer | None]] = {}
        super().__init__(
            napari_viewer,
            Form(image, name="choice"),
            self._ticks,
            self.open_button,
            self._forms,
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
            below=[copy_buttons(what="restores"), self.combine_button],
        )
        self._blind.visible = self._combine_copies.visible = False
        self._connect_copying()
        self._more.changed.connect(self.safely(self._show_more))
        self.combine_button.changed.connect(self.safely(self.restore_and_combine))
        self._ticks.selected.connect(self._show_settings)
        self.open_button.changed.connect(self.safely(self._ask_and_open))
        self._ticks.select(self._ticks.keys()[0])

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
        ticked = [
            with_settings(self._forms.restorer(key), device=self.device.value) for key in self._ticks.value
        ]
        if self.self_ensemble.value:
            return [SelfEnsemble(restorer=restorer) for restorer in ticked]
        return ticked

    @shows_errors
    def open(self, path: str | Path) -> None:
        """Offer a network from a file: trained here, TorchScript, torch.export, or spandrel's; tick it."""
        device, ir = self.device.value, None
        try:
            restorer = open_restorer(path, device=device)
        except MissingRestorer as missing:
            offered = self._forms.restorers().values()
            ir = next((one for one in offered if one.name == missing.name), None)
            restorer = open_restorer(path, ir=ir, device=device)
        name = Path(path).name
        key = self.add_restorer(restorer, f"{restorer.name} ({name})", str(path), ticked=True)
        self._sources[key] = (Path(path), ir)
        self.say(f"Opened {name}.")

    def _show_settings(self, key: str) -> None:
        self._forms.show_settings(key, self._ticks.title_of(key))

    # -- restoring --------------------------------------------------------------------------------

    def run(self) -> None:
        """What the Restore button does."""
        self.restore()

    @shows_errors
    def restore(self) -> None:
        """Restore the chosen image by every restorer ticked."""
        origin, restorers = self._request()

        def work(progress: Progress) -> list[tuple[str, NDArray[np.float32]]]:
            array, results = np.asarray(origin.data), []
            for number, restorer in enumerate(restorers):
                part = _part(progress, number, len(restorers), restorer.name)
                results.append((restorer.name, restorer(array, progress=part)))
            return results

        def show(results: list[tuple[str, NDArray[np.float32]]]) -> None:
            said = self._add(origin, results, restorers)
            n = len(results)
            first = f"Added {n} candidate{'s' if n > 1 else ''}; fit them in Fit ensemble."
            self.say("\n".join([first, *said]))

        self.start(work, "Restoring", show)

    @shows_errors
    def restore_and_combine(self) -> None:
        """Restore, learn from the noisy image alone whom to trust, combine; add all as layers.

        See :func:`napari_ensir.restorers.blind.restore_and_combine` for what the noise has to be like.
        """
        origin, restorers = self._request()
        if len(restorers) < 2:
            raise EnsembleError("There is nothing to combine; tick two restorers or more.")
        axis, device, view = -1 if origin.rgb else None, self.device.value, self.weights.value
        settings = {name: self[name].value for name in _BLIND}
        BlindSettings(**settings)  # checked before hours of work
        if settings["data_range"] is not None:  # as on the command line, it is the restorers' range as well
            restorers = [with_settings(each, data_range=settings["data_range"]) for each in restorers]

        def work(progress: Progress) -> tuple[BlindResult, Combined, str | None]:
            array = np.asarray(origin.data)
            blind = restore_and_combine(
                array, restorers, channel_axis=axis, device=device, progress=progress, **settings
            )
            images = [as_dtype(each, origin.dtype) for each in blind.candidates]
            combined = combine(blind.lut, images, origin.rgb, device, progress)
            return blind, combined, correlated_noise_warning(array, axis)

        def show(results: tuple[BlindResult, Combined, str | None]) -> None:
            blind, combined, warning = results
            before = list(self.viewer.layers)
            named = list(zip(blind.names, blind.candidates, strict=True))
            said = self._add(origin, named, restorers)
            layers = [layer for layer in self.viewer.layers if layer not in before]
            session = session_of(self.viewer)
            session.remember_layers(blind.lut, layers)
            session.keep(f"{origin.name}, no ground truth", blind.lut, layers)
            add_outputs(self.viewer, origin, blind.lut, combined, view, origin.name)
            first = f"Added {len(layers)} candidates, the ensemble and the weight maps."
            warned = f"{warning[:1].upper()}{warning[1:]}" if warning else ""
            self.say("\n".join([first, *filter(None, [warned]), *said]))

        self.start(work, "Restoring and combining", show)

    def _show_more(self) -> None:
        self._blind.visible = self._combine_copies.visible = self._more.value

    # -- copying ----------------------------------------------------------------------------------

    def _connect_copying(self) -> None:
        def copies(write: Callable[[], str]) -> Callable[[], None]:
            return self.safely(lambda: self.say(copied(write())))

        self["python_button"].changed.connect(copies(lambda: restore_as_python(self.restoring())))
        self["command_button"].changed.connect(copies(lambda: restore_as_command(self.restoring())))
        self["combine_python_button"].changed.connect(copies(lambda: self._as_blind(blind_as_python)))
        self["combine_command_button"].changed.connect(copies(lambda: self._as_blind(blind_as_command)))

    def restoring(self) -> Restoring:
        """What is chosen, as :func:`~napari_ensir.viewer.as_code.restore_as_python` takes it.

        Raises
        ------
        EnsembleError
            If something is missing.
        """
        origin, _ = self._request()
        return Restoring(
            path_of_layer(origin.layer),
            [self._chosen_as_code(key) for key in self._ticks.value],
            origin.rgb,
            self.device.value,
            self.self_ensemble.value,
        )

    def _chosen_as_code(self, key: str) -> Chosen:
        settings = self._forms.changed_settings(key)
        if key in CLASSICAL:
            return Chosen(key, settings)
        path, around = self._sources.get(key, (f"PATH OF {key}.safetensors", None))
        ir = [
            str(source)
            for other, (source, _) in self._sources.items()
            if self._forms.restorers()[other] is around
        ]
        return Chosen(key, settings, str(path), ir[0] if around is not None and ir else None)

    def _as_blind(self, write: Callable[[Restoring, BlindSettings], str]) -> str:
        settings = BlindSettings(**{name: self[name].value for name in _BLIND})
        return write(replace(self.restoring(), data_range=settings.data_range), settings)

    def _request(self) -> tuple[Origin, list[Restorer]]:
        """What the controls say: where the image is from, and what is to be done with it."""
        layer, restorers = self.image.value, self.chosen()
        if layer is None:
            raise EnsembleError("No image is chosen; choose the degraded image to restore.")
        if not restorers:
            raise EnsembleError("No restorer is ticked; tick one or more.")
        origin = Origin(layer)
        axis = -1 if origin.rgb else None
        return origin, [with_settings(restorer, channel_axis=axis) for restorer in restorers]

    def _add(
        self,
        origin: Origin,
        results: list[tuple[str, NDArray[np.float32]]],
        restorers: Sequence[Restorer],
    ) -> list[str]:
        """Add candidates as layers that tell of their restorers; sentences about what is odd."""
        said = []
        for (name, restored), restorer in zip(results, restorers, strict=True):
            layer = origin.add_candidate(self.viewer, restored, candidate_name(origin.name, name))
            record = record_of("restored", inputs={"image": origin.name}, restorer=told_of(restorer))
            layer.metadata = {**layer.metadata, RECORD_KEY: record}
            said.append(unlike_warning(name, origin.middle_plane(), origin.middle_plane(restored)))
        return [*filter(None, said), *filter(None, [changed_meanwhile(self.viewer, [origin])])]

    def _ask_and_open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self.native, "Open a network", "", CHECKPOINTS)
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
    return Form(*(control_of(settings[name]) for name in _BLIND), weights, name="blind_form")


def _can_be(viewer: napari.Viewer) -> bool:
    """Whether the layer that is being looked at can be restored."""
    active = viewer.layers.selection.active
    return active is not None and not why_not(active)


def _part(progress: Progress, number: int, total: int, name: str) -> Progress:
    """`progress` for one of several equal pieces of work."""

    def told(done: int, of: int, text: str) -> object:
        share = round(1000 * done / max(of, 1))
        return progress(1000 * number + share, 1000 * total, text if name in text else f"{name}, {text}")

    return told
