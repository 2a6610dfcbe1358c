"""The panel Restore, which restores a layer with the ticked restorers and combines the results."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import Container

from napari_ensir.ensemble.arrays.parallel import scaled_progress
from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.ensemble.scoring.scores import verdict
from napari_ensir.errors import EnsembleError
from napari_ensir.files.image import as_dtype
from napari_ensir.restorers import blind_reference, calibrate_restorer
from napari_ensir.restorers.base import (
    UnfamiliarImageWarning,
    format_notes,
    notes_of,
    restorer_record,
    warnings_of,
    with_settings,
)
from napari_ensir.restorers.self_supervised.calibrate import (
    default_grid_range,
    format_value,
    numeric_settings,
    parameter_grid,
)
from napari_ensir.restorers.self_supervised.learn import BlindResult, restore_and_combine
from napari_ensir.settings import BlindSettings, SweepSettings, settings_of
from napari_ensir.viewer.code_export import (
    Restoring,
    blind_as_command,
    blind_as_python,
    copied,
    path_of_layer,
    restore_as_command,
    restore_as_python,
)
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.controls.forms import Form, button, row
from napari_ensir.viewer.controls.inputs import Message, NumberRange, create_control, create_controls
from napari_ensir.viewer.controls.section import Section
from napari_ensir.viewer.layers.channels import ChannelChoice
from napari_ensir.viewer.layers.combo import LayerChoice, only_layer
from napari_ensir.viewer.layers.layers import (
    RECORD_KEY,
    LayerSnapshot,
    changed_layers_warning,
    exclusion_reason,
    has_truth_name,
    unique_name,
    unwrap_proxy,
)
from napari_ensir.viewer.layers.matching import candidate_name
from napari_ensir.viewer.layers.session import get_session
from napari_ensir.viewer.panel import shows_errors
from napari_ensir.viewer.restore.picker import RestorerPicker
from napari_ensir.viewer.results.combining import Images, combine
from napari_ensir.viewer.results.layers import Outputs, weights_choice
from napari_ensir.viewer.results.plots import Plot, draw_sweep
from napari_ensir.viewer.results.score_view import ScoreView
from napari_ensir.viewer.results.table_panel import TablePanel, save_button

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import napari
    from matplotlib.axes import Axes
    from napari.layers import Layer
    from numpy.typing import NDArray

    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.scoring.scores import NoisyScores
    from napari_ensir.restorers import Progress, Restorer
    from napari_ensir.restorers.self_supervised.calibrate import Sweep
    from napari_ensir.restorers.self_supervised.learn import BlindReference
    from napari_ensir.settings import Setting

BLIND = ("stride", "offsets", "bin_width", "shrinkage", "data_range", "seed")
"""Settings of learning without a ground truth that have a control."""

_NO_IMAGE = "No image is chosen; choose the degraded image to restore."

_PROGRAMS = {
    "combine-python": ("Python: combine", "A Python program that restores and combines."),
    "combine-command": ("Command: combine", "A command that restores and combines."),
    "restore-python": ("Python: restore only", "A Python program that restores, but does not combine."),
    "restore-command": ("Command: restore only", "A command that restores, but does not combine."),
}

_ROLES = {
    "average": "The average of all candidates.",
    "candidate": "Click to see its settings.",
    "ensemble": "The ensemble, scored on pixels that its weights were not learned from.",
    "input": "The noisy image itself.",
}
"""Tooltips of the rows of the scores."""


class RestoreWidget(TablePanel):
    """Restores a layer with the ticked restorers, and combines the results without ground truth.

    Values: ``image``, ``second_exposure`` (None: learn from the image itself), ``channel_axis``,
    ``restorers`` (keys of the ticked restorers, in order), ``self_ensemble``, ``float_output`` (whether to
    add float32 layers, which are not clipped), ``device``, ``weights``, the settings of the restorers as
    ``<restorer>_<setting>``, such as ``gaussian_sigma``, and the settings of
    :class:`~napari_ensir.settings.BlindSettings`.

    Parameters
    ----------
    napari_viewer
        Viewer of the layers.

    Attributes
    ----------
    scores : NoisyScores or None
        The scores shown.

    Examples
    --------
    In napari's console::

        widget = RestoreWidget(viewer)
        widget.image.value = viewer.layers["noisy"]
        widget.restorers.value = ["median", "total-variation"]
        widget.restore_and_combine()
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self.scores: NoisyScores | None = None
        self._scored: Sequence[str] = ()
        self._lut: WeightLUT | None = None
        named = ("image", "Image", "The degraded image to restore.", "choose an image")
        image = LayerChoice(napari_viewer, *named, guess=only_layer)
        image.value = _likely_input(napari_viewer)
        second = LayerChoice(
            napari_viewer,
            "second_exposure",
            "2nd exposure",
            "Another noisy image of the same field. If there is one, the weights are learned from it instead "
            "of the image itself.",
            "none",
            admits=lambda layer: layer is not image.value and not exclusion_reason(layer, image.value),
        )
        channels = ChannelChoice(
            ("no channel axis", "The image has one channel."),
            "along {}",
            "Each channel along {} has its own table.",
            tooltip="Channel axis of the image. Restorers process all channels together; each channel has "
            "its own table.",
        )
        self.picker = RestorerPicker(name="picker")
        self.sweep_form = SweepForm(napari_viewer, name="sweep_form")
        self.sweep_section = Section("Try values of a setting", self.sweep_form, name="trying")
        combining = Form(*create_controls(BlindSettings, *BLIND), weights_choice(), name="blind_form")
        self.combining_section = Section("Settings of combining", combining, name="combining")
        self.plan = Message(name="plan", gui_only=True)
        super().__init__(
            napari_viewer,
            Form(image, second, channels, name="choice"),
            self.picker,
            self.sweep_section,
            self.combining_section,
            self.plan,
            action="Restore and combine",
            about="Without a ground truth: learn from the noisy image the weight of each restorer at each "
            "intensity, and add candidates, ensemble and weight maps. Each restorer runs several times.",
            below=self._results(),
        )
        self.picker.ticks.selected.connect(self.safely(self._show_settings))
        self.picker.requested.connect(self.open)
        self.ranking.clicked.connect(self._select_ranked)
        self.on_change(
            image=self._follow_image,
            restorers=self.update_run_button,
            program=self.update_run_button,
            restore_button=self.restore,
            rank_button=self.rank,
            best_button=self.tick_best,
            sweep_button=self.try_values,
            adopt_button=self.adopt_value,
            copy_button=self.copy,
        )
        self.connect_while_open(self.viewer.events.theme, self.sweep_form.redraw)
        self._follow_image()
        self._show_settings()

    def _results(self) -> list[Any]:
        self.ranking = ScoreView(130, name="ranking", label="Scores", tooltip="Scores, the best first.")
        self.ranking.visible = False
        best = button("Tick the best", "Tick only the best restorer.", "best_button")
        only = button("Restore only", "Add one candidate layer for each ticked restorer.", "restore_button")
        rank = button(
            "Rank",
            "Without a ground truth: rank the ticked restorers by their estimated errors on this image. No "
            "layers are added.",
            "rank_button",
        )
        program = Choice(
            _PROGRAMS,
            name="program",
            label="Program",
            tooltip="What is copied: a program or a command that does the same without the viewer.",
            gui_only=True,
        )
        copy = button("Copy to clipboard", "Copy this program or command to the clipboard.", "copy_button")
        return [
            self.ranking,
            row(save_button(), best, name="files", gui_only=True),
            row(only, rank, name="together", gui_only=True),
            row(program, copy, name="copies", gui_only=True),
        ]

    # -- choices ----------------------------------------------------------------------------------

    def _follow_image(self) -> None:
        self.channel_axis.follow(self.image.value)
        self.second_exposure.reset_choices()
        self.update_run_button()

    def _show_settings(self) -> None:
        self.sweep_form.offer(self.picker.restorer(self.picker.selected))

    @shows_errors
    def open(self, path: str | Path) -> None:
        """Open a network, or all networks in a folder, and tick them."""
        self.say(self.picker.open(path))

    def missing_input(self) -> str:
        """See Panel."""
        if not (reason := self._missing()) and len(self.restorers.value) < 2:
            reason = "There is nothing to combine; tick two or more restorers."
        return reason

    def _missing(self) -> str:
        """What is missing before anything can be restored."""
        if self.image.value is None:
            return _NO_IMAGE
        return "" if self.restorers.value else "No restorer is ticked; tick one or more."

    def obstacles(self) -> Mapping[str, str]:
        """See TablePanel."""
        missing, combining = self._missing(), self.missing_input()
        return {
            **super().obstacles(),
            "restore_button": missing,
            "rank_button": combining,
            "copy_button": combining if self.program.value.startswith("combine") else missing,
            "best_button": "" if self.scores is not None else "Nothing has been ranked yet.",
        }

    def update_run_button(self) -> None:
        """See TablePanel."""
        super().update_run_button()
        self.plan.value = self.missing_input() or (
            f"Restores the image with {len(self.restorers.value)} restorers, learns their "
            "weights from the noisy image, and adds the candidates, the ensemble and the weight maps."
        )

    def _request(self) -> tuple[LayerSnapshot, list[Restorer], tuple[str, ...]]:
        """Return the chosen image, the ticked restorers, and their names, made unique."""
        if missing := self._missing():
            raise EnsembleError(missing)
        restorers = [self._with_axis(each) for each in self.picker.chosen()]
        names: list[str] = []
        for each in restorers:
            names.append(unique_name(each.name, names))
        return LayerSnapshot(self.image.value), restorers, tuple(names)

    def _with_axis(self, restorer: Restorer) -> Restorer:
        return with_settings(restorer, channel_axis=self.channel_axis.value)

    # -- restoring --------------------------------------------------------------------------------

    @property
    def lut(self) -> WeightLUT | None:
        """The table of the latest combination."""
        return self._lut

    @shows_errors
    def restore(self) -> None:
        """Restore the chosen image with each ticked restorer, and add the results as layers."""
        origin, restorers, names = self._request()
        n, dtype = len(restorers), self._output_dtype(origin)

        def work(progress: Progress) -> tuple[list[NDArray[np.float32]], list[str]]:
            array = np.asarray(origin.data)
            with _without_input_warnings():
                images = [
                    each(array, progress=scaled_progress(progress, number, n, suffix=f", {each.name}"))
                    for number, each in enumerate(restorers)
                ]
            return images, _remarks(restorers, array, images, dtype)

        def show(done: tuple[list[NDArray[np.float32]], list[str]]) -> None:
            self._add(origin, restorers, names, done[0], dtype)
            first = f"Added {n} candidates; fit them" if n > 1 else "Added 1 candidate; fit it"
            self._say_all(origin, f"{first} with others in Fit ensemble.", *done[1])
            self.reveal(self.message)

        self.start(work, "Restoring", show)

    @shows_errors
    def restore_and_combine(self) -> None:
        """Restore the image, learn the weights of the restorers from it alone, and add all results as layers.

        See :func:`~napari_ensir.restorers.self_supervised.learn.learn_blind` for the assumptions about the
        noise.
        """
        origin, restorers, names = self._request()
        if len(restorers) < 2:
            raise EnsembleError(self.missing_input())
        settings = self.settings_from(BlindSettings, *BLIND, "channel_axis", "device")
        if settings.data_range is not None:  # the restorers use this range too, as in the command
            restorers = [with_settings(each, data_range=settings.data_range) for each in restorers]
        second = self.second_exposure.value
        exposure = None if second is None else LayerSnapshot(second).data
        keys, view, dtype = self.restorers.value, self.weights.value, self._output_dtype(origin)

        def work(progress: Progress) -> tuple[BlindResult, Images, list[str]]:
            array = np.asarray(origin.data)
            with _without_input_warnings():
                blind = restore_and_combine(
                    array,
                    restorers,
                    names,
                    second_exposure=exposure,
                    progress=progress,
                    **settings.keywords(),
                )
            images = [as_dtype(each, dtype) for each in blind.candidates]
            combined = combine(blind.lut, images, origin.rgb, settings.device, progress)
            return blind, combined, _remarks(restorers, array, blind.candidates, dtype)

        def show(results: tuple[BlindResult, Images, list[str]]) -> None:
            blind, combined, remarks = results
            layers = self._add(origin, restorers, names, blind.candidates, dtype)
            self._lut = blind.lut
            get_session(self.viewer).keep(f"{origin.name}, no ground truth", blind.lut, layers)
            self.queue.put(Outputs(self.viewer, origin, origin.name).showing(blind.lut, combined, view))
            first = f"Added {len(layers)} candidates, the ensemble and the weight maps."
            self._show_scores(blind.scores, keys)
            self._say_all(origin, blind.summary, blind.reason, first, *remarks)

        self.start(work, "Restoring and combining", show)

    run = restore_and_combine

    @shows_errors
    def rank(self) -> None:
        """Rank the ticked restorers by their errors, estimated from the noisy image alone."""
        origin, restorers, names = self._request()
        if len(restorers) < 2:
            raise EnsembleError("There is nothing to rank; tick two or more restorers.")
        keys, hiding = self.restorers.value, self._hiding()

        def work(progress: Progress) -> BlindReference:
            return blind_reference(np.asarray(origin.data), restorers, names, progress=progress, **hiding)

        def show(reference: BlindReference) -> None:
            self._show_scores(scores := reference.scores(), keys)
            self.say(f"{verdict(scores)}\n{reference.reason}")

        self.start(work, "Ranking", show)

    def _show_scores(self, scores: NoisyScores, keys: Sequence[str]) -> None:
        """Show the scores of the restorers with these keys."""
        self.scores, self._scored = scores, keys
        table = scores.table(ranked=True)
        self.ranking.show_table(table, [_ROLES.get(each.role, "") for each in table.rows])
        self.ranking.visible = True
        self.update_run_button()
        self.reveal(self.message, self.ranking, self.save_button)

    def _select_ranked(self, row: int) -> None:
        """Show the settings of the restorer in this row of the scores."""
        assert self.scores is not None  # rows are shown with them
        place = self.scores.ranked[row]
        if self.scores.roles[place] == "candidate":
            self.restorers.select(self._scored[place])
            self.picker.section.open()

    def tick_best(self) -> None:
        """Tick only the restorer with the smallest error."""
        if self.scores is None:
            raise EnsembleError("Nothing has been ranked yet; tick restorers and press Rank.")
        ranked = [place for place in self.scores.ranked if self.scores.roles[place] == "candidate"]
        self.restorers.value = [self._scored[ranked[0]]]

    def _output_dtype(self, origin: LayerSnapshot) -> np.dtype[Any]:
        return np.dtype(np.float32) if self.float_output.value else origin.dtype

    def _add(
        self,
        origin: LayerSnapshot,
        restorers: Sequence[Restorer],
        names: Sequence[str],
        images: Sequence[NDArray[np.float32]],
        dtype: np.dtype[Any],
    ) -> list[Layer]:
        """Add candidates as layers with a record of their restorers."""
        layers = []
        for restorer, name, image in zip(restorers, names, images, strict=True):
            title = candidate_name(origin.name, name)
            layer = unwrap_proxy(origin.add_candidate(self.viewer, image, title, dtype))
            record = record_of("restored", inputs={"image": origin.name}, restorer=restorer_record(restorer))
            layer.metadata = {**layer.metadata, RECORD_KEY: record}
            layers.append(layer)
        return layers

    def _say_all(self, origin: LayerSnapshot, *lines: str) -> None:
        self.say("\n".join(filter(None, [*lines, changed_layers_warning(self.viewer, [origin])])))

    # -- values of a setting ----------------------------------------------------------------------

    @shows_errors
    def try_values(self) -> None:
        """Try several values of a setting of the selected restorer, and plot their errors."""
        if self.image.value is None:
            raise EnsembleError(_NO_IMAGE)
        form, key, origin = self.sweep_form, self.picker.selected, LayerSnapshot(self.image.value)
        setting, values, hiding = form.setting.value, form.values(), self._hiding()
        restorer = self._with_axis(self.picker.restorer(key))

        def work(progress: Progress) -> Sweep:
            array = np.asarray(origin.data)
            return calibrate_restorer(restorer, setting, values, array, progress=progress, **hiding)

        def show(found: Sweep) -> None:
            form.show_sweep(found, key)
            self.say(
                "\n".join([found.in_words(), *(f"{each[:1].upper()}{each[1:]}" for each in found.warnings)])
            )

        self.start(work, "Trying values", show)

    def adopt_value(self) -> None:
        """Set the setting to the value with the smallest error."""
        form = self.sweep_form
        if form.sweep is None:
            raise EnsembleError("No values have been tried yet; press Try values.")
        self.picker.set_value(form.swept, form.sweep.setting, form.sweep.best)

    def _hiding(self) -> dict[str, Any]:
        names = ("stride", "offsets", "seed", "channel_axis")
        return self.settings_from(BlindSettings, *names).keywords(*names)

    # -- copying ----------------------------------------------------------------------------------

    def copy(self) -> None:
        """Copy the chosen program or command to the clipboard."""
        origin, _, _ = self._request()
        restoring = Restoring(
            path_of_layer(origin.layer),
            self.picker.as_code(),
            self.channel_axis.value,
            self.device.value,
            self.self_ensemble.value,
            float_output=self.float_output.value,
        )
        settings = self.settings_from(BlindSettings, *BLIND)
        blind = replace(restoring, data_range=settings.data_range)
        second = self.second_exposure.value
        second_path = None if second is None else path_of_layer(second)
        write = {
            "combine-python": lambda: blind_as_python(blind, settings, second_path),
            "combine-command": lambda: blind_as_command(blind, settings, second_path),
            "restore-python": lambda: restore_as_python(restoring),
            "restore-command": lambda: restore_as_command(restoring),
        }
        self.say(copied(write[self.program.value]()))


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


