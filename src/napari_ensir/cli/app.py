"""Commands of the command line and their options; each imports the module that does its work."""

from __future__ import annotations

import traceback
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from typer.core import TyperCommand, TyperGroup

from napari_ensir.cli import terminal
from napari_ensir.cli.options import flag, named_paths, with_options
from napari_ensir.cli.terminal import Output
from napari_ensir.errors import EnsembleError
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

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["app", "command"]


class _HelpFlag:
    """Mixin that shows ``--help`` without a metavar."""

    def get_help_option(self, ctx: Any) -> Any:
        """See :class:`click.Command`."""
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.metavar = ""
        return option


class _Command(_HelpFlag, TyperCommand):
    pass


class _Group(_HelpFlag, TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters; those of shell completion are shown without a metavar."""
        params = super().get_params(ctx)
        for param in params:
            if param.name in ("install_completion", "show_completion"):
                param.metavar = ""
        return params


app = typer.Typer(
    name="napari-ensir",
    cls=_Group,
    help="Combine several restorations of an image into one that is better than each.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 plus the number of the signal."""


def _show_version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        terminal.say(f"napari-ensir {version('napari-ensir')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        flag("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Combine several restorations of an image into one that is better than each."""


def command(
    name: str | None = None, *, bare: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose errors are printed as one line on stderr.

    Parameters
    ----------
    name : str, optional
        Default: the name of the function.
    bare : bool
        Whether the command works without any argument; else it then shows its help.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        function = with_options(function)

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except KeyboardInterrupt:
                terminal.error("interrupted; nothing half-written was left.")
                raise typer.Exit(INTERRUPTED) from None
            except Exception as error:
                if kwargs.get("verbose"):
                    traceback.print_exc()
                terminal.error(_message(error))
                raise typer.Exit(1) from None

        app.command(name, cls=_Command, no_args_is_help=not bare)(run)
        return run

    return register


def _message(error: Exception) -> str:
    """Describe an error in one sentence."""
    if isinstance(error, EnsembleError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; give the images as Zarr arrays, which are read in chunks."
    if isinstance(error, BrokenPipeError):
        return "standard output was closed."
    if isinstance(error, OSError):
        return f"{error.filename or 'a file or standard output'}: {error.strerror or error}."
    return (
        f"unexpected {type(error).__name__}: {error}. Please report it, with the output of the same command "
        "with --verbose."
    )


# ruff: noqa: UP045 -- typer reads Optional in every version that is supported
Candidates = Annotated[
    list[str],
    typer.Option(
        "--candidate",
        "-c",
        metavar="NAME=PATH",
        help="A candidate: an image (PNG, JPEG, TIFF), a folder of images, or a Zarr array. Give one option "
        "for each candidate.",
    ),
]
Truth = Annotated[
    Path,
    typer.Option(
        "--truth",
        "-t",
        metavar="PATH",
        help="The ground truth: an image, a folder, or a Zarr array, as for --candidate.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="Output path.")]
Scheduler = Annotated[
    Optional[str],
    typer.Option(
        metavar="ADDRESS",
        help="Address of a dask.distributed scheduler, such as tcp://10.0.0.1:8786.",
        rich_help_panel="Device",
    ),
]


Methods = Annotated[
    Optional[list[str]],
    typer.Option(
        "--method", "-m", metavar="NAME", help="A classical restorer, such as median; can be repeated."
    ),
]
Networks = Annotated[
    Optional[list[Path]],
    typer.Option(
        metavar="FILE",
        help="A trained network, or a folder of networks; can be repeated. Open only files that you trust.",
    ),
]
Own = Annotated[
    Optional[list[str]],
    typer.Option(
        "--set",
        metavar="RESTORER.SETTING=VALUE",
        help="A setting of a restorer, such as median.size=5; can be repeated. The command restorers lists "
        "them.",
    ),
]
Around = Annotated[
    Optional[Path],
    typer.Option(
        "--ir",
        metavar="FILE",
        help="For DP-IR: the restoration network that it was trained with, if its file does not contain it.",
        rich_help_panel="Networks",
    ),
]


@command()
def fit(
    candidate: Candidates,
    truth: Truth,
    out: Out,
    mask: Annotated[
        Optional[Path],
        typer.Option(
            metavar="PATH",
            help="Where to learn: images, as for --candidate, that are 0 at pixels to exclude.",
            show_default="everywhere",
            rich_help_panel="Images",
        ),
    ] = None,
    without_errors: Annotated[
        bool,
        flag(
            "--without-errors",
            help="Do not measure expected errors, which takes two more passes over the images.",
        ),
    ] = False,
    scheduler: Scheduler = None,
    *,
    settings: FitSettings,
    reading: ReadingSettings,
    output: Output,
) -> None:
    """Learn a lookup table from candidates and ground truth."""
    paths = named_paths(candidate)
    from napari_ensir.cli.fit import fit as run

    run(
        paths,
        truth,
        out,
        mask,
        settings=settings,
        with_errors=not without_errors,
        crop=reading.crop,
        scheduler=scheduler,
        output=output,
    )


@command()
def apply(
    lut: Annotated[Path, typer.Option(metavar="PATH", help="A .lut.safetensors file.")],
    candidate: Candidates,
    out: Out,
    weight_maps: Annotated[
        Optional[Path],
        typer.Option(metavar="PATH", help="Also write the weights of each pixel: .tif, .zarr, or a folder."),
    ] = None,
    expected_error: Annotated[
        Optional[Path],
        typer.Option(
            metavar="PATH",
            help="Also write the expected root mean square error of each pixel: .tif, .zarr, or a folder.",
        ),
    ] = None,
    match: Annotated[
        bool, flag("--match", help="First rescale the table to the exposure of these images.")
    ] = False,
    scheduler: Scheduler = None,
    *,
    settings: ApplySettings,
    writing: WritingSettings,
    reading: ReadingSettings,
    output: Output,
) -> None:
    """Combine candidates with a lookup table."""
    paths = named_paths(candidate)
    from napari_ensir.cli.apply import Outs
    from napari_ensir.cli.apply import apply as run

    failed = run(
        lut,
        paths,
        Outs(out, weight_maps, expected_error),
        settings=settings,
        match=match,
        as_float=writing.as_float,
        crop=reading.crop,
        scheduler=scheduler,
        output=output,
    )
    _report_failures(failed)


@command()
def evaluate(
    truth: Truth,
    candidate: Candidates,
    lut: Annotated[
        Optional[Path], typer.Option(metavar="PATH", help="Also score the ensemble of this lookup table.")
    ] = None,
    *,
    settings: EvaluateSettings,
    reading: ReadingSettings,
    output: Output,
) -> None:
    """Score candidates, and their ensemble, against the ground truth."""
    paths = named_paths(candidate)
    from napari_ensir.cli.evaluate import evaluate as run

    failed = run(paths, truth, lut, settings=settings, crop=reading.crop, output=output)
    _report_failures(failed)


@command()
def compare(
    truth: Truth,
    candidate: Candidates,
    bin_width: Annotated[
        Optional[list[float]],
        typer.Option(
            metavar="NUMBER",
            help="Bin width of the lookup tables; can be repeated.",
            show_default="1/8 of the data range",
        ),
    ] = None,
    method: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="NAME", help="A method to compare; can be repeated.", show_default="all methods"
        ),
    ] = None,
    low_resolution: Annotated[
        Optional[Path],
        typer.Option(
            metavar="PATH",
            help="Low-resolution inputs of super-resolution, for RefESR.",
            rich_help_panel="Images",
        ),
    ] = None,
    *,
    settings: CompareSettings,
    reading: ReadingSettings,
    output: Output,
) -> None:
    """Compare all methods on held-out images, or on held-out tiles of one image."""
    paths = named_paths(candidate)
    from napari_ensir.cli.evaluate import compare as run

    run(
        paths,
        truth,
        low_resolution,
        settings={**settings.keywords(), "bin_width": bin_width or None, "methods": method or None},
        crop=reading.crop,
        output=output,
    )


@command()
def restore(
    image: Annotated[Path, typer.Argument(help="An image, a folder of images, or a Zarr array.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="PATH", help="Output path; a folder if there are several restorers."
        ),
    ],
    method: Methods = None,
    network: Networks = None,
    own: Own = None,
    ir: Around = None,
    denoiser: Annotated[
        Optional[str],
        typer.Option(
            metavar="NAME|FILE",
            help="For DP-IR: the denoiser to use, a classical one or a network, instead of its own.",
            show_default="that of the checkpoint",
            rich_help_panel="Networks",
        ),
    ] = None,
    *,
    settings: RestoreSettings,
    writing: WritingSettings,
    output: Output,
) -> None:
    """Restore images, for example to make candidates for an ensemble."""
    from napari_ensir.cli.restore import choose_restorers
    from napari_ensir.cli.restore import restore as run

    restorers = choose_restorers(method or [], network or [], settings, ir, own or [], denoiser)
    failed = run(
        image,
        restorers,
        out,
        channel_axis=settings.channel_axis,
        as_float=writing.as_float,
        output=output,
        read=[*(network or []), *([] if ir is None else [ir])],
    )
    _report_failures(failed)


@command()
def blind(
    image: Annotated[Path, typer.Argument(help="A noisy image, a folder of images, or a Zarr array.")],
    out: Out,
    method: Methods = None,
    network: Networks = None,
    own: Own = None,
    ir: Around = None,
    save_lut: Annotated[
        Optional[Path], typer.Option(metavar="PATH", help="Also write the lookup table.")
    ] = None,
    self_ensemble: Annotated[
        bool,
        flag(
            "--self-ensemble",
            help="Average the results of eight rotations and reflections; takes eight times as long.",
        ),
    ] = False,
    *,
    settings: BlindSettings,
    writing: WritingSettings,
    output: Output,
) -> None:
    """Restore noisy images with several restorers and combine the results, without ground truth."""
    from napari_ensir.cli.blind import blind as run

    failed = run(
        image,
        method or [],
        network or [],
        ir,
        out,
        save_lut,
        own or [],
        self_ensemble=self_ensemble,
        settings=settings,
        as_float=writing.as_float,
        output=output,
    )
    _report_failures(failed)


@command()
def sweep(
    image: Annotated[Path, typer.Argument(help="A noisy image, a folder of images, or a Zarr array.")],
    setting: Annotated[
        Optional[str],
        typer.Option(
            metavar="SETTING",
            help="Setting to vary, such as strength. The command restorers lists them.",
        ),
    ] = None,
    values: Annotated[
        Optional[str],
        typer.Option(
            metavar="VALUE,VALUE,...",
            help="The values to try.",
            show_default="values around the current one",
        ),
    ] = None,
    out: Annotated[
        Optional[Path],
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="Output path of the restoration with the best value; with --all, a folder.",
            show_default="not written",
        ),
    ] = None,
    write_all: Annotated[
        bool, flag("--all", help="Write the restorations of all values into the folder --out.")
    ] = False,
    method: Methods = None,
    network: Networks = None,
    own: Own = None,
    ir: Around = None,
    *,
    settings: SweepSettings,
    writing: WritingSettings,
    output: Output,
) -> None:
    """Find the best value of a setting of a restorer on noisy images, without ground truth."""
    from napari_ensir.cli.sweep import sweep as run

    failed = run(
        image,
        method or [],
        network or [],
        ir,
        setting,
        values,
        out,
        own or [],
        write_all=write_all,
        settings=settings,
        as_float=writing.as_float,
        output=output,
    )
    _report_failures(failed)


@command()
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="What to train: regression, noise2void (no clean images), noise2noise, ir-cm, ir-cm-paper, "
            "denoiser or dp-ir."
        ),
    ],
    degraded: Annotated[
        Path, typer.Option(metavar="PATH", help="Degraded images: an image, a folder, or a Zarr array.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="File of the trained restorer.")],
    clean: Annotated[
        Optional[Path],
        typer.Option(
            metavar="PATH",
            help="Clean images of the same names; for noise2noise, second exposures.",
            show_default="none, for noise2void",
        ),
    ] = None,
    resume: Annotated[
        bool, flag("--resume", help="Continue an interrupted training of the same output.")
    ] = False,
    log: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE",
            help="CSV file of the loss and of the validation.",
            show_default="not written",
            rich_help_panel="Output",
        ),
    ] = None,
    ir: Annotated[
        Optional[str],
        typer.Option(
            metavar="NAME|FILE",
            help="For DP-IR: the restorer to improve, a classical one or a network.",
            rich_help_panel="Recipes",
        ),
    ] = None,
    denoiser: Annotated[
        Optional[str],
        typer.Option(
            metavar="NAME|FILE",
            help="For DP-IR: the denoiser, a classical one or a network.",
            show_default="a local Wiener filter",
            rich_help_panel="Recipes",
        ),
    ] = None,
    *,
    settings: TrainSettings,
    output: Output,
) -> None:
    """Train a restorer on pairs of images, or on noisy images alone."""
    from napari_ensir.cli.train import train as run

    run(
        recipe,
        degraded,
        clean,
        out,
        resume=resume,
        log=log,
        ir=ir,
        denoiser=denoiser,
        settings=settings,
        output=output,
    )


@command(bare=True)
def restorers(
    network: Networks = None,
    ir: Around = None,
    *,
    output: Output,
) -> None:
    """List classical restorers, or the given networks, and their settings for --set."""
    from napari_ensir.cli.options import list_restorers
    from napari_ensir.cli.restore import choose_restorers
    from napari_ensir.restorers import RESTORERS

    methods = [] if network else list(RESTORERS)
    found = choose_restorers(methods, network or [], RestoreSettings(), ir)
    list_restorers(found, output=output)


@command()
def info(
    path: Annotated[
        Path,
        typer.Argument(help="A .lut.safetensors file, or an image or Zarr array."),
    ],
    *,
    output: Output,
) -> None:
    """Describe a lookup table and its fit, the origin of an output, or the noise of any other image."""
    from napari_ensir.cli.info import info as run

    run(path, output=output)


@command("import")
def import_(
    weights: Annotated[
        Path, typer.Argument(metavar="WEIGHTS.pth", help="A weight table that the EnsIR authors' code wrote.")
    ],
    out: Out,
    name: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="NAME", help="Name of a candidate; give one for each, in the order of the table."
        ),
    ] = None,
    bin_width: Annotated[
        Optional[float],
        typer.Option(metavar="NUMBER", help="Bin width of the table.", show_default="from the file name"),
    ] = None,
    *,
    output: Output,
) -> None:
    """Convert a weight table that the EnsIR authors' code wrote."""
    from napari_ensir.cli.fit import import_table

    import_table(weights, out, name or None, bin_width, output=output)


def _report_failures(failed: dict[str, str]) -> None:
    """Print the errors of images that failed, and exit with status 1 if there are any."""
    for stem, message in failed.items():
        terminal.error(message if message.startswith(f"image {stem}") else f"image {stem}: {message}")
    if failed:
        raise typer.Exit(1)
