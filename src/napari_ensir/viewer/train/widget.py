"""Panel that trains a restorer on layers or files."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QMessageBox

from napari_ensir.errors import EnsembleError
from napari_ensir.files.atomic import check_target
from napari_ensir.restorers import CLASSICAL, RECIPES, open_restorer
from napari_ensir.restorers.base import takes_noise
from napari_ensir.restorers.training.models import Denoiser
from napari_ensir.settings import TrainSettings, settings_of
from napari_ensir.viewer.controls.checklist import Checklist
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.controls.dialogs import open_asked, save_asked, with_suffix
from napari_ensir.viewer.controls.forms import Form, button, row, set_accessible_names
from napari_ensir.viewer.controls.inputs import (
    WithButton,
    create_control,
    create_controls,
    path_control,
)
from napari_ensir.viewer.layers.combo import LayerChoice, likely_truth, only_layer
from napari_ensir.viewer.layers.layers import (
    OUTPUT_KEY,
    LayerSnapshot,
    changed_layers_warning,
    exclusion_reason,
    full_data,
    pixel_shape,
    unique_name,
    unwrap_proxy,
)
from napari_ensir.viewer.layers.matching import candidate_name
from napari_ensir.viewer.layers.session import preference
from napari_ensir.viewer.panel import Panel, shows_errors
from napari_ensir.viewer.restore.picker import NETWORK_FILTER
from napari_ensir.viewer.results.layers import colour_of
from napari_ensir.viewer.results.plots import Plot, draw_text
from napari_ensir.viewer.train.run import TrainingRun

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import napari
    from matplotlib.axes import Axes
    from napari.layers import Layer
    from numpy.typing import NDArray

    from napari_ensir.restorers import Restorer

_MOST_POINTS = 1500
_FILE_FILTER = "Trained restorer (*.safetensors)"
_NO_DENOISER = {"": ("Local Wiener filter, needs no training", "")}
_NOTHING_TO_SAVE = "There is no training to save yet; press Train first."
_NOTHING_TO_RESUME = "There is no training to resume; press Train, or resume from a file."
_SOURCES = {
    "layers": ("Layers", "Layers of the viewer; stacks are trained on plane by plane."),
    "files": ("Files", "Folders of images with equal names, as for the command train."),
}


class TrainWidget(Panel):
    """Trains a restorer on layers, and adds the restored layer; or on files.

    A cancelled training can be saved or resumed. Values: ``recipe``, ``source`` ("layers" or "files"),
    ``degraded``, ``clean``, ``degraded_files``, ``clean_files``, ``ir`` and ``denoiser`` (titles of the parts
    of DP-IR), ``steps``, ``minutes`` (None: no limit), ``features``, ``seed``, ``device``. :meth:`add_pair`
    adds further layers.

    Parameters
    ----------
    napari_viewer

    Examples
    --------
    In napari's console::

        widget = TrainWidget(viewer)
        widget.degraded.value, widget.clean.value = viewer.layers["noisy"], viewer.layers["clean"]
        widget.steps.value = 600
        widget.train()  # in a thread
        widget.save("mine.safetensors")  # after it is finished or cancelled
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self.training: TrainingRun | None = None
        self._before: TrainingRun | None = None
        self._preview: Preview | None = None
        self._restorers: dict[str, Restorer] = {}
        self._pairs: dict[str, tuple[Layer, Layer | None]] = {}
        self._plot = LossPlot(napari_viewer)
        self.pairs = Checklist(
            name="pairs",
            label="Layers",
            tooltip="Ticked layers are used in addition to those that are chosen above.",
            gui_only=True,
            visible=False,
        )
        self.pairs.rows.setMaximumHeight(80)
        buttons = (
            button("Resume", "Continue the last training up to the number of steps shown.", "resume_button"),
            button(
                "Resume from…",
                "Continue a training from a file on the chosen layers. For DP-IR with a network from another "
                "file, open and choose that network first.",
                "resume_file_button",
            ),
            button("Save…", "Save the network and the state of its training to a file.", "save_button"),
        )
        super().__init__(
            napari_viewer,
            Form(*self._inputs(napari_viewer), *_settings(), name="choice"),
            action="Train",
            about="Start a new training on the images, then add the restored degraded layer.",
            below=[row(*buttons, name="training_buttons", gui_only=True), self._plot],
        )
        self.native.widget().layout().setStretchFactor(self._plot.native, 1)
        self.cancel_button.tooltip = "Stop; the training so far can be saved or resumed."
        for kind in CLASSICAL.values():
            self.offer(kind.title, kind())
        self._ir.value = next(iter(self._restorers))
        # Layers and plots must be changed on the main thread.
        self._progress_timer = QTimer(self.native)
        self._progress_timer.setInterval(250)
        self._progress_timer.timeout.connect(self.safely(self._show_progress))
        self.open_button.changed.connect(self.safely(self._ask_and_open))
        self.on_change(
            recipe=self._follow_recipe,
            source=self._follow_source,
            add_pair_button=self.add_pair,
            save_button=self._ask_and_save,
            resume_button=self.resume,
            resume_file_button=self._ask_and_resume,
        )
        self.changed.connect(self.safely(self.update_run_button))
        self.connect_while_open(self.viewer.events.theme, self._plot.redraw)
        self._follow_recipe()
        self.update_run_button()

    def _inputs(self, viewer: napari.Viewer) -> list[Any]:
        recipes = {key: (each.title, each.description) for key, each in RECIPES.items()}
        clean = "Target of the network: a clean image of the same field, aligned pixel by pixel."
        layers = (
            ("degraded", "Input of the network, such as a noisy or blurred image.", only_layer),
            ("clean", clean, likely_truth),
        )
        self._ir = Choice(
            {},
            name="ir",
            label="IR network",
            tooltip="Restorer that DP-IR uses: a classical one, one trained here, or one from a file.",
        )
        self._denoisers = Choice(
            _NO_DENOISER,
            name="denoiser",
            label="Denoiser",
            tooltip="Denoiser of DP-IR: one trained or opened here, or any restorer with a setting Noise.",
        )
        self.open_button = button(
            "Open…", "Open the file of an IR network or a denoiser, as in Restore.", "open_button"
        )
        set_accessible_names(self.open_button)
        return [
            Choice(recipes, name="recipe", label="Train", tooltip="Type of network and training."),
            Choice(_SOURCES, name="source", label="Images", tooltip="Where the images to train on are."),
            *(
                LayerChoice(viewer, name, name.capitalize(), tip, f"choose the {name} image", guess=guess)
                for name, tip, guess in layers
            ),
            button(
                "Add to the list",
                "Add the chosen layers to the list, so that others can be chosen: the training uses all of "
                "them.",
                "add_pair_button",
            ),
            self.pairs,
            *(
                path_control(
                    f"{name}_files",
                    name.capitalize(),
                    f"{tip} A folder, or a pattern such as images/{{stem}}_{name}.tif.",
                )
                for name, tip, _ in layers
            ),
            WithButton(self._ir, self.open_button),
            self._denoisers,
        ]

    # -- choices ----------------------------------------------------------------------------------

    def update(self, mapping: Mapping | Iterable[tuple[str, Any]] = (), **kwargs: Any) -> None:
        """See Panel; sets the recipe first, since it changes steps and features."""
        values = {**dict(mapping), **kwargs}
        super().update({name: values.pop(name) for name in ("recipe",) if name in values} | values)

    def layers_changed(self) -> None:
        """See Panel."""
        super().layers_changed()
        present = [None, *map(unwrap_proxy, self.viewer.layers)]
        for key, pair in list(self._pairs.items()):
            if not all(layer in present for layer in pair):
                self.pairs.rows.takeItem(self.pairs.keys().index(key))
                del self._pairs[key]
        self.update_run_button()

    def _follow_recipe(self) -> None:
        recipe = RECIPES[self.recipe.value]
        for control in (self.ir, self.denoiser):
            control.visible = self.recipe.value == "dp-ir"
        self.clean.label = self.clean_files.label = recipe.target or "Clean"
        self.steps.value, self.features.value = recipe.steps, recipe.width
        self._follow_source()

    def _follow_source(self) -> None:
        recipe, in_layers = RECIPES[self.recipe.value], self.source.value == "layers"
        self.degraded.visible = self.add_pair_button.visible = in_layers
        self.clean.visible = in_layers and bool(recipe.target)
        self.pairs.visible = in_layers and bool(self._pairs)
        self.degraded_files.visible = not in_layers and recipe.needs_degraded
        self.clean_files.visible = not in_layers and bool(recipe.target)

    def add_pair(self) -> None:
        """Add the chosen layers to the list of those that the training uses.

        Raises
        ------
        EnsembleError
            If a layer is missing, or the layers do not match.
        """
        pair = self._chosen_layers()
        if pair in self._pairs.values():
            raise EnsembleError("These layers are in the list already; choose others.")
        title = unique_name(" → ".join(layer.name for layer in pair if layer is not None), self._pairs)
        self._pairs[title] = pair
        self.pairs.add(title, title, ticked=True)
        self._follow_source()
        self.say("Added to the list; choose the next layers, or press Train.")

    def offer(self, title: str, restorer: Restorer) -> None:
        """Offer and choose a restorer as the denoiser of DP-IR if it is one, else as its IR network."""
        name = unique_name(title, self._restorers)
        self._restorers[name] = restorer
        self._ir.offer({each: (each, "") for each in self._restorers})
        fitting = [each for each, kind in self._restorers.items() if takes_noise(kind)]
        self._denoisers.offer({**_NO_DENOISER, **{each: (each, "") for each in fitting}})
        (self._denoisers if isinstance(restorer, Denoiser) else self._ir).value = name

    @shows_errors
    def open(self, path: str | Path) -> None:
        """Open a network; see :func:`napari_ensir.restorers.formats.open.open_restorer`."""
        restorer = open_restorer(path, device=self.device.value)
        self.offer(f"{restorer.name} ({Path(path).name})", restorer)
        self.say(f"Opened {Path(path).name}.")

    def missing_input(self) -> str:
        """See Panel."""
        try:
            self.request()
        except EnsembleError as error:
            return str(error)
        return ""

    def obstacles(self) -> Mapping[str, str]:
        """See Panel."""
        found = super().obstacles()
        return {
            **found,
            "resume_file_button": found["run_button"],
            "resume_button": "" if self.training is not None else _NOTHING_TO_RESUME,
            "save_button": "" if self.training is not None else _NOTHING_TO_SAVE,
        }

    def request(self) -> TrainingRun:
        """Return a training with the chosen images and settings.

        Raises
        ------
        EnsembleError
            If a layer is missing, or the layers do not match.
        """
        is_dp_ir = self.recipe.value == "dp-ir"
        images = self._chosen_files() if self.source.value == "files" else self._all_layers()
        return TrainingRun(
            self.recipe.value,
            self._chosen_settings(),
            ir=self._restorers[self.ir.value] if is_dp_ir else None,
            denoiser=self._restorers.get(self.denoiser.value) if is_dp_ir else None,
            **images,
        )

    def _chosen_files(self) -> dict[str, Any]:
        recipe = RECIPES[self.recipe.value]
        files = {"degraded": self.degraded_files.value} if recipe.needs_degraded else {}
        if recipe.target:
            files[recipe.target.lower()] = self.clean_files.value
        for what, path in files.items():
            if path is None:
                raise EnsembleError(f"No folder of {what} images is chosen; choose the images to train on.")
        return {"files": [*files.values()]}

    def _all_layers(self) -> dict[str, Any]:
        """The chosen layers and those that are ticked in the list."""
        pairs = [self._pairs[key] for key in self.pairs.value]
        if not pairs or self.degraded.value is not None:
            chosen = self._chosen_layers()
            pairs = [chosen, *(pair for pair in pairs if pair != chosen)]
        needs_clean = bool(RECIPES[self.recipe.value].target)
        for degraded, clean in pairs:
            if degraded.rgb != pairs[0][0].rgb:
                raise EnsembleError("Some layers are RGB and others are not; train on layers of one kind.")
            if needs_clean and clean is None:
                raise EnsembleError(f"{degraded.name} was added without a clean image; untick it.")
        layers = [
            (full_data(degraded), full_data(clean) if needs_clean else None) for degraded, clean in pairs
        ]
        origin = LayerSnapshot(pairs[0][0])
        return {"layers": layers, "origin": origin, "channel_axis": -1 if origin.rgb else None}

    def _chosen_layers(self) -> tuple[Layer, Layer | None]:
        recipe = RECIPES[self.recipe.value]
        degraded = self.degraded.value
        clean = self.clean.value if recipe.target else None
        if degraded is None or (clean is None and recipe.target):
            missing = "degraded" if degraded is None else recipe.target.lower()
            raise EnsembleError(f"No {missing} image is chosen; choose the images to train on.")
        if degraded is clean:
            raise EnsembleError("The degraded and the clean image are the same layer; choose two layers.")
        # The IR network of DP-IR may enlarge the image; the training then compares the sizes.
        enlarges = self.recipe.value == "dp-ir"
        if clean is not None and not enlarges and (why := exclusion_reason(clean, like=degraded)):
            shape = " × ".join(map(str, pixel_shape(degraded)))
            raise EnsembleError(
                f"The clean image does not match the degraded image of shape {shape}: {why}; choose a pair."
            )
        return degraded, clean

    def _chosen_settings(self) -> TrainSettings:
        chosen = self.settings_from(TrainSettings, "steps", "minutes", "seed", "device")
        return replace(chosen, width=self.features.value)

    # -- training ---------------------------------------------------------------------------------

    @shows_errors
    def train(self) -> None:
        """Start a new training on the chosen layers, in a thread."""
        training = self.request()
        if self._may_discard():
            self._go(training)

    run = train

    @shows_errors
    def resume(self) -> None:
        """Continue the last training up to the number of steps shown."""
        training = self.training
        if training is None:
            raise EnsembleError(_NOTHING_TO_RESUME)
        training.extend(self._chosen_settings())
        self._go(training)

    @shows_errors
    def resume_from(self, path: str | Path) -> None:
        """Continue a checkpoint on the chosen layers."""
        training = replace(self.request(), checkpoint=Path(path))
        if self._may_discard():
            self._go(training)

    def _may_discard(self) -> bool:
        """Whether the last training may be replaced; asks the user if it is not saved."""
        kept = self.training
        if kept is None or kept.step <= kept.saved_step:
            return True
        question = (
            f"The training of {_steps(kept.step)} has not been saved. Discard it and start a new training?"
        )
        answer = QMessageBox.question(self.native, "Discard the training?", question)
        return bool(answer == QMessageBox.StandardButton.Yes)

    def _go(self, training: TrainingRun) -> None:
        before = self.training
        self.start(training.run, "Training", lambda result: self._trained(training, *result))
        self._before, self.training = before, training
        self._remove_preview()
        self._preview = None if training.origin is None else Preview(self.viewer, training.origin)
        self._progress_timer.start()

    def _remove_preview(self) -> None:
        if self._preview is not None:
            self._preview.remove()
        self._preview = None

    def _show_progress(self) -> None:
        training = self.training
        if training is not None:
            self._plot.show_losses(training.losses)
            if self._preview is not None:
                self._preview.show(training.preview, training.times)

    def _trained(
        self, training: TrainingRun, restorer: Restorer, restored: NDArray[np.float32] | None
    ) -> None:
        self.offer(f"{restorer.name}, trained here", restorer)
        self._remove_preview()
        lines, origin = [f"Trained {restorer.name} for {_steps(training.step)}."], training.origin
        if origin is None or restored is None:
            lines.append("No layer was added, since the images are files; save the checkpoint.")
        else:
            origin.add_candidate(self.viewer, restored, candidate_name(origin.name, restorer.name))
            lines += [
                "The added layer is the restored training image; other images look worse. Save the "
                "checkpoint and judge it on other images.",
                changed_layers_warning(self.viewer, [origin]),
            ]
        self.say(" ".join(filter(None, lines)))

    def _was_cancelled(self) -> None:
        step = 0 if self.training is None else self.training.step
        if step:
            self.say(f"Cancelled after {_steps(step)}; save the training, or press Resume.")
        else:
            super()._was_cancelled()

    def _has_finished(self) -> None:
        super()._has_finished()
        self._progress_timer.stop()
        self._show_progress()
        if self.training is not None and self.training.trainer is None:
            self.training = self._before  # the new training made no step
        self._before = None
        if self.training is not None and self.training.trainer is not None:
            self.steps.value = self.training.trainer.settings.steps
        self.update_run_button()

    # -- files ------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Save the last training as a checkpoint; ``.safetensors`` is appended if the name lacks it.

        Raises
        ------
        EnsembleError
            If there is no training, or the file exists and ``overwrite`` is off, or cannot be written.
        """
        if self.training is None or self.training.trainer is None:
            raise EnsembleError(_NOTHING_TO_SAVE)
        target = with_suffix(path, ".safetensors")
        check_target(target, overwrite)
        self.training.trainer.save(target)
        self.training.saved_step = self.training.step
        self.say(f"Saved {target.name} after {_steps(self.training.step)}; open it in Restore.")

    def _ask_and_save(self) -> None:
        about = ("Save a checkpoint", "restorer.safetensors", "Trained restorer", ".safetensors")
        save_asked(self.native, *about, partial(self.save, overwrite=True))

    def _ask_and_resume(self) -> None:
        open_asked(self.native, "Resume from a checkpoint", _FILE_FILTER, self.resume_from)

    def _ask_and_open(self) -> None:
        open_asked(self.native, "Open a network", NETWORK_FILTER, self.open)


def _settings() -> list[Any]:
    settings = {each.name: each for each in settings_of(TrainSettings)}
    # The recipe sets steps and features, so that they always have a value.
    steps, width = (replace(settings[name], default=1000, none=None) for name in ("steps", "width"))
    return [
        create_control(steps),
        create_control(settings["minutes"]),
        create_control(width, 32, name="features"),  # "width" is an attribute of magicgui containers
        *create_controls(TrainSettings, "seed", "device", device=preference("device")),
    ]


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count != 1)}"


class LossPlot(Plot):
    """Plot of the loss in the viewer's theme.

    Parameters
    ----------
    viewer
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        self._losses: Sequence[float] = ()
        tooltip = "Loss of each step, and its running mean."
        super().__init__(viewer, self._draw_losses, "loss_plot", "Plot of the loss", tooltip, (220, 150))
        self.redraw()

    def show_losses(self, losses: Sequence[float]) -> None:
        """Draw these losses, unless they are drawn already."""
        if len(losses) != len(self._losses) or list(losses[-1:]) != list(self._losses[-1:]):
            self._losses = losses
            self.redraw()

    def _draw_losses(self, axes: Axes) -> None:
        if self._losses:
            steps, losses, smooth = _thinned(np.asarray(self._losses))
            axes.plot(steps, losses, ".", color=colour_of(1), markersize=2, alpha=0.5)
            axes.plot(steps, smooth, color=colour_of(0), linewidth=1.5)
            if losses.min() > 0:
                axes.set_yscale("log")
            axes.set_xlabel("step")
            axes.set_ylabel("loss")
        else:
            draw_text(axes, "The loss is plotted here.")


