"""The panel Restore, which restores a layer with the ticked restorers and combines the results."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.errors import EnsembleError
from napari_ensir.files.image import as_dtype
from napari_ensir.restorers import RESTORERS, blind_reference, calibrate_restorer
from napari_ensir.restorers.base import (
    UnfamiliarImageWarning,
    format_notes,
    input_warnings_of,
    intensity_warning,
    notes_of,
    restorer_record,
    with_settings,
)
from napari_ensir.restorers.self_supervised.learn import BlindResult, restore_and_combine
from napari_ensir.settings import BlindSettings
from napari_ensir.viewer.code_export import (
    Chosen,
    Restoring,
    blind_as_command,
    blind_as_python,
    copied,
    path_of_layer,
    restore_as_command,
    restore_as_python,
)
from napari_ensir.viewer.layers.layers import RECORD_KEY, LayerSnapshot, changed_layers_warning
from napari_ensir.viewer.layers.matching import candidate_name
from napari_ensir.viewer.layers.session import get_session
from napari_ensir.viewer.panel import shows_errors
from napari_ensir.viewer.restore.controls import BLIND, RestoreControls
from napari_ensir.viewer.results.combining import Images, combine
from napari_ensir.viewer.results.layers import Outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari
    from numpy.typing import NDArray

    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.scoring.scores import NoisyScores
    from napari_ensir.restorers import Progress, Restorer
    from napari_ensir.restorers.self_supervised.calibrate import Sweep
    from napari_ensir.restorers.self_supervised.reference import BlindReference

__all__ = ["RestoreWidget"]

_Remarks = tuple[list[tuple[str, str]], list[str]]
_Made = TypeVar("_Made")


class RestoreWidget(RestoreControls):
    """Restores a layer with the ticked restorers, and combines the results without ground truth.

    Values: ``image``, ``channel_axis``, ``restorers`` (keys of the ticked restorers, in order),
    ``self_ensemble``, ``float_output`` (whether to add float32 layers, which are not clipped), ``device``,
    ``weights``, the settings of the restorers as ``<restorer>_<setting>``, such as ``gaussian_sigma``, and
    the settings of :class:`~napari_ensir.settings.BlindSettings`.

    Parameters
    ----------
    napari_viewer
        Viewer of the layers.

    Examples
    --------
    In napari's console::

        widget = RestoreWidget(viewer)
        widget.image.value = viewer.layers["noisy"]
        widget.restorers.value = ["median", "total-variation"]
        widget.restore_and_combine()
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self._ranked: tuple[str, ...] = ()
        self._lut: WeightLUT | None = None
        super().__init__(napari_viewer)
        self.restore_button.changed.connect(self.safely(self.restore))
        self.rank_button.changed.connect(self.safely(self.rank))
        self.ranking.chosen.connect(self._select_ranked)
        self.best_button.changed.connect(self.safely(self.tick_best))
        self.sweep_form.sweep_button.changed.connect(self.safely(self.try_values))
        self.sweep_form.adopt_button.changed.connect(self.safely(self.adopt_value))
        self._connect_copying()

    # -- restoring --------------------------------------------------------------------------------

    @property
    def lut(self) -> WeightLUT | None:
        """The table of the latest combination."""
        return self._lut

    def run(self) -> None:
        """See Panel."""
        self.restore_and_combine()

    @shows_errors
    def restore(self) -> None:
        """Restore the chosen image with each ticked restorer, and add the results as layers."""
        origin, restorers = self._request()
        dtype = self._output_dtype(origin)

        def work(progress: Progress) -> tuple[list[tuple[str, NDArray[np.float32]]], list[_Remarks]]:
            array, results = np.asarray(origin.data), []
            for number, restorer in enumerate(restorers):
                part = _part(progress, number, len(restorers), restorer.name)
                results.append((restorer.name, restorer(array, progress=part)))
            return results, _remarks(restorers, array)

        def show(done: tuple[list[tuple[str, NDArray[np.float32]]], list[_Remarks]]) -> None:
            notes = self._add(origin, done[0], restorers, done[1], dtype)
            n = len(restorers)
            first = f"Added {n} candidates; fit them" if n > 1 else "Added 1 candidate; fit it"
            first += " with others in Fit ensemble."
            self.say("\n".join([first, *notes]))
            self.reveal(self.message)

        self.start(_without_warnings(work), "Restoring", show)

    @shows_errors
    def restore_and_combine(self) -> None:
        """Restore the image, learn the weights of the restorers from it alone, and add all results as layers.

        See :func:`~napari_ensir.restorers.self_supervised.learn.learn_blind` for the assumptions about the
        noise.
        """
        origin, restorers = self._request()
        if len(restorers) < 2:
            raise EnsembleError(self.missing_input())
        axis, device, view = self.channel_axis.value, self.device.value, self.weights.value
        dtype = self._output_dtype(origin)
        settings = {name: self[name].value for name in BLIND}
        BlindSettings(**settings)  # check before the work, which may take hours
        if settings["data_range"] is not None:  # the restorers use this range too, as in the command
            restorers = [with_settings(each, data_range=settings["data_range"]) for each in restorers]
        keys, names = tuple(self.restorers.value), _unique([each.name for each in restorers])

        def work(progress: Progress) -> tuple[BlindResult, Images, list[_Remarks]]:
            array = np.asarray(origin.data)
            blind = restore_and_combine(
                array, restorers, names, channel_axis=axis, device=device, progress=progress, **settings
            )
            images = [as_dtype(each, dtype) for each in blind.candidates]
            combined = combine(blind.lut, images, origin.rgb, device, progress)
            return blind, combined, _remarks(restorers, array)

        def show(results: tuple[BlindResult, Images, list[_Remarks]]) -> None:
            blind, combined, remarks = results
            before = list(self.viewer.layers)
            named = list(zip(blind.names, blind.candidates, strict=True))
            notes = self._add(origin, named, restorers, remarks, dtype)
            layers = [layer for layer in self.viewer.layers if layer not in before]
            session, self._lut = get_session(self.viewer), blind.lut
            session.remember_layers(blind.lut, layers)
            session.keep(f"{origin.name}, no ground truth", blind.lut, layers)
            made = Outputs(self.viewer, origin, origin.name)
            self.queue.put(made.showing(blind.lut, combined, view))
            self._show_ranking(blind.scores, keys)
            first = f"Added {len(layers)} candidates, the ensemble and the weight maps."
            self.say("\n".join([blind.summary, blind.reference.reason, first, *notes]))
            self.reveal(self.message, self.ranking, self.save_button)

        self.start(_without_warnings(work), "Restoring and combining", show)

    @shows_errors
    def rank(self) -> None:
        """Rank the ticked restorers by their errors, estimated from the noisy image alone."""
        origin, restorers = self._request()
        if len(restorers) < 2:
            raise EnsembleError("There is nothing to rank; tick two or more restorers.")
        axis, hiding = self.channel_axis.value, self._hiding()
        keys, names = tuple(self.restorers.value), _unique([each.name for each in restorers])

        def work(progress: Progress) -> BlindReference:
            array = np.asarray(origin.data)
            return blind_reference(array, restorers, names, channel_axis=axis, progress=progress, **hiding)

        def show(reference: BlindReference) -> None:
            self._show_ranking(reference.scores(), keys)
            self.say(f"{self.ranking.in_words()}\n{reference.reason}")
            self.reveal(self.message, self.ranking, self.save_button)

        self.start(work, "Ranking", show)

    def _show_ranking(self, scores: NoisyScores, keys: tuple[str, ...]) -> None:
        self._ranked = keys
        self.ranking.show_scores(scores)
        self.update_run_button()

    def _select_ranked(self, index: int) -> None:
        """Show the settings of the restorer in this row of the ranking."""
        if index < len(self._ranked):
            self.restorers.select(self._ranked[index])
            self.settings_section.open()

    def tick_best(self) -> None:
        """Tick only the restorer with the smallest error."""
        if self.ranking.best is None:
            raise EnsembleError("Nothing has been ranked yet; tick restorers and press Rank.")
        self.restorers.value = [self._ranked[self.ranking.best]]

    @shows_errors
    def try_values(self) -> None:
        """Try several values of a setting of the selected restorer, and plot their errors."""
        form, key = self.sweep_form, self.selected
        origin = self._origin()
        axis, hiding = self.channel_axis.value, self._hiding()
        setting, values = form.setting.value, form.values()
        restorer = with_settings(self._restorer(key), channel_axis=axis)

        def work(progress: Progress) -> Sweep:
            array = np.asarray(origin.data)
            return calibrate_restorer(
                restorer, setting, values, array, channel_axis=axis, progress=progress, **hiding
            )

        def show(found: Sweep) -> None:
            form.show_sweep(found, key)
            self.say("\n".join([found.in_words(), *_warned(*found.warnings)]))

        self.start(work, "Trying values", show)

    def adopt_value(self) -> None:
        """Set the setting to the value with the smallest error."""
        form = self.sweep_form
        if form.sweep is None:
            raise EnsembleError("No values have been tried yet; press Try values.")
        self._forms.set_value(form.swept, form.sweep.setting, form.sweep.best)
        self.restorers.select(form.swept)

    def _hiding(self) -> dict[str, Any]:
        values = {name: self[name].value for name in ("stride", "offsets", "seed")}
        return BlindSettings(**values).keywords(*values)

    # -- copying ----------------------------------------------------------------------------------

    def _connect_copying(self) -> None:
        def copies(write: Callable[[], str]) -> Callable[[], None]:
            return self.safely(lambda: self.say(copied(write())))

        self["python_button"].changed.connect(copies(lambda: restore_as_python(self.restoring())))
        self["command_button"].changed.connect(copies(lambda: restore_as_command(self.restoring())))
        self["combine_python_button"].changed.connect(copies(lambda: self._as_blind(blind_as_python)))
        self["combine_command_button"].changed.connect(copies(lambda: self._as_blind(blind_as_command)))

    def restoring(self) -> Restoring:
        """Return the choices for :func:`~napari_ensir.viewer.code_export.restore_as_python`.

        Raises
        ------
        EnsembleError
            If something is missing.
        """
        origin, _ = self._request()
        return Restoring(
            path_of_layer(origin.layer),
            [self._chosen_as_code(key) for key in self.restorers.value],
            self.channel_axis.value,
            self.device.value,
            self.self_ensemble.value,
            float_output=self.float_output.value,
        )

    def _chosen_as_code(self, key: str) -> Chosen:
        settings = self._forms.changed_settings(key)
        if key in RESTORERS:
            return Chosen(key, settings)
        path, around = self.sources.get(key, (f"PATH OF {key}.safetensors", None))
        ir = [
            str(source)
            for other, (source, _) in self.sources.items()
            if self._forms.restorers()[other] is around
        ]
        return Chosen(key, settings, str(path), ir[0] if around is not None and ir else None)

    def _as_blind(self, write: Callable[[Restoring, BlindSettings], str]) -> str:
        settings = BlindSettings(**{name: self[name].value for name in BLIND})
        return write(replace(self.restoring(), data_range=settings.data_range), settings)

    # -- request ----------------------------------------------------------------------------------

    def _request(self) -> tuple[LayerSnapshot, list[Restorer]]:
        """Return the chosen image and the ticked restorers."""
        origin, restorers = self._origin(), self.chosen()
        if not restorers:
            raise EnsembleError("No restorer is ticked; tick one or more.")
        axis = self.channel_axis.value
        return origin, [with_settings(restorer, channel_axis=axis) for restorer in restorers]

    def _output_dtype(self, origin: LayerSnapshot) -> np.dtype[Any]:
        return np.dtype(np.float32) if self.float_output.value else origin.dtype

    def _origin(self) -> LayerSnapshot:
        if self.image.value is None:
            raise EnsembleError("No image is chosen; choose the degraded image to restore.")
        return LayerSnapshot(self.image.value)

    def _add(
        self,
        origin: LayerSnapshot,
        results: list[tuple[str, NDArray[np.float32]]],
        restorers: Sequence[Restorer],
        remarks: Sequence[_Remarks],
        dtype: np.dtype[Any],
    ) -> list[str]:
        """Add candidates as layers with a record of their restorers; return notes and warnings."""
        found = format_notes(note for notes, _ in remarks for note in notes)
        found += [clipping_note(name, restored, dtype) for name, restored in results]
        for (name, restored), restorer, (_, input_warnings) in zip(results, restorers, remarks, strict=True):
            layer = origin.add_candidate(self.viewer, restored, candidate_name(origin.name, name), dtype)
            record = record_of("restored", inputs={"image": origin.name}, restorer=restorer_record(restorer))
            layer.metadata = {**layer.metadata, RECORD_KEY: record}
            warning = intensity_warning(name, origin.middle_plane(), origin.middle_plane(restored))
            found += input_warnings or [warning]
        return [*filter(None, found), *filter(None, [changed_layers_warning(self.viewer, [origin])])]


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


