"""Atomic writing: an output appears under its name when it is complete, or not at all."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from napari_ensir.errors import EnsembleError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

_PART, _REPLACED = ".part-", "replaced-"


def check_target(target: Path, overwrite: bool, hint: str = "") -> None:
    """Check before any work that a file or folder can be written under this name.

    Parameters
    ----------
    target : Path
    overwrite : bool
        Whether it may exist.
    hint : str
        End of the message if it exists.

    Raises
    ------
    EnsembleError
        If it exists and ``overwrite`` is off, or its folder does not exist or is not writable.
    """
    parent = target.parent
    if not parent.is_dir():
        raise EnsembleError(f"{target} cannot be written: there is no folder {parent}; make it first.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise EnsembleError(f"{target} cannot be written: no permission to write into {parent}.")
    if os.path.lexists(target) and not overwrite:
        raise EnsembleError(
            f"{target} exists already; choose another name, or replace it with --overwrite (in Python, "
            f"overwrite=True).{hint}"
        )


def whole_file(target: Path, overwrite: bool = False) -> AbstractContextManager[Path]:
    """Return a context with a path to write to, which becomes ``target`` unless an exception is raised.

    Raises
    ------
    EnsembleError
        If the target exists and is not to be replaced, or cannot be written; an existing file is unchanged.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = pathlib.Path(folder) / "note.txt"
    ...     with whole_file(target) as path:
    ...         _ = path.write_text("complete")
    ...     target.read_text()
    'complete'
    """
    return _whole(target, overwrite, is_folder=False)


def whole_folder(target: Path, overwrite: bool = False) -> AbstractContextManager[Path]:
    """Return a context with a new, empty folder, which becomes ``target`` unless an exception is raised.

    Raises
    ------
    EnsembleError
        If the target exists and is not to be replaced, or cannot be written; an existing folder is unchanged.
    """
    return _whole(target, overwrite, is_folder=True)


@contextmanager
def _whole(target: Path, overwrite: bool, is_folder: bool) -> Iterator[Path]:
    check_target(target, overwrite)
    if target.is_dir() and not is_folder:
        raise EnsembleError(f"{target} is a folder; a file cannot replace it. Choose another name.")
    part = target.with_name(f"{_PART}{secrets.token_hex(6)}")
    path = part / target.name
    try:
        _clear_leftovers(target.parent)
        _parts[part] = None
        try:
            part.mkdir(mode=0o700)
            _parts[part] = _lock(part)
            path.mkdir() if is_folder else path.touch()
            yield path
            _sync(path)
            if is_folder and target.is_dir():
                target.rename(part / f"{_REPLACED}{target.name}")
            path.replace(target)
        finally:
            _close(part)
    except OSError as error:
        raise EnsembleError(
            f"{target} could not be written: {error.strerror or error}. Nothing was left behind; choose a "
            "folder with enough space, to which you may write."
        ) from error


_parts: dict[Path, int | None] = {}
"""Temporary folders that this process writes to, and their locks, which are held while it lives."""

_cleared: set[Path] = set()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_parts.clear)


def _close(part: Path) -> None:
    if part in _parts:  # not in a child that was forked meanwhile
        _remove(part)
        if (lock := _parts.pop(part)) is not None:
            os.close(lock)


def clear_parts() -> None:
    """Remove everything that is being written, at the end of an interrupted process."""
    for part in list(_parts):
        with suppress(OSError):
            _close(part)


atexit.register(clear_parts)


def _lock(part: Path) -> int | None:
    """Lock a folder until this process ends; None if another process holds it, or locks are not supported."""
    if fcntl is None:
        return None
    handle = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _clear_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder, once per process: a folder may hold thousands of files."""
    folder = folder.resolve()
    if folder in _cleared:
        return
    _cleared.add(folder)
    names: list[str] = []
    with suppress(OSError):  # a folder that may be written to but not listed
        names = [name for name in os.listdir(folder) if name.startswith(_PART)]
    own = {part.name for part in list(_parts)}  # of another thread, which may not have locked its own yet
    for part in (folder / name for name in names if name not in own):
        with suppress(OSError):  # another writer may be removing it too
            if (lock := _lock(part)) is not None:
                _remove(part)
                os.close(lock)


def _remove(part: Path) -> None:
    """Remove a temporary folder; a folder that was moved aside in vain gets its name back."""
    for replaced in part.glob(f"{_REPLACED}*"):
        target = part.with_name(replaced.name.removeprefix(_REPLACED))
        if not os.path.lexists(target):
            replaced.rename(target)
    shutil.rmtree(part, ignore_errors=True)  # a thread may still write into it


def _sync(path: Path) -> None:
    """Flush a file to disk before the rename."""
    if path.is_file():
        with path.open("rb+") as opened:
            os.fsync(opened.fileno())
