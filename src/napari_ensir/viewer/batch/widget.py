"""The panel Process a folder, which restores and combines image files without opening layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ensir.ensemble.lut.load import SUFFIX, load_lut
from napari_ensir.errors import EnsembleError
from napari_ensir.files.paths import Place
from napari_ensir.files.sets import Part, folders_in, is_image, open_set, stem_of
from napari_ensir.restorers.base import with_settings
from napari_ensir.restorers.batch import (
    Batch,
    BlindBatch,
    CombineBatch,
    RestoreBatch,
    blind_scores,
    first_of,
)
from napari_ensir.settings import ApplySettings, BlindSettings, settings_of
from napari_ensir.viewer.apply.widget import apply_extras
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.controls.forms import Form
from napari_ensir.viewer.controls.inputs import accept_drops, create_controls, path_control
from napari_ensir.viewer.controls.section import Section
from napari_ensir.viewer.layers.layers import file_safe_name
from napari_ensir.viewer.panel import Panel, shows_errors
from napari_ensir.viewer.restore.picker import RestorerPicker
from napari_ensir.viewer.results.score_view import ScoreView

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import napari

    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.files.sets import ImageSet
    from napari_ensir.restorers import Progress

TASKS = {
    "blind": (
        "Restore and combine",
        "Learn one lookup table from all images, without a ground truth, and write their ensembles.",
    ),
    "restore": ("Restore only", "Write a restored image for each image and each ticked restorer."),
    "apply": (
        "Apply a lookup table",
        "Combine images that were restored before. There is a folder for each candidate of the table.",
    ),
}

TABLE = f"ensemble{SUFFIX}"
"""File name of the table in the output folder."""

_BLIND = [each.name for each in settings_of(BlindSettings) if each.name != "device"]
"""Settings of learning without a ground truth; that of the device is one of the restorers, too."""

MOST_ROWS = 1000
"""Most files that the table shows."""


class BatchWidget(Panel):
    """Restores and combines the images of folders, one at a time; existing results are kept.

    Values: ``job`` ("blind", "restore" or "apply"), ``images`` (a folder of noisy images, or a pattern; to
    apply a table, a folder that holds the folders of the candidates), ``lut``, ``candidate_1``,
    ``candidate_2``, ... (folders or patterns), ``out``, ``match``, ``expected_error``, ``channel_axis``, the
    values of the restorers as in :class:`~napari_ensir.viewer.restore.widget.RestoreWidget`, and the settings
    of :class:`~napari_ensir.settings.BlindSettings`.

    Parameters
    ----------
    napari_viewer

    Attributes
    ----------
    batch : Batch or None
        What became of the images of the latest run.

    Examples
    --------
    In napari's console::

        widget = BatchWidget(viewer)
        widget.images.value = "noisy"  # a folder, or a pattern such as "noisy/{stem}_raw.tif"
        widget.out.value = "better"
        widget.run()
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self.batch: Batch | None = None
        self._lut: WeightLUT | None = None
        self._proposed: Path | None = None
        job = Choice(TASKS, name="job", label="Task", tooltip="What is done with the images.")
        images = path_control(
            "images",
            "Images",
            "Folder of noisy images, or a pattern such as noisy/{stem}_raw.tif. To apply a table: folder "
            "that holds the folder of each candidate.",
        )
        lut = path_control("lut", "Table", "Lookup table file.", mode="r", filter=f"*{SUFFIX}")
        out = path_control("out", "Output", "Folder for the results; those that are there already are kept.")
        self.folders = Form(name="folders")
        self.picker = RestorerPicker(name="picker")
        combining = Form(*create_controls(BlindSettings, *_BLIND), name="blind_form")
        self.combining_section = Section("Settings of combining", combining, name="combining")
        self.extras = apply_extras()
        self.scores = ScoreView(110, name="scores", label="Scores", tooltip="Scores on all images together.")
        self.files = ScoreView(130, name="files", label="Files", tooltip="What became of each image.")
        self.scores.visible = self.files.visible = False
        super().__init__(
            napari_viewer,
            Form(job, images, lut, name="choice"),
            self.folders,
            Form(out, name="output"),
            self.extras,
            self.picker,
            self.combining_section,
            action="Process",
            about="Process the images one at a time, and write the results into the output folder.",
            below=[self.scores, self.files],
        )
        self.cancel_button.tooltip = "Stop; results that were written are kept when you process again."
        self.on_change(
            job=self._follow_task,
            images=self._follow_images,
            lut=self._follow_lut,
            out=self.update_run_button,
            restorers=self.update_run_button,
        )
        self.picker.requested.connect(self.open)
        content: Any = self.native.widget()
        accept_drops(content, self.take)
        self._follow_task()

    # -- choices ----------------------------------------------------------------------------------

    def _follow_task(self) -> None:
        applies = self.job.value == "apply"
        self.picker.visible = not applies
        self.lut.visible = self.folders.visible = self.extras.visible = applies
        self.combining_section.visible = self.job.value == "blind"
        self._propose_out()

    def _follow_lut(self) -> None:
        path = self.lut.value
        self._lut = load_lut(path) if path is not None and path.is_file() else None
        names = () if self._lut is None else self._lut.names
        self.folders.refill(
            *(
                path_control(f"candidate_{number}", name, f'Folder or pattern of the images of "{name}".')
                for number, name in enumerate(names, start=1)
            )
        )
        self._propose_folders(self.images.value)
        for each in self.folders:
            each.changed.connect(self.safely(self._follow_folders))
        self.expected_error.value = self._lut is not None and self._lut.errors is not None
        self.update_run_button()

    def _follow_images(self) -> None:
        folder = self.images.value
        if folder is not None and folders_in(folder):
            self.job.value = "apply"
            self._propose_folders(folder)
        self._propose_out()

    def _follow_folders(self) -> None:
        first = next((each.value for each in self.folders if each.value is not None), None)
        self._propose_folders(None if first is None else first.parent, missing=True)
        self._propose_out()

    def _propose_folders(self, parent: Path | None, missing: bool = False) -> None:
        """Propose the folders that have the names of the candidates, or only for those without a folder."""
        for each in self.folders:
            if parent is not None and (parent / each.label).is_dir() and not (missing and each.value):
                each.value = parent / each.label

    def _propose_out(self) -> None:
        """Propose an output folder beside the images, unless the user has chosen one."""
        paths = (self.images.value, *self._sources().values())
        source = next((path for path in paths if path is not None), None)
        if source is not None and self.out.value in (None, self._proposed):
            folder = source if source.is_dir() else source.parent
            word = "restored" if self.job.value == "restore" else "ensemble"
            self._proposed = folder.with_name(f"{stem_of(folder)} {word}")
            self.out.value = self._proposed
        self.update_run_button()

    def _sources(self) -> dict[Any, Any]:
        """The folder of each candidate, or that of the noisy images."""
        if self.job.value == "apply":
            return {each.label: each.value for each in self.folders}
        return {Part.IMAGE: self.images.value}

    @shows_errors
    def open(self, path: str | Path) -> None:
        """Open a network, or all networks in a folder, and tick them."""
        self.say(self.picker.open(path))

    @shows_errors
    def take(self, path: Path) -> None:
        """Use a lookup table, a network, or images."""
        if path.name.endswith(SUFFIX):
            self.job.value, self.lut.value = "apply", path
        elif path.is_file() and not is_image(path):
            self.open(path)
        else:
            self.images.value = path

    def missing_input(self) -> str:
        """See Panel."""
        if self.job.value == "apply" and self._lut is None:
            return f"No lookup table is chosen; choose a *{SUFFIX} file."
        for name, path in self._sources().items():
            if path is None:
                which = "images" if name is Part.IMAGE else f'images for "{name}"'
                return f"No folder of {which} is chosen; choose one."
        needed = {"blind": 2, "restore": 1, "apply": 0}[self.job.value]
        if len(self.restorers.value) < needed:
            return f"Too few restorers are ticked; tick {needed} or more."
        return "" if self.out.value is not None else "No output folder is chosen; choose one."

    # -- processing -------------------------------------------------------------------------------

    @shows_errors
    def run(self) -> None:
        """Process the images."""
        if reason := self.missing_input():
            raise EnsembleError(reason)
        work = self._combining() if self.job.value == "apply" else self._restoring()
        self.batch = None
        self.scores.visible = self.files.visible = False
        self.start(work, "Reading the images", self._show)

    def _restoring(self) -> Callable[[Progress], WeightLUT | None]:
        task, images, out = self.job.value, self.images.value, self.out.value
        as_float = self.float_output.value
        settings = self.settings_from(BlindSettings, *_BLIND, "device")
        names = [file_safe_name(key) for key in self.restorers.value]
        chosen = self.picker.chosen()
        if settings.data_range is not None and task == "blind":  # as in the command
            chosen = [with_settings(each, data_range=settings.data_range) for each in chosen]
        restorers = dict(zip(names, chosen, strict=True))
        networks = self.picker.chosen_files()

        def work(progress: Progress) -> WeightLUT | None:
            found = _open({}, {Part.IMAGE: images})
            if task == "restore":
                restored = self.batch = RestoreBatch(found, names, out, as_float=as_float, networks=networks)
                restored.check_outputs()
                axis = settings.channel_axis
                restored.run(lambda _, name: restorers[name], axis, resume=True, progress=progress)
                return None
            blind = self.batch = BlindBatch(
                found, restorers, out, settings, as_float=as_float, networks=networks
            )
            table = Place("the lookup table", out / TABLE)
            blind.check_outputs([table])
            lut = blind.open_table(table.path, progress, resume=True)
            blind.combine(lut, resume=True, progress=progress)
            return lut

        return work

    def _combining(self) -> Callable[[Progress], None]:
        lut, path, out, as_float = self._lut, self.lut.value, self.out.value, self.float_output.value
        assert lut is not None  # checked by missing_input
        sources = self._sources()
        outs = {"ensemble": Place("Output", out)}
        if self.expected_error.value:
            if lut.errors is None:
                raise EnsembleError("This table has no expected error; untick Expected error.")
            outs["expected error"] = Place("Output", out / "expected error")
        settings, match = self.settings_from(ApplySettings, "device"), self.match.value

        def work(progress: Progress) -> None:
            found = _open(sources)
            batch = self.batch = CombineBatch(found, lut, outs, as_float=as_float)
            batch.check_outputs(read=[path])
            if match:
                batch.match()
            batch.run(settings, lut_file=None if match else path.name, resume=True, progress=progress)

        return work

    def _was_cancelled(self) -> None:
        self._show(None, "Cancelled; process again to go on. ")

    def _show(self, lut: WeightLUT | None, first: str = "") -> None:
        """Show what became of the images, and the scores of a table learned from them."""
        batch = self.batch
        if batch is None:
            self.say(first)
            return
        lines = [first + _summary(batch, self.out.value), *batch.describe_resumption()]
        if lut is not None:
            table = blind_scores(lut)
            self.scores.show_table(table)
            self.scores.visible = True
            self.scores.export(self.out.value / "scores.csv", overwrite=True)
            lines.insert(0, table.summary)
        lines += first_of(f"{stem}: {message}" for stem, message in batch.failed.items())
        lines += [*first_of(batch.describe_notes()), *first_of(batch.warnings)]
        self.say("\n".join(lines))
        self._show_files(batch)

    def _show_files(self, batch: Batch) -> None:
        results = dict.fromkeys(batch.written, "written") | dict.fromkeys(batch.kept, "was there")
        results |= dict.fromkeys(batch.failed, "failed")
        results |= {stem: f"made anew: {' and '.join(each)} changed" for stem, each in batch.redone.items()}
        stems = sorted(results, key=lambda stem: (stem not in batch.failed, stem))[:MOST_ROWS]
        columns = {"image": stems, "result": [results[stem] for stem in stems]}
        if expected := getattr(batch, "expected", {}):
            columns["expected error"] = [
                f"{expected[stem]:.4g}" if stem in expected else "–" for stem in stems
            ]
        self.files.value = columns
        header = self.files.native.horizontalHeader()
        header.setSectionResizeMode(header.ResizeMode.Stretch)
        self.files.visible = True


def _open(candidates: Mapping[str, Path], others: Mapping[Part, Path] | None = None) -> ImageSet:
    """Open the images; single files are treated like folders of one file, since the output is a folder."""
    return replace(open_set(candidates, others), from_folders=True)


def _summary(batch: Batch, out: Path) -> str:
    failed = f", {len(batch.failed)} failed" if batch.failed else ""
    return f"{len(batch.written)} of {len(batch.stems)} images were written to {out.name}{failed}."