def _remarks(restorers: Sequence[Restorer], array: NDArray[Any]) -> list[_Remarks]:
    """Return the notes and the input warnings of each restorer for an image."""
    return [(notes_of(each, array), input_warnings_of(each, array)) for each in restorers]


def _without_warnings(work: Callable[[Progress], _Made]) -> Callable[[Progress], _Made]:
    """Suppress Python warnings that the panel shows in its message."""

    def quiet(progress: Progress) -> _Made:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnfamiliarImageWarning)
            return work(progress)

    return quiet


def _part(progress: Progress, number: int, total: int, name: str) -> Progress:
    """Return a progress callback for one of several equal parts."""

    def report(done: int, of: int, text: str) -> object:
        share = round(1000 * done / max(of, 1))
        return progress(1000 * number + share, 1000 * total, text if name in text else f"{name}, {text}")

    return report


def _unique(names: list[str]) -> tuple[str, ...]:
    """Make names unique by appending a number to repeated names.

    Examples
    --------
    >>> _unique(["N2V", "Median", "N2V"])
    ('N2V', 'Median', 'N2V 2')
    """
    found: list[str] = []
    for name in names:
        number, tried = 2, name
        while tried in found:
            number, tried = number + 1, f"{name} {number}"
        found.append(tried)
    return tuple(found)


def _warned(*warnings: str | None) -> list[str]:
    return [f"{warning[:1].upper()}{warning[1:]}" for warning in warnings if warning]
