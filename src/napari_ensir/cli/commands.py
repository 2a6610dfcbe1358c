"""The command line: what can be asked for. What is then done stands in ``jobs.py``.

Nothing heavy is imported here, so that ``--help`` answers at once. To add a command, write a function that
calls a job and decorate it with ``@_command()``: errors, Ctrl-C and exit statuses are then taken care of.
"""

from __future__ import annotations

import os
import signal
import sys
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["app", "main"]

app = typer.Typer(
    name="napari-ensir",
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


class Method(StrEnum):
    """How weights are estimated; the registry stands in ``ensemble/estimate.py``."""

    em = "em"
    em_released = "em-released"
    least_squares = "least-squares"


class OutputType(StrEnum):
    """Dtype of an ensemble."""

    same = "same"
    float32 = "float32"


def _command(name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose failures end in one line on stderr and an exit status."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            # A polite kill cleans up like Ctrl-C does.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
            try:
                function(*args, **kwargs)
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except KeyboardInterrupt:
                _say("interrupted; nothing half-written was left.")
                raise typer.Exit(INTERRUPTED) from None
            except EnsembleError as error:
                _say(str(error))
                raise typer.Exit(1) from None
            except MemoryError:
                _say("out of memory; give the images as Zarr arrays, which are read chunk by chunk.")
                raise typer.Exit(1) from None
            except OSError as error:
                _say(f"{error.filename or 'a file'}: {error.strerror or error}.")
                raise typer.Exit(1) from None
            except Exception as error:
                if DEBUG in os.environ:
                    raise
                _say(
                    f"unexpected {type(error).__name__}: {error}. Set {DEBUG}=1 to see where, and report it."
                )
                raise typer.Exit(1) from None

        app.command(name, no_args_is_help=True)(run)
        return run

    return register


def _say(message: str) -> None:
    """One line on stderr."""
    print("napari-ensir:", " ".join(message.split()), file=sys.stderr)


def _named_paths(given: list[str]) -> dict[str, Path]:
    """NAME=PATH arguments, in order."""
    found: dict[str, Path] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not (name.strip() and equals and path):
            raise typer.BadParameter(f"{one!r} is not NAME=PATH", param_hint="--candidate")
        if name in found:
            raise typer.BadParameter(f"the name {name!r} is given twice", param_hint="--candidate")
        found[name] = Path(path)
    return found


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
Truth = Annotated[Path, typer.Option("--truth", "-t", help="The ground truth: as for --candidate.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="What to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Allow outputs to replace what is there.")]
Crop = Annotated[bool, typer.Option("--crop", help="Cut images of unlike size alike, at the top left.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no summary.")]
Json = Annotated[
    Optional[Path], typer.Option("--json", metavar="FILE", help="Write the results as JSON; - for stdout.")
]
Device = Annotated[str, typer.Option(help='Where to compute: "auto", "cpu", "cuda:0", "mps".')]
Scheduler = Annotated[
    Optional[str],
    typer.Option(metavar="ADDRESS", help="A dask.distributed scheduler, such as tcp://10.0.0.1:8786."),
]
ChannelAxis = Annotated[
    Optional[int],
    typer.Option(help="One table per channel along this axis, such as -1 for RGB.", show_default="pooled"),
]
Range = Annotated[
    Optional[tuple[float, float]],
    typer.Option(
        metavar="LOW HIGH", help="Data range.", show_default="the dtype's for 8 bit, else what the data shows"
    ),
]
YChannel = Annotated[bool, typer.Option("--y-channel", help="Score Y of YCbCr (BT.601) instead of RGB.")]
CropBorder = Annotated[int, typer.Option(min=0, help="Pixels at each edge that are not scored.")]


@_command()
def fit(
    candidate: Candidates,
    truth: Truth,
    out: Out,
    method: Annotated[Method, typer.Option(help="How to estimate weights.")] = Method.em,
    bin_width: Annotated[
        Optional[float], typer.Option(help="Intensity units.", show_default="an eighth of the data range")
    ] = None,
    channel_axis: ChannelAxis = None,
    data_range: Range = None,
    device: Device = "auto",
    scheduler: Scheduler = None,
    crop: Crop = False,
    overwrite: Overwrite = False,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Learn a lookup table from candidates and their ground truth."""
    paths = _named_paths(candidate)
    from napari_ensir.cli import jobs

    jobs.fit(
        paths,
        truth,
        out,
        settings={
            "method": method.value,
            "bin_width": bin_width,
            "channel_axis": channel_axis,
            "data_range": data_range,
            "device": device,
        },
        crop=crop,
        scheduler=scheduler,
        output=jobs.Output(overwrite, json, quiet),
    )


@_command()
def apply(
    lut: Annotated[Path, typer.Option(help="A .lut.safetensors file.")],
    candidate: Candidates,
    out: Out,
    weight_maps: Annotated[
        Optional[Path],
        typer.Option(help="Also write the weights at each pixel: .tif, .zarr, folder."),
    ] = None,
    dtype: Annotated[OutputType, typer.Option(help="The candidates' dtype, or float32.")] = OutputType.same,
    device: Device = "auto",
    scheduler: Scheduler = None,
    crop: Crop = False,
    overwrite: Overwrite = False,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Combine candidates by a lookup table."""
    paths = _named_paths(candidate)
    from napari_ensir.cli import jobs

    failed = jobs.apply(
        lut,
        paths,
        out,
        weight_maps,
        as_float=dtype is OutputType.float32,
        device=device,
        crop=crop,
        scheduler=scheduler,
        output=jobs.Output(overwrite, json, quiet),
    )
    _report_failures(failed)


@_command()
def evaluate(
    truth: Truth,
    candidate: Candidates,
    lut: Annotated[Optional[Path], typer.Option(help="Also score the ensemble by this lookup table.")] = None,
    y_channel: YChannel = False,
    crop_border: CropBorder = 0,
    data_range: Range = None,
    device: Device = "auto",
    crop: Crop = False,
    overwrite: Overwrite = False,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Score candidates, and an ensemble of them, against the ground truth."""
    paths = _named_paths(candidate)
    from napari_ensir.cli import jobs, scores

    failed = scores.evaluate(
        paths,
        truth,
        lut,
        scoring={"y_channel": y_channel, "crop_border": crop_border, "data_range": data_range},
        device=device,
        crop=crop,
        output=jobs.Output(overwrite, json, quiet),
    )
    _report_failures(failed)


@_command()
def compare(
    truth: Truth,
    candidate: Candidates,
    folds: Annotated[int, typer.Option(min=2, help="Parts, each predicted from the others.")] = 2,
    bin_width: Annotated[
        Optional[list[float]],
        typer.Option(help="Intensity units; once for each.", show_default="an eighth of the range"),
    ] = None,
    method: Annotated[
        Optional[list[str]], typer.Option(help="A row to show; once for each.", show_default="all of them")
    ] = None,
    channel_axis: ChannelAxis = None,
    y_channel: YChannel = False,
    crop_border: CropBorder = 0,
    data_range: Range = None,
    low_resolution: Annotated[
        Optional[Path], typer.Option(help="Inputs of super-resolution, for RefESR.")
    ] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="Pixels that scikit-learn's regressors learn from; 0: all.")
    ] = 100_000,
    device: Device = "auto",
    crop: Crop = False,
    overwrite: Overwrite = False,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Score every method on held-out images, or on held-out tiles of one image."""
    paths = _named_paths(candidate)
    from napari_ensir.cli import jobs, scores

    scores.compare(
        paths,
        truth,
        low_resolution,
        settings={
            "folds": folds,
            "bin_width": bin_width or None,
            "methods": method or None,
            "channel_axis": channel_axis,
            "y_channel": y_channel,
            "crop_border": crop_border,
            "data_range": data_range,
            "samples": samples or None,
            "device": device,
        },
        crop=crop,
        output=jobs.Output(overwrite, json, quiet),
    )


@_command()
def restore(
    image: Annotated[Path, typer.Argument(help="An image, a folder of them, or a Zarr array.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="What to write; with several restorers, a folder.")
    ],
    method: Annotated[
        Optional[list[str]],
        typer.Option("--method", "-m", help="A classical restorer, such as median; once for each."),
    ] = None,
    network: Annotated[
        Optional[list[Path]],
        typer.Option(metavar="FILE", help="A trained network; once for each. Open only what you trust."),
    ] = None,
    ir: Annotated[
        Optional[Path],
        typer.Option("--ir", metavar="FILE", help="DP-IR: the network it was trained around, if not held."),
    ] = None,
    self_ensemble: Annotated[
        bool, typer.Option("--self-ensemble", help="Average eight orientations: eight times the time.")
    ] = False,
    tau: Annotated[
        Optional[int], typer.Option(min=0, help="DP-IR: few are faithful, many sharp.", show_default="5")
    ] = None,
    steps: Annotated[
        Optional[int], typer.Option(min=1, help="IR-CM: evaluations of the network.", show_default="1")
    ] = None,
    channel_axis: Annotated[
        Optional[int], typer.Option(help="Axis of colour channels.", show_default="-1 for RGB files")
    ] = None,
    data_range: Annotated[
        Optional[tuple[float, float]],
        typer.Option(metavar="LOW HIGH", help="Data range.", show_default="the network's, else the image's"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise that IR-CM and DP-IR draw.")] = 0,
    device: Device = "auto",
    dtype: Annotated[OutputType, typer.Option(help="The image's dtype, or float32.")] = OutputType.same,
    overwrite: Overwrite = False,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Restore images: candidates for an ensemble."""
    from napari_ensir.cli import jobs, restoring
    from napari_ensir.devices import resolve_device

    resolve_device(device)
    given = {"tau": tau, "steps": steps, "data_range": data_range, "seed": seed, "device": device}
    restorers = restoring.choose_restorers(
        method or [],
        network or [],
        {name: value for name, value in given.items() if value is not None},
        self_ensemble,
        ir,
    )
    failed = restoring.restore(
        image,
        restorers,
        out,
        channel_axis=channel_axis,
        as_float=dtype is OutputType.float32,
        output=jobs.Output(overwrite, json, quiet),
    )
    _report_failures(failed)


@_command()
def info(
    lut: Annotated[Path, typer.Argument(help="A .lut.safetensors file.")],
    json: Json = None,
    overwrite: Overwrite = False,
) -> None:
    """Say what a lookup table holds and how its fit went."""
    from napari_ensir.cli import jobs

    jobs.info(lut, output=jobs.Output(overwrite, json))


@_command("import")
def import_(
    weights: Annotated[
        Path, typer.Argument(metavar="WEIGHTS.pth", help="A table of the EnsIR authors' code.")
    ],
    out: Out,
    name: Annotated[
        Optional[list[str]], typer.Option(help="A candidate's name; once for each, in the table's order.")
    ] = None,
    bin_width: Annotated[
        Optional[float], typer.Option(help="As in the file's name.", show_default="read off")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Turn a table of the EnsIR authors' code into one of this package."""
    from napari_ensir.cli import jobs

    jobs.import_table(weights, out, name or None, bin_width, output=jobs.Output(overwrite, json, quiet))


def _report_failures(failed: dict[str, str]) -> None:
    """Say which images failed; the others were done."""
    for stem, message in failed.items():
        _say(message if message.startswith(f"image {stem}") else f"image {stem}: {message}")
    if failed:
        raise typer.Exit(1)


def main() -> None:
    """The console script."""
    try:
        app()
    except KeyboardInterrupt:  # before or after a command had its say
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
