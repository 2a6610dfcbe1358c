"""Look through a network's file before torch opens it: nothing in it may run unasked.

TorchScript is read by a parser of its own and runs no Python; what it could run while it is being
loaded is a ``__setstate__`` of its own, so files that have one are refused.

``torch.export.load`` is not safe by itself. It falls back to full unpickling where a tensor does
not load otherwise, and it evaluates the symbolic expressions of shapes as Python. So the archive is
read here first, and refused unless it holds plain tensors, expressions of numbers, symbols and
known functions only, and operators of ATen.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["archive_kind"]

_MAX_UNFOLDED = 2**25

# What torch writes shapes with: numbers, signs, brackets, and these words.
_WORDS = {
    *("Symbol", "Integer", "Float", "Rational", "Mul", "Add", "Pow", "Mod", "PythonMod", "FloorDiv"),
    *("CleanDiv", "CeilDiv", "Max", "Min", "Abs", "Eq", "Ne", "Ge", "Gt", "Le", "Lt", "And", "Or", "Not"),
    *("positive", "integer", "nonnegative", "nonzero", "True", "False"),
}
_TOKEN = re.compile(r"\s*(?:'([su]\d+)'|([su]\d+)\b|([A-Za-z_]\w*)|\d+(?:\.\d+)?|[-+*/%(),=<>])")
_OPERATORS = re.compile(r"(torch\.ops\.aten\.\w+\.\w+|_operator\.\w+|torch\.sym_\w+)\Z")


def archive_kind(path: str | Path) -> str:
    """``"torchscript"`` or ``"export"``, for a file that can be opened without running anything in it.

    Raises
    ------
    EnsembleError
        If it is neither, or holds what could run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(archive, path)
            names = archive.namelist()
            if "serialized_exported_program.json" in names:
                raise EnsembleError(f"{path} is from an old torch; export it again with 2.8 or later.")
            members = {name.partition("/")[2]: name for name in names}
            if len(members) < len(names):  # else what is checked need not be what torch reads
                raise EnsembleError(f"{path} holds two files of one name, or of two archives.")
            if any(name.startswith(("models/", "data/aotinductor/")) for name in members):
                _check_export(archive, members, path)
                return "export"
            if "constants.pkl" in members and any(name.startswith("code/") for name in members):
                _check_torchscript(archive, members, path)
                return "torchscript"
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


def _check_sizes(archive: zipfile.ZipFile, path: str | Path) -> None:
    """Torch compresses nothing but code: what unfolds to more than that would fill the memory."""
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED and info.file_size > _MAX_UNFOLDED:
            raise EnsembleError(
                f"{path} has a compressed record of {info.file_size // 2**20} MB ({info.filename[:80]!r}), "
                "as torch writes none."
            )


def _check_torchscript(archive: zipfile.ZipFile, members: dict[str, str], path: str | Path) -> None:
    for name, member in members.items():
        if name.endswith(".py") and b"__setstate__" in archive.read(member):
            raise EnsembleError(f"{path} has code that runs as it is loaded ({name}: __setstate__).")


def _check_export(archive: zipfile.ZipFile, members: dict[str, str], path: str | Path) -> None:
    import torch

    for name, member in members.items():
        if name.startswith("data/aotinductor/") or name.endswith((".so", ".dll", ".pyd")):
            raise EnsembleError(f"{path} holds compiled code ({name}), which is not opened.")
        if name.endswith(".pt"):
            try:
                torch.load(io.BytesIO(archive.read(member)), weights_only=True)
            except Exception as error:  # many kinds for many faults
                raise EnsembleError(f"{path}: {name} is a pickle of more than tensors.") from error
        if name.startswith(("data/weights/", "data/constants/")) and name.endswith(".json"):
            for key, value in _items(json.loads(archive.read(member))):
                special = key == "path_name" and not re.fullmatch(r"(weight|tensor)_\d+", str(value))
                if special or (key == "use_pickle" and value is not False):
                    raise EnsembleError(f"{path}: {name} refers to a pickle ({key} = {value!r}).")
        if name.startswith("models/"):
            _check_graph(json.loads(archive.read(member)), path)


def _check_graph(graph: Any, path: str | Path) -> None:
    for key, value in _items(graph):
        if key == "target" and isinstance(value, str) and not _OPERATORS.match(value):
            raise EnsembleError(f"{path} uses {value!r}; only operators of ATen are allowed.")
        if key == "expr_str" and not _is_plain(str(value)):
            raise EnsembleError(f"{path} has a shape that is no plain expression: {value!r}.")
        if key == "guards_code" and value:
            raise EnsembleError(f"{path} has guards, which are Python code; export it with strict=False.")


def _is_plain(expression: str) -> bool:
    """Whether an expression is made of numbers, symbols and known functions alone."""
    at = 0
    while at < len(expression.rstrip()):
        token = _TOKEN.match(expression, at)
        if token is None or (token[3] and token[3] not in _WORDS):
            return False
        at = token.end()
    return True


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield key, each
            yield from _items(each)
    elif isinstance(value, list):
        for each in value:
            yield from _items(each)
