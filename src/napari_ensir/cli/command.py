"""The app of the command line, and how its commands are registered and report errors."""

from __future__ import annotations

import inspect
import traceback
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, dataclass_transform

import typer
from typer.core import TyperCommand, TyperGroup

from napari_ensir.cli import terminal
from napari_ensir.cli.options import instance_of, parameters_of
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable

Options = TypeVar("Options", bound=type)


class _PlainFlags:
    """Mixin that shows flags without the metavar ``<bool>``."""

    def get_params(self, ctx: Any) -> list[Any]:
        """See :class:`click.Command`."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params


class _Command(_PlainFlags, TyperCommand):
    pass


class _Group(_PlainFlags, TyperGroup):
    pass


app = typer.Typer(
    name="napari-ensir",
    cls=_Group,
    help="Combine several restorations of an image into one that is better than each.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        terminal.say(f"napari-ensir {version('napari-ensir')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Combine several restorations of an image into one that is better than each."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
def command(target: str, *, allow_no_arguments: bool = False) -> Callable[[Options], Options]:
    """Make a class a dataclass of options, and register it as a command; its docstring is the help.

    Errors are printed as lines on stderr.

    Parameters
    ----------
    target : str
        ``"module:function"`` in this package; it is imported and called with the options when the command
        runs. It may return the errors of single images, by stem; then the exit status is 1. The command has
        the name of the function, without underscores.
    allow_no_arguments : bool
        Whether the command works without any argument; else it then shows its help.
    """

    def register(options: Options) -> Options:
        dataclass(frozen=True, kw_only=True)(options)

        def run(**given: Any) -> None:
            try:
                function = resolve_name(f"napari_ensir.cli.{target}")
                failed = function(instance_of(options, given)) or {}
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except KeyboardInterrupt:
                terminal.error("interrupted; nothing half-written was left.")
                raise typer.Exit(130) from None  # as in shells: 128 plus the number of the signal
            except Exception as error:
                if given.get("verbose"):
                    traceback.print_exc()
                terminal.error(_message(error))
                raise typer.Exit(1) from None
            for stem, message in failed.items():
                terminal.error(message if message.startswith(f"image {stem}") else f"image {stem}: {message}")
            if failed:
                raise typer.Exit(1)

        parameters = parameters_of(options)
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        name = target.partition(":")[2].strip("_")
        app.command(name, cls=_Command, help=options.__doc__, no_args_is_help=not allow_no_arguments)(run)
        return options

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