def _thinned(losses: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return steps, losses and their running mean at no more points than a plot can show.

    Examples
    --------
    >>> steps, losses, smooth = _thinned(np.arange(4000.0))
    >>> len(steps) <= 1500, steps[:2].tolist(), float(smooth[1])
    (True, [1, 4], 1.5)
    """
    window = max(len(losses) // 40, 8)
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - window, 0)
    smooth = (sums[ends] - sums[starts]) / (ends - starts)
    every = slice(None, None, -(-len(losses) // _MOST_POINTS))
    return ends[every], losses[every], smooth[every]


class Preview:
    """Layer with the restored middle of the first degraded plane; it cannot be a candidate.

    Parameters
    ----------
    viewer
    like
        The degraded layer.
    """

    def __init__(self, viewer: napari.Viewer, like: LayerSnapshot) -> None:
        self._viewer, self._like = viewer, like
        self._layer: Layer | None = None
        self._shown: NDArray[np.float32] | None = None

    def show(self, preview: NDArray[np.float32] | None, times: int = 1) -> None:
        """Add or update the layer, unless the user has removed it.

        Parameters
        ----------
        preview
            Shape (channels, rows, columns), in intensity units; None: not computed yet.
        times
            Enlargement of rows and columns by the restorer.
        """
        if preview is None or preview is self._shown:
            return
        self._shown = preview
        like = self._like
        image = np.moveaxis(preview, 0, -1) if like.rgb else preview[0]
        if like.rgb:
            full = np.iinfo(like.dtype).max if like.dtype.kind in "iu" else 1.0
            image = np.clip(image / np.float32(full), 0, 1)
        data = image.reshape((1,) * (like.ndim - 2) + image.shape)
        if self._layer is None:
            self._layer = self._add(data, times)
        elif self._layer in self._viewer.layers:
            self._layer.data = data

    def remove(self) -> None:
        """Remove the layer."""
        if self._layer is not None and self._layer in self._viewer.layers:
            self._viewer.layers.remove(self._layer)

    def _add(self, data: NDArray[np.float32], times: int) -> Layer:
        like = self._like
        place = like.placement(times=times)
        start = np.zeros(like.ndim)
        # The part that Trainer.run previews.
        start[-2:] = [max(n * times - 256, 0) // 2 for n in like.shape[: like.ndim][-2:]]
        place["translate"] = place["translate"] + place["rotate"] @ place["shear"] @ (place["scale"] * start)
        appearance = {} if like.rgb else {"contrast_limits": like.contrast_limits, "colormap": like.colormap}
        mark = {OUTPUT_KEY: {"kind": "training preview"}}
        return self._viewer.add_image(
            data, name="training preview", rgb=like.rgb, metadata=mark, **appearance, **place
        )
