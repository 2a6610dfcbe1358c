"""Writes a file or a folder whole or not at all. Knows no formats.

What is being written stands beside its target under a hidden name and is renamed when it is complete: at no
moment, not after Ctrl-C, a full disk or a power cut, does half an output bear the name of a whole one.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["check_target", "whole_file", "whole_folder"]

STALE = 3600.0
"""Seconds after which what a killed process left beside a target counts as left: nobody writes so slowly."""


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


@contextmanager
def whole_file(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """A path to write to; what stands there in the end becomes ``target``, unless something was raised.

    Raises
    ------
    EnsembleError
        If the target may not or cannot be written; a file that was there is then unchanged.

    Examples
    --------
    >>> import pathlib
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
    with _said_clearly(target):
        # The suffix stays last: writers choose the format by it.
        prefix = f".part-{target.stem[:50]}-"
        _clear_stale(target.parent, prefix, target.suffix)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=prefix, suffix=target.suffix)
        temporary = target.parent / name
        try:
            os.close(handle)
            yield temporary
            _settle(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """The same for a folder, such as a Zarr array: a new, empty one to write into.

    Raises
    ------
    EnsembleError
        If the target may not or cannot be written; a folder that was there is then unchanged.
    """
    check_target(target, overwrite)
    with _said_clearly(target):
        temporary = target.parent / tempfile.mkdtemp(dir=target.parent, prefix=".part-")
        replaced = temporary.with_name(temporary.name + "-replaced")
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())  # mkdtemp's folders are for their owner alone
            if os.path.lexists(target):
                target.rename(replaced)
            try:
                temporary.rename(target)
            except BaseException:
                if os.path.lexists(replaced):
                    replaced.rename(target)
                raise
        finally:
            for leftover in (temporary, replaced):
                if leftover.is_dir() and not leftover.is_symlink():
                    shutil.rmtree(leftover, ignore_errors=True)
                elif os.path.lexists(leftover):
                    leftover.unlink()


def _clear_stale(folder: Path, prefix: str, suffix: str) -> None:
    """Remove what earlier writers of this name left when they were killed."""
    for leftover in folder.glob(f"{glob.escape(prefix)}*{glob.escape(suffix)}"):
        with suppress(OSError):  # another writer may be removing it too
            if time.time() - leftover.stat().st_mtime > STALE:
                leftover.unlink()


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
