"""Paths as users type them, and checks that no output replaces another output or an input."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_Key = tuple[object, ...]


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


@dataclass(frozen=True)
class Place:
    """A path that is read or written.

    Attributes
    ----------
    name : str
        Named in messages, such as the option that gave the path.
    path : Path
        A file or a folder.
    gathers : bool
        Whether it is a folder of inputs or outputs, which is not replaced as a whole.
    """

    name: str
    path: Path
    gathers: bool = False


def check_output_paths(outputs: Sequence[Place], inputs: Iterable[Place] = ()) -> None:
    """Check that no output replaces another one or an input; links and letter case are followed.

    Parameters
    ----------
    outputs, inputs
        A folder that is replaced as a whole, such as a Zarr array, must neither hold another place nor lie
        within one that is replaced; folders that gather files may hold each other, but not be the same.

    Raises
    ------
    EnsembleError
        If two paths clash, or an output is the name of a folder.

    Examples
    --------
    >>> check_output_paths([Place("--out", Path("o.tif")), Place("--weight-maps", Path("./o.tif"))])
    Traceback (most recent call last):
    napari_ensir.errors.EnsembleError: --out and --weight-maps both lead to o.tif; give each its own path.
    """
    known: dict[_Key, Place] = {}
    for output in outputs:
        if output.path.name in ("", "..") and not output.gathers:
            raise EnsembleError(f"{output.name}: {output.path} is a folder; give a name in it.")
        if twin := _first(known, _keys(output.path)):
            raise EnsembleError(
                f"{twin.name} and {output.name} both lead to {twin.path}; give each its own path."
            )
        known |= dict.fromkeys(_keys(output.path), output)
    whole = {key: place for key, place in known.items() if not place.gathers}
    read: dict[_Key, Place] = {}
    for place in inputs:
        if taken := _first(known, _keys(place.path)):
            raise EnsembleError(
                f"{taken.name} leads to {place.path}, which is read ({place.name}); choose another path."
            )
        if taken := _first(whole, _above(place.path)):
            raise EnsembleError(
                f"{taken.name} ({taken.path}) would replace {place.path}, which is read ({place.name}); "
                "choose another path."
            )
        if not place.gathers:
            read |= dict.fromkeys(_keys(place.path), place)
    for output in outputs:
        within = f"{output.name} ({output.path}) lies within"
        if not output.gathers and (holder := _first(whole, _above(output.path))):
            raise EnsembleError(
                f"{within} {holder.name} ({holder.path}), which is written as a whole; give it its own path."
            )
        if holder := _first(read, _above(output.path)):
            raise EnsembleError(
                f"{within} {holder.path}, which is read ({holder.name}); choose another path."
            )


def _first(places: dict[_Key, Place], keys: Iterable[_Key]) -> Place | None:
    return next((places[key] for key in keys if key in places), None)


def _keys(path: Path) -> list[_Key]:
    """Keys that are equal for equal paths: the resolved name, and the inode if it exists."""
    real = Path(os.path.realpath(expand_path(path)))
    keys: list[_Key] = [(os.path.normcase(real),)]
    for existing, rest in ((real, ()), (real.parent, (real.name,))):  # or a name in a folder with two names
        with suppress(OSError, ValueError):
            found = existing.stat()
            return [*keys, (found.st_dev, found.st_ino, *rest)]
    return keys


def _above(path: Path) -> Iterable[_Key]:
    """Keys of all folders above a path."""
    real = Path(os.path.realpath(expand_path(path)))
    return (key for folder in real.parents for key in _keys(folder))
