"""The commands of the command line, each with its options."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from typer import Argument

from napari_ensir.cli.command import app as app
from napari_ensir.cli.command import command
from napari_ensir.cli.options import option
from napari_ensir.cli.terminal import ImageOutput, Output
from napari_ensir.settings import (
    ApplySettings,
    BlindSettings,
    CompareSettings,
    EvaluateSettings,
    FitSettings,
    RestoreSettings,
    SweepSettings,
    TrainSettings,
)

# -- options of several commands ------------------------------------------------------------------------

OUT = option(..., "Output path.", "-o")
POOL_CHANNELS = option(
    False,
    "Treat channels alike, even if ImageJ or OME files name their axis; else it is --channel-axis.",
    group="Images",
)
METRIC = option(
    [],
    "A metric to score with as well: ms-ssim, nrmse, or a full-reference metric of pyiqa such as lpips; can "
    "be repeated.",
    metavar="NAME",
    group="Scores",
)
SCHEDULER = option(
    None,
    "Address of a dask.distributed scheduler, such as tcp://10.0.0.1:8786.",
    metavar="ADDRESS",
    group="Device",
)
RESUME = option(
    False,
    "Keep existing outputs that were made in the same way from files that have not changed since. Outputs "
    "that were made in another way are an error, or replaced with --overwrite.",
    group="Output",
)
NOISY_IMAGES = Argument(..., help="Noisy images, a folder of images, a pattern or a Zarr array.")
part_of_dp_ir = partial(option, None, metavar="NAME|FILE")


@dataclass(frozen=True, kw_only=True)
class CandidateOptions:
    """Options of candidates."""

    candidate: list[str] = option(
        ...,
        "A candidate: an image (PNG, JPEG, TIFF), a folder of images, a Zarr array, or a pattern such as "
        "out/{stem}_x.png, where {stem} is the name of an image. Give one option for each candidate, or a "
        "folder that holds a folder for each.",
        "-c",
        metavar="NAME=PATH",
    )
    crop: bool = option(
        False,
        "Crop images of different sizes to their common size; the top left corner is kept.",
        group="Images",
    )
    squeeze: bool = option(False, "Drop axes of length 1 of all images.", group="Images")
    align: bool = option(
        False,
        "Shift candidates that are offset against the ground truth, or against the most typical candidate, "
        "back by the offset found (to 1/20 pixel).",
        group="Images",
    )


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions:
    """Options of candidates with a ground truth."""

    candidates: CandidateOptions
    truth: Path = option(
        ..., "The ground truth: an image, a folder, or a Zarr array, as for --candidate.", "-t"
    )
    match: bool = option(
        False,
        "Correct candidates that are on another scale than the ground truth, by the gain and offset found.",
        group="Images",
    )
    pool_channels: bool = POOL_CHANNELS


@dataclass(frozen=True, kw_only=True)
class RestorerOptions:
    """Options that choose restorers."""

    method: list[str] = option(
        [], "A classical restorer, such as median; can be repeated.", "-m", metavar="NAME"
    )
    network: list[Path] = option(
        [],
        "A trained network, or a folder of networks; can be repeated. Open only files that you trust.",
        metavar="FILE",
    )
    own: list[str] = option(
        [],
        "A setting of a restorer, such as median.size=5; can be repeated. The command restorers lists them.",
        "--set",
        metavar="RESTORER.SETTING=VALUE",
    )
    ir: str | None = part_of_dp_ir(
        "For DP-IR: the restorer to use, a classical one or a network, instead of its own.",
        none="that of the checkpoint",
        group="Networks",
    )
    denoiser: str | None = part_of_dp_ir(
        "For DP-IR: the denoiser to use, a classical one or a network, instead of its own.",
        none="that of the checkpoint",
        group="Networks",
    )

    @property
    def files(self) -> list[Path]:
        """The files, or folders, of networks."""
        from napari_ensir.restorers import RESTORERS

        parts = (self.ir, self.denoiser)
        return [*self.network, *(Path(each) for each in parts if each and each not in RESTORERS)]


@dataclass(frozen=True, kw_only=True)
class RestoringOptions:
    """Options of commands that restore images."""

    image: list[Path] = NOISY_IMAGES
    restorers: RestorerOptions
    pool_channels: bool = POOL_CHANNELS


# -- commands -------------------------------------------------------------------------------------------


@command("fit:fit")
class FitOptions(ReferenceOptions):
    """Learn a lookup table from candidates and ground truth."""

    out: Path = OUT
    mask: Path | None = option(
        None,
        "Where to learn: images, as for --candidate, that are 0 at pixels to exclude.",
        none="everywhere",
        group="Images",
    )
    without_errors: bool = option(
        False, "Do not measure expected errors, which takes two more passes over the images."
    )
    scheduler: str | None = SCHEDULER
    settings: FitSettings
    output: Output


@command("fit:apply")
class ApplyOptions:
    """Combine candidates with a lookup table."""

    lut: Path = option(..., "A .lut.safetensors file.")
    candidates: CandidateOptions
    out: Path = OUT
    weight_maps: Path | None = option(None, "Also write the weights of each pixel: .tif, .zarr, or a folder.")
    expected_error: Path | None = option(
        None, "Also write the expected root mean square error of each pixel: .tif, .zarr, or a folder."
    )
    match: bool = option(
        False,
        "First match the candidates as in the fit, and rescale the table to the exposure of these images.",
    )
    scheduler: str | None = SCHEDULER
    resume: bool = RESUME
    settings: ApplySettings
    output: ImageOutput


@command("evaluate:evaluate")
class EvaluateOptions(ReferenceOptions):
    """Score candidates, and their ensemble, against the ground truth."""

    lut: Path | None = option(None, "Also score the ensemble of this lookup table.")
    metric: list[str] = METRIC
    settings: EvaluateSettings
    output: Output


@command("evaluate:compare")
class CompareOptions(ReferenceOptions):
    """Compare all methods on held-out images, or on held-out tiles of one image."""

    bin_width: list[float] = option(
        [], "Bin width of the lookup tables; can be repeated.", metavar="NUMBER", none="range / 8"
    )
    method: list[str] = option(
        [], "A method to compare; can be repeated.", metavar="NAME", none="all methods"
    )
    low_resolution: Path | None = option(
        None, "Low-resolution inputs of super-resolution, for RefESR.", group="Images"
    )
    metric: list[str] = METRIC
    settings: CompareSettings
    output: Output


@command("restore:restore")
class RestoreOptions(RestoringOptions):
    """Restore images, for example to make candidates for an ensemble."""

    image: list[Path] = Argument(..., help="Images, a folder of images, a pattern or a Zarr array.")
    out: Path = option(..., "Output path; a folder if there are several restorers.", "-o")
    resume: bool = RESUME
    settings: RestoreSettings
    output: ImageOutput


@command("restore:blind")
class BlindOptions(RestoringOptions):
    """Restore noisy images with several restorers and combine the results, without ground truth."""

    out: Path = OUT
    save_lut: Path | None = option(None, "Also write the lookup table.")
    self_ensemble: bool = option(
        False, "Average the results of eight rotations and reflections; takes eight times as long."
    )
    resume: bool = RESUME
    settings: BlindSettings
    output: ImageOutput


@command("sweep:sweep")
class SweepOptions(RestoringOptions):
    """Find the best value of a setting of a restorer on noisy images, without ground truth."""

    setting: str | None = option(
        None, "Setting to vary, such as strength. The command restorers lists them.", metavar="SETTING"
    )
    values: str | None = option(
        None, "The values to try.", metavar="VALUE,VALUE,...", none="values around the current one"
    )
    out: Path | None = option(
        None,
        "Output path of the restoration with the best value; with --all, a folder.",
        "-o",
        none="not written",
    )
    write_all: bool = option(False, "Write the restorations of all values into the folder --out.", "--all")
    settings: SweepSettings
    output: ImageOutput


@command("train:train")
class TrainOptions:
    """Train a restorer on pairs of images, or on noisy images alone."""

    recipe: str = Argument(
        ...,
        help="What to train: regression, noise2void (no clean images), noise2noise, ir-cm, ir-cm-paper, "
        "ir-cm-1, ir-cm-2, denoiser or dp-ir.",
    )
    degraded: Path | None = option(
        None,
        "Degraded images: an image, a folder, a pattern or a Zarr array. For noise2void, the noisy images; "
        "for noise2noise, the first exposures.",
        none="none, for denoiser",
    )
    out: Path = option(..., "File of the trained restorer.", "-o", metavar="FILE")
    clean: Path | None = option(
        None,
        "Clean images of the same names; for noise2noise, second exposures.",
        none="none, for noise2void",
    )
    resume: bool = option(False, "Continue an interrupted training of the same output.")
    log: Path | None = option(
        None,
        "CSV file of the loss and of the validation.",
        metavar="FILE",
        none="not written",
        group="Output",
    )
    ir: str | None = part_of_dp_ir(
        "For DP-IR: the restorer to improve, a classical one or a network.", group="Recipes"
    )
    denoiser: str | None = part_of_dp_ir(
        "For DP-IR: the denoiser, a classical one or a network.",
        none="a local Wiener filter",
        group="Recipes",
    )
    settings: TrainSettings
    output: Output


@command("restore:restorers", allow_no_arguments=True)
class RestorersOptions:
    """List classical restorers, or the given networks, and their settings for --set."""

    restorers: RestorerOptions
    output: Output


@command("info:info")
class InfoOptions:
    """Describe a lookup table, the origin of an output, a folder of images, or the noise of another image."""

    path: Path = Argument(..., help="A .lut.safetensors file, an image or Zarr array, or a folder of images.")
    output: Output


@command("fit:import_")
class ImportOptions:
    """Convert a weight table that the EnsIR authors' code wrote."""

    weights: Path = Argument(
        ..., metavar="WEIGHTS.pth", help="A weight table that the EnsIR authors' code wrote."
    )
    out: Path = OUT
    name: list[str] = option(
        [], "Name of a candidate; give one for each, in the order of the table.", metavar="NAME"
    )
    bin_width: float | None = option(
        None, "Bin width of the table.", metavar="NUMBER", none="from the file name"
    )
    output: Output
