"""Checkpoints of trained restorers: safetensors with the settings in the header, read strictly.

The header's ``napari_ensir`` entry is JSON::

    {"schema": 1, "kind": "ir-cm", "settings": {...}, "data_range": [0.0, 255.0], "step": 2000, ...}

and the tensors are the network's, under ``model.``, beside what else their owner put there. Nothing
in such a file can run.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

__all__ = ["fill", "read_checkpoint", "settings_from", "under", "write_checkpoint"]

SCHEMA = 1
_ENTRY = "napari_ensir"
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

    from napari_ensir import __version__

    entry = json.dumps({"schema": SCHEMA, "package": __version__, **header}, allow_nan=False)
    content = save(
        {name: each.detach().cpu().contiguous() for name, each in tensors.items()}, metadata={_ENTRY: entry}
    )
    target = Path(path)
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        raise EnsembleError(f"{target} cannot be written: {error.strerror or error}.") from error


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
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise EnsembleError(f"{path} cannot be read as a safetensors file: {error}.") from error
    if _ENTRY not in metadata:
        raise EnsembleError(f"{path} is a safetensors file, but no checkpoint of a restorer of this package.")
    try:
        header = json.loads(metadata[_ENTRY])
    except json.JSONDecodeError as error:
        raise EnsembleError(f"{path}: the header is not JSON: {error}.") from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        found = header.get("schema") if isinstance(header, dict) else None
        raise EnsembleError(
            f"{path} has schema version {found!r}; this version of napari-ensir reads {SCHEMA}."
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise EnsembleError(f"{path}: tensor {name} holds NaN or infinite values.")
    return tensors, header


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
    known = {each.name: each.default for each in fields(kind)}  # type: ignore[arg-type]
    if values.keys() != known.keys():
        wrong = ", ".join(sorted(values.keys() ^ known.keys()))
        raise EnsembleError(f"{where}: the settings do not fit {kind.__name__}; missing or unknown: {wrong}.")
    checked = {}
    for name, default in known.items():
        value = values[name]
        expected = int if default is MISSING else type(default)
        if expected is float and type(value) is int:
            value = float(value)
        if type(value) is not expected:
            raise EnsembleError(f"{where}: {name} = {value!r} is no {expected.__name__}.")
        checked[name] = value
    return kind(**checked)


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
        wrong = ", ".join(sorted(wanted.keys() ^ tensors.keys())[:3])
        raise EnsembleError(f"{where}: the tensors do not fit the settings; missing or unknown: {wrong}.")
    for name, each in wanted.items():
        given = tensors[name]
        if given.shape != each.shape or given.dtype != each.dtype:
            raise EnsembleError(
                f"{where}: tensor {name} is {tuple(given.shape)} of {given.dtype}; "
                f"{tuple(each.shape)} of {each.dtype} is needed."
            )
    network.load_state_dict(dict(tensors), assign=True)


def header_of(settings: Any) -> dict[str, Any]:
    """A settings dataclass as JSON can hold it."""
    return asdict(settings)
