"""The command ``apply``: combine candidates with a lookup table."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.cli import terminal
from napari_ensir.ensemble.checks.candidates import check_agreement
from napari_ensir.ensemble.checks.exposure import exposure_of, matched
from napari_ensir.ensemble.checks.fit import check_range
from napari_ensir.ensemble.checks.planes import middle_plane
from napari_ensir.ensemble.lut.load import load_lut
from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.ensemble.statistics.reference import Samples, sample_pixels
from napari_ensir.errors import EnsembleError
from napari_ensir.files.atomic import check_target
from napari_ensir.files.image import as_dtype, check_output, write_image
from napari_ensir.files.output_paths import Place, check_output_paths
from napari_ensir.files.png import FileImage
from napari_ensir.files.sets import ImageSet, open_set

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_ensir.cli.terminal import Output
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.files.zarr import ZarrImage
    from napari_ensir.settings import ApplySettings

from napari_ensir.cli.batch import make_folder, noted, on_cluster, read_by, suffix_like

__all__ = ["Outs", "OutsideRange", "apply", "in_table_order"]


def in_table_order(lut: WeightLUT, candidates: Mapping[str, Path]) -> dict[str, Path]:
    """Return the candidates in the order of the table.

    Raises
    ------
    EnsembleError
        If they are not those of the table.
    """
    missing = [name for name in lut.names if name not in candidates]
    unknown = [name for name in candidates if name not in lut.names]
    if missing or unknown:
        wrong = [f"{', '.join(missing)} is missing"] if missing else []
        wrong += [f"{', '.join(unknown)} is unknown"] if unknown else []
        raise EnsembleError(
            f"the LUT combines {', '.join(lut.names)}; of the given candidates, {' and '.join(wrong)}. "
            "Give each as NAME=PATH."
        )
    return {name: candidates[name] for name in lut.names}


def apply(
    lut_path: Path,
    candidates: Mapping[str, Path],
    outs: Outs,
    *,
    settings: ApplySettings,
    match: bool = False,
    as_float: bool,
    crop: bool,
    scheduler: str | None,
    output: Output,
) -> dict[str, str]:
    """Combine candidates; return the errors of images that failed, by stem."""
    lut = load_lut(lut_path)
    if outs.errors is not None and lut.errors is None:
        raise EnsembleError(f"{lut_path} has no expected errors; fit again without --without-errors.")
    images = open_set(in_table_order(lut, candidates), crop=crop)
    failed: dict[str, str] = {}
    plans: dict[int, _EnsemblePlan] = {}
    for number, (stem, _) in enumerate(images.fields):
        with noted(failed, stem, images):
            plans[number] = _EnsemblePlan.of(images, number, outs, as_float)
    # All checks come before any computation.
    folders = outs.places(gathers=True) if images.from_folders else []
    places = [place for plan in plans.values() for place in plan.outs.places()]
    check_output_paths([*folders, *places, *output.places], read_by(images, lut_path))
    for folder in folders:
        make_folder(folder.path)
    output.check()
    for plan in plans.values():
        plan.check(output.overwrite)
    written: dict[str, str] = {}
    lut_file = None if match else lut_path.name  # the matched table is in no file
    if match:
        lut = lut.rescaled(*matched(exposure_of(lut.report, _samples(lut, images, failed))))
    outside = OutsideRange(lut)
    samples = Samples()
    with on_cluster(scheduler), output.progress() as progress:
        for done, (number, plan) in enumerate(plans.items()):
            stem = images.fields[number][0]
            with noted(failed, stem, images):
                arrays = list(images.load(number).values())
                outside.look(arrays, stem if len(images) > 1 else "")
                samples.add(sample_pixels(lut.field(arrays)))
                plan.carry_out(lut, lut_file, arrays, settings, output.overwrite, _inputs(images, number))
                written[stem] = str(plan.outs.image)
            if progress is not None:
                progress(done + 1, len(plans), "combining images")
    exposure = exposure_of(lut.report, samples.parts)
    # Another exposure explains intensities outside the range.
    other = [] if exposure is None or outside.disagree else [one.message for one in exposure.check()]
    warnings = terminal.warn(other or outside.warnings.values())
    results = {"written": written, "failed": failed, "warnings": warnings}
    if match:
        results["rescaled"] = lut.report["rescaled"]
    output.finish(results, lambda: terminal.say(f"{len(written)} written to {outs.image}"))
    return failed


def _samples(lut: WeightLUT, images: ImageSet, failed: dict[str, str]) -> Iterator[NDArray[np.float32]]:
    """Yield samples of the pixels of every image that can be read."""
    for number, (stem, _) in enumerate(images.fields):
        if stem not in failed:
            with suppress(EnsembleError):  # reported when the image is combined
                yield sample_pixels(lut.field(list(images.load(number).values())))


@dataclass(frozen=True)
class Outs:
    """Paths of an ensemble and of its weight maps and expected errors."""

    image: Path
    maps: Path | None = None
    errors: Path | None = None

    def places(self, gathers: bool = False) -> list[Place]:
        """Return the paths with their options; ``gathers`` marks folders of several outputs."""
        named = {"--out": self.image, "--weight-maps": self.maps, "--expected-error": self.errors}
        return [Place(name, path, gathers) for name, path in named.items() if path is not None]


class OutsideRange:
    """Messages about candidates that do not lie on each other, or lie outside a table's range."""

    def __init__(self, lut: WeightLUT) -> None:
        self.lut = lut
        self.warnings: dict[str, str] = {}
        self.disagree = False

    def look(self, candidates: Sequence[Any], label: str) -> None:
        """Check the middle plane of each candidate of an image."""
        lut, axis = self.lut, self.lut.channel_axis
        found = check_agreement(lut.report, lut.names, candidates, axis)
        self.disagree |= bool(found)
        named = [(one.code, one) for one in found]
        for name, candidate in zip(lut.names, candidates, strict=True):
            if not found and name not in self.warnings:
                named += [
                    (name, one) for one in check_range(lut.binning, name, middle_plane(candidate, axis))
                ]
        for key, one in named:
            self.warnings.setdefault(key, f"image {label}: {one}" if label else one.message)


