"""What the command line's commands do: paths in, files and tables out. Parses nothing, computes nothing."""

from __future__ import annotations

import warnings
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.cli import terminal
from napari_ensir.ensemble.coverage import range_warning
from napari_ensir.ensemble.exposure import exposure_of, matched
from napari_ensir.ensemble.lut_file import SUFFIX, import_lut, load_lut
from napari_ensir.ensemble.provenance import Samples, named_report, sample_of
from napari_ensir.ensemble.record import record_of, table_of
from napari_ensir.ensemble.suspicions import middle_of, suspicions_of_set
from napari_ensir.errors import EnsembleError
from napari_ensir.files.image import as_dtype, check_output, write_image
from napari_ensir.files.raster import FileImage
from napari_ensir.files.sets import ImageSet, Masks, Part, References, open_set
from napari_ensir.files.targets import Place, check_places
from napari_ensir.files.whole import check_target, many_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_ensir.cli.terminal import Output
    from napari_ensir.ensemble.lut import WeightLUT
    from napari_ensir.files.zarr_arrays import ZarrImage
    from napari_ensir.settings import ApplySettings, FitSettings

__all__ = [
    "Outs",
    "OutsideRange",
    "apply",
    "fit",
    "import_table",
    "in_table_order",
    "keep_message",
    "lut_target",
    "make_folder",
    "noted",
    "read_by",
    "suffix_like",
]


@contextmanager
def _on_cluster(address: str | None) -> Iterator[None]:
    """Let dask work on a distributed scheduler's workers."""
    if address is None:
        yield
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise EnsembleError(
            '--scheduler needs dask.distributed; install it with: pip install "napari-ensir[large]".'
        ) from error
    try:
        client = Client(address, timeout="5s")
    except (OSError, ValueError, TimeoutError) as error:
        raise EnsembleError(
            f"there is no dask scheduler at {address} ({type(error).__name__}); start one with "
            '"dask scheduler" and give the address that it shows.'
        ) from error
    with client:
        try:
            yield
        except (EnsembleError, OSError):
            raise
        except Exception as error:  # such as KilledWorker, or a graph that the scheduler cannot read
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else repr(error)
            raise EnsembleError(
                f"the cluster at {address} failed ({reason}). Its scheduler and workers need the same "
                "napari-ensir as this machine, and to reach the same paths."
            ) from error


def read_by(images: ImageSet, *others: Path | None) -> list[Place]:
    """The places that a job reads: images, the folders given for them, and other files."""
    places = [Place("an image", path) for _, paths in images.fields for path in paths.values()]
    if images.from_folders:
        folders = {path.parent for _, paths in images.fields for path in paths.values()}
        places += [Place("a folder of images", folder, gathers=True) for folder in folders]
    return places + [Place("a file", path) for path in others if path is not None]


def lut_target(out: Path, overwrite: bool) -> Path:
    """The name a table will be written under, if it may be."""
    name = out.name
    if name in ("", ".."):
        raise EnsembleError(f"--out: {out} is a folder; give a name in it.")
    if not name.endswith(SUFFIX):
        name = name.removesuffix(".safetensors").removesuffix(".lut") + SUFFIX
    target = out.expanduser().with_name(name)
    check_target(target, overwrite)
    return target


def fit(
    candidates: Mapping[str, Path],
    truth: Path,
    out: Path,
    mask: Path | None = None,
    *,
    settings: FitSettings,
    with_errors: bool = True,
    crop: bool,
    scheduler: str | None,
    output: Output,
) -> None:
    """Learn a table; ``settings`` go to :func:`napari_ensir.fit_lut`."""
    from napari_ensir.ensemble.fit import fit_lut
    from napari_ensir.ensemble.truth_noise import OwnInputWarning

    target = lut_target(out, output.overwrite)
    images = open_set(candidates, {Part.TRUTH: truth}, crop=crop)
    check_places([Place("--out", target), *output.places], read_by(images, mask))
    output.check()
    masks = None if mask is None else Masks(images, open_set({}, {Part.MASK: mask}))
    with many_files(), _on_cluster(scheduler), terminal.progress(output.quiet) as progress:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OwnInputWarning)  # it is in the report, too, and told from there
            lut = fit_lut(
                References(images), tuple(candidates), mask=masks, progress=progress, **settings.keywords()
            )
        if with_errors and settings.truth_noise != "unknown":
            lut = lut.calibrated(References(images), masks, settings.device, progress, planes=settings.planes)
        odd = suspicions_of_set(
            References(images), tuple(candidates), lut.channel_axis, [stem for stem, _ in images.fields]
        )
    files = [[path.name for path in paths.values()] for _, paths in images.fields]
    lut = replace(lut, report=named_report(lut.report, files))
    lut.save(target)
    said = terminal.warn([*odd, *lut.report["warnings"]])
    results = {"lut": str(target), **table_of(lut), "warnings": said}
    output.finish(results, lambda: terminal.say(f"{target}: {lut!r}"))


