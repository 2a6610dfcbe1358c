"""Kinds of network files, detected from their content because names mislead."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from napari_ensir.errors import EnsembleError, ensemble_errors
from napari_ensir.restorers.networks.onnx import is_onnx

Kind = Literal["package", "program", "weights", "other"]
"""A bioimage.io package; a program (TorchScript, ONNX); tensors that torch saved; anything else."""

DESCRIPTIONS = ("rdf.yaml", "bioimageio.yaml")
"""Names of the description in a package."""

_ARCHIVE = b"PK\x03\x04"
_PAGES = (b"<!doctype", b"<html", b"<?xml")
_POINTER = b"version https://git-lfs"


def detect_kind(path: Path) -> Kind:
    """Detect the kind of a file from its first bytes and, for an archive, the names in it.

    Parameters
    ----------
    path : Path
        A readable file.

    Returns
    -------
    Kind

    Raises
    ------
    EnsembleError
        If it is empty, truncated, a web page or a Git LFS pointer instead of the file, or a package that
        is unpacked or was packed with its folder.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "n2v.pth"
    ...     with zipfile.ZipFile(path, "w") as archive:
    ...         archive.writestr("rdf.yaml", "type: model")
    ...     detect_kind(path)
    'package'
    """
    with ensemble_errors(f"{path} cannot be read"), path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise EnsembleError(f"{path} is empty; download it again.")
    if start.lstrip().lower().startswith(_PAGES):
        raise EnsembleError(f"{path} is a web page, not a network; download the file itself.")
    if start.startswith(_POINTER):
        raise EnsembleError(f"{path} is a Git LFS pointer; get the file with 'git lfs pull'.")
    if path.name in DESCRIPTIONS:
        check_not_unpacked(path.parent)
    if is_onnx(start):
        return "program"
    return _detect_archive(path) if start.startswith(_ARCHIVE) else "other"


def _detect_archive(path: Path) -> Kind:
    what, hint = "starts like an archive but cannot be read as one", "it is truncated or damaged"
    with ensemble_errors(f"{path} {what}", f"{hint}; download it again"), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name in DESCRIPTIONS for name in names):
        return "package"
    for name in names:
        folder, _, last = name.rpartition("/")
        if last in DESCRIPTIONS and not folder.startswith("__MACOSX"):
            raise EnsembleError(
                f"{path} has its {last} in the folder {folder[:80]!r}; pack the files in that folder, not "
                "the folder itself."
            )
    inner = {name.partition("/")[2] for name in names}
    if inner & {"constants.pkl", "models/model.json", "serialized_exported_program.json"}:
        return "program"
    return "weights" if "data.pkl" in inner else "other"


def check_not_unpacked(folder: str | Path) -> None:
    """Raise an error if a folder is an unpacked package.

    Parameters
    ----------
    folder
        Any path; one that cannot be read is not a package.

    Raises
    ------
    EnsembleError
        If it contains the description of a package.
    """
    try:
        inside = Path(folder).expanduser()
        found = any((inside / name).is_file() for name in DESCRIPTIONS)
    except (OSError, RuntimeError, ValueError):  # name too long, unknown user, NUL character
        return
    if found:
        raise EnsembleError(
            f"{folder} is an unpacked bioimage.io package; choose its .zip file, or pack its files into one."
        )
