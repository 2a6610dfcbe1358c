"""What a network's file is by its content, whatever its name says. Opens no network and trusts nothing.

Names mislead: a package loses its ``.zip``, a checkpoint gets ``.pth``, a download ends halfway or turns out
to be a web page. What is told here only decides who looks further; everybody looks through the whole file.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from napari_ensir.errors import EnsembleError

__all__ = ["DESCRIPTIONS", "Kind", "kind_of", "refuse_unpacked"]

Kind = Literal["package", "program", "weights", "other"]
"""A bioimage.io package; TorchScript or torch.export; tensors that torch saved; neither of these."""

DESCRIPTIONS = ("rdf.yaml", "bioimageio.yaml")
"""What the description in a package may be called."""

_ARCHIVE = b"PK\x03\x04"
_PAGES = (b"<!doctype", b"<html", b"<?xml")
_POINTER = b"version https://git-lfs"


def kind_of(path: Path) -> Kind:
    """What a file is, by its first bytes and the names in it.

    Parameters
    ----------
    path : Path
        A file that can be read.

    Returns
    -------
    Kind

    Raises
    ------
    EnsembleError
        If it is no whole file: empty, cut short, a web page or a pointer of Git LFS in place of the file, a
        package packed with its folder or unpacked.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "n2v.pth"
    ...     with zipfile.ZipFile(path, "w") as archive:
    ...         archive.writestr("rdf.yaml", "type: model")
    ...     kind_of(path)
    'package'
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise EnsembleError(f"{path} cannot be read: {error.strerror}.") from error
    if not start:
        raise EnsembleError(f"{path} is empty; fetch it again.")
    if start.lstrip().lower().startswith(_PAGES):
        raise EnsembleError(f"{path} is a web page, no network: follow the link in it to the file itself.")
    if start.startswith(_POINTER):
        raise EnsembleError(f"{path} only points to a file of Git LFS; fetch that with 'git lfs pull'.")
    if path.name in DESCRIPTIONS:
        refuse_unpacked(path.parent)
    return _kind_of_archive(path) if start.startswith(_ARCHIVE) else "other"


def _kind_of_archive(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise EnsembleError(
            f"{path} begins as an archive and does not end as one, so it was cut short or damaged; fetch it "
            "again."
        ) from error
    if any(name in DESCRIPTIONS for name in names):
        return "package"
    for name in names:
        folder, _, last = name.rpartition("/")
        if last in DESCRIPTIONS and not folder.startswith("__MACOSX"):
            raise EnsembleError(
                f"{path} has its {last} in the folder {folder[:80]!r}; pack the files in that folder, and "
                "not the folder itself."
            )
    inner = {name.partition("/")[2] for name in names}
    if inner & {"constants.pkl", "models/model.json", "serialized_exported_program.json"}:
        return "program"
    return "weights" if "data.pkl" in inner else "other"


def refuse_unpacked(folder: str | Path) -> None:
    """Say of a folder that it is an unpacked package, if it is one.

    Parameters
    ----------
    folder
        Anything; what cannot be looked at is none.

    Raises
    ------
    EnsembleError
        If there is a description of a package in it.
    """
    try:
        inside = Path(folder).expanduser()
        found = any((inside / name).is_file() for name in DESCRIPTIONS)
    except (OSError, RuntimeError, ValueError):  # too long a name, no such user, a zero byte
        return
    if found:
        raise EnsembleError(
            f"{folder} is an unpacked package of bioimage.io; choose the .zip it came from, or pack the "
            "files in it into one."
        )