@dataclass(frozen=True)
class _EnsemblePlan:
    """Outputs of one image, with their format."""

    outs: Outs
    dtype: np.dtype[Any]
    ndim: int
    is_colour: bool
    like: FileImage | ZarrImage

    @classmethod
    def of(cls, images: ImageSet, number: int, outs: Outs, as_float: bool) -> _EnsemblePlan:
        stem, paths = images.fields[number]
        opened = images.open(number)
        arrays = images.load(number)
        first = opened[images.roles[0]]
        dtype = np.dtype(np.float32) if as_float else np.result_type(*(a.dtype for a in arrays.values()))
        colour = isinstance(first, FileImage) and first.is_colour
        ndim = len(next(iter(arrays.values())).shape)
        if images.from_folders:
            source = paths[images.roles[0]]
            beside = stem + (".tif" if isinstance(first, FileImage) else ".zarr")
            outs = Outs(
                outs.image / (stem + suffix_like(source, dtype, ndim - colour, first)),
                None if outs.maps is None else outs.maps / beside,
                None if outs.errors is None else outs.errors / beside,
            )
        return cls(outs, dtype, ndim, colour, first)

    def check(self, overwrite: bool) -> None:
        """Check before any work that the outputs can be written."""
        single = np.dtype(np.float32)
        check_output(self.outs.image, self.dtype, self.ndim, self.is_colour)
        if self.outs.maps is not None:
            check_output(self.outs.maps, single, self.ndim + 1, self.is_colour)
        if self.outs.errors is not None:
            check_output(self.outs.errors, single, self.ndim, self.is_colour)
        for place in self.outs.places():
            check_target(place.path, overwrite)

    def carry_out(
        self,
        lut: WeightLUT,
        lut_file: str | None,
        arrays: list[Any],
        settings: ApplySettings,
        overwrite: bool,
        inputs: Mapping[str, str],
    ) -> None:
        """Compute and write the outputs, each with a record of its origin."""

        def write(kind: str, path: Path, image: Any, like: FileImage | ZarrImage | None) -> None:
            record = record_of(kind, lut, inputs, settings=settings.keywords(), lut_file=lut_file)
            write_image(path, image, is_colour=self.is_colour, like=like, overwrite=overwrite, record=record)

        image = as_dtype(lut.apply(arrays, **settings.keywords(), check=False), self.dtype)
        write("ensemble", self.outs.image, image, self.like)
        if self.outs.maps is not None:
            maps = lut.weight_maps(arrays, **settings.keywords())
            like = (
                self.like if isinstance(self.like, FileImage) else None
            )  # the chunks of a Zarr array lack an axis
            write("weight maps", self.outs.maps, maps, like)
        if self.outs.errors is not None:
            errors = lut.expected_error(arrays, **settings.keywords())
            write("expected error", self.outs.errors, errors, self.like)


def _inputs(images: ImageSet, number: int) -> dict[str, str]:
    """Return the file names of one field by candidate."""
    _, paths = images.fields[number]
    return {str(role): path.name for role, path in paths.items()}
