"""The panel Apply lookup table, which combines layers without ground truth."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox

from napari_ensir.ensemble.checks.diagnostic import Diagnostic, linear_text
from napari_ensir.ensemble.checks.exposure import matched
from napari_ensir.ensemble.checks.images import ApplyChecks
from napari_ensir.ensemble.lut.lut import figures
from napari_ensir.errors import EnsembleError
from napari_ensir.settings import ApplySettings
from napari_ensir.viewer.code_export import (
    TABLE,
    apply_as_command,
    apply_as_python,
    copied,
    copy_buttons,
    path_of_layer,
)
from napari_ensir.viewer.controls.forms import Form, button, row
from napari_ensir.viewer.controls.inputs import Message, create_controls
from napari_ensir.viewer.layers.combo import LayerChoice
from napari_ensir.viewer.layers.layers import (
    LayerSnapshot,
    changed_layers_warning,
    coarser_levels,
    unwrap_proxy,
)
from napari_ensir.viewer.layers.matching import (
    best_matches,
    duplicate_layer_warning,
    matching_sets,
    mismatch_reason,
)
from napari_ensir.viewer.layers.session import get_session, preference
from napari_ensir.viewer.panel import shows_errors
from napari_ensir.viewer.results.combining import Images, combine, expected_error
from napari_ensir.viewer.results.fix_buttons import FixButtons
from napari_ensir.viewer.results.layers import Outputs, method_title, weights_choice
from napari_ensir.viewer.results.table_panel import TableChoice, TableChoicePanel, save_button

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import napari
    from magicgui.widgets import Container
    from napari.layers import Layer

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.lut.lut import WeightLUT


REMEDY = "tick Match exposure and apply again"
UNCALIBRATED = "This table has no expected error; fit it again, or untick Expected error."
NO_SETS = "No layers have the names of the table's candidates; choose the layers."


def apply_table(
    lut: WeightLUT,
    sets: Sequence[Sequence[Sequence[Any]]],
    rgb: bool,
    device: str,
    progress: Progress | None = None,
    *,
    match: bool = False,
    with_errors: bool = False,
) -> tuple[WeightLUT, list[tuple[Images, list[Any] | None]], list[Diagnostic]]:
    """Combine sets of candidates that share one exposure.

    Parameters
    ----------
    lut
    sets
        For each set, its candidates in the order of the table, then those at lower resolutions, if any.
    rgb
        Whether the last axis is colour.
    device, progress
        As for :meth:`napari_ensir.WeightLUT.apply`.
    match
        Whether to rescale the table to the exposure of the sets first.
    with_errors
        Whether to compute the expected error.

    Returns
    -------
    lut : WeightLUT
        The table, rescaled if requested.
    results : list of (Images, expected)
        For each set; ``expected`` is the expected error at each resolution, or None if not requested.
    diagnostics : list of Diagnostic
        What looks wrong.

    Raises
    ------
    EnsembleError
        If the candidates do not fit the table, the exposures cannot be matched, or the table has no
        expected error.
    """
    checks = ApplyChecks(lut.report, lut.binning, lut.names)
    for candidates, *_ in sets:
        checks.look(lut.field(candidates, -1 if rgb and lut.n_channels > 1 else None))
    if match:
        gain, offset = matched(checks.exposure)
        lut = lut.rescaled(gain, offset)
        scale = linear_text(gain, "", offset, lut.data_range[1] - lut.data_range[0])
        text = f"The table was matched to intensities of about {scale}."
        found = checks.disagreement or [Diagnostic("matched", "info", text)]
    else:
        found = checks.diagnostics(remedy=REMEDY)
    how = (rgb, device, progress)
    combined = [combine(lut, candidates, *how, coarser=more) for candidates, *more in sets]
    errors = [
        [expected_error(lut, level, *how) for level in levels] if with_errors else None for levels in sets
    ]
    return lut, list(zip(combined, errors, strict=True)), found


_NOTHING_YET = "Fit a lookup table, or open one (*.lut.safetensors)."


class ApplyWidget(TableChoicePanel):
    """Combines layers by a lookup table.

    Values: ``table`` (its title), ``candidate_1``, ``candidate_2``, ... (the layer of each candidate of the
    table), ``weights``, ``device``, ``expected_error`` (whether to add it as a layer), ``match`` (whether to
    rescale the table to the exposure of the layers).

    Parameters
    ----------
    napari_viewer
        Viewer of the layers.

    Examples
    --------
    In napari's console::

        widget = ApplyWidget(viewer)
        widget.open("rain.lut.safetensors")
        widget.candidate_1.value = viewer.layers["restored"]
        widget.apply()
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self._session = get_session(napari_viewer)
        self._shown: WeightLUT | None = None
        tables = TableChoice(napari_viewer)
        self._roles = Form(name="roles")
        self.fixes = FixButtons(["match-intensities"], name="fixes")
        device = create_controls(ApplySettings, "device", device=preference("device"))
        self.sets_button = button(
            "Apply to all matching sets",
            "Combine every set of layers whose names are equal except for the names of the candidates.",
            "sets_button",
            visible=False,
        )
        super().__init__(
            napari_viewer,
            Form(tables, name="choice"),
            Message(_NOTHING_YET, name="summary", gui_only=True),
            self._roles,
            Form(weights_choice(), *device, name="how"),
            apply_extras(),
            action="Apply",
            about="Combine these layers with the table; no ground truth is needed.",
            below=[
                self.fixes,
                self.sets_button,
                row(save_button(), name="files", gui_only=True),
                copy_buttons(),
            ],
            tables=tables,
        )
        self.fixes.chosen.connect(self.safely(self._match_and_apply))
        self.on_change(
            sets_button=self.apply_all,
            python_button=lambda: self.copy(apply_as_python),
            command_button=lambda: self.copy(apply_as_command),
        )
        self.table_changed()

    # -- choosing ---------------------------------------------------------------------------------

    @property
    def layers(self) -> list[Any]:
        """The layer chosen for each candidate of the table, in order; None where none is."""
        return [each.value for each in self._roles]

    def update(self, mapping: Mapping | Iterable[tuple[str, Any]] = (), **kwargs: Any) -> None:
        """See Panel. The table is set first, because it determines the controls for the candidates."""
        values = {**dict(mapping), **kwargs}
        if (title := values.pop("table", None)) is not None:
            if title not in self._tables.luts:
                raise EnsembleError(f"there is no table {title!r} in this viewer; fit it, or open it.")
            self._tables.value = title
        super().update(values)

    def table_changed(self) -> None:
        """See TableChoicePanel. The chosen layers are kept if the candidates have the same names."""
        lut, before = self.lut, self._shown
        if lut is not None and lut is not before:
            self._shown = lut
            if before is None or before.names != lut.names:
                self._roles.refill(*(self._role(place, name) for place, name in enumerate(lut.names)))
                self.say("")
            self.summary.value = _describe(lut)
        n = len(self.sets())
        self.sets_button.text = f"Apply to all {n} matching sets"
        self.sets_button.visible = n > 1
        self.update_run_button()

    def _role(self, place: int, name: str) -> LayerChoice:
        """A drop-down list for a candidate, with the layer of matching name selected."""

        def guess(layers: Sequence[Layer]) -> Layer | None:
            lut = self._shown
            assert lut is not None  # it has this candidate
            return best_matches(lut.names, layers, self._session.learned_on(lut))[place]

        tooltip = f'The layer that shows the candidate "{name}".'
        role = LayerChoice(self.viewer, f"candidate_{place + 1}", name, tooltip, guess=guess)
        role.changed.connect(self.safely(self.update_run_button))
        return role

    # -- applying ---------------------------------------------------------------------------------

    def missing_input(self) -> str:
        """See Panel."""
        if self.lut is None or self._shown is None:
            return "No lookup table is open; open one first."
        for name, layer in zip(self._shown.names, self.layers, strict=True):
            if layer is None:
                return f'No layer is chosen for "{name}"; choose the one that shows it.'
        return ""

    def obstacles(self) -> Mapping[str, str]:
        """See TablePanel."""
        missing = self.missing_input()
        uncalibrated = self.lut is None or self.lut.errors is None
        return {
            **super().obstacles(),
            "python_button": missing,
            "command_button": missing,
            "sets_button": "" if self.sets() else NO_SETS,
            "expected_error": UNCALIBRATED if uncalibrated else "",
        }

    def _match_and_apply(self) -> None:
        self.match.value = True
        self.apply()

    @shows_errors
    def apply(self) -> None:
        """Combine the chosen layers, and show a message under the buttons."""
        if missing := self.missing_input():
            raise EnsembleError(missing)
        self._combine({"": self.layers})

    run = apply

    def copy(self, write: Callable[..., str]) -> None:
        """Copy the choices as code, written by :func:`apply_as_python` or :func:`apply_as_command`."""
        if self.lut is None or (missing := self.missing_input()):
            raise EnsembleError(missing)
        table = self._session.path_of(self._tables.value)
        paths = dict(zip(self.lut.names, map(path_of_layer, self.layers), strict=True))
        more = {"match": self.match.value, "with_errors": self.expected_error.value}
        settings = ApplySettings(device=self.device.value)
        self.say(copied(write(TABLE if table is None else str(table), paths, settings, **more)))

    def sets(self) -> dict[str, list[Layer]]:
        """Return all sets of layers whose names match the candidates of the table, by their common name."""
        layers = [unwrap_proxy(layer) for layer in self.viewer.layers]
        return {} if self.lut is None else matching_sets(self.lut.names, layers)

    @shows_errors
    def apply_all(self) -> None:
        """Combine every matching set of layers, and show a message under the buttons."""
        if not (sets := self.sets()):
            raise EnsembleError(NO_SETS)
        self._combine(sets)

    def _combine(self, sets: dict[str, list[Layer]]) -> None:
        lut = self.lut
        assert lut is not None  # checked by both callers
        for layers in sets.values():
            if reason := mismatch_reason(lut, layers):
                raise EnsembleError(reason)
        if len(sets) == 1:  # with several sets, no single one is remembered
            self._session.remember_layers(lut, next(iter(sets.values())))
        if self.expected_error.value and lut.errors is None:
            raise EnsembleError(UNCALIBRATED)
        twice = [duplicate_layer_warning(lut.names, layers) for layers in sets.values()]
        origins = [[LayerSnapshot(layer) for layer in layers] for layers in sets.values()]
        arrays = [[[origin.data for origin in each]] for each in origins]
        for each, layers in zip(arrays, sets.values(), strict=True):
            each += coarser_levels(layers)
        how, view = (origins[0][0].rgb, self.device.value), self.weights.value
        more = {"match": self.match.value, "with_errors": self.expected_error.value}

        def adding(used: WeightLUT, results: Sequence[tuple[Images, Any]]) -> Iterator[None]:
            for label, (first, *_), (images, expected) in zip(sets, origins, results, strict=True):
                outputs = Outputs(self.viewer, first, label)
                yield from outputs.showing(used, images, view, expected=expected)

        def show(done: tuple[WeightLUT, list[tuple[Images, Any]], list[Diagnostic]]) -> None:
            used, results, diagnostics = done
            self.queue.put(adding(used, results))
            self.fixes.show_fixes(diagnostics)
            n = len(sets)
            lines = [f"Added {'the ensemble' if n == 1 else f'{n} ensembles'} and the weight maps."]
            lines += [*twice, *(f"{each}"[:1].upper() + f"{each}"[1:] for each in diagnostics)]
            lines.append(changed_layers_warning(self.viewer, chain(*origins)))
            self.say("\n".join(filter(None, lines)))
            self.reveal(self.message)

        self.start(
            lambda progress: apply_table(lut, arrays, *how, progress, **more),
            "Applying the lookup table",
            show,
        )


def _describe(lut: WeightLUT) -> str:
    width, low, high = map(figures, (lut.bin_width, *lut.data_range))
    return (
        f"{method_title(lut)}, {len(lut.rows):,} bin sets of width {width} on {low} to {high}, "
        f"learned from {int(lut.counts.clip(min=0).sum()):,} pixels."
    )


def apply_extras() -> Container:
    """Return the controls of the expected error and of matching the exposure."""
    return row(
        CheckBox(
            name="expected_error",
            text="Expected error",
            tooltip="Also compute the expected root mean square error at each pixel, in intensity units.",
        ),
        CheckBox(
            name="match",
            text="Match exposure",
            tooltip="Rescale the table to images with another gain or offset before it is applied.",
        ),
        name="extras",
    )
