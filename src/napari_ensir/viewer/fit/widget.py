"""The Fit ensemble panel: fits layers, and updates the result when a control changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_ensir.ensemble.checks.diagnostic import Diagnostic
from napari_ensir.ensemble.fit import FROZEN
from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.code_export import (
    copied,
    corrections_of_layers,
    fit_as_command,
    fit_as_python,
    path_of_layer,
)
from napari_ensir.viewer.controls.dialogs import ask_where_to_save
from napari_ensir.viewer.fit.controls import FitControls
from napari_ensir.viewer.fit.corrections import (
    Corrected,
    add_corrected,
    correct,
    find_unequal_sizes,
    question_about_noise,
)
from napari_ensir.viewer.fit.precompile import warm_up
from napari_ensir.viewer.fit.request import NO_CANDIDATE, NO_TRUTH, FitRequest
from napari_ensir.viewer.fit.scores import better_than_chosen, ssim_in_words
from napari_ensir.viewer.fit.worker import (
    FitResult,
    calibrated,
    errors_of,
    expected_error,
    expected_limits,
    fit,
    refit,
    score_all,
    score_held_out,
)
from napari_ensir.viewer.layers.layers import LayerSnapshot, Versions, full_data, notice, unwrap_proxy
from napari_ensir.viewer.layers.session import get_session
from napari_ensir.viewer.panel import shows_errors
from napari_ensir.viewer.results.layers import Errors, Outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import napari
    from napari.layers import Layer

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.viewer.fit.compare_dialog import CompareDialog

__all__ = ["FitWidget"]

STALE = "The layers, the planes or the mask have changed; press Fit again."

LIVE = ("method", "bin_width", "shrinkage", "prior", "max_iter")
"""Settings that take effect at once, from the statistics kept."""

REST, SCORE_REST = 40, 600
"""Milliseconds without a change before a refit or scoring starts, so that a drag does not queue up."""

AT_ONCE = ("method", "weights")
"""Controls that are not dragged, so that no delay is needed."""


class FitWidget(FitControls):
    """Learns from the chosen layers how far to trust each, and adds the results as layers.

    After a fit, a change of method or its settings updates the layers at once. A change of layers, planes,
    channels or mask needs a new fit.

    Parameters
    ----------
    napari_viewer
        The viewer to work in.

    Attributes
    ----------
    result : FitResult or None
        The latest, with ``lut``, ``scores`` and ``combined``.
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self.result: FitResult | None = None
        self.comparison: CompareDialog | None = None
        self._outputs: Outputs | None = None
        self._like: LayerSnapshot | None = None
        self._title = ""
        self._is_kept = False
        self._done: set[str] = set()
        self._learned_from: tuple[Any, ...] = ()
        self._versions = Versions()
        super().__init__(napari_viewer)
        self._soon = self._timer(REST, self._refit)
        self._scores_soon = self._timer(SCORE_REST, self._follow_up)
        for name in (*LIVE, "weights"):
            self[name].changed.connect(self._refit_after(0 if name in AT_ONCE else REST))
        for name in ("candidates", "ground_truth", "mask", *FROZEN):
            self[name].changed.connect(self.safely(self._inputs_changed))
        self.scores.chosen.connect(self._adopt)
        self.fixes.chosen.connect(self.correct)
        for key, slot in (
            ("compare_button", self.compare),
            ("errors_button", self.show_errors),
            ("expected_button", self.show_expected_error),
            ("keep_button", self.keep),
            ("export_button", self._ask_and_export),
            ("python_button", lambda: self.say(copied(self.as_code(fit_as_python)))),
            ("command_button", lambda: self.say(copied(self.as_code(fit_as_command)))),
        ):
            self[key].changed.connect(self.safely(slot))
        self.update_run_button()

    def _timer(self, milliseconds: int, slot: Any) -> QTimer:
        timer = QTimer(self.native)
        timer.setSingleShot(True)
        timer.setInterval(milliseconds)
        timer.timeout.connect(self.safely(slot))
        return timer

    def _refit_after(self, milliseconds: int) -> Callable[[], None]:
        return lambda: self._soon.start(milliseconds)

    # -- request --------------------------------------------------------------------------------

    def request(self) -> FitRequest:
        """The layers and settings chosen.

        Raises
        ------
        EnsembleError
            If something is missing or invalid.
        """
        return FitRequest.of_layers(
            self.candidates.value, self.ground_truth.value, self.settings(), self.mask.value
        )

    def is_stale(self) -> bool:
        """Whether the result is of other layers, pixels or settings than those chosen."""
        return self.result is None or self._learned_from != self._inputs()

    def _inputs(self) -> tuple[Any, ...]:
        """Layers, their versions and settings whose change needs a new fit."""
        layers = [*self.candidates.value, self.ground_truth.value, self.mask.value]
        return (*self._versions.of(layers), *self.frozen_settings())

    def _inputs_changed(self) -> None:
        self.follow_images()
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

    def _show_questions(self) -> None:
        """Show what should be looked at before a fit."""
        layers = [unwrap_proxy(layer) for layer in self.viewer.layers]
        found = find_unequal_sizes(layers, self.ground_truth.value) + self._noise_question()
        self.fixes.show_fixes(found)
        lines = [notice(self.candidates.value, self.ground_truth.value), *(each.message for each in found)]
        self.say("\n".join(filter(None, lines)))

    def _noise_question(self) -> list[Diagnostic]:
        if self.truth_noise.value is not None:
            return []
        return question_about_noise(self.candidates.value, self.ground_truth.value)

    def data_changed(self, layer: Layer) -> None:
        """See Panel."""
        self._versions.changed(unwrap_proxy(layer))
        super().data_changed(layer)
        # Other layers, such as our own outputs, are ignored.
        chosen = [*self.candidates.value, self.ground_truth.value, self.mask.value]
        if any(layer is each for each in chosen):
            self._inputs_changed()

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
        """See TablePanel."""
        no_result = "" if self.result is not None else "There is no result yet; press Fit first."
        keys = ("save", "compare", "errors", "expected", "keep", "export")
        return {
            **{f"{key}_button": no_result for key in keys},
            "python_button": self.missing_input(),
            "command_button": self.missing_input(),
        }

    def run(self) -> None:
        """See Panel."""
        self.fit()

    @property
    def is_running(self) -> bool:
        """Whether work is running or scheduled."""
        return super().is_running or self._soon.isActive() or self._scores_soon.isActive()

    def fit(self) -> None:
        """Fit the layers chosen; the result's layers are added when it is done."""
        try:
            request = self.request()
        except EnsembleError as error:
            self.fail(error)
            return
        origins = [LayerSnapshot(layer) for layer in self.candidates.value]
        inputs = self._inputs()
        self._soon.stop()
        self._start_fit(request, lambda result: self._take_new(result, origins, inputs))

    def _start_fit(self, request: FitRequest, then: Any) -> None:
        self._scores_soon.stop()
        self.start(lambda progress: fit(request, progress), "Fitting the ensemble", then)

    def _take_new(self, result: FitResult, origins: list[LayerSnapshot], inputs: tuple[Any, ...]) -> None:
        self._like, self._learned_from = origins[0], inputs
        self._outputs, self._title, self._is_kept = Outputs(self.viewer, origins[0]), "", False
        layers = [origin.layer for origin in origins]
        get_session(self.viewer).remember_layers(result.lut, layers)
        self._title = get_session(self.viewer).keep(" + ".join(result.lut.names), result.lut, layers)
        self._take(result)
        self.reveal(self.message, self.scores, self.save_button)

    def _refit(self) -> None:
        """Update the result to the controls, from the statistics kept if possible."""
        before, outputs = self.result, self._outputs
        if before is None or outputs is None:
            return
        if self.task is not None and not self._is_quiet:
            self._soon.start(REST)  # once what runs has ended
            return
        now = self.settings()
        live = {name: getattr(now, name) for name in LIVE}
        settings = replace(before.request.settings, **live, device=now.device)
        if settings == before.request.settings:
            self.queue.put(outputs.showing(before.lut, before.combined, self.weights.value))
        elif not before.session.holds(replace(settings, planes=None)):
            self._start_fit(replace(before.request, settings=settings), self._take)
        else:
            self._scores_soon.stop()
            self.start(lambda progress: refit(before, settings, progress), "Refitting", self._take)

    def _take(self, result: FitResult) -> None:
        """Show a result in the layers of this fit, or in new ones if those were kept."""
        if self._is_kept and self._like is not None:
            self._outputs, self._is_kept = Outputs(self.viewer, self._like), False
            layers = get_session(self.viewer).learned_on(self.result.lut) if self.result else []
            self._title = get_session(self.viewer).keep(" + ".join(result.lut.names), result.lut, layers)
        self.result, self._done = result, set()
        if self._outputs is not None:
            self.queue.put(self._outputs.showing(result.lut, result.combined, self.weights.value))
        get_session(self.viewer).replace(self._title, result.lut)
        self.show_value_in_use(result)
        self._tell()
        self.update_run_button()
        self._scores_soon.start(SCORE_REST if result.ssim_known else 0)

    def _tell(self) -> None:
        """Show the notes and scores of the result, the most important first."""
        result = self.result
        if result is None:
            return
        lines = [STALE] if self.is_stale() else []
        question = self._noise_question()
        lines += [each.message for each in question]
        self.fixes.show_fixes([*question, *_diagnostics_of(result.lut)])
        automatic = result.request.settings.method == "auto"
        if not automatic and (better := better_than_chosen(result.scores, result.lut.method)):
            lines.append(better)
        lines += [note[:1].upper() + note[1:] for note in result.notes]
        self.say("\n".join(lines))
        about = ssim_in_words(result.request)
        self.scores.show_scores(result.scores, result.lut.method, result.lut.names, about)

    # -- work after the last change ----------------------------------------------------------------

    def _follow_up(self) -> None:
        """Run the slower steps one by one: held-out scores, calibration, error images, SSIM."""
        result = self.result
        if result is None or (self.task is not None and not self._is_quiet):
            return
        if self.queue.is_active:  # the layers first
            self._scores_soon.start(REST)
            return
        if "methods" not in self._done:
            self._then("methods", score_held_out, "Scoring", self._take_scores)
        elif "calibration" not in self._done:
            self._then("calibration", calibrated, "Measuring errors", self._take_calibrated)
        elif "errors" not in self._done and self._outputs is not None and self._outputs.has_errors:
            self._then("errors", lambda each, _: errors_of(each), "Errors", self._take_errors)
        elif "expected" not in self._done and self._outputs is not None and self._outputs.has_expected:
            self._then("expected", _expected_of, "Expected error", self._take_expected)
        elif "ssim" not in self._done:
            self._then("ssim", score_all, "Scoring", self._take_scores)

    def _then(self, key: str, work: Any, title: str, take: Any) -> None:
        result = self.result

        def taken(value: Any) -> None:
            if self.result is result:
                take(value)
                self._done.add(key)
                self._scores_soon.start(0)

        self.start(lambda progress: work(result, progress), title, taken, quiet=True)

    def _take_scores(self, result: FitResult) -> None:
        self.result = result
        self._tell()

    def _take_errors(self, errors: Errors) -> None:
        if self.result is not None and self._outputs is not None:
            self.queue.put(self._outputs.showing_errors(self.result.lut, errors))

    def show_errors(self) -> None:
        """Add the errors of the ensemble and of the best candidate, in one colour scale."""
        if self.result is None or self._outputs is None:
            raise EnsembleError("There is no result yet; press Fit first.")
        result, outputs = self.result, self._outputs

        def take(errors: Errors) -> None:
            self.queue.put(outputs.showing_errors(result.lut, errors))
            self._done.add("errors")
            self._scores_soon.start(0)

        self.start(lambda _: errors_of(result), "Errors", take, quiet=True)

    def _take_calibrated(self, result: FitResult) -> None:
        self.result = result
        get_session(self.viewer).replace(self._title, result.lut)
        if self._outputs is not None:
            self._outputs.remember(result.lut)
        self._tell()

    def show_expected_error(self) -> None:
        """Add the expected error at each pixel, after calibration if necessary."""
        result = self.result
        if result is None or self._outputs is None:
            raise EnsembleError("There is no result yet; press Fit first.")

        def work(progress: Progress) -> tuple[FitResult, Any]:
            known = result if result.lut.errors is not None else calibrated(result, progress)
            if known.uncalibrated:
                raise EnsembleError(f"there is no expected error: {known.uncalibrated}")
            return known, _expected_of(known, progress)

        def take(found: tuple[FitResult, Any]) -> None:
            self._take_calibrated(found[0])
            self._take_expected(found[1])
            self._done |= {"calibration", "expected"}
            self._scores_soon.start(0)

        self.start(work, "Expected error", take, quiet=True)

    def _take_expected(self, image: Any) -> None:
        if self.result is not None and self._outputs is not None and image is not None:
            self._outputs.show_expected(self.result.lut, image, expected_limits(self.result.lut))

    def keep(self) -> None:
        """Keep the layers and the table as they are; later results are added as new ones."""
        if self.result is None:
            raise EnsembleError("There is no result yet; press Fit first.")
        self._is_kept = True
        self.say("Kept; results of other settings are added as new layers.")

    def compare(self) -> None:
        """Rank candidates, average, ZZPM and every method by their held-out scores."""
        from napari_ensir.viewer.fit.compare_dialog import CompareDialog

        result = self.result
        if result is None:
            raise EnsembleError("There is no result yet; press Fit first.")
        if "methods" not in self._done:
            self._then("methods", score_held_out, "Scoring", self._take_and_compare)
            return
        scores = list(result.scores)
        if not any(score.role == "zzpm" for score in scores):
            scores += [result.session.score_zzpm()]
        self.comparison = CompareDialog(
            scores, result.lut.method, result.held_out_in_words, self._adopt, self.native
        )
        self.comparison.show()

    def _take_and_compare(self, result: FitResult) -> None:
        self._take_scores(result)
        self._done.add("methods")
        self.compare()

    def _adopt(self, method: str) -> None:
        self.method.value = method

    def as_code(self, write: Callable[..., str]) -> str:
        """The fit as code, written by :func:`fit_as_python` or :func:`fit_as_command`.

        Raises
        ------
        EnsembleError
            If something is missing or does not fit.
        """
        self.request()  # raises if this cannot be fitted
        candidates, truth = self.candidates.value, self.ground_truth.value
        paths = {layer.name: path_of_layer(layer) for layer in candidates}
        mask = None if self.mask.value is None else path_of_layer(self.mask.value)
        corrections = corrections_of_layers({**{layer.name: layer for layer in candidates}, "": truth})
        return write(paths, path_of_layer(truth), self.settings(), mask, corrections)

    # -- corrections --------------------------------------------------------------------------------

    @shows_errors
    def correct(self, diagnostic: Diagnostic) -> None:
        """Do what the fix of a diagnostic says; images are corrected as new layers, which are chosen instead.

        Parameters
        ----------
        diagnostic : Diagnostic
            Such as one of ``fixes.diagnostics``.
        """
        fix = diagnostic.fix or {}
        action, names = fix["action"], fix.get("candidates", ())
        if action == "set-noise":
            self.truth_noise.value = fix["value"]
        elif action == "set-bin-width":
            self.bin_width.value = fix["value"]
        elif action == "drop-candidate":
            self.candidates.value = [each for each in self.candidates.value if each.name not in names]
            self.say(f"Unticked {', '.join(names)}; press Fit.")
        else:
            self._correct_layers(fix, names)

    def _correct_layers(self, fix: Mapping[str, Any], names: Sequence[str]) -> None:
        truth = self.ground_truth.value
        # Of layers with one name, the candidates are meant.
        offered = [truth, *map(unwrap_proxy, self.viewer.layers), *self.candidates.value]
        by_name = {layer.name: layer for layer in offered if layer is not None}
        if truth is None or not set(names) <= set(by_name):
            raise EnsembleError("The layers were removed or renamed; press Fit first.")
        layers = [by_name[name] for name in names]
        images, reference = [full_data(layer) for layer in layers], full_data(truth)
        axis = -1 if truth.rgb else self.channel_axis.value

        def work(progress: Progress) -> list[Corrected]:
            found = []
            for number, image in enumerate(images):
                progress(number, len(images), "correcting")
                found.append(correct(image, fix, reference, axis))
            return found

        def show(found: list[Corrected]) -> None:
            made = [
                add_corrected(self.viewer, layer, each) for layer, each in zip(layers, found, strict=True)
            ]
            self._choose_instead(dict(zip(map(id, layers), made, strict=True)), truth)
            names = ", ".join(f'"{layer.name}"' for layer in made)
            self.say(f"Added {names}, which {'is' if len(made) == 1 else 'are'} chosen now; press Fit.")

        self.start(work, "Correcting", show)

    def _choose_instead(self, made: Mapping[int, Layer], truth: Layer) -> None:
        """Choose corrected layers in place of those that they were made of, by the id of the latter."""
        chosen = [made.get(id(layer), layer) for layer in self.candidates.value]
        added = [unwrap_proxy(layer) for key, layer in made.items() if key != id(truth)]
        if id(truth) in made:
            self.ground_truth.value = made[id(truth)]
        present = [unwrap_proxy(layer) for layer in chosen]
        present += [layer for layer in added if not any(layer is each for each in present)]
        self.candidates.value = present

    # -- saving -----------------------------------------------------------------------------------

    @shows_errors
    def export_scores(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the scores as CSV, and show the outcome under the buttons.

        Parameters
        ----------
        path : str or Path
        overwrite : bool
            Replace an existing file.
        """
        self.scores.export(Path(path), overwrite=overwrite)
        self.say(f"Wrote {Path(path).name}.")

    def _ask_and_export(self) -> None:
        path = ask_where_to_save(self.native, "Export the scores", "scores", "Table", ".csv")
        if path is not None:
            self.export_scores(path, overwrite=True)  # the dialog has asked


def _diagnostics_of(lut: WeightLUT) -> list[Diagnostic]:
    return [Diagnostic(**each) for each in lut.report.get("diagnostics", ())]


def _expected_of(result: FitResult, progress: Progress | None = None) -> Any:
    """The expected error at each pixel; None if the table is not calibrated."""
    if result.lut.errors is None:
        return None
    request = result.request
    return expected_error(result.lut, request.candidates, request.rgb, request.settings.device, progress)
