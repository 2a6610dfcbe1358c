"""Checkpoints of trained restorers: safetensors with the settings in the header, read strictly.

The header's ``napari_ensir`` entry is JSON::

    {"schema": 1, "kind": "ir-cm", "settings": {...}, "data_range": [0.0, 255.0], "step": 2000, ...}

and the tensors are the network's, under ``model.``, beside what else their owner put there. Nothing
in such a file can run.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from napari_ensir.errors import EnsembleError
from napari_ensir.files.atomic import whole_file
from napari_ensir.files.paths import expand_path
from napari_ensir.files.tensors import (
    brief,
    metadata_of,
    package_version,
    parse_object,
    readable_file,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

__all__ = ["fill", "read_checkpoint", "settings_from", "under", "write_checkpoint"]

SCHEMA = 1
_ENTRY = "napari_ensir"
_MAX_BYTES = 2**35
_DTYPES = (torch.float32, torch.float64, torch.int64)
_Settings = TypeVar("_Settings")


def write_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a checkpoint: beside the target first, then renamed, so that no half of one is left.

    Parameters
    ----------
    path
        Where to; an existing file is replaced.
    tensors
        What to write, by name.
    header
        Goes into the JSON header, together with the schema version and the package's.

    Raises
    ------
    EnsembleError
        If the file cannot be written.
    """
    from safetensors.torch import save

    entry = json.dumps({"schema": SCHEMA, "package": package_version(), **header}, allow_nan=False)
    content = save(
        {name: each.detach().cpu().contiguous() for name, each in tensors.items()}, metadata={_ENTRY: entry}
    )
    with whole_file(expand_path(path), overwrite=True) as temporary:
        temporary.write_bytes(content)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint.

    Returns
    -------
    tensors, header
        As given to :func:`write_checkpoint`.

    Raises
    ------
    EnsembleError
        If there is no such file, or it is no safetensors file, none of this package, or of another
        schema, or holds values that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = readable_file(path, _MAX_BYTES, "checkpoint")
    try:
        content = path.read_bytes()  # once: what is looked at is what is used
        metadata = metadata_of(content)
        if _ENTRY not in metadata:
            raise EnsembleError(
                f"{path} is a safetensors file, but no checkpoint of a restorer of this package."
            )
        header = _header(path, metadata[_ENTRY])
        tensors = load(content)
    except EnsembleError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EnsembleError(f"{path} cannot be read as a safetensors file: {reason}.") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise EnsembleError(
                f"{path}: tensor {name[:80]} is of {tensor.dtype}, which no restorer here has."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise EnsembleError(f"{path}: tensor {name[:80]} holds NaN or infinite values.")
    return tensors, header


def _header(path: Path, text: str) -> dict[str, Any]:
    try:
        header = parse_object(text)
    except ValueError as error:
        raise EnsembleError(f"{path}: the header cannot be read: {str(error)[:200]}.") from error
    schema = header.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise EnsembleError(
            f"{path} has schema version {schema}, of a newer napari-ensir; this one reads {SCHEMA}. "
            'Update with "pip install -U napari-ensir".'
        )
    if type(schema) is not int or schema != SCHEMA:
        raise EnsembleError(f"{path} has no schema version that this napari-ensir reads, which is {SCHEMA}.")
    return header


def settings_from(kind: type[_Settings], values: object, where: str) -> _Settings:
    """A settings dataclass from what a header says, nothing missing, nothing unknown, types as declared.

    Parameters
    ----------
    kind
        A dataclass whose fields are int, float, str or bool, and whose defaults show their types.
    values
        A mapping from JSON.
    where
        Named in the message.

    Raises
    ------
    EnsembleError
        If `values` does not describe a `kind`.
    """
    if not isinstance(values, dict):
        raise EnsembleError(f"{where}: the settings are no mapping.")
    values = {**getattr(kind, "ADDED", {}), **values}  # settings that older files do not have
    known = {each.name: each.default for each in fields(kind)}  # type: ignore[arg-type]
    if values.keys() != known.keys():
        wrong = ", ".join(name[:80] for name in sorted(values.keys() ^ known.keys())[:3])
        raise EnsembleError(f"{where}: the settings do not fit {kind.__name__}; missing or unknown: {wrong}.")
    checked = {}
    for name, default in known.items():
        value = values[name]
        expected = int if default is MISSING else type(default)
        if expected is float and type(value) is int:
            value = float(value)
        if type(value) is not expected:
            raise EnsembleError(f"{where}: {name} = {brief(value)} is no {expected.__name__}.")
        checked[name] = value
    try:
        return kind(**checked)
    except EnsembleError as error:
        raise EnsembleError(f"{where}: {error}") from error


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it.

    Examples
    --------
    >>> list(under({"model.a": torch.zeros(1), "other": torch.zeros(1)}, "model."))
    ['a']
    """
    return {name[len(prefix) :]: each for name, each in tensors.items() if name.startswith(prefix)}


def fill(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Give a network its weights: every one of them, no others, of its shapes and dtypes.

    Parameters
    ----------
    network
        May live on the ``meta`` device: nothing is allocated before the shapes are known to fit.
    tensors
        By the names of ``network.state_dict()``.
    where
        Named in the message.

    Raises
    ------
    EnsembleError
        If anything does not fit.
    """
    wanted = network.state_dict()
    if wanted.keys() != tensors.keys():
        wrong = ", ".join(name[:80] for name in sorted(wanted.keys() ^ tensors.keys())[:3])
        raise EnsembleError(f"{where}: the tensors do not fit the settings; missing or unknown: {wrong}.")
    for name, each in wanted.items():
        given = tensors[name]
        if given.shape != each.shape or given.dtype != each.dtype:
            raise EnsembleError(
                f"{where}: tensor {name} is {tuple(given.shape)} of {given.dtype}; "
                f"{tuple(each.shape)} of {each.dtype} is needed."
            )
    network.load_state_dict(dict(tensors), assign=True)
