"""Paths as users type them."""

from __future__ import annotations

import os
from pathlib import Path

from napari_ensir.errors import EnsembleError


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
