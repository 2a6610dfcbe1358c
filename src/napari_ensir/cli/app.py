"""The command line: what can be asked for. What is then done stands in ``jobs.py``.

Nothing heavy is imported here, so that ``--help`` answers at once. ``command.py`` says how to add a command.
"""

from __future__ import annotations

import os
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
    WritingSettings,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["app", "command"]


class _Command(TyperCommand):
    """A command whose ``--help`` is a flag like any other."""

    def get_help_option(self, ctx: Any) -> Any:
        """See :class:`click.Command`."""
        return _as_flag(super().get_help_option(ctx))


class _Group(TyperGroup):
    """The same for what holds the commands."""

    def get_help_option(self, ctx: Any) -> Any:
        """See :class:`click.Command`."""
        return _as_flag(super().get_help_option(ctx))


def _as_flag(option: Any) -> Any:
    if option is not None:
        option.metavar = ""
    return option


app = typer.Typer(
    name="napari-ensir",
    cls=_Group,
    help="Combine several restorations of an image into one that is better than each.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DEBUG = "NAPARI_ENSIR_DEBUG"
"""Environment variable that lets unexpected errors through, with their traceback."""

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 plus the signal's number, as shells have it."""


def command(
    name: str | None = None, *, bare: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose failures end in one line on stderr and an exit status.

    ``bare``: that means something without any argument; else that shows its help.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        function = with_options(function)

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except KeyboardInterrupt as stop:
                terminal.complain("interrupted; nothing half-written was left.")
                raise typer.Exit(getattr(stop, "status", INTERRUPTED)) from None
            except EnsembleError as error:
                terminal.complain(str(error))
                raise typer.Exit(1) from None
            except MemoryError:
                terminal.complain(
                    "out of memory; give the images as Zarr arrays, which are read chunk by chunk."
                )
                raise typer.Exit(1) from None
            except BrokenPipeError:
                terminal.complain("what was to read standard output is gone.")
                raise typer.Exit(1) from None
            except OSError as error:
                terminal.complain(
                    f"{error.filename or 'a file or standard output'}: {error.strerror or error}."
                )
                raise typer.Exit(1) from None
            except Exception as error:
                if DEBUG in os.environ:
                    raise
                terminal.complain(
                    f"unexpected {type(error).__name__}: {error}. Set {DEBUG}=1 to see where, and report it."
                )
                raise typer.Exit(1) from None

        app.command(name, cls=_Command, no_args_is_help=not bare)(run)
        return run

    return register


# ruff: noqa: UP045 -- typer reads Optional in every version that is supported
Candidates = Annotated[
    list[str],
    typer.Option(
        "--candidate",
        "-c",
        metavar="NAME=PATH",
        help="A candidate: an image (PNG, JPEG, TIFF), a folder of them, or a Zarr array. Once for each.",
    ),
]
Truth = Annotated[
    Path, typer.Option("--truth", "-t", metavar="PATH", help="The ground truth: as for --candidate.")
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="What to write.")]
Scheduler = Annotated[
    Optional[str],
    typer.Option(
        metavar="ADDRESS",
        help="A dask.distributed scheduler, such as tcp://10.0.0.1:8786.",
        rich_help_panel="Machine",
    ),
]


Methods = Annotated[
    Optional[list[str]],
    typer.Option(
        "--method", "-m", metavar="NAME", help="A classical restorer, such as median; once for each."
    ),
]
Networks = Annotated[
    Optional[list[Path]],
    typer.Option(
        metavar="FILE",
        help="A trained network, or a folder of them; once for each. Open only what you trust.",
    ),
]
Own = Annotated[
    Optional[list[str]],
    typer.Option(
        "--set",
        metavar="RESTORER.SETTING=VALUE",
        help='A restorer\'s own setting, such as median.size=5; once for each. "napari-ensir restorers" '
        "lists them.",
    ),
]
Around = Annotated[
    Optional[Path],
    typer.Option(
        "--ir",
        metavar="FILE",
        help="DP-IR: the network it was trained around, if not held.",
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
            help="Where to learn: images, as for --candidate, that are zero where not to.",
            show_default="everywhere",
            rich_help_panel="Images",
        ),
    ] = None,
    without_errors: Annotated[
        bool,
        flag(
            "--without-errors",
            help="Leave out the errors to expect, which take two more passes over the images.",
        ),
    ] = False,
    scheduler: Scheduler = None,
    *,
    settings: FitSettings,
    reading: ReadingSettings,
    output: Output,
) -> None:
    """Learn a lookup table from candidates and their ground truth."""
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
        typer.Option(metavar="PATH", help="Also write the weights at each pixel: .tif, .zarr, folder."),
    ] = None,
    expected_error: Annotated[
        Optional[Path],
        typer.Option(
            metavar="PATH",
            help="Also write the root mean square error to expect at each pixel: .tif, .zarr, folder.",
        ),
    ] = None,
    match: Annotated[
        bool, flag("--match", help="Rescale the table to the exposure of these images first.")
    ] = False,
    scheduler: Scheduler = None,
    *,
    settings: ApplySettings,
    writing: WritingSettings,
    reading: ReadingSettings,
    output: Output,
) -> None:
    """Combine candidates by a lookup table."""
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
        Optional[Path], typer.Option(metavar="PATH", help="Also score the ensemble by this lookup table.")
    ] = None,
    *,
    settings: EvaluateSettings,
    reading: ReadingSettings,
    output: Output,
) -> None:
    """Score candidates, and an ensemble of them, against the ground truth."""
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
            help="Of the lookup tables, once for each.",
            show_default="an eighth of the data range",
        ),
    ] = None,
    method: Annotated[
        Optional[list[str]],
        typer.Option(metavar="NAME", help="A row to show; once for each.", show_default="all of them"),
    ] = None,
    low_resolution: Annotated[
        Optional[Path],
        typer.Option(
            metavar="PATH", help="Inputs of super-resolution, for RefESR.", rich_help_panel="Images"
        ),
    ] = None,
    *,
    settings: CompareSettings,
    reading: ReadingSettings,
    output: Output,
) -> None:
    """Score every method on held-out images, or on held-out tiles of one image."""
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
    image: Annotated[Path, typer.Argument(help="An image, a folder of them, or a Zarr array.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="PATH", help="What to write; with several restorers, a folder."),
    ],
    method: Methods = None,
    network: Networks = None,
    own: Own = None,
    ir: Around = None,
    *,
    settings: RestoreSettings,
    writing: WritingSettings,
    output: Output,
) -> None:
    """Restore images: candidates for an ensemble."""
    from napari_ensir.cli.restore import choose_restorers
    from napari_ensir.cli.restore import restore as run

    restorers = choose_restorers(method or [], network or [], settings, ir, own or [])
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
    image: Annotated[Path, typer.Argument(help="A noisy image, a folder of them, or a Zarr array.")],
    out: Out,
    method: Methods = None,
    network: Networks = None,
    own: Own = None,
    ir: Around = None,
    save_lut: Annotated[
        Optional[Path], typer.Option(metavar="PATH", help="Also keep the lookup table that is learned.")
    ] = None,
    self_ensemble: Annotated[
        bool,
        flag(
            "--self-ensemble",
            help="Average what eight rotations and reflections of the image give: eight times the time.",
        ),
    ] = False,
    *,
    settings: BlindSettings,
    writing: WritingSettings,
    output: Output,
) -> None:
    """Restore in several ways and combine, with nothing but the noisy images."""
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
    image: Annotated[Path, typer.Argument(help="A noisy image, a folder of them, or a Zarr array.")],
    setting: Annotated[
        Optional[str],
        typer.Option(
            metavar="SETTING",
            help='Of which setting to try values, such as strength. "napari-ensir restorers" lists them.',
        ),
    ] = None,
    values: Annotated[
        Optional[str],
        typer.Option(
            metavar="VALUE,VALUE,...",
            help="The values to try.",
            show_default="some around the value that is set",
        ),
    ] = None,
    out: Annotated[
        Optional[Path],
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="Restore by the best value and write that; with --all, a folder.",
            show_default="nothing is written",
        ),
    ] = None,
    write_all: Annotated[
        bool, flag("--all", help="Write what every value makes into the folder --out, each under its value.")
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
    """Try values of a restorer's setting on noisy images, without a ground truth, and restore by the best."""
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


@command(bare=True)
def restorers(
    network: Networks = None,
    ir: Around = None,
    *,
    output: Output,
) -> None:
    """List classical restorers, and networks given, with what each can be told by --set."""
    from napari_ensir.cli.options import list_restorers
    from napari_ensir.cli.restore import choose_restorers
    from napari_ensir.restorers import CLASSICAL

    methods = [] if network else list(CLASSICAL)
    found = choose_restorers(methods, network or [], RestoreSettings(), ir)
    list_restorers(found, output=output)


@command()
def info(
    path: Annotated[
        Path, typer.Argument(help="A .lut.safetensors file, or an image or Zarr array that was written here.")
    ],
    *,
    output: Output,
) -> None:
    """Say what a lookup table holds and how its fit went, or where an output came from."""
    from napari_ensir.cli.info import info as run

    run(path, output=output)


@command("import")
def import_(
    weights: Annotated[
        Path, typer.Argument(metavar="WEIGHTS.pth", help="A table of the EnsIR authors' code.")
    ],
    out: Out,
    name: Annotated[
        Optional[list[str]],
        typer.Option(metavar="NAME", help="A candidate's name; once for each, in the table's order."),
    ] = None,
    bin_width: Annotated[
        Optional[float],
        typer.Option(metavar="NUMBER", help="As in the file's name.", show_default="read off"),
    ] = None,
    *,
    output: Output,
) -> None:
    """Turn a table of the EnsIR authors' code into one of this package."""
    from napari_ensir.cli.fit import import_table

    import_table(weights, out, name or None, bin_width, output=output)


def _report_failures(failed: dict[str, str]) -> None:
    """Say which images failed; the others were done."""
    for stem, message in failed.items():
        terminal.complain(message if message.startswith(f"image {stem}") else f"image {stem}: {message}")
    if failed:
        raise typer.Exit(1)
