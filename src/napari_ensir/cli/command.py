"""What a command is: its failures end in one line on stderr and an exit status. Knows no command.

To add one, write a function that calls a job and decorate it with ``@command()``, in ``commands.py``. A
keyword annotated with settings brings an option for each of them (``options.py``).
"""

from __future__ import annotations

import os
from functools import wraps
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from napari_ensir.cli import terminal
from napari_ensir.cli.options import with_options
from napari_ensir.errors import EnsembleError

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
