"""Writes a file or a folder whole or not at all. Knows no formats.

What is being written stands beside its target under a hidden name and is renamed when it is complete: at no
moment, not after Ctrl-C, a full disk or a power cut, does half an output bear the name of a whole one. A part
is locked while its writer lives: what a killed one left goes when the same target is next written.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_ensir.errors import EnsembleError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["check_target", "clear_parts", "many_files", "whole_file", "whole_folder"]

STALE = 24 * 3600.0
"""Seconds after which a part counts as left by a killed writer, where no lock can tell."""

_PART = ".part-"
"""How the names of all parts begin."""

_PATIENCE = 5.0
"""Seconds in which others may still be putting something into a folder that is to go."""


def check_target(target: Path, overwrite: bool) -> None:
    """Find out before any work whether something could be written under this name.

    Raises
    ------
    EnsembleError
        If it exists and may not be overwritten, or the folder it would stand in does not exist or does not
        let itself be written to.
    """
    parent = target.parent
    if not parent.is_dir():
        raise EnsembleError(f"{target} cannot be written: there is no folder {parent}; make it first.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise EnsembleError(f"{target} cannot be written: no permission to write into {parent}.")
    if os.path.lexists(target) and not overwrite:
        raise EnsembleError(f"{target} exists already; choose another name, or allow it with --overwrite.")


@dataclass(eq=False)
class _Part:
    """What is being written, beside what it will replace; removed when it is let go."""

    target: Path
    make: Callable[[Path], None]
    path: Path = field(init=False)
    replaced: Path = field(init=False)
    process: int = field(init=False, default_factory=os.getpid)
    lock: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        start, end = _affixes(self.target)
        token = secrets.token_hex(6)
        # The suffix stays last: writers choose the format by it.
        self.path = self.target.with_name(f"{start}{token}{end}")
        self.replaced = self.target.with_name(f"{start}{token}-replaced{end}")

    def begin(self) -> None:
        """Make it and lock it; before that it is known to :func:`clear_parts`."""
        _parts[id(self)] = self
        self.make(self.path)
        self.lock = _lock(self.path)
        if fcntl is not None and self.lock is None and not os.path.lexists(self.path):
            self.make(self.path)  # somebody who cleared up was quicker than the lock

    def take_its_place(self) -> None:
        """Give it the target's name; for a folder, what bears that is moved aside first."""
        if self.path.is_dir() and os.path.lexists(self.target):
            self.target.rename(self.replaced)
        self.path.replace(self.target)

    def let_go(self) -> None:
        """Remove what is left; where the target had been moved aside in vain, it comes back."""
        if self.process != os.getpid():  # a child that was forked meanwhile
            return
        if os.path.lexists(self.replaced) and not os.path.lexists(self.target):
            self.replaced.rename(self.target)
        for leftover in (self.path, self.replaced):
            _remove(leftover)
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None
        _parts.pop(id(self), None)


_parts: dict[int, _Part] = {}


def clear_parts() -> None:
    """Remove whatever is being written: for the end of a process that was interrupted anywhere."""
    for part in list(_parts.values()):
        with suppress(OSError):
            part.let_go()


atexit.register(clear_parts)


@contextmanager
def whole_file(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """A path to write to; what stands there in the end becomes ``target``, unless something was raised.

    Raises
    ------
    EnsembleError
        If the target may not or cannot be written; a file that was there is then unchanged.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = pathlib.Path(folder) / "note.txt"
    ...     with whole_file(target) as path:
    ...         _ = path.write_text("whole")
    ...     target.read_text()
    'whole'
    """
    check_target(target, overwrite)
    if target.is_dir():
        raise EnsembleError(f"{target} is a folder; a file cannot take its place. Choose another name.")
    with _written(target, _make_file) as part:
        yield part.path
        _settle(part.path)
        part.take_its_place()


@contextmanager
def whole_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """The same for a folder, such as a Zarr array: a new, empty one to write into.

    Raises
    ------
    EnsembleError
        If the target may not or cannot be written; a folder that was there is then unchanged.
    """
    check_target(target, overwrite)
    with _written(target, _make_folder) as part:
        yield part.path
        part.path.chmod(0o777 & ~_umask())
        part.take_its_place()


@contextmanager
def _written(target: Path, make: Callable[[Path], None]) -> Iterator[_Part]:
    with _said_clearly(target):
        _clear_stale(target)
        part = _Part(target, make)
        try:
            part.begin()
            yield part
        finally:
            part.let_go()


@contextmanager
def many_files() -> Iterator[None]:
    """For saves of thousands: within, a folder is looked through for leftovers at its first file alone.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder, many_files():
    ...     for number in range(3):
    ...         with whole_file(pathlib.Path(folder) / f"{number}.txt") as path:
    ...             _ = path.write_text("whole")
    ...     print(sorted(os.listdir(folder)))
    ['0.txt', '1.txt', '2.txt']
    """
    token = _listed.set({})
    try:
        yield
    finally:
        _listed.reset(token)


_listed: ContextVar[dict[Path, list[str]] | None] = ContextVar("_listed", default=None)
"""The parts that lay in folders when :func:`many_files` came to them."""


def _parts_in(folder: Path) -> list[str]:
    """The names of all parts in a folder, whatever their targets."""
    listed = _listed.get()
    if listed is not None and folder in listed:
        return listed[folder]
    parts: list[str] = []
    with suppress(OSError):  # a folder that only lets itself be written to
        # Names alone, without a path of each: it may hold thousands.
        parts = [name for name in os.listdir(folder) if name.startswith(_PART)]
    if listed is not None:
        listed[folder] = parts
    return parts


def _make_file(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _make_folder(path: Path) -> None:
    path.mkdir(mode=0o700)


def _affixes(target: Path) -> tuple[str, str]:
    """How the names of parts of this target begin and end."""
    return f"{_PART}{target.stem[:40]}-", target.suffix[:20]


def _lock(path: Path) -> int | None:
    """Hold a part for as long as this process lives; None if somebody else does, or nobody can."""
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


def _clear_stale(target: Path) -> None:
    """Remove what earlier writers of this target left when they were killed."""
    start, end = _affixes(target)
    names = [name for name in _parts_in(target.parent) if name.startswith(start) and name.endswith(end)]
    for leftover in map(target.parent.joinpath, names):
        with suppress(OSError):  # another writer may be removing it too
            if leftover.name.endswith(f"-replaced{end}") and not os.path.lexists(target):
                continue  # the only copy of what stood there
            held = _lock(leftover)
            if held is not None or time.time() - _last_change(leftover) > STALE:
                _remove(leftover)
            if held is not None:
                os.close(held)


def _last_change(path: Path) -> float:
    inside = [one.stat().st_mtime for one in path.iterdir()] if path.is_dir() else []
    return max([path.stat().st_mtime, *inside])


def _remove(path: Path) -> None:
    """Remove a file or a folder, even while threads on their way out still write into it."""
    until = time.monotonic() + _PATIENCE
    while os.path.lexists(path):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=time.monotonic() < until)
            time.sleep(0.01)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _said_clearly(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnsembleError(
            f"{target} could not be written: {error.strerror or error}. Nothing was left behind; choose a "
            "folder with room, where you may write."
        ) from error


def _settle(file: Path) -> None:
    """On disk before its name is, and readable by whom the user's umask lets read."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    file.chmod(0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
