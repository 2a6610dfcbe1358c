"""The panel Fit ensemble, which fits layers and updates the result when a control changes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels, Shapes

from napari_ensir.ensemble.checks.diagnostic import Diagnostic
from napari_ensir.ensemble.compare.baselines import regressors_left_out
from napari_ensir.ensemble.estimators.base import METHODS
from napari_ensir.ensemble.fit import FROZEN
from napari_ensir.errors import EnsembleError
from napari_ensir.settings import FitSettings, settings_of
from napari_ensir.viewer.code_export import (
    copied,
    copy_buttons,
    corrections_of_layers,
    fit_as_command,
    fit_as_python,
    path_of_layer,
)
from napari_ensir.viewer.controls.dialogs import save_asked
from napari_ensir.viewer.controls.forms import Form, button, row
from napari_ensir.viewer.controls.inputs import Number, OptionalValue, create_controls
from napari_ensir.viewer.controls.section import Section
from napari_ensir.viewer.controls.worker import delayed
from napari_ensir.viewer.fit.corrections import (
    Correction,
    add_corrected,
    correction_of,
    find_unequal_sizes,
    question_about_noise,
)
from napari_ensir.viewer.fit.precompile import warm_up
from napari_ensir.viewer.fit.request import NO_CANDIDATE, NO_TRUTH, FitRequest, low_resolution_input
from napari_ensir.viewer.fit.score_table import MethodScores
from napari_ensir.viewer.fit.worker import (
    FitResult,
    better_than_chosen,
    compare_baselines,
    estimate_and_fit,
    refine,
    refit,
)
from napari_ensir.viewer.layers.channels import ChannelChoice, leading_axes
from napari_ensir.viewer.layers.combo import LayerChoice, likely_truth
from napari_ensir.viewer.layers.layers import (
    LayerSnapshot,
    Versions,
    full_data,
    notice,
    pixel_shape,
    placement,
    unwrap_proxy,
)
from napari_ensir.viewer.layers.picker import LayerPicker
from napari_ensir.viewer.layers.session import get_session, preference
from napari_ensir.viewer.panel import shows_errors
from napari_ensir.viewer.results.fix_buttons import FixButtons
from napari_ensir.viewer.results.layers import Outputs, weights_choice
from napari_ensir.viewer.results.table_panel import TablePanel, save_button

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import napari
    from magicgui.widgets.bases import Widget
    from napari.layers import Layer

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.lut.lut import WeightLUT

STALE = "The layers, or the pixels to learn from, have changed; press Fit to update the result."

NO_RESULT = "There is no result yet; press Fit first."

REST = 40
"""Delay in milliseconds after the last change before a refit starts, so that none queue up."""

AT_ONCE = ("method", "weights")
"""Controls that cannot be dragged and need no delay."""

_BUTTONS = {
    "compare_button": (
        "Compare",
        "Rank candidates, methods, regressors and other baselines by their held-out scores.",
    ),
    "export_button": ("Scores…", "Write the scores to a file (CSV)."),
    "errors_button": (
        "Show errors",
        "Add layers of the errors of the ensemble and of the best candidate, in one colour scale.",
    ),
    "expected_button": (
        "Expected error",
        "Add a layer of the expected root mean square error at each pixel, learned on held-out parts.",
    ),
    "keep_button": ("Keep result", "Keep these layers unchanged; later results are added as new layers."),
}
"""Texts and tooltips of the buttons that need a result."""

_SETTINGS = {each.name: each for each in settings_of(FitSettings)}


class FitWidget(TablePanel):
    """Learns the weights of the chosen candidates, and adds the results as layers.

    After a fit, a change of the method or its settings updates the layers immediately. A change of the
    layers, planes, channels or mask needs a new fit.

    Values: ``candidates``, ``ground_truth``, ``mask``, ``weights``, and every setting of
    :class:`~napari_ensir.settings.FitSettings`.

    Parameters
    ----------
    napari_viewer
        Viewer of the layers.

    Attributes
    ----------
    result : FitResult or None
        The latest result, with ``lut``, ``scores`` and ``combined``.
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self.result: FitResult | None = None
        self._outputs: Outputs | None = None
        self._like: LayerSnapshot | None = None
        self._title = ""
        self._is_kept = self._is_ranked = False
        self._learned_from: tuple[Any, ...] = ()
        self._question: tuple[tuple[Any, ...], list[Diagnostic]] = ((), [])
        self._versions = Versions()
        self.candidates = LayerPicker(
            viewer=napari_viewer,
            name="candidates",
            label="Candidates",
            tooltip="The restorations to combine. Tick them. Their order is that of the table's axes; drag "
            "rows to change it.",
        )
        self.scores = MethodScores(
            name="scores",
            label="Scores",
            tooltip="How close each image is to the ground truth: PSNR in dB and SSIM, higher is better.",
        )
        form = Form(*_common_controls(napari_viewer), name="settings_form")
        others = [name for name in _SETTINGS if name not in {control.name for control in form}]
        further = Form(
            *create_controls(FitSettings, *others, device=preference("device")), name="further_form"
        )
        self.more_section = Section("More settings", further, name="more")
        self.fixes = FixButtons(name="fixes")
        buttons = [save_button(), *(button(*texts, name) for name, texts in _BUTTONS.items())]
        super().__init__(
            napari_viewer,
            self.candidates,
            form,
            self.more_section,
            action="Fit",
            about="Learn the weights and show the ensemble, the weight maps and the scores.",
            below=[
                self.fixes,
                self.scores,
                row(*buttons[:3], name="files", gui_only=True),
                row(*buttons[3:], name="layers", gui_only=True),
                copy_buttons(),
            ],
        )
        layout = self.native.widget().layout()
        for widget in (self.candidates, self.scores):
            layout.setStretchFactor(widget.native, 1)
        self._soon = delayed(self.native, self.safely(self._refit))
        for name in ("weights", *(_SETTINGS.keys() - {*FROZEN, "device"})):
            delay = 0 if name in AT_ONCE else REST
            self[name].changed.connect(lambda _, delay=delay: self._soon.start(delay))
        self.on_change(method=self._follow_method)
        self._follow_method()
        self._follow_images()
        self.on_change(**dict.fromkeys(("candidates", "ground_truth", "mask", *FROZEN), self._inputs_changed))
        self.scores.chosen.connect(self._adopt)
        self.fixes.chosen.connect(self.correct)
        self.on_change(
            compare_button=self.compare,
            errors_button=self.show_errors,
            expected_button=self.show_expected_error,
            keep_button=self.keep,
            export_button=self._ask_and_export,
            python_button=lambda: self.say(copied(self.as_code(fit_as_python))),
            command_button=lambda: self.say(copied(self.as_code(fit_as_command))),
        )
        self.update_run_button()

    # -- values -----------------------------------------------------------------------------------

    def _values(self) -> dict[str, Any]:
        """Values of the settings; those that do not apply to the images have their defaults."""
        values = {name: self[name].value for name in _SETTINGS}
        return values if self._plane_axis() is not None else {**values, "planes": None}

    def settings(self) -> FitSettings:
        """The current settings; those that do not apply to the images have their defaults.

        Raises
        ------
        EnsembleError
            If a setting is invalid.
        """
        return FitSettings(**self._values())

    def request(self) -> FitRequest:
        """Return the chosen layers and settings.

        Raises
        ------
        EnsembleError
            If something is missing or invalid.
        """
        return FitRequest.of_layers(
            self.candidates.value, self.ground_truth.value, self.settings(), self.mask.value
        )

    def is_stale(self) -> bool:
        """Return whether the chosen layers, their pixels or the settings have changed since the fit."""
        return self.result is None or self._learned_from != self._inputs()

    def _layers(self) -> list[Layer | None]:
        return [*self.candidates.value, self.ground_truth.value, self.mask.value]

    def _inputs(self) -> tuple[Any, ...]:
        """Return the layers, their versions and the settings that need a new fit if they change."""
        values = self._values()
        return (*self._versions.of(self._layers()), *(values[name] for name in FROZEN))

    # -- following the images ---------------------------------------------------------------------

    def _like_layer(self) -> Layer | None:
        """The layer whose axes are used: the ground truth, else the first candidate."""
        truth = self.ground_truth.value
        return truth if truth is not None else next(iter(self.candidates.value), None)

    def _plane_axis(self) -> int | None:
        """The axis of the planes: the first that is neither in the plane nor that of the channels."""
        like = self._like_layer()
        axes = {} if like is None else leading_axes(like)
        return next((axis for axis in axes if axis != self.channel_axis.value), None)

    def _follow_images(self) -> None:
        """Update picker, planes, channels and digits to the images chosen."""
        self.candidates.truth = self.ground_truth.value
        like = self._like_layer()
        self.channel_axis.follow(like)
        self._offer_planes(like)
        if like is not None:
            low, high = like.contrast_limits_range
            whole = np.issubdtype(like.dtype, np.integer)
            self.bin_width.inner.suit(1e4 if whole else (high - low) / 8)
            self.data_range.inner.suit(1e4 if whole else high - low)

    def _offer_planes(self, like: Layer | None) -> None:
        axis, slider = self._plane_axis(), self.planes.inner
        self.planes.visible = axis is not None
        if like is None or axis is None or slider.max == (last := pixel_shape(like)[axis] - 1):
            return
        by_hand = self.planes.value is not None
        with slider.changed.blocked():
            slider.max = max(1, last)
            if not by_hand:
                slider.value = (0, last)

    def _follow_method(self) -> None:
        method = self.method.value
        self.shrinkage.visible = method == "auto" or "shrinkage" in METHODS[method].uses

    def _inputs_changed(self) -> None:
        self._follow_images()
        if self.candidates.value:
            warm_up([full_data(layer) for layer in self.candidates.value])
        if self.result is None:
            self._show_questions()
        elif self.task is None or self._is_quiet:
            self._tell()
        self.update_run_button()

    def layers_changed(self) -> None:
        """See Panel."""
        super().layers_changed()
        if self.result is None and self.task is None:
            self._show_questions()

    def data_changed(self, layer: Layer) -> None:
        """See Panel."""
        self._versions.changed(unwrap_proxy(layer))
        super().data_changed(layer)
        # Ignore other layers, such as the outputs of this panel.
        if any(layer is each for each in self._layers()):
            self._inputs_changed()

    def _show_questions(self) -> None:
        """Show problems that should be solved before a fit."""
        layers = [unwrap_proxy(layer) for layer in self.viewer.layers]
        found = find_unequal_sizes(layers, self.ground_truth.value) + self._noise_question()
        self.fixes.show_fixes(found)
        lines = [notice(self.candidates.value, self.ground_truth.value), *(each.message for each in found)]
        self.say("\n".join(filter(None, lines)))

    def _noise_question(self) -> list[Diagnostic]:
        if self.truth_noise.value is not None:
            return []
        candidates, truth = self.candidates.value, self.ground_truth.value
        asked = (truth and truth.name, *self._versions.of([*candidates, truth]))
        if self._question[0] != asked:  # it reads pixels
            self._question = asked, question_about_noise(candidates, truth)
        return self._question[1]

    # -- fitting ----------------------------------------------------------------------------------

    @property
    def lut(self) -> WeightLUT | None:
        """The table of the latest result."""
        return None if self.result is None else self.result.lut

    def missing_input(self) -> str:
        """See Panel."""
        if not self.candidates.value:
            return NO_CANDIDATE
        return NO_TRUTH if self.ground_truth.value is None else ""

    def obstacles(self) -> Mapping[str, str]:
        """See Panel."""
        missing, result = self.missing_input(), self.result
        reasons = dict.fromkeys(("save_button", *_BUTTONS), NO_RESULT if result is None else "")
        if result is not None and result.uncalibrated:
            reasons["expected_button"] = f"There is no expected error: {result.uncalibrated}"
        return {**reasons, **dict.fromkeys(("run_button", "python_button", "command_button"), missing)}

    @property
    def is_running(self) -> bool:
        """Whether work is running or scheduled."""
        return super().is_running or self._soon.isActive()

    @shows_errors
    def fit(self) -> None:
        """Fit the chosen layers; the results are added as layers when the fit is done."""
        request, inputs, layers = self.request(), self._inputs(), self.candidates.value
        self._soon.stop()
        like = LayerSnapshot(layers[0])
        self._start(lambda progress: estimate_and_fit(request, progress), like, layers, inputs)

    run = fit

    def _refit(self) -> None:
        """Update the result after a change of the controls, from the stored statistics if possible."""
        before, like = self.result, self._like
        if before is None or like is None:
            return
        if self.task is not None and not self._is_quiet:
            self._soon.start(REST)  # retry when the running task has finished
            return
        settings = replace(self.settings(), **before.request.settings.keywords(*FROZEN))
        if settings == before.request.settings:  # the weights are to be shown in another way
            self._show(before)
            return
        layers = get_session(self.viewer).learned_on(before.lut)
        self._start(lambda progress: [refit(before, settings, progress)], like, layers, self._learned_from)

    def _start(
        self,
        work: Callable[[Progress], Iterable[FitResult]],
        like: LayerSnapshot,
        layers: Sequence[Layer],
        inputs: tuple[Any, ...],
    ) -> None:
        """Fit, show the result, and go on with what takes longer.

        The result is shown in the layers of the last fit, or in new ones if these are kept or of another fit.
        """
        is_new = like is not self._like or self._is_kept or self._outputs is None
        outputs = Outputs(self.viewer, like) if is_new else self._outputs
        wanted = set() if is_new else outputs.kinds()
        session = get_session(self.viewer)

        def steps(progress: Progress) -> Iterator[FitResult]:
            for result in work(progress):
                yield result
            yield from refine(result, wanted, progress)

        def take(result: FitResult) -> None:
            if self._outputs is not outputs:
                self._outputs, self._like, self._learned_from = outputs, like, inputs
                self._title = session.keep(" + ".join(result.lut.names), result.lut, layers)
                self._is_kept = False
                self.reveal(self.message, self.scores, self.save_button)
            self._is_quiet = not result.is_estimate  # a change of a control does not stop the fit
            self._take(result)

        self.start(steps, "Fitting the ensemble", take)

    def _was_cancelled(self) -> None:
        super()._was_cancelled()
        if self.result is not None and self.result.is_estimate:
            self._tell()

    def _take(self, result: FitResult) -> None:
        """Show a result, which may be the last one with more in it."""
        if self.result is None or result.combined is not self.result.combined:
            self._is_ranked = False
        self.result = result
        lut, statistics, session = result.lut, result.session.collect().statistics, get_session(self.viewer)
        session.remember_statistics(lut, statistics)
        session.replace(self._title, lut)
        self._show(result)
        self.bin_width.show_value_in_use(lut.bin_width)
        self.bin_width.inner.step = statistics.binning.width
        self.shrinkage.show_value_in_use(result.session.used.shrinkage)
        self._tell()
        self.update_run_button()

    def _show(self, result: FitResult) -> None:
        assert self._outputs is not None  # made with the first result
        view, more = self.weights.value, {"errors": result.errors, "expected": result.expected}
        self.queue.put(self._outputs.showing(result.lut, result.combined, view, **more))

    def _tell(self) -> None:
        """Show the notes of the result, the most important first, and its scores."""
        result = self.result
        if result is None:
            return
        lines = [STALE] if self.is_stale() else []
        if self._is_ranked:
            lines.append(f"Ranked by held-out scores. {result.held_out_in_words}")
            lines.append(regressors_left_out(result.session))
        question = self._noise_question()
        lines += [each.message for each in question]
        found = (Diagnostic(**each) for each in result.lut.report.get("diagnostics", ()))
        self.fixes.show_fixes([*question, *found])
        if result.verdict:
            lines.append(f"{result.verdict[:-1]}, on pixels held out.")
        if result.request.settings.method != "auto":
            lines.append(better_than_chosen(result.scores, result.lut.method))
        lines += [note[:1].upper() + note[1:] for note in result.notes]
        self.say("\n".join(filter(None, lines)))
        rows = result.ranked_scores() if self._is_ranked else result.scores
        self.scores.show_scores(rows, result.lut.method, result.lut.names, result.ssim_in_words)

    # -- buttons below the result ------------------------------------------------------------------

    def _fitted(self) -> tuple[FitResult, Outputs]:
        if self.result is None or self._outputs is None:
            raise EnsembleError(NO_RESULT)
        return self.result, self._outputs

    def show_errors(self) -> None:
        """Add the errors of the ensemble and of the best candidate as layers with the same colour scale."""
        self._add_images("error")

    def show_expected_error(self) -> None:
        """Add the expected error at each pixel as a layer; calibrate first if necessary."""
        if reason := self._fitted()[0].uncalibrated:
            raise EnsembleError(f"there is no expected error: {reason}")
        self._add_images("expected error")

    def _add_images(self, kind: str) -> None:
        result, outputs = self._fitted()
        outputs.forget(kind)
        self._show(result)  # if they are computed already
        wanted = outputs.kinds() | {kind}
        self.start(lambda progress: refine(result, wanted, progress), "Computing", self._take, quiet=True)

    def keep(self) -> None:
        """Keep the layers and the table unchanged; add later results as new layers."""
        self._fitted()
        self._is_kept = True
        self.say("Kept the layers; results with other settings will be added as new layers.")

    def compare(self) -> None:
        """Rank candidates, methods and baselines by held-out scores; those of baselines follow one by one."""
        result, outputs = self._fitted()
        result.ranked_scores()  # raises if nothing is held out
        self._is_ranked = True
        self._tell()
        wanted, small = outputs.kinds(), None
        if result.request.mask is None:
            small = low_resolution_input(self.viewer.layers, self.ground_truth.value)
        self.start(
            lambda progress: compare_baselines(result, wanted, small, progress),
            "Comparing",
            self._take,
            quiet=True,
        )

    def _adopt(self, method: str) -> None:
        self.method.value = method

    def as_code(self, write: Callable[..., str]) -> str:
        """Return the fit as code, written by :func:`fit_as_python` or :func:`fit_as_command`.

        Raises
        ------
        EnsembleError
            If a layer is missing, or layers do not match.
        """
        self.request()  # raises if the layers cannot be fitted
        candidates, truth = self.candidates.value, self.ground_truth.value
        paths = {layer.name: path_of_layer(layer) for layer in candidates}
        mask = None if self.mask.value is None else path_of_layer(self.mask.value)
        corrections = corrections_of_layers({**{layer.name: layer for layer in candidates}, "": truth})
        return write(paths, path_of_layer(truth), self.settings(), mask, corrections)

    # -- corrections --------------------------------------------------------------------------------

    @shows_errors
    def correct(self, diagnostic: Diagnostic) -> None:
        """Apply the fix of a diagnostic; corrected images are added as new layers and chosen instead.

        Parameters
        ----------
        diagnostic : Diagnostic
            One of ``fixes.diagnostics``, for example.
        """
        fix = diagnostic.fix or {}
        action, names = fix["action"], fix.get("candidates", ())
        if action == "set-noise":
            self.truth_noise.value = fix["value"]
        elif action == "set-bin-width":
            self.bin_width.value = fix["value"]
        elif action == "crop":
            self._learn_outside(fix["region"])
        elif action == "drop-candidate":
            self.candidates.value = [each for each in self.candidates.value if each.name not in names]
            self.say(f"Unticked {', '.join(names)}; press Fit.")
        else:
            self._correct_layers(fix, names)

    def _learn_outside(self, region: Sequence[Sequence[int]]) -> None:
        """Add a mask of all pixels but a region of rows and columns, and choose it."""
        like = self.ground_truth.value
        if like is None:
            raise EnsembleError(NO_TRUTH)
        rows, columns = (slice(*part) for part in region)
        mask = np.ones(pixel_shape(like)[: like.ndim][-2:], np.uint8)
        mask[rows, columns] = 0
        place = placement(like)
        affine = place.pop("affine")[-3:, -3:]
        place = {key: value[-2:, -2:] if np.ndim(value) == 2 else value[-2:] for key, value in place.items()}
        layer = self.viewer.add_labels(mask, name="without the empty region", affine=affine, **place)
        self.mask.value = layer
        self.say(f'Added the mask "{layer.name}", which is chosen in Learn in; press Fit.')

    def _correct_layers(self, fix: Mapping[str, Any], names: Sequence[str]) -> None:
        truth = self.ground_truth.value
        # If several layers have the same name, the candidate has priority.
        offered = [truth, *map(unwrap_proxy, self.viewer.layers), *self.candidates.value]
        by_name = {layer.name: layer for layer in offered if layer is not None}
        if truth is None or not set(names) <= set(by_name):
            raise EnsembleError("The layers were removed or renamed; press Fit first.")
        layers = [by_name[name] for name in names]
        images, reference = [full_data(layer) for layer in layers], full_data(truth)
        axis = -1 if truth.rgb else self.channel_axis.value

        def work(progress: Progress) -> list[tuple[Any, Correction]]:
            found = []
            for number, image in enumerate(images):
                progress(number, len(images), "correcting")
                correction = correction_of(image, fix, reference, axis)
                found.append((correction(image), correction))
            return found

        def show(found: list[tuple[Any, Correction]]) -> None:
            made = {
                layer: unwrap_proxy(add_corrected(self.viewer, layer, *each))
                for layer, each in zip(layers, found, strict=True)
            }
            chosen = self.candidates.value
            chosen += [layer for layer in layers if layer is not truth and layer not in chosen]
            self.ground_truth.value = made.get(truth, truth)
            self.candidates.value = [made.get(layer, layer) for layer in chosen]
            added = ", ".join(f'"{layer.name}"' for layer in made.values())
            self.say(f"Added {added}, which {'is' if len(made) == 1 else 'are'} chosen now; press Fit.")

        self.start(work, "Correcting", show)

    # -- saving -----------------------------------------------------------------------------------

    @shows_errors
    def export_scores(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the scores as CSV, and show a message under the buttons.

        Parameters
        ----------
        path : str or Path
        overwrite : bool
            Replace an existing file.
        """
        self.scores.export(Path(path), overwrite=overwrite)
        self.say(f"Wrote {Path(path).name}.")

    def _ask_and_export(self) -> None:
        save = partial(self.export_scores, overwrite=True)  # the dialog asks before it replaces a file
        save_asked(self.native, "Export the scores", "scores", "Table", ".csv", save)


def _common_controls(viewer: napari.Viewer) -> list[Widget]:
    """The controls that are always in view."""
    noise = _SETTINGS["truth_noise"]
    return [
        LayerChoice(
            viewer,
            "ground_truth",
            "Ground truth",
            "The clean image, or a second exposure, that the candidates are compared with.",
            "choose the ground truth",
            guess=likely_truth,
        ),
        OptionalValue(
            Number(min=noise.minimum, name="own_value", label="Standard deviation"),
            {
                None: ("clean", "The ground truth has no noise."),
                "unknown": (
                    "a second exposure",
                    "The ground truth is another noisy image of the same field; its noise level is not "
                    "known.",
                ),
            },
            by_hand=(
                "a second exposure with noise of",
                "The ground truth is another noisy image of the same field; its noise has this standard "
                "deviation, in intensity units.",
            ),
            name="truth_noise",
            label="Ground truth is",
            tooltip=noise.description,
        ),
        LayerChoice(
            viewer,
            "mask",
            "Learn in",
            "Labels or Shapes layer: learn only from the pixels that it marks. The other pixels are held out "
            "for the scores.",
            "all pixels",
            admits=lambda layer: isinstance(layer, Labels | Shapes),
        ),
        *create_controls(FitSettings, "planes"),
        ChannelChoice(
            ("pooled", "One table for all channels."),
            "separate: {}",
            "One table for each channel.",
            tooltip="Channel axis; choose it to learn a separate table for each channel.",
        ),
        *create_controls(FitSettings, "method", "bin_width", method=preference("method")),
        weights_choice(),
    ]
