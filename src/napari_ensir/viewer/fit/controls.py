"""Controls of the Fit ensemble panel, which follow the layers chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels, Shapes

from napari_ensir.ensemble.estimators.base import METHODS
from napari_ensir.ensemble.fit import FROZEN
from napari_ensir.settings import FitSettings, settings_of
from napari_ensir.viewer.code_export import copy_buttons
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.controls.forms import Form, button, row
from napari_ensir.viewer.controls.inputs import Number, OptionalValue, create_control
from napari_ensir.viewer.controls.section import Section
from napari_ensir.viewer.fit.request import channel_axes, leading_axes, likely_channel_axis
from napari_ensir.viewer.fit.score_table import MethodScores
from napari_ensir.viewer.layers.combo import LayerChoice
from napari_ensir.viewer.layers.layers import exclusion_reason, has_truth_name, pixel_shape
from napari_ensir.viewer.layers.picker import LayerPicker
from napari_ensir.viewer.layers.session import preference
from napari_ensir.viewer.results.fix_buttons import FixButtons
from napari_ensir.viewer.results.layers import weights_choice
from napari_ensir.viewer.results.table_panel import TablePanel

if TYPE_CHECKING:
    import napari
    from magicgui.widgets.bases import Widget
    from napari.layers import Layer

    from napari_ensir.viewer.fit.worker import FitResult

BUTTONS = {
    "save_button": ("Save LUT…", "Write the lookup table to a file, for images without ground truth."),
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

_POOLED = ("pooled", "One table for all channels.")


class FitControls(TablePanel):
    """All controls of a fit, by name.

    ``candidates``, ``ground_truth``, ``mask``, ``weights``, and every setting of
    :class:`~napari_ensir.settings.FitSettings`.

    Parameters
    ----------
    napari_viewer
        The viewer whose layers are offered.
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
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
        self._guesses_truth, self._is_following = True, False
        self._last_truth: Layer | None = None
        self._axes: dict[int, str] = {}
        self._form = Form(*self._common_controls(napari_viewer), name="settings_form")
        self.more_section = Section(
            "More settings", Form(*self._further_controls(), name="further_form"), name="more"
        )
        self.fixes = FixButtons(name="fixes")
        super().__init__(
            napari_viewer,
            self.candidates,
            self._form,
            self.more_section,
            action="Fit",
            about="Learn the weights and show the ensemble, the weight maps and the scores.",
            below=[self.fixes, self.scores, *_result_buttons(), copy_buttons()],
        )
        layout = self.native.widget().layout()
        for widget in (self.candidates, self.scores):
            layout.setStretchFactor(widget.native, 1)
        self.ground_truth.changed.connect(self.safely(self._truth_chosen))
        self.method.changed.connect(self.safely(self._follow_method))
        self._follow_method()
        self._guess_truth()
        self.follow_images()

    # -- the controls -----------------------------------------------------------------------------

    def _common_controls(self, viewer: napari.Viewer) -> list[Widget]:
        return [
            LayerChoice(
                viewer,
                lambda layer: not exclusion_reason(layer),
                "choose the ground truth",
                name="ground_truth",
                label="Ground truth",
                tooltip="The clean image, or a second exposure, that the candidates are compared with.",
            ),
            OptionalValue(
                Number(min=_SETTINGS["truth_noise"].minimum, name="own_value", label="Standard deviation"),
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
                tooltip=_SETTINGS["truth_noise"].description,
            ),
            LayerChoice(
                viewer,
                lambda layer: isinstance(layer, Labels | Shapes),
                "all pixels",
                name="mask",
                label="Learn in",
                tooltip="Labels or Shapes layer: learn only from the pixels that it marks. The other "
                "pixels are held out for the scores.",
            ),
            create_control(_SETTINGS["planes"]),
            Choice(
                {None: _POOLED},
                name="channel_axis",
                label="Channels",
                tooltip="Channel axis; choose it to learn a separate table for each channel.",
            ),
            create_control(_SETTINGS["method"], preference("method")),
            create_control(_SETTINGS["bin_width"]),
            weights_choice(),
        ]

    def _further_controls(self) -> list[Widget]:
        shown = {each.name for each in self._form}
        values = {"device": preference("device")}
        return [
            create_control(each, values.get(name, each.default))
            for name, each in _SETTINGS.items()
            if name not in shown
        ]

    # -- values -----------------------------------------------------------------------------------

    def settings(self) -> FitSettings:
        """The current settings; those that do not apply to the images have their defaults.

        Raises
        ------
        EnsembleError
            If a setting is invalid.
        """
        values = self.asdict()
        named = {each.name: values[each.name] for each in settings_of(FitSettings) if each.name in values}
        if self._plane_axis() is None:
            named["planes"] = None
        return FitSettings(**named)

    def frozen_settings(self) -> tuple[Any, ...]:
        """Values of the settings whose change needs a new fit."""
        values = self.asdict()
        return tuple(values[name] for name in FROZEN if name != "planes" or self._plane_axis() is not None)

    def show_value_in_use(self, result: FitResult) -> None:
        """Show the numbers that automatic settings were resolved to."""
        self.bin_width.show_value_in_use(result.lut.bin_width)
        self.shrinkage.show_value_in_use(result.session.used.shrinkage)
        self.bin_width.inner.step = result.session.collect().statistics.binning.width

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

    def follow_images(self) -> None:
        """Update picker, planes, channels and digits to the images chosen."""
        if self._is_following:
            return
        self._is_following = True
        try:
            self.candidates.truth = self.ground_truth.value
            like = self._like_layer()
            self._offer_channels(like)
            self._offer_planes(like)
            if like is not None:
                low, high = like.contrast_limits_range
                whole = np.issubdtype(like.dtype, np.integer)
                self.bin_width.inner.suit(1e4 if whole else (high - low) / 8)
                self.data_range.inner.suit(1e4 if whole else high - low)
        finally:
            self._is_following = False

    def _offer_channels(self, like: Layer | None) -> None:
        axes = channel_axes(like)
        self.channel_axis.visible = bool(axes)
        if axes != self._axes:
            self._axes = axes
            entries = {
                axis: (f"separate: {label}", "One table for each channel.") for axis, label in axes.items()
            }
            self.channel_axis.offer({None: _POOLED, **entries})
            if (likely := likely_channel_axis(like)) is not None:
                self.channel_axis.value = likely

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

    # -- the ground truth -------------------------------------------------------------------------

    def layers_changed(self) -> None:
        """See Panel."""
        super().layers_changed()
        self._guess_truth()

    def _truth_chosen(self) -> None:
        # Guess again if the layer was removed, but not if the user chose none.
        truth = self.ground_truth.value
        self._guesses_truth = truth is None and self._last_truth not in self.ground_truth.choices
        self._last_truth = truth

    def _guess_truth(self) -> None:
        """Choose a layer that is named as ground truth, if none is chosen."""
        if self._guesses_truth and self.ground_truth.value is None:
            offered = [layer for layer in self.ground_truth.choices if layer is not None]
            self.ground_truth.value = next(filter(has_truth_name, offered), None)


def _result_buttons() -> list[Widget]:
    made = [button(text, tooltip, name) for name, (text, tooltip) in BUTTONS.items()]
    return [row(*made[:3], name="files", gui_only=True), row(*made[3:], name="layers", gui_only=True)]
