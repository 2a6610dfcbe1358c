"""Paths as users type them, and one-sentence errors about files."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterator


def expand_path(path: str | Path) -> Path:
    r"""Expand ``~`` in a path, and refuse what cannot be a path.

    Parameters
    ----------
    path : str or Path
        It need not exist.

    Returns
    -------
    Path

    Raises
    ------
    EnsembleError
        If ``~user`` names no user, the path contains a NUL character or is too long, or links form a loop.

    Examples
    --------
    >>> expand_path("a\0.tif")
    Traceback (most recent call last):
    napari_ensir.errors.EnsembleError: 'a\x00.tif' cannot be used as a path: embedded null byte.
    """
    try:
        expanded = Path(path).expanduser()
        os.lstat(expanded)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # reported by whoever opens it
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise EnsembleError(f"{str(path)[:100]!r} cannot be used as a path: {reason}.") from error
    return expanded


def brief_reason(error: Exception) -> str:
    """Return the message of an exception on one line."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


@contextmanager
def one_sentence(what: str, hint: str = "") -> Iterator[None]:
    """Raise EnsembleError where a library raises anything, since decoders raise exceptions of many types.

    Parameters
    ----------
    what : str
        Beginning of the message, such as "a.tif could not be read".
    hint : str
        End of the message, after the reason.

    Examples
    --------
    >>> with one_sentence("a.tif could not be read", "it is damaged"):
    ...     raise KeyError("no such page")
    Traceback (most recent call last):
    napari_ensir.errors.EnsembleError: a.tif could not be read ('no such page'); it is damaged.
    """
    try:
        yield
    except (MemoryError, EnsembleError):
        raise
    except Exception as error:
        reason = brief_reason(error)
        raise EnsembleError(f"{what} ({reason}); {hint}." if hint else f"{what}: {reason}.") from error
