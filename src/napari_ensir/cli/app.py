"""The commands of the command line, each with its options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from napari_ensir.cli.command import app as app
from napari_ensir.cli.command import command
from napari_ensir.cli.terminal import Output
from napari_ensir.settings import (
    ApplySettings,
    BlindSettings,
    CompareSettings,
    EvaluateSettings,
    FitSettings,
    ReadingSettings,
    RestoreSettings,
    SweepSettings,
    TrainSettings,
    WritingSettings,
)

Out = Annotated[Path, Option("--out", "-o", metavar="PATH", help="Output path.")]
Truth = Annotated[
    Path,
    Option(
        "--truth",
        "-t",
        metavar="PATH",
        help="The ground truth: an image, a folder, or a Zarr array, as for --candidate.",
    ),
]
Match = Annotated[
    bool,
    Option(
        "--match",
        help="Correct candidates that are on another scale than the ground truth, by the gain and offset "
        "found.",
        rich_help_panel="Images",
    ),
]
PoolChannels = Annotated[
    bool,
    Option(
        "--pool-channels",
        help="Treat channels alike, even if ImageJ or OME files name their axis; else it is --channel-axis.",
        rich_help_panel="Images",
    ),
]
Metrics = Annotated[
    list[str],
    Option(
        "--metric",
        metavar="NAME",
        help="A metric to score with as well: ms-ssim, nrmse, or a full-reference metric of pyiqa such as "
        "lpips; can be repeated.",
        rich_help_panel="Scores",
    ),
]
Scheduler = Annotated[
    str | None,
    Option(
        metavar="ADDRESS",
        help="Address of a dask.distributed scheduler, such as tcp://10.0.0.1:8786.",
        rich_help_panel="Device",
    ),
]
Resume = Annotated[
    bool,
    Option(
        "--resume",
        help="Keep existing outputs that were made in the same way from files that have not changed since. "
        "Outputs that were made in another way are an error, or replaced with --overwrite.",
        rich_help_panel="Output",
    ),
]
NoisyImages = Annotated[
    list[Path], Argument(help="Noisy images, a folder of images, a pattern or a Zarr array.")
]


@dataclass(frozen=True, kw_only=True)
class CandidateOptions:
    """Options of candidates."""

    candidate: list[str] = Option(
        ...,
        "--candidate",
        "-c",
        metavar="NAME=PATH",
        help="A candidate: an image (PNG, JPEG, TIFF), a folder of images, a Zarr array, or a pattern such "
        "as out/{stem}_x.png, where {stem} is the name of an image. Give one option for each candidate, or a "
        "folder that holds a folder for each.",
    )
    reading: ReadingSettings
    squeeze: bool = Option(
        False, "--squeeze", help="Drop axes of length 1 of all images.", rich_help_panel="Images"
    )
    align: bool = Option(
        False,
        "--align",
        help="Shift candidates that are offset against the ground truth, or against the most typical "
        "candidate, back by the offset found (to 1/20 pixel).",
        rich_help_panel="Images",
    )


@dataclass(frozen=True, kw_only=True)
class RestorerOptions:
    """Options that choose restorers."""

    method: list[str] = Option(
        [], "--method", "-m", metavar="NAME", help="A classical restorer, such as median; can be repeated."
    )
    network: list[Path] = Option(
        [],
        metavar="FILE",
        help="A trained network, or a folder of networks; can be repeated. Open only files that you trust.",
    )
    own: list[str] = Option(
        [],
        "--set",
        metavar="RESTORER.SETTING=VALUE",
        help="A setting of a restorer, such as median.size=5; can be repeated. The command restorers "
        "lists them.",
    )
    ir: str | None = Option(
        None,
        "--ir",
        metavar="NAME|FILE",
        help="For DP-IR: the restorer to use, a classical one or a network, instead of its own.",
        show_default="that of the checkpoint",
        rich_help_panel="Networks",
    )
    denoiser: str | None = Option(
        None,
        metavar="NAME|FILE",
        help="For DP-IR: the denoiser to use, a classical one or a network, instead of its own.",
        show_default="that of the checkpoint",
        rich_help_panel="Networks",
    )


@command("fit:fit")
@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Learn a lookup table from candidates and ground truth."""

    candidates: CandidateOptions
    truth: Truth
    out: Out
    mask: Path | None = Option(
        None,
        metavar="PATH",
        help="Where to learn: images, as for --candidate, that are 0 at pixels to exclude.",
        show_default="everywhere",
        rich_help_panel="Images",
    )
    without_errors: bool = Option(
        False,
        "--without-errors",
        help="Do not measure expected errors, which takes two more passes over the images.",
    )
    match: Match = False
    scheduler: Scheduler = None
    pool_channels: PoolChannels = False
    settings: FitSettings
    output: Output


@command("apply:apply")
@dataclass(frozen=True, kw_only=True)
class ApplyOptions:
    """Combine candidates with a lookup table."""

    lut: Path = Option(..., metavar="PATH", help="A .lut.safetensors file.")
    candidates: CandidateOptions
    out: Out
    weight_maps: Path | None = Option(
        None, metavar="PATH", help="Also write the weights of each pixel: .tif, .zarr, or a folder."
    )
    expected_error: Path | None = Option(
        None,
        metavar="PATH",
        help="Also write the expected root mean square error of each pixel: .tif, .zarr, or a folder.",
    )
    match: bool = Option(
        False,
        "--match",
        help="First match the candidates as in the fit, and rescale the table to the exposure of these "
        "images.",
    )
    scheduler: Scheduler = None
    resume: Resume = False
    settings: ApplySettings
    writing: WritingSettings
    output: Output


