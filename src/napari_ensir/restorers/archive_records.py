"""The records of an archive that torch wrote: read once, and packed afresh. Knows no networks.

An archive has more than one meaning: torch's reader looks names up without regard to case and finds the
directory where it is stated to be, Python's where it ends; they differ about names that come twice, about
what stands before and behind, about sizes of 64 bits. What one of them has checked says nothing of what the
other will read. So one reader reads, its records go into a new archive in memory, and torch sees no other.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Records", "pack", "read_records"]

Records = dict[str, bytes]
"""Contents by name, without the archive's own name in front."""

_MAX_UNFOLDED = 2**25
_MAX_RECORDS = 2**17


def read_records(
    path: str | Path, known: re.Pattern[str], content: bytes | None = None
) -> tuple[Records, list[str]]:
    """The records of known names, and the names of the others, which are not read.

    Parameters
    ----------
    path
        A file; it is opened once.
    known
        What names may be, exact to the case.
    content
        What the file holds, where that was read already; `path` is then only named in messages.

    Raises
    ------
    EnsembleError
        If two records are of one name, as torch reads names, or belong to several archives; if one differs
        from a known name by its case; or if they would unfold to more than torch writes.
    OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error
        If it is no archive, or a damaged one.
    """
    records: Records = {}
    others: list[str] = []
    with (
        open(path, "rb") if content is None else io.BytesIO(content) as file,
        zipfile.ZipFile(file) as archive,
    ):
        infos = archive.infolist()
        _check_sizes(infos, file.seek(0, io.SEEK_END), path)
        taken: set[str] = set()
        roots: set[str] = set()
        for info in infos:
            root, slash, name = info.filename.partition("/")
            if not slash:
                others.append(info.filename)
                continue
            roots.add(root)
            if name.lower() in taken or len(roots) > 1:
                raise EnsembleError(f"{path} holds two files of one name, or of two archives.")
            taken.add(name.lower())
            if known.fullmatch(name):
                records[name] = archive.read(info)
            elif known.fullmatch(name.lower()):
                raise EnsembleError(f"{path} holds {name[:80]!r}, which torch writes in other letters.")
            else:
                others.append(name)
    return records, others


def _check_sizes(infos: list[zipfile.ZipInfo], size: int, path: str | Path) -> None:
    """Torch compresses nothing but code: what unfolds to more than that would fill the memory."""
    folded = [info for info in infos if info.compress_type != zipfile.ZIP_STORED]
    for info in folded:
        if info.file_size > _MAX_UNFOLDED:
            raise EnsembleError(
                f"{path} has a compressed record of {info.file_size // 2**20} MB ({info.filename[:80]!r}), "
                "as torch writes none."
            )
    stored = sum(info.file_size for info in infos if info.compress_type == zipfile.ZIP_STORED)
    unfolded = sum(info.file_size for info in folded)
    if len(infos) > _MAX_RECORDS or stored > size or unfolded > 4 * _MAX_UNFOLDED:
        raise EnsembleError(f"{path} states more records, or larger ones, than a file of torch holds.")


def pack(records: Mapping[str, bytes]) -> io.BytesIO:
    """An archive of these records and no others, stored as they are.

    Torch asks for no alignment here: what it reads from memory it copies into memory of its own.

    Examples
    --------
    >>> zipfile.ZipFile(pack({"version": b"3"})).namelist()
    ['archive/version']
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, record in records.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), record)
    content.seek(0)
    return content
