"""Atomic writing: an output appears under its name when it is complete, or not at all."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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

_PART, _REPLACED = ".part-", ".replaced-"


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
    token = secrets.token_hex(6)
    # The suffix stays last: writers choose the format by it.
    path = target.with_name(f"{_PART}{token}-{target.stem[:40]}{target.suffix[:20]}")
    part = _Part(path, target, target.with_name(f"{_REPLACED}{token}-{target.name}"), os.getpid())
    try:
        _clear_leftovers(target.parent)
        _parts.add(part)
        try:
            if is_folder:
                path.mkdir(mode=0o700)
            else:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            part.lock = _lock(path)
            yield path
            _sync(path)
            if is_folder and target.is_dir():
                target.rename(part.replaced)
            path.replace(target)
        finally:
            part.close()
    except OSError as error:
        raise EnsembleError(
            f"{target} could not be written: {error.strerror or error}. Nothing was left behind; choose a "
            "folder with enough space, to which you may write."
        ) from error


@dataclass(eq=False)
class _Part:
    """A temporary file or folder beside its target, locked while its writer lives."""

    path: Path
    target: Path
    replaced: Path
    process: int
    lock: int | None = None

    def close(self) -> None:
        """Remove what is left; a folder that was moved aside in vain gets its name back."""
        if self.process != os.getpid():  # in a child that was forked meanwhile
            return
        if os.path.lexists(self.replaced) and not os.path.lexists(self.target):
            self.replaced.rename(self.target)
        _remove(self.path)
        _remove(self.replaced)
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None
        _parts.discard(self)


_parts: set[_Part] = set()
_cleared: set[Path] = set()


def clear_parts() -> None:
    """Remove everything that is being written, at the end of an interrupted process."""
    for part in list(_parts):
        with suppress(OSError):
            part.close()


atexit.register(clear_parts)


def _lock(path: Path) -> int | None:
    """Lock a part until this process ends; None if another process holds it, or locks are not supported."""
    if fcntl is None:
        return None
    handle = os.open(path, os.O_RDONLY)
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
        names = [name for name in os.listdir(folder) if name.startswith((_PART, _REPLACED))]
    for path in map(folder.joinpath, names):
        with suppress(OSError):  # another writer may be removing it too
            lock = _lock(path)
            # A replaced folder without a successor is the only copy.
            target = path.name.removeprefix(_REPLACED).partition("-")[2]
            if lock is None:
                continue
            if path.name.startswith(_PART) or os.path.lexists(folder / target):
                _remove(path)
            os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)  # a thread may still write into it
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Apply the user's umask; flush a file to disk before the rename."""
    umask = os.umask(0)
    os.umask(umask)
    if path.is_dir():
        path.chmod(0o777 & ~umask)
        return
    with path.open("rb+") as opened:
        os.fsync(opened.fileno())
    path.chmod(0o666 & ~umask)
