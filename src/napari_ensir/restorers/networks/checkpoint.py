"""Checkpoints of trained restorers: safetensors files with the settings as JSON in the header.

The header's ``napari_ensir`` entry is JSON::

    {"schema": 1, "kind": "ir-cm", "settings": {...}, "data_range": [0.0, 255.0], "step": 2000, ...}

The names of the network's tensors start with ``model.``.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from napari_ensir.errors import EnsembleError, ensemble_errors, errors_of
from napari_ensir.files.atomic import whole_file
from napari_ensir.files.paths import expand_path
from napari_ensir.files.tensors import brief, metadata_of, package_version, parse_object, readable_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

SCHEMA = 1
_ENTRY = "napari_ensir"
_MAX_BYTES = 2**35
_DTYPES = (torch.float32, torch.float64, torch.int64)
_Settings = TypeVar("_Settings")


def write_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a checkpoint; if that fails, an existing file stays unchanged.

    Parameters
    ----------
    path
        Path to write to; an existing file is replaced.
    tensors
        Tensors by name.
    header
        JSON header; the versions of the schema and the package are added.

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
        If the file does not exist, is not a checkpoint of this package in a supported schema, or contains
        values that are not finite.
    """
    from safetensors.torch import load

    path = readable_file(path, _MAX_BYTES, "checkpoint")
    with ensemble_errors(f"{path} cannot be read as a safetensors file"):
        content = path.read_bytes()  # once, so that header and tensors belong to the same file
        metadata = metadata_of(content)
        if _ENTRY not in metadata:
            raise EnsembleError(f"{path} is a safetensors file, but not a checkpoint of this package.")
        header = _header(path, metadata[_ENTRY])
        tensors = load(content)
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise EnsembleError(
                f"{path}: tensor {name[:80]} has dtype {tensor.dtype}; checkpoints contain float32, float64 "
                "and int64."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise EnsembleError(f"{path}: tensor {name[:80]} contains NaN or infinite values.")
    return tensors, header


def _header(path: Path, text: str) -> dict[str, Any]:
    with ensemble_errors(f"{path}: the header cannot be read"):
        header = parse_object(text)
    schema = header.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        raise EnsembleError(
            f"{path} has schema version {brief(schema)}, and this napari-ensir reads {SCHEMA}; if it is "
            'from a newer version, update with "pip install -U napari-ensir".'
        )
    return header


def parse_settings(kind: type[_Settings], values: object, where: str) -> _Settings:
    """Create a settings dataclass from the values in a header, which have to match its fields exactly.

    Parameters
    ----------
    kind
        A dataclass whose fields are int, float, str or bool, the types of their defaults.
    values
        A mapping from JSON.
    where
        Used in the message.

    Raises
    ------
    EnsembleError
        If a field is missing or unknown, or a value has the wrong type.
    """
    if not isinstance(values, dict):
        raise EnsembleError(f"{where}: the settings are not a mapping.")
    values = {**getattr(kind, "ADDED", {}), **values}  # settings that older files lack
    defaults: dict[str, Any] = {each.name: each.default for each in fields(kind)}  # type: ignore[arg-type]
    _check_names(values, defaults, f"{where}: the settings do not match {kind.__name__}")
    for name, default in defaults.items():
        numbers = (int, float) if type(default) is float else (type(default),)
        if type(values[name]) not in numbers:
            raise EnsembleError(
                f"{where}: {name} = {brief(values[name])} is not of type {type(default).__name__}."
            )
    with errors_of(where):
        return kind(**{name: type(default)(values[name]) for name, default in defaults.items()})


def _check_names(given: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    if wrong := sorted(given.keys() ^ wanted.keys()):
        raise EnsembleError(f"{what}; missing or unknown: {', '.join(name[:80] for name in wrong[:3])}.")


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Select the tensors whose names start with `prefix`, and remove it from their names.

    Examples
    --------
    >>> list(strip_prefix({"model.a": torch.zeros(1), "other": torch.zeros(1)}, "model."))
    ['a']
    """
    return {name[len(prefix) :]: each for name, each in tensors.items() if name.startswith(prefix)}


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load all weights of a network, after checking their names, shapes and dtypes.

    Parameters
    ----------
    network
        It may be on the ``meta`` device, so that nothing is allocated before the shapes are checked.
    tensors
        With the names of ``network.state_dict()``.
    where
        Used in the message.

    Raises
    ------
    EnsembleError
        If a tensor is missing or unknown, or has the wrong shape or dtype.
    """
    expected = network.state_dict()
    _check_names(tensors, expected, f"{where}: the tensors do not match the settings")
    for name, each in expected.items():
        given = tensors[name]
        if given.shape != each.shape or given.dtype != each.dtype:
            raise EnsembleError(
                f"{where}: tensor {name} has shape {tuple(given.shape)} and dtype {given.dtype}; "
                f"{tuple(each.shape)} and {each.dtype} are needed."
            )
    network.load_state_dict(dict(tensors), assign=True)