def clipping_note(name: str, image: NDArray[np.float32], dtype: np.dtype[Any]) -> str:
    """Return a sentence about the pixels that are clipped by conversion to a dtype; empty if none is.

    Examples
    --------
    >>> image = np.array([-3.0, 7.5, 255.4, 999.0], np.float32)
    >>> print(clipping_note("Median", image, np.dtype(np.uint8)))
    Median: 2 pixels below 0 or above 255 (-3 to 999) were clipped; tick Keep float results.
    >>> clipping_note("Median", image, np.dtype(np.float32))
    ''
    """
    if dtype.kind not in "iu":
        return ""
    limits = np.iinfo(dtype)
    n = int(((image < limits.min - 0.5) | (image >= limits.max + 0.5)).sum())
    if not n:
        return ""
    pixels = "1 pixel" if n == 1 else f"{n:,} pixels"
    return (
        f"{name}: {pixels} below {limits.min} or above {limits.max} ({np.nanmin(image):.4g} to "
        f"{np.nanmax(image):.4g}) {'was' if n == 1 else 'were'} clipped; tick Keep float results."
    )


def _remarks(
    restorers: Sequence[Restorer],
    image: NDArray[Any],
    restored: Sequence[NDArray[np.float32]],
    dtype: np.dtype[Any],
) -> list[str]:
    """Return notes and warnings about restorations of an image, of which some may be empty."""
    found = format_notes(note for each in restorers for note in notes_of(each, image))
    pairs = list(zip(restorers, restored, strict=True))
    found += [clipping_note(restorer.name, one, dtype) for restorer, one in pairs]
    return found + [each for restorer, one in pairs for each in warnings_of(restorer, image, one)]


