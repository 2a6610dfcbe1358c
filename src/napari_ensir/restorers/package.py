"""The files in a bioimage.io package: a ZIP archive, read into memory once, of which nothing is unpacked.

Knows what a package may hold of files, and no networks.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_ensir.errors import EnsembleError
from napari_ensir.files.headers import brief
from napari_ensir.files.yaml_text import parse_yaml
from napari_ensir.restorers.file_kinds import DESCRIPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Package"]

_MAX_FILES = 1000
_MAX_BYTES = 2**32
# Weights are compressed by a tenth; what unfolds to much more was made to fill the memory.
_MOST_TIMES = 8
_LEAST_BOUND = 2**24


@dataclass(frozen=True, eq=False)
class Package:
    """A package whose archive has been looked through.

    Parameters
    ----------
    path
        Named in messages.
    archive
        The file, in memory.
    size
        Bytes of the file.
    """

    path: Path
    archive: zipfile.ZipFile
    size: int

    @classmethod
    def open(cls, path: Path) -> Package:
        """Read a package's file.

        Raises
        ------
        EnsembleError
            If it is no ZIP archive, or names its files in ways that no package does.
        """
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise EnsembleError(
                    f"{path} has more than {_MAX_BYTES // 2**30} GB; no package is that large."
                )
            content = path.read_bytes()
            archive = zipfile.ZipFile(io.BytesIO(content))
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            if isinstance(error, EnsembleError):
                raise
            raise EnsembleError(f"{path} cannot be read as a ZIP archive: {str(error)[:200]}.") from error
        names = [info.filename for info in archive.infolist()]
        if len(names) > _MAX_FILES or len({name.lower() for name in names}) < len(names):
            raise EnsembleError(f"{path} holds two files of one name, or more than a package does.")
        for name in names:
            if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
                raise EnsembleError(f"{path} holds {name[:80]!r}, a path that leads out of a package.")
        return cls(path, archive, len(content))

    def description(self) -> dict[str, Any]:
        """What ``rdf.yaml`` says.

        Raises
        ------
        EnsembleError
            If there is none, or it cannot be read, or describes no model in format 0.4 or 0.5.
        """
        found = [name for name in DESCRIPTIONS if name in self.archive.namelist()]
        if not found:
            raise EnsembleError(f"{self.path} holds no rdf.yaml, so it is no package of bioimage.io.")
        rdf = self.yaml(found[0])
        if rdf.get("type") != "model":
            raise EnsembleError(f"{self.path} is a package of type {brief(rdf.get('type'))}, no model.")
        version = str(rdf.get("format_version"))
        if version.split(".")[:2] not in (["0", "4"], ["0", "5"]):
            raise EnsembleError(
                f"{self.path} is of format {brief(version)}; 0.4 and 0.5 are read. The bioimage.io tools "
                "bring others to these."
            )
        return rdf

    def yaml(self, name: str) -> dict[str, Any]:
        """A YAML file of the package.

        Raises
        ------
        EnsembleError
            If it is absent or cannot be read.
        """
        try:
            return parse_yaml(self._read(name))
        except EnsembleError:
            raise
        except ValueError as error:
            raise EnsembleError(f"{self.path}: {name[:80]} cannot be read: {error}.") from error

    def file(self, entry: Mapping[str, Any]) -> bytes:
        """The file that an entry of the description names, checked by the sum that stands there.

        Raises
        ------
        EnsembleError
            If it is not in the package, damaged, or another one than was described.
        """
        name = entry.get("source")
        if not isinstance(name, str):
            raise EnsembleError(f"{self.path} names a file by {brief(name)}, where text is needed.")
        if "://" in name:
            raise EnsembleError(
                f"{self.path} refers to {name[:80]!r}, which is not in it; download it whole."
            )
        content = self._read(name.removeprefix("./"))
        stated = entry.get("sha256")
        if stated is not None and stated != hashlib.sha256(content).hexdigest():
            raise EnsembleError(
                f"{self.path}: {name[:80]} is not the file that rdf.yaml describes (SHA-256)."
            )
        return content

    def _read(self, name: str) -> bytes:
        try:
            info = self.archive.getinfo(name)
            if info.file_size > max(_MOST_TIMES * self.size, _LEAST_BOUND):
                raise EnsembleError(
                    f"{self.path}: {name[:80]} would unfold to {info.file_size // 2**20} MB; no package does."
                )
            return self.archive.read(info)
        except EnsembleError:
            raise
        except KeyError:
            raise EnsembleError(f"{self.path} holds no {name[:80]!r}, which it needs.") from None
        except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
            raise EnsembleError(f"{self.path}: {name[:80]} cannot be read: {str(error)[:200]}.") from error
        except (zipfile.BadZipFile, zlib.error) as error:
            raise EnsembleError(f"{self.path}: {name[:80]} is damaged: {str(error)[:200]}.") from error