def in_table_order(lut: WeightLUT, candidates: Mapping[str, Path]) -> dict[str, Path]:
    """Candidates as the table has them, if they are the same."""
    missing = [name for name in lut.names if name not in candidates]
    unknown = [name for name in candidates if name not in lut.names]
    if missing or unknown:
        wrong = [f"{', '.join(missing)} missing"] if missing else []
        wrong += [f"{', '.join(unknown)} unknown to it"] if unknown else []
        raise EnsembleError(
            f"the LUT combines {', '.join(lut.names)}; of the candidates given, {' and '.join(wrong)}. "
            "Give each by its name: NAME=PATH."
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
    """Combine candidates; the messages of images that failed, by stem, where others were done."""
    lut = load_lut(lut_path)
    if outs.errors is not None and lut.errors is None:
        raise EnsembleError(f"{lut_path} has no expected errors; fit again, without --without-errors.")
    images = open_set(in_table_order(lut, candidates), crop=crop)
    failed: dict[str, str] = {}
    plans: dict[int, _Plan] = {}
    for number, (stem, _) in enumerate(images.fields):
        with noted(failed, stem, images):
            plans[number] = _Plan.of(images, number, outs, as_float)
    # Before anything is computed: not after an hour.
    folders = outs.places(gathers=True) if images.from_folders else []
    places = [place for plan in plans.values() for place in plan.outs.places()]
    check_places([*folders, *places, *output.places], read_by(images, lut_path))
    for folder in outs.given if images.from_folders else ():
        make_folder(folder)
    output.check()
    for plan in plans.values():
        plan.check(output.overwrite)
    written: dict[str, str] = {}
    if match:
        lut = lut.rescaled(*matched(exposure_of(lut.report, _samples(lut, images, failed))))
    outside = OutsideRange(lut)
    samples = Samples()
    with many_files(), _on_cluster(scheduler), terminal.progress(output.quiet) as progress:
        for done, (number, plan) in enumerate(plans.items()):
            stem = images.fields[number][0]
            with noted(failed, stem, images):
                arrays = list(images.load(number).values())
                outside.look(arrays, stem if len(images) > 1 else "")
                samples.add(sample_of(lut.field(arrays)))
                plan.carry_out(lut, arrays, settings, output.overwrite, _inputs(images, number))
                written[stem] = str(plan.outs.image)
            if progress is not None:
                progress(done + 1, len(plans), "combining images")
    exposure = exposure_of(lut.report, samples.parts)
    # Intensities outside the range are what another exposure brings.
    odd = [exposure.warning()] if exposure is not None and exposure.differs else outside.said.values()
    said = terminal.warn(odd)
    results = {"written": written, "failed": failed, "warnings": said}
    if match:
        results["rescaled"] = lut.report["rescaled"]
    output.finish(results, lambda: terminal.say(f"{len(written)} written to {outs.image}"))
    return failed


def _samples(lut: WeightLUT, images: ImageSet, failed: dict[str, str]) -> Iterator[NDArray[np.float32]]:
    """Some pixels of every image that can be read."""
    for number, (stem, _) in enumerate(images.fields):
        if stem not in failed:
            with suppress(EnsembleError):  # it is said when its turn comes
                yield sample_of(lut.field(list(images.load(number).values())))


@dataclass(frozen=True)
class Outs:
    """Where an ensemble goes, and what is written beside it.

    Attributes
    ----------
    image : Path
    maps, errors : Path or None
        Weight maps, and the errors to expect.
    """

    image: Path
    maps: Path | None = None
    errors: Path | None = None

    @property
    def given(self) -> list[Path]:
        """Those that are."""
        return [place.path for place in self.places()]

    def places(self, gathers: bool = False) -> list[Place]:
        """By the options that name them; ``gathers`` where they are folders for many images."""
        named = {"--out": self.image, "--weight-maps": self.maps, "--expected-error": self.errors}
        return [Place(name, path, gathers) for name, path in named.items() if path is not None]


class OutsideRange:
    """Candidates that lie outside a table's range, each named once."""

    def __init__(self, lut: WeightLUT) -> None:
        self.lut = lut
        self.said: dict[str, str] = {}

    def look(self, candidates: Sequence[Any], label: str) -> None:
        """Look at the middle plane of each candidate of an image."""
        for name, candidate in zip(self.lut.names, candidates, strict=True):
            if name not in self.said:
                text = range_warning(self.lut, name, middle_of(candidate, self.lut.channel_axis))
                if text:
                    self.said[name] = f"image {label}: {text}" if label else text


def noted(failed: dict[str, str], stem: str, images: ImageSet) -> Any:
    """Where there is more than one image, let a failure be noted and the next one be done."""
    return keep_message(failed, stem) if images.from_folders else nullcontext()


@contextmanager
def keep_message(failed: dict[str, str], stem: str) -> Iterator[None]:
    """Note why one image failed, so that the next one can be done."""
    try:
        yield
    except EnsembleError as error:
        failed[stem] = str(error)


def make_folder(folder: Path) -> None:
    """Make a folder for outputs, and those it stands in.

    Raises
    ------
    EnsembleError
        If that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnsembleError(
            f"the folder {folder} could not be made: {error.strerror}; choose another place for the outputs."
        ) from error


@dataclass(frozen=True)
class _Plan:
    """Where one image's ensemble and what is beside it go, and as what."""

    outs: Outs
    dtype: np.dtype[Any]
    ndim: int
    is_colour: bool
    like: FileImage | ZarrImage

    @classmethod
    def of(cls, images: ImageSet, number: int, outs: Outs, as_float: bool) -> _Plan:
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
        """Find out beforehand whether the names fit and are free."""
        single = np.dtype(np.float32)
        check_output(self.outs.image, self.dtype, self.ndim, self.is_colour)
        if self.outs.maps is not None:
            check_output(self.outs.maps, single, self.ndim + 1, self.is_colour)
        if self.outs.errors is not None:
            check_output(self.outs.errors, single, self.ndim, self.is_colour)
        for target in self.outs.given:
            check_target(target, overwrite)

    def carry_out(
        self,
        lut: WeightLUT,
        arrays: list[Any],
        settings: ApplySettings,
        overwrite: bool,
        inputs: Mapping[str, str],
    ) -> None:
        """Compute and write; every file says where it came from."""

        def write(kind: str, path: Path, image: Any, like: FileImage | ZarrImage | None) -> None:
            record = record_of(kind, lut, inputs, settings=settings.keywords())
            write_image(path, image, is_colour=self.is_colour, like=like, overwrite=overwrite, record=record)

        image = as_dtype(lut.apply(arrays, **settings.keywords()), self.dtype)
        write("ensemble", self.outs.image, image, self.like)
        if self.outs.maps is not None:
            maps = lut.weight_maps(arrays, **settings.keywords())
            like = self.like if isinstance(self.like, FileImage) else None  # a Zarr's chunks lack an axis
            write("weight maps", self.outs.maps, maps, like)
        if self.outs.errors is not None:
            errors = lut.expected_error(arrays, **settings.keywords())
            write("expected error", self.outs.errors, errors, self.like)


def _inputs(images: ImageSet, number: int) -> dict[str, str]:
    """Names of the files of one field, by candidate."""
    _, paths = images.fields[number]
    return {str(role): path.name for role, path in paths.items()}


def suffix_like(source: Path, dtype: np.dtype[Any], spatial: int, like: FileImage | ZarrImage) -> str:
    """How an output's name ends: like the candidate's where that loses nothing."""
    if not isinstance(like, FileImage):
        return ".ome.zarr" if like.ome is not None else ".zarr"
    if source.suffix.lower() in (".tif", ".tiff"):
        return (".ome" if source.stem.lower().endswith(".ome") else "") + source.suffix
    return ".png" if dtype in (np.uint8, np.uint16) and spatial == 2 else ".tif"


def import_table(
    weights: Path, out: Path, names: list[str] | None, bin_width: float | None, *, output: Output
) -> None:
    """Turn a table of the EnsIR authors' code into one of this package."""
    target = lut_target(out, output.overwrite)
    check_places([Place("--out", target), *output.places], [Place("a file", weights)])
    output.check()
    lut = import_lut(weights, names, bin_width)
    lut.save(target)
    output.finish({"lut": str(target), **table_of(lut)}, lambda: terminal.say(f"{target}: {lut!r}"))