@contextmanager
def _without_input_warnings() -> Iterator[None]:
    """Suppress Python warnings that the panel shows in its message."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnfamiliarImageWarning)
        yield


class SweepForm(Container):
    """Form for the setting, the range and the number of values to try, with a plot of the errors.

    Parameters
    ----------
    viewer
        The viewer whose theme the plot follows.

    Attributes
    ----------
    sweep : Sweep or None
        The latest, of the restorer with the key ``swept``.
    """

    def __init__(self, viewer: napari.Viewer, **kwargs: Any) -> None:
        self._settings: dict[str, Setting] = {}
        self._restorer: Restorer | None = None
        self.sweep: Sweep | None = None
        self.swept = ""
        self.setting = Choice(
            {},
            name="sweep_setting",
            label="Setting",
            tooltip="A numeric setting of the restorer that is selected in the list.",
            gui_only=True,
        )
        self.between = NumberRange(
            name="sweep_between",
            label="From, to",
            tooltip="The smallest and the largest value.",
            gui_only=True,
        )
        (count,) = (each for each in settings_of(SweepSettings) if each.name == "count")
        self.steps = create_control(count, name="sweep_steps", gui_only=True)
        self.sweep_button = button(
            "Try values",
            "Restore with each value and compare the estimated errors; no ground truth is needed.",
            "sweep_button",
        )
        self.adopt_button = button(
            "Use the best", "Set the value with the smallest error.", "adopt_button", enabled=False
        )
        shown = "Error of each value minus the smallest error, with a band of its standard error."
        about = ("sweep_plot", "Plot of the values tried", shown, (220, 190))
        self.plot = Plot(viewer, self._draw, *about)
        super().__init__(layout="vertical", labels=False, **kwargs)
        self.margins = (0, 0, 0, 0)
        self.extend(
            [
                Form(self.setting, self.between, self.steps, name="sweep_controls", gui_only=True),
                row(self.sweep_button, self.adopt_button, name="sweep_buttons", gui_only=True),
                self.plot,
            ]
        )
        self.setting.changed.connect(self._suggest)

    def offer(self, restorer: Restorer) -> None:
        """Offer the numeric settings of a restorer; an existing plot is kept."""
        self._restorer = restorer
        self._settings = {each.name: each for each in numeric_settings(restorer)}
        self.setting.offer({each.name: (each.title, each.description) for each in self._settings.values()})
        self.sweep_button.enabled = bool(self._settings)
        self._suggest()

    def _suggest(self, *_: object) -> None:
        """Suggest values around the current one."""
        chosen = self._settings.get(self.setting.value)
        if chosen is None:
            return
        low, high = default_grid_range(chosen, getattr(self._restorer, chosen.name))
        self.between.suit(high - low)
        self.between.value = (low, high)

    def values(self) -> list[Any]:
        """Return the values to try.

        Raises
        ------
        EnsembleError
            If there is no setting to try, or fewer than two values lie between.
        """
        chosen = self._settings.get(self.setting.value)
        if chosen is None:
            raise EnsembleError(
                "This restorer has no numeric setting to try; select another restorer in the list."
            )
        low, high = self.between.value
        return parameter_grid(chosen, low, high, self.steps.value)

    def show_sweep(self, sweep: Sweep, key: str) -> None:
        """Plot the errors of the restorer with this key."""
        self.sweep, self.swept = sweep, key
        self.adopt_button.enabled = True
        self.adopt_button.text = f"Use {format_value(sweep.best)}"
        self.redraw()

    def redraw(self, *_: object) -> None:
        """Plot the latest errors, if any, in the viewer's theme."""
        if self.sweep is not None:
            self.plot.redraw()

    def _draw(self, axes: Axes) -> None:
        assert self.sweep is not None  # checked before a plot is drawn
        draw_sweep(axes, self.sweep, self.sweep.setting.replace("_", " "))
