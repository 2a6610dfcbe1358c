"""Atomic writing: an output appears under its name when it is complete, or not at all."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_ensir.errors import EnsembleError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["check_target", "clear_parts", "whole_file", "whole_folder"]

_PART, _REPLACED = ".part-", ".replaced-"
_PATIENCE = 5.0
"""Seconds in which other threads may still write into a folder that is being removed."""

_TRIES = 100


def check_target(target: Path, overwrite: bool) -> None:
    """Check before any work that a file or folder can be written under this name.

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
            "overwrite=True)."
        )


@dataclass(eq=False)
class _Part:
    """A temporary file or folder beside its target, locked while its writer lives."""

    target: Path
    is_folder: bool
    path: Path = field(init=False)
    replaced: Path = field(init=False)
    process: int = field(init=False, default_factory=os.getpid)
    lock: int | None = field(init=False, default=None)

    def create(self) -> None:
        _parts.add(self)
        for attempt in range(3):
            token = secrets.token_hex(6)
            # The suffix stays last: writers choose the format by it.
            name = f"{_PART}{token}-{self.target.stem[:40]}{self.target.suffix[:20]}"
            self.path = self.target.with_name(name)
            self.replaced = self.target.with_name(f"{_REPLACED}{token}-{self.target.name}")
            if self.is_folder:
                self.path.mkdir(mode=0o700)
            else:
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            self.lock = _lock(self.path)
            if self.lock is not None:
                return
            # Another process that clears leftovers was faster than the lock, or locks are not supported.
            if attempt < 2:
                _remove(self.path)

    def publish(self) -> None:
        """Rename to the target; a folder of that name is moved aside first."""
        for _ in range(_TRIES):  # another writer may publish between the two renames
            try:
                self.path.replace(self.target)
                return
            except OSError:
                if not (self.is_folder and self.target.is_dir()):
                    raise
            _remove(self.replaced)
            with suppress(FileNotFoundError):
                self.target.rename(self.replaced)
        raise OSError("other programs keep writing it")

    def close(self) -> None:
        """Remove what is left; a folder that was moved aside in vain gets its name back."""
        if self.process != os.getpid():  # in a child that was forked meanwhile
            return
        if hasattr(self, "path"):
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


@contextmanager
def whole_file(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to, which becomes ``target`` unless an exception is raised.

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
    check_target(target, overwrite)
    if target.is_dir():
        raise EnsembleError(f"{target} is a folder; a file cannot replace it. Choose another name.")
    with _open_part(target, is_folder=False) as part:
        yield part.path
        _sync(part.path)
        part.publish()


@contextmanager
def whole_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a new, empty folder to write into, which becomes ``target`` unless an exception is raised.

    Raises
    ------
    EnsembleError
        If the target exists and is not to be replaced, or cannot be written; an existing folder is unchanged.
    """
    check_target(target, overwrite)
    with _open_part(target, is_folder=True) as part:
        yield part.path
        part.path.chmod(0o777 & ~_umask())
        part.publish()


@contextmanager
def _open_part(target: Path, is_folder: bool) -> Iterator[_Part]:
    try:
        _clear_leftovers(target.parent)
        part = _Part(target, is_folder)
        try:
            part.create()
            yield part
        finally:
            part.close()
    except OSError as error:
        raise EnsembleError(
            f"{target} could not be written: {error.strerror or error}. Nothing was left behind; choose a "
            "folder with enough space, to which you may write."
        ) from error


def _lock(path: Path) -> int | None:
    """Lock a part until this process ends; None if another process holds it, or locks are not supported."""
    if fcntl is None:
        return None
    handle = None
    try:
        handle = os.open(path, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.stat(path)):
            return handle
    except OSError:
        pass
    if handle is not None:
        os.close(handle)
    return None


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
        lock = _lock(path)
        if lock is None:
            continue
        # A replaced folder without a successor is the only copy.
        target = path.name.removeprefix(_REPLACED).partition("-")[2]
        if path.name.startswith(_PART) or os.path.lexists(folder / target):
            with suppress(OSError):  # another writer may be removing it too
                _remove(path)
        os.close(lock)


def _remove(path: Path) -> None:
    """Remove a file or a folder, even while other threads still write into it."""
    until = time.monotonic() + _PATIENCE
    while os.path.lexists(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=time.monotonic() < until)
            time.sleep(0.01)
        else:
            path.unlink(missing_ok=True)


def _sync(file: Path) -> None:
    """Flush to disk before the rename, and apply the user's umask."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    file.chmod(0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