@command("evaluate:evaluate")
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Score candidates, and their ensemble, against the ground truth."""

    truth: Truth
    candidates: CandidateOptions
    lut: Path | None = Option(None, metavar="PATH", help="Also score the ensemble of this lookup table.")
    match: Match = False
    pool_channels: PoolChannels = False
    metric: Metrics = field(default_factory=list)
    settings: EvaluateSettings
    output: Output


@command("evaluate:compare")
@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Compare all methods on held-out images, or on held-out tiles of one image."""

    truth: Truth
    candidates: CandidateOptions
    bin_width: list[float] = Option(
        [],
        metavar="NUMBER",
        help="Bin width of the lookup tables; can be repeated.",
        show_default="range / 8",
    )
    method: list[str] = Option(
        [], metavar="NAME", help="A method to compare; can be repeated.", show_default="all methods"
    )
    low_resolution: Path | None = Option(
        None,
        metavar="PATH",
        help="Low-resolution inputs of super-resolution, for RefESR.",
        rich_help_panel="Images",
    )
    match: Match = False
    pool_channels: PoolChannels = False
    metric: Metrics = field(default_factory=list)
    settings: CompareSettings
    output: Output


@command("restore:restore")
@dataclass(frozen=True, kw_only=True)
class RestoreOptions:
    """Restore images, for example to make candidates for an ensemble."""

    image: list[Path] = Argument(..., help="Images, a folder of images, a pattern or a Zarr array.")
    out: Path = Option(
        ..., "--out", "-o", metavar="PATH", help="Output path; a folder if there are several restorers."
    )
    restorers: RestorerOptions
    pool_channels: PoolChannels = False
    resume: Resume = False
    settings: RestoreSettings
    writing: WritingSettings
    output: Output


@command("blind:blind")
@dataclass(frozen=True, kw_only=True)
class BlindOptions:
    """Restore noisy images with several restorers and combine the results, without ground truth."""

    image: NoisyImages
    out: Out
    save_lut: Path | None = Option(None, metavar="PATH", help="Also write the lookup table.")
    self_ensemble: bool = Option(
        False,
        "--self-ensemble",
        help="Average the results of eight rotations and reflections; takes eight times as long.",
    )
    restorers: RestorerOptions
    pool_channels: PoolChannels = False
    resume: Resume = False
    settings: BlindSettings
    writing: WritingSettings
    output: Output


@command("sweep:sweep")
@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Find the best value of a setting of a restorer on noisy images, without ground truth."""

    image: NoisyImages
    setting: str | None = Option(
        None, metavar="SETTING", help="Setting to vary, such as strength. The command restorers lists them."
    )
    values: str | None = Option(
        None,
        metavar="VALUE,VALUE,...",
        help="The values to try.",
        show_default="values around the current one",
    )
    out: Path | None = Option(
        None,
        "--out",
        "-o",
        metavar="PATH",
        help="Output path of the restoration with the best value; with --all, a folder.",
        show_default="not written",
    )
    write_all: bool = Option(
        False, "--all", help="Write the restorations of all values into the folder --out."
    )
    restorers: RestorerOptions
    pool_channels: PoolChannels = False
    settings: SweepSettings
    writing: WritingSettings
    output: Output


@command("train:train")
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a restorer on pairs of images, or on noisy images alone."""

    recipe: str = Argument(
        ...,
        help="What to train: regression, noise2void (no clean images), noise2noise, ir-cm, ir-cm-paper, "
        "ir-cm-1, ir-cm-2, denoiser or dp-ir.",
    )
    degraded: Path | None = Option(
        None,
        metavar="PATH",
        help="Degraded images: an image, a folder, a pattern or a Zarr array. For noise2void, the noisy "
        "images; for noise2noise, the first exposures.",
        show_default="none, for denoiser",
    )
    out: Path = Option(..., "--out", "-o", metavar="FILE", help="File of the trained restorer.")
    clean: Path | None = Option(
        None,
        metavar="PATH",
        help="Clean images of the same names; for noise2noise, second exposures.",
        show_default="none, for noise2void",
    )
    resume: bool = Option(False, "--resume", help="Continue an interrupted training of the same output.")
    log: Path | None = Option(
        None,
        metavar="FILE",
        help="CSV file of the loss and of the validation.",
        show_default="not written",
        rich_help_panel="Output",
    )
    ir: str | None = Option(
        None,
        metavar="NAME|FILE",
        help="For DP-IR: the restorer to improve, a classical one or a network.",
        rich_help_panel="Recipes",
    )
    denoiser: str | None = Option(
        None,
        metavar="NAME|FILE",
        help="For DP-IR: the denoiser, a classical one or a network.",
        show_default="a local Wiener filter",
        rich_help_panel="Recipes",
    )
    settings: TrainSettings
    output: Output


@command("restore:restorers", allow_no_arguments=True)
@dataclass(frozen=True, kw_only=True)
class RestorersOptions:
    """List classical restorers, or the given networks, and their settings for --set."""

    restorers: RestorerOptions
    output: Output


@command("info:info")
@dataclass(frozen=True, kw_only=True)
class InfoOptions:
    """Describe a lookup table and its fit, the origin of an output, or the noise of any other image."""

    path: Path = Argument(..., help="A .lut.safetensors file, or an image or Zarr array.")
    output: Output


@command("fit:import_")
@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Convert a weight table that the EnsIR authors' code wrote."""

    weights: Path = Argument(
        ..., metavar="WEIGHTS.pth", help="A weight table that the EnsIR authors' code wrote."
    )
    out: Out
    name: list[str] = Option(
        [], metavar="NAME", help="Name of a candidate; give one for each, in the order of the table."
    )
    bin_width: float | None = Option(
        None, metavar="NUMBER", help="Bin width of the table.", show_default="from the file name"
    )
    output: Output
