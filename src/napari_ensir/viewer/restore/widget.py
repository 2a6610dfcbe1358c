"""The Restore panel: candidates from one degraded layer, by as many restorers as are ticked.

What its controls are is in ``restore_controls.py``; here is what is done with them.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.errors import EnsembleError
from napari_ensir.files.image import as_dtype
from napari_ensir.restorers import CLASSICAL, blind_reference, calibrate_restorer
from napari_ensir.restorers.base import (
    UnfamiliarImageWarning,
    doubts_of,
    notes_in_words,
    notes_of,
    told_of,
    unlike_warning,
    with_settings,
)
from napari_ensir.restorers.self_supervised.learn import Combined as BlindResult
from napari_ensir.restorers.self_supervised.learn import restore_and_combine
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
from napari_ensir.viewer.layers.layers import RECORD_KEY, Origin, changed_meanwhile
from napari_ensir.viewer.layers.matching import candidate_name
from napari_ensir.viewer.layers.session import session_of
from napari_ensir.viewer.panel import shows_errors
from napari_ensir.viewer.restore.controls import BLIND, RestoreControls
from napari_ensir.viewer.results.combining import Combined, combine
from napari_ensir.viewer.results.layers import Outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari
    from numpy.typing import NDArray

    from napari_ensir.ensemble.scoring.scores import NoisyScores
    from napari_ensir.restorers import Progress, Restorer
    from napari_ensir.restorers.self_supervised.calibrate import Sweep
    from napari_ensir.restorers.self_supervised.reference import BlindReference

__all__ = ["RestoreWidget"]

_Remarks = tuple[list[tuple[str, str]], list[str]]
_Made = TypeVar("_Made")


class RestoreWidget(RestoreControls):
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
        super().__init__(napari_viewer)
        self._ranked: tuple[str, ...] = ()
        self.combine_button.changed.connect(self.safely(self.restore_and_combine))
        self.rank_button.changed.connect(self.safely(self.rank))
        self.ranking.chosen.connect(self._select_ranked)
        self.best_button.changed.connect(self.safely(self.tick_best))
        self.sweep_form.sweep_button.changed.connect(self.safely(self.try_values))
        self.sweep_form.adopt_button.changed.connect(self.safely(self.adopt_value))
        self._connect_copying()

    # -- restoring --------------------------------------------------------------------------------

    def run(self) -> None:
        """What the Restore button does."""
        self.restore()

    @shows_errors
    def restore(self) -> None:
        """Restore the chosen image by every restorer ticked."""
        origin, restorers = self._request()

        def work(progress: Progress) -> tuple[list[tuple[str, NDArray[np.float32]]], list[_Remarks]]:
            array, results = np.asarray(origin.data), []
            for number, restorer in enumerate(restorers):
                part = _part(progress, number, len(restorers), restorer.name)
                results.append((restorer.name, restorer(array, progress=part)))
            return results, _remarks(restorers, array)

        def show(done: tuple[list[tuple[str, NDArray[np.float32]]], list[_Remarks]]) -> None:
            said = self._add(origin, done[0], restorers, done[1])
            n = len(restorers)
            first = f"Added {n} candidates; fit them" if n > 1 else "Added 1 candidate; fit it"
            first += " with others in Fit ensemble."
            self.say("\n".join([first, *said]))

        self.start(_unwarned(work), "Restoring", show)

    @shows_errors
    def restore_and_combine(self) -> None:
        """Restore, learn from the noisy image alone whom to trust, combine; add all as layers.

        See :func:`~napari_ensir.restorers.self_supervised.learn.restore_and_combine` for what the noise
        has to be like.
        """
        origin, restorers = self._request()
        if len(restorers) < 2:
            raise EnsembleError("There is nothing to combine; tick two restorers or more.")
        axis, device, view = -1 if origin.rgb else None, self.device.value, self.weights.value
        settings = {name: self[name].value for name in BLIND}
        BlindSettings(**settings)  # checked before hours of work
        if settings["data_range"] is not None:  # as on the command line, it is the restorers' range as well
            restorers = [with_settings(each, data_range=settings["data_range"]) for each in restorers]
        keys, names = tuple(self.restorers.value), _unlike([each.name for each in restorers])

        def work(progress: Progress) -> tuple[BlindResult, Combined, list[_Remarks]]:
            array = np.asarray(origin.data)
            blind = restore_and_combine(
                array, restorers, names, channel_axis=axis, device=device, progress=progress, **settings
            )
            images = [as_dtype(each, origin.dtype) for each in blind.candidates]
            combined = combine(blind.lut, images, origin.rgb, device, progress)
            return blind, combined, _remarks(restorers, array)

        def show(results: tuple[BlindResult, Combined, list[_Remarks]]) -> None:
            blind, combined, remarks = results
            before = list(self.viewer.layers)
            named = list(zip(blind.names, blind.candidates, strict=True))
            said = self._add(origin, named, restorers, remarks)
            layers = [layer for layer in self.viewer.layers if layer not in before]
            session = session_of(self.viewer)
            session.remember_layers(blind.lut, layers)
            session.keep(f"{origin.name}, no ground truth", blind.lut, layers)
            made = Outputs(self.viewer, origin, origin.name)
            self.turns.take(made.showing(blind.lut, combined, view))
            self._show_ranking(blind.scores, keys)
            first = f"Added {len(layers)} candidates, the ensemble and the weight maps."
            self.say("\n".join([blind.summary, blind.reference.reason, first, *said]))

        self.start(_unwarned(work), "Restoring and combining", show)

    @shows_errors
    def rank(self) -> None:
        """Put the restorers ticked in the order of their errors on the image, told from itself alone."""
        origin, restorers = self._request()
        if len(restorers) < 2:
            raise EnsembleError("There is nothing to rank; tick two restorers or more.")
        axis, hiding = -1 if origin.rgb else None, self._hiding()
        keys, names = tuple(self.restorers.value), _unlike([each.name for each in restorers])

        def work(progress: Progress) -> BlindReference:
            array = np.asarray(origin.data)
            return blind_reference(array, restorers, names, channel_axis=axis, progress=progress, **hiding)

        def show(reference: BlindReference) -> None:
            self._show_ranking(reference.scores(), keys)
            self.say(f"{self.ranking.in_words()}\n{reference.reason}")

        self.start(work, "Ranking", show)

    def _show_ranking(self, scores: NoisyScores, keys: tuple[str, ...]) -> None:
        self._ranked = keys
        self.ranking.show_scores(scores)
        self.best_button.visible = True

    def _select_ranked(self, index: int) -> None:
        """Show the settings of a restorer in the table; other rows have none."""
        if index < len(self._ranked):
            self.restorers.select(self._ranked[index])

    def tick_best(self) -> None:
        """Tick the restorer of the least error, and no others."""
        if self.ranking.best is None:
            raise EnsembleError("Nothing is ranked yet; tick restorers and press Rank.")
        self.restorers.value = [self._ranked[self.ranking.best]]

    @shows_errors
    def try_values(self) -> None:
        """Try values of one setting of the restorer selected, and draw their errors as a curve."""
        form, key = self.sweep_form, self.selected
        origin = self._origin()
        axis, hiding = -1 if origin.rgb else None, self._hiding()
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
        """Let the setting have the value of the least error."""
        form = self.sweep_form
        if form.sweep is None:
            raise EnsembleError("No values were tried yet; press Try values.")
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
        """What is chosen, as :func:`~napari_ensir.viewer.code_export.restore_as_python` takes it.

        Raises
        ------
        EnsembleError
            If something is missing.
        """
        origin, _ = self._request()
        return Restoring(
            path_of_layer(origin.layer),
            [self._chosen_as_code(key) for key in self.restorers.value],
            origin.rgb,
            self.device.value,
            self.self_ensemble.value,
        )

    def _chosen_as_code(self, key: str) -> Chosen:
        settings = self._forms.changed_settings(key)
        if key in CLASSICAL:
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

    # -- what is asked for ------------------------------------------------------------------------

    def _request(self) -> tuple[Origin, list[Restorer]]:
        """What the controls say: where the image is from, and what is to be done with it."""
        origin, restorers = self._origin(), self.chosen()
        if not restorers:
            raise EnsembleError("No restorer is ticked; tick one or more.")
        axis = -1 if origin.rgb else None
        return origin, [with_settings(restorer, channel_axis=axis) for restorer in restorers]

    def _origin(self) -> Origin:
        if self.image.value is None:
            raise EnsembleError("No image is chosen; choose the degraded image to restore.")
        return Origin(self.image.value)

    def _add(
        self,
        origin: Origin,
        results: list[tuple[str, NDArray[np.float32]]],
        restorers: Sequence[Restorer],
        remarks: Sequence[_Remarks],
    ) -> list[str]:
        """Add candidates as layers that tell of their restorers; sentences about what is odd."""
        said = notes_in_words(note for notes, _ in remarks for note in notes)
        for (name, restored), restorer, (_, doubts) in zip(results, restorers, remarks, strict=True):
            layer = origin.add_candidate(self.viewer, restored, candidate_name(origin.name, name))
            record = record_of("restored", inputs={"image": origin.name}, restorer=told_of(restorer))
            layer.metadata = {**layer.metadata, RECORD_KEY: record}
            unlike = unlike_warning(name, origin.middle_plane(), origin.middle_plane(restored))
            said += doubts or [unlike]
        return [*filter(None, said), *filter(None, [changed_meanwhile(self.viewer, [origin])])]


def _remarks(restorers: Sequence[Restorer], array: NDArray[Any]) -> list[_Remarks]:
    """How each restorer goes through an image, and what is doubtful about it."""
    return [(notes_of(each, array), doubts_of(each, array)) for each in restorers]


def _unwarned(work: Callable[[Progress], _Made]) -> Callable[[Progress], _Made]:
    """Work without Python's warnings of what the panel says."""

    def quiet(progress: Progress) -> _Made:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnfamiliarImageWarning)
            return work(progress)

    return quiet


def _part(progress: Progress, number: int, total: int, name: str) -> Progress:
    """`progress` for one of several equal pieces of work."""

    def told(done: int, of: int, text: str) -> object:
        share = round(1000 * done / max(of, 1))
        return progress(1000 * number + share, 1000 * total, text if name in text else f"{name}, {text}")

    return told


def _unlike(names: list[str]) -> tuple[str, ...]:
    """Names with a number behind what has come before.

    Examples
    --------
    >>> _unlike(["N2V", "Median", "N2V"])
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
