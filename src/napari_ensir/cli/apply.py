"""The command ``apply``: combine candidates with a lookup table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.cli import terminal
from napari_ensir.cli.batch import (
    Batch,
    OutputImage,
    check_outputs,
    on_cluster,
    open_candidates,
    suffix_like,
)
from napari_ensir.cli.corrections import messages_of, missing_corrections
from napari_ensir.ensemble.checks.candidates import check_agreement
from napari_ensir.ensemble.checks.exposure import exposure_of, matched
from napari_ensir.ensemble.checks.fit import check_range
from napari_ensir.ensemble.checks.planes import middle_plane
from napari_ensir.ensemble.lut.load import load_lut
from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.ensemble.statistics.reference import Samples, sample_pixels
from napari_ensir.errors import EnsembleError
from napari_ensir.files.png import FileImage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_ensir.cli.app import ApplyOptions
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.files.sets import ImageSet

__all__ = ["OutsideRange", "apply"]


def apply(options: ApplyOptions) -> dict[str, str]:
    """Combine candidates; return the errors of images that failed, by stem."""
    settings, output = options.settings.keywords(), options.output
    lut = load_lut(options.lut)
    if options.expected_error is not None and lut.errors is None:
        raise EnsembleError(f"{options.lut} has no expected errors; fit again without --without-errors.")
    images = open_candidates(options, lut)
    batch = Batch(images)
    plans: dict[str, dict[str, OutputImage]] = {}

    def plan(number: int, stem: str) -> None:
        plans[stem] = _plan(options, images, number)

    batch.each(plan)
    outputs = [each for planned in plans.values() for each in planned.values()]
    check_outputs(images, outputs, output, in_folders=images.from_folders, read=[options.lut])
    if options.match:
        samples = Samples()
        sampled = Batch(images)  # errors are reported when the images are combined
        sampled.each(lambda number, _: samples.add(_sample(lut, images, number)))
        lut = lut.rescaled(*matched(exposure_of(lut.report, samples.parts)))
    outside, samples = OutsideRange(lut), Samples()
    written: dict[str, str] = {}

    def combine(number: int, stem: str) -> None:
        arrays = list(images.load(number).values())
        outside.look(arrays, batch.label(stem))
        samples.add(_sample(lut, images, number))
        for kind, image in plans[stem].items():
            record = record_of(
                kind,
                lut,
                batch.file_names(number),
                settings=settings,
                **({"corrections": images.record} if images.record else {}),
                lut_file=None if options.match else options.lut.name,  # the matched table is in no file
            )
            image.write(_COMPUTE[kind](lut, arrays, settings), record, output.overwrite)
        written[stem] = str(plans[stem]["ensemble"].path)

    with on_cluster(options.scheduler), output.progress() as progress:
        batch.each(combine, "combining images", progress)
    exposure = exposure_of(lut.report, samples.parts)
    # Another exposure explains intensities outside the range.
    other = [] if exposure is None or outside.disagree else [one.message for one in exposure.check()]
    given = images.actions + ("match-intensities",) * options.match
    missing = missing_corrections(lut.report, given)
    warnings = terminal.warn([*missing, *(other or outside.warnings.values())])
    results = {"written": written, "failed": batch.failed, "warnings": warnings}
    if options.match:
        results["rescaled"] = lut.report["rescaled"]
    output.finish(results, f"{len(written)} written to {options.out}")
    return batch.failed


_COMPUTE: dict[str, Any] = {
    "ensemble": lambda lut, arrays, settings: lut.apply(arrays, **settings, check=False),
    "weight maps": lambda lut, arrays, settings: lut.weight_maps(arrays, **settings),
    "expected error": lambda lut, arrays, settings: lut.expected_error(arrays, **settings),
}


def _plan(options: ApplyOptions, images: ImageSet, number: int) -> dict[str, OutputImage]:
    """Return the outputs of one image, by kind."""
    stem, paths = images.fields[number]
    opened = images.open(number)
    first = opened[images.roles[0]]
    shape = images.shape_of(first)
    ndim, colour = len(shape), first.is_colour
    like = first if shape == tuple(first.array.shape) else None
    single = np.dtype(np.float32)
    dtypes = [each.array.dtype for each in opened.values()]
    dtype = single if options.writing.as_float else np.result_type(*dtypes)
    name = beside = ""
    if images.from_folders:
        name = stem + suffix_like(paths[images.roles[0]], dtype, ndim - colour, first)
        beside = stem + (".tif" if isinstance(first, FileImage) else ".zarr")
    found = {"ensemble": OutputImage("--out", options.out / name, dtype, ndim, colour, like)}
    if options.weight_maps is not None:
        path = options.weight_maps / beside
        like_maps = like if isinstance(like, FileImage) else None  # the chunks of a Zarr array lack an axis
        found["weight maps"] = OutputImage("--weight-maps", path, single, ndim + 1, colour, like_maps)
    if options.expected_error is not None:
        path = options.expected_error / beside
        found["expected error"] = OutputImage("--expected-error", path, single, ndim, colour, like)
    return found


def _sample(lut: WeightLUT, images: ImageSet, number: int) -> Any:
    """Sample the pixels of one image."""
    return sample_pixels(lut.field(list(images.load(number).values())))


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
            (message,) = messages_of([one], ["align"])
            self.warnings.setdefault(key, f"image {label}: {message}" if label else message)
