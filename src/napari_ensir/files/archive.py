"""Archives that torch wrote, examined before torch opens them."""

from __future__ import annotations

import io
import re
import zipfile
from typing import TYPE_CHECKING

from napari_ensir.errors import EnsembleError, ensemble_errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Records = dict[str, bytes]
"""Contents by name, without the archive's own name in front."""

_MAX_COMPRESSED = 2**25
"""Largest uncompressed size of a compressed record; torch compresses only code."""

_MAX_RECORDS = 2**17

_TORCHSCRIPT = re.compile(
    r"version|\.data/version|byteorder|data\.pkl|constants\.pkl|data/\d+|constants/\d+|code/[\w./]+\.py",
    re.ASCII,
)


def check_torchscript(path: str | Path, content: bytes | None = None) -> io.BytesIO:
    """Read a TorchScript file once and return an archive of its known records only, for torch to open.

    Parameters
    ----------
    path
        A file that ``torch.jit.save`` wrote.
    content
        The content of the file if it was read already; `path` is then used in messages only.

    Raises
    ------
    EnsembleError
        If it is not a TorchScript file, or contains code that runs when it is loaded.
    """
    records, others = read_records(path, _TORCHSCRIPT, content)
    if {"models/model.json", "serialized_exported_program.json"} & set(others):
        raise EnsembleError(
            f"{path} is a torch.export file, which is not supported; export the network to ONNX "
            "(torch.onnx.export) or TorchScript (torch.jit.trace)."
        )
    if "constants.pkl" not in records or not any(name.startswith("code/") for name in records):
        raise EnsembleError(
            f"{path} is not a TorchScript file; state dicts and pickled networks are not opened, because a "
            "pickle can run any code."
        )
    for name, record in records.items():
        if name.endswith(".py") and b"__setstate__" in record:
            raise EnsembleError(f"{path} contains code that runs when it is loaded ({name}: __setstate__).")
    return pack_records(records)


def read_records(
    path: str | Path,
    known: re.Pattern[str],
    content: bytes | None = None,
    max_compressed: int = _MAX_COMPRESSED,
) -> tuple[Records, list[str]]:
    """Read the records with known names; the names of the others are only listed.

    Parameters
    ----------
    path
        A file; it is opened once.
    known
        Pattern of the known names, case-sensitive.
    content
        The content of the file if it was read already; `path` is then used in messages only.
    max_compressed
        Largest uncompressed size of a compressed record, bytes.

    Raises
    ------
    EnsembleError
        If it is not an archive of torch, or is damaged; if two records have the same name (torch ignores
        case), if a name differs from a known one by its case, or if the records are too large.
    """
    if content is not None and content.count(b"PK\x01\x02") > _MAX_RECORDS:  # zipfile would list them all
        raise EnsembleError(f"{path} has too many records.")
    with (
        ensemble_errors(f"{path} is not an archive of torch, or is damaged"),
        open(path, "rb") if content is None else io.BytesIO(content) as file,
        zipfile.ZipFile(file) as archive,
    ):
        _check_sizes(archive.infolist(), file.seek(0, io.SEEK_END), max_compressed, path)
        return _read_members(archive, known, path)


def _read_members(
    archive: zipfile.ZipFile, known: re.Pattern[str], path: str | Path
) -> tuple[Records, list[str]]:
    records: Records = {}
    others: list[str] = []
    seen: set[str] = set()
    roots: set[str] = set()
    for info in archive.infolist():
        root, slash, name = info.filename.partition("/")
        if not slash:
            others.append(info.filename)
            continue
        roots.add(root)
        if name.lower() in seen or len(roots) > 1:
            raise EnsembleError(f"{path} contains two records of one name, or records of two archives.")
        seen.add(name.lower())
        if known.fullmatch(name):
            records[name] = archive.read(info)
        elif known.fullmatch(name.lower()):
            raise EnsembleError(f"{path} contains {name[:80]!r}, a known name in the wrong case.")
        else:
            others.append(name)
    return records, others


def _check_sizes(infos: list[zipfile.ZipInfo], size: int, max_compressed: int, path: str | Path) -> None:
    """Refuse archives that would fill the memory when they are read."""
    compressed = [info for info in infos if info.compress_type != zipfile.ZIP_STORED]
    for info in compressed:
        if info.file_size > max_compressed:
            raise EnsembleError(
                f"{path} contains a compressed record of {info.file_size // 2**20} MB "
                f"({info.filename[:80]!r}); torch compresses only small ones."
            )
    stored = sum(info.file_size for info in infos if info.compress_type == zipfile.ZIP_STORED)
    uncompressed = sum(info.file_size for info in compressed)
    if len(infos) > _MAX_RECORDS or stored > size or uncompressed > 4 * max_compressed:
        raise EnsembleError(f"{path} states more or larger records than a file of torch contains.")


def pack_records(records: Mapping[str, bytes]) -> io.BytesIO:
    """Write records into a new archive in memory.

    Records are not aligned, because torch copies what it reads from memory.

    Examples
    --------
    >>> zipfile.ZipFile(pack_records({"version": b"3"})).namelist()
    ['archive/version']
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, record in records.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), record)
    content.seek(0)
    return content
