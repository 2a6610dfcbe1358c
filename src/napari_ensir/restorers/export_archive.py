"""Look through a network's file and write it afresh before torch opens it: nothing in it may run unasked.

TorchScript is read by a parser of its own and runs no Python; what it could run while it is being
loaded is a ``__setstate__`` of its own, so files that have one are refused.

``torch.export.load`` is not safe by itself. It falls back to full unpickling where a tensor does
not load otherwise, and turns what a program's JSON says into Python (:mod:`.export_program`). So pickles
are read as tensors and written anew, programs are checked word by word, and what torch gets
holds nothing else.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.archive_records import Records, pack, read_records
from napari_ensir.restorers.export_program import checked_payload, checked_program

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CheckedNetwork", "read_network"]

_BOTH = r"version|\.data/version|byteorder"
_TORCHSCRIPT = re.compile(
    rf"{_BOTH}|data\.pkl|constants\.pkl|data/\d+|constants/\d+|code/[\w./]+\.py", re.ASCII
)
_EXPORT = re.compile(
    rf"{_BOTH}|archive_format|archive_version|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/((weight|tensor)_\d+|model_(weights|constants)_config\.json|model\.pt)",
    re.ASCII,
)
_EITHER = re.compile(f"{_TORCHSCRIPT.pattern}|{_EXPORT.pattern}", re.ASCII)
_COMPILED = re.compile(r"data/aotinductor/.*|.*\.(so|dll|dylib|pyd)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, eq=False)
class CheckedNetwork:
    """A network's file as torch may read it.

    Attributes
    ----------
    kind : str
        ``"torchscript"`` or ``"export"``.
    content : io.BytesIO
        An archive of what was checked and nothing else.
    """

    kind: str
    content: io.BytesIO


def read_network(path: str | Path, content: bytes | None = None) -> CheckedNetwork:
    """Read the file of a network once, for torch to open without running anything in it.

    Parameters
    ----------
    path
        A file that ``torch.jit.save`` or ``torch.export.save`` wrote.
    content
        What it holds, where that was read already; `path` is then only named in messages.

    Raises
    ------
    EnsembleError
        If it is neither, or holds what could run.
    """
    try:
        records, others = read_records(path, _EITHER, content)
        if "serialized_exported_program.json" in others:
            raise EnsembleError(f"{path} is from an old torch; export it again with 2.8 or later.")
        for name in [one for one in others if _COMPILED.fullmatch(one)]:
            raise EnsembleError(f"{path} holds compiled code ({name[:80]}), which is not opened.")
        if "models/model.json" in records:
            return CheckedNetwork("export", pack(_checked_export(records, path)))
        if "constants.pkl" in records and any(name.startswith("code/") for name in records):
            return CheckedNetwork("torchscript", pack(_checked_torchscript(records, path)))
    except EnsembleError:
        raise
    except FileNotFoundError as error:
        raise EnsembleError(f"there is no file {path}.") from error
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise EnsembleError(f"{path} is no TorchScript and no torch.export file: {error}.") from error
    raise EnsembleError(
        f"{path} is no TorchScript and no torch.export file. Weights alone, and pickled networks, are not "
        "opened: a pickle can run anything."
    )


def _checked_torchscript(records: Records, path: str | Path) -> Records:
    for name, content in records.items():
        if name.endswith(".py") and b"__setstate__" in content:
            raise EnsembleError(f"{path} has code that runs as it is loaded ({name}: __setstate__).")
    return {name: content for name, content in records.items() if _TORCHSCRIPT.fullmatch(name)}


def _checked_export(records: Records, path: str | Path) -> Records:
    checked: Records = {}
    for name, content in records.items():
        if not _EXPORT.fullmatch(name):
            continue
        where = f"{path}: {name}"
        if name.startswith("data/sample_inputs/"):
            _tensors_anew(content, where)
            checked[name] = b""  # torch does without them, and then unpickles nothing
        elif name.endswith(".pt"):
            checked[name] = _tensors_anew(content, where)
        elif name == "models/model.json":
            checked[name] = json.dumps(checked_program(json.loads(content), str(path))).encode()
        elif name.endswith(".json"):
            checked[name] = json.dumps(checked_payload(json.loads(content), where)).encode()
        else:
            checked[name] = content
    return checked


def _tensors_anew(content: bytes, where: str) -> bytes:
    """A pickle of what this one holds, if that is tensors alone."""
    import torch

    stream = io.BytesIO()
    try:
        torch.save(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), stream)
    except Exception as error:  # many kinds for many faults
        raise EnsembleError(f"{where} is a pickle of more than tensors.") from error
    return stream.getvalue()
