"""Exceptions and the warning class of the package."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class EnsembleError(ValueError):
    """Invalid input; the message says what is wrong, where, and how to correct it.

    When it is raised, no output has been written and no input has been changed.
    """


class EnsembleWarning(UserWarning):
    """Images or settings that can be used but look wrong; the message is that of a diagnostic."""


class Cancelled(Exception):
    """Raised by a ``progress`` callback to cancel the computation; it is not caught by the package."""


class MissingRestorer(EnsembleError):
    """A DP-IR checkpoint refers to a restorer that it does not contain.

    Attributes
    ----------
    name : object
        Name of that restorer, as in the checkpoint.
    """

    def __init__(self, where: str, shown: str, name: object) -> None:
        super().__init__(
            f"{where} was trained with the restorer {shown}, which it does not contain; provide it too: open "
            "it first in the Restore panel, or use --ir FILE on the command line, ir= in Python."
        )
        self.name = name


@contextmanager
def ensemble_errors(what: str, hint: str = "") -> Iterator[None]:
    """Raise EnsembleError where a library raises anything, since decoders raise exceptions of many types.

    Parameters
    ----------
    what : str
        Beginning of the message, such as "a.tif could not be read".
    hint : str
        End of the message, after the reason.

    Examples
    --------
    >>> with ensemble_errors("a.tif could not be read", "it is damaged"):
    ...     raise KeyError("no such page")
    Traceback (most recent call last):
    napari_ensir.errors.EnsembleError: a.tif could not be read ('no such page'); it is damaged.
    """
    try:
        yield
    except (MemoryError, EnsembleError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise EnsembleError(f"{what} ({reason}); {hint}." if hint else f"{what}: {reason}.") from error


@contextmanager
def extra_needed(extra: str, reason: str) -> Iterator[None]:
    """Raise EnsembleError where a package of an extra is not installed.

    Parameters
    ----------
    extra : str
        Name of the extra.
    reason : str
        Beginning of the message, which names what needs which package.

    Examples
    --------
    >>> with extra_needed("large", "Zarr needs zarr"):
    ...     import no_such_package
    Traceback (most recent call last):
    napari_ensir.errors.EnsembleError: Zarr needs zarr; install it with: pip install "napari-ensir[large]".
    """
    try:
        yield
    except ImportError as error:
        raise EnsembleError(f'{reason}; install it with: pip install "napari-ensir[{extra}]".') from error


@contextmanager
def errors_of(what: str) -> Iterator[None]:
    """Put the name of a file or an image in front of the message of an EnsembleError.

    Examples
    --------
    >>> with errors_of("image 2"):
    ...     raise EnsembleError("it is empty.")
    Traceback (most recent call last):
    napari_ensir.errors.EnsembleError: image 2: it is empty.
    """
    try:
        yield
    except EnsembleError as error:
        raise EnsembleError(f"{what}: {error}") from error
